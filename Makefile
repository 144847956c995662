# Every target does all its own set-up. `make` alone lists them.
PYTHON ?= python3.11
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
# Where the environment forbids bytecode, each of the hundreds of processes of the tests compiles all of this anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install browser postgres soak fuzz run demo test tests quick quick-tests lint docs pins bench space clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/installed: requirements.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	touch $@

install: .venv/installed  ## Install everything into .venv

browser:  # Debian's Chromium, for the tests in a browser
	@command -v chromium >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "The browser tests need Chromium: install it and put 'chromium' on the PATH."; exit 1; }; \
	  SUDO=$$(test "$$(id -u)" = 0 || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends chromium; }

postgres:  # Debian's Postgres, for the tests of a database that several machines share
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "No Postgres here: its tests are skipped."; exit 0; }; \
	  SUDO=$$(test "$$(id -u)" = 0 || echo sudo); \
	  { $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends postgresql; } \
	  || echo "Postgres could not be installed: its tests are skipped."; }

run: install  ## Open the page on the real Hub, with the token of `hf auth login`
	$(BIN)/python app.py

demo: install  ## The main job on real input, no account, no network (ONCE=1 ends after the link)
	$(BIN)/python -m demo $(if $(ONCE),--once)

test: install browser postgres  ## Everything that CI checks
	@$(MAKE) --no-print-directory -j2 lint tests

# Most tests wait for processes that they started: three at a time keep two cores busy.
tests: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

fuzz: install  ## Bad input at random: how much was tried, how much refused by a sentence (EXAMPLES=2000 SEED=0)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.security.fuzz --examples $(or $(EXAMPLES),2000) --seed $(or $(SEED),0)

quick: install  ## Lint and the tests that are not slow, side by side: under a minute
	@$(MAKE) --no-print-directory -j2 lint quick-tests

quick-tests: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

lint: install  ## ruff, mypy, import-linter, generated docs current
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check

docs: install  ## Write the generated parts of the docs anew
	$(BIN)/python -m docs.generate

# torch brings its CUDA packages by itself where it needs them: they are not pinned here.
PIN := $(BIN)/uv pip compile -q --python-version 3.11 --no-header --no-annotate $(if $(UPGRADE),--upgrade)
PLAIN := sed -E 's/^(torch==[0-9.]+)\+cpu/\1/; /^(nvidia-|cuda-|triton)/d'
pins: install  ## Compile the pins of requirements*.txt from pyproject.toml (UPGRADE=1 moves them)
	$(PIN) pyproject.toml | $(PLAIN) > requirements.tmp && mv requirements.tmp requirements.txt
	$(PIN) -c requirements.txt --group dev pyproject.toml | $(PLAIN) > requirements.tmp && mv requirements.tmp requirements-dev.txt

soak: install  ## Long runs with seeds: 50 kills of worker and page, 20 of a merge (half an hour)
	$(BIN)/python -m benchmarks.soak --kills 50 --seed 0
	SOAK_KILLS=20 $(BIN)/python -m pytest tests/jobs/test_merge_kills.py
	$(BIN)/python -m benchmarks.faults

bench: install  ## The measured figures of docs/figures.md that need nothing else (an hour)
	for one in speed solve start scaling memory "collection --large" "skills --seeds 0 1 2 3 4"; do \
	  $(BIN)/python -m benchmarks.$$one || exit 1; done

space: install  ## Create or update the Space REPO=owner/name
	$(BIN)/python -m hub.space $(REPO)

clean:  ## Remove the environment and what the demo made
	rm -rf .venv .demo
