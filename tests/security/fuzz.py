"""Bad input at random, in great numbers: `python -m tests.security.fuzz [--examples N] [--seed S] [TARGET ...]`.

What made a reader fall over once is kept in `seeds/` beside this file, and tried first ever after.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from merging.errors import InputError, MergeError
from tests.security.targets import TARGETS, Target

SEEDS = Path(__file__).parent / "seeds"
SECONDS = 4.0  # of processor time that one input may cost
SENTENCE = 2500  # characters of one problem


def tried(target: Target, counts: Counter[str]) -> Callable[[Any], None]:
    """A test of one input: taken, or refused by sentences. Counts both."""

    def one(data: Any) -> None:
        began = time.process_time()
        try:
            target.read(data)
            counts["taken"] += 1
        except MergeError as error:
            counts["refused"] += 1
            problems = error.problems if isinstance(error, InputError) else (error.problem,)
            for problem in problems:
                sentence = str(problem)
                assert sentence.strip(), "an error without a word"
                assert len(sentence) < SENTENCE, sentence
                assert sentence.isprintable() or "\n" not in sentence, sentence
        finally:
            counts["inputs"] += 1
        assert time.process_time() - began < SECONDS, "too slow"

    return one


def run(name: str, examples: int, number: int | None) -> Counter[str]:
    """Try a target; raises what a reader raised, with the smallest input that does it."""
    target, counts = TARGETS[name], Counter[str]()
    test = given(target.inputs)(tried(target, counts))
    phases = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
    options: dict[str, Any] = {
        "max_examples": examples,
        "deadline": None,
        "phases": phases,
        "suppress_health_check": list(HealthCheck),
        "derandomize": number is None,
    }
    if number is not None:
        test = seed(number)(test)
        options["database"] = DirectoryBasedExampleDatabase(SEEDS)
    settings(**options)(test)()
    return counts


def main() -> None:
    """Try targets and print how many inputs were tried, taken, and refused by a sentence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=[])
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    total, failed = Counter[str](), []
    print(f"{'target':14} {'inputs':>7} {'taken':>7} {'refused':>8} {'seconds':>8}")
    for name in chosen.targets or TARGETS:
        began = time.monotonic()
        try:
            counts = run(name, chosen.examples, chosen.seed)
        except Exception as error:
            failed.append(name)
            print(f"{name:14} FAILED {type(error).__name__}: {error}", *getattr(error, "__notes__", ()), sep="\n")
            continue
        total += counts
        seconds = time.monotonic() - began
        print(f"{name:14} {counts['inputs']:7} {counts['taken']:7} {counts['refused']:8} {seconds:8.1f}", flush=True)
    print(f"{'all':14} {total['inputs']:7} {total['taken']:7} {total['refused']:8}   seed {chosen.seed}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
