"""What the documents name is there: links, targets of make, commands with their options, files, settings."""

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli import app
from settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "demo" / "data").rglob("*.md")])
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OURS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
MODULES = {path.name for folder in OURS for path in (ROOT / folder).rglob("*.py")}
COMMANDS: Any = typer.main.get_command(app)


def _code(page: Path) -> Iterator[str]:
    """Every piece of code of a page: the lines of its blocks without their comments, and what stands in backticks."""
    text = page.read_text()
    for block in FENCE.findall(text):
        yield from (line.split("  #")[0].strip() for line in block.splitlines() if not line.startswith("Usage:"))
        yield from CODE.findall(block)
    yield from (" ".join(span.split()) for span in CODE.findall(FENCE.sub("", text)))


def _commands(pattern: str) -> list[str]:
    """What follows `pattern` in any code of any page, each once; what is optional there is given."""
    found = re.compile(rf"(?:^|[\s/]){pattern} (\S.*)$")
    given = {match[1] for page in PAGES for code in _code(page) if (match := found.search(code))}
    return sorted(re.sub(r"[\[\]]", "", one) for one in given)


def _slug(heading: str) -> str:
    """The anchor of a heading, as the Hub and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link leads to a file, and its anchor to a heading of that file."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in map(_slug, HEADING.findall(target.read_text()))):
            broken.append(link)
    assert not broken


def test_every_make_is_a_target() -> None:
    """Whoever types a `make …` of the documents finds that target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words.split()[0] for words in _commands("make")}
    assert named
    assert not named - targets


@pytest.mark.parametrize("words", _commands(r"cli\.py"))
def test_every_command_is_understood(words: str) -> None:
    """A command line of the documents has a command, arguments and options that the real parser accepts."""
    name, *arguments = shlex.split(words)
    command = COMMANDS.commands[name]
    if arguments:
        command.make_context(name, arguments)


@pytest.mark.slow  # the modules that measure import all that they measure
@pytest.mark.parametrize("words", _commands("python -m"))
def test_every_module_is_understood(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `python -m …` of the documents is a module, and its parser takes the options."""
    module, *arguments = shlex.split(words)
    assert importlib.util.find_spec(module), module
    if not any(argument.startswith("--") for argument in arguments):
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *_: object) -> None:
        parse(parser, arguments)
        raise InterruptedError  # nothing is measured here

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(InterruptedError):
        runpy.run_module(module, run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_file_exists(page: Path) -> None:
    """A file of ours that stands in backticks or in a command is there: by its path, or a module by its name."""
    words = {word.split("::")[0].strip(",;:'\"") for code in _code(page) for word in code.split()}
    paths = {word for word in words if word.split("/")[0] in OURS and re.fullmatch(r"[\w.-]+/[\w./-]*", word)}
    missing = {path for path in paths if not (ROOT / path).exists() and not (page.parent / path).exists()}
    modules = {word for word in words if re.fullmatch(r"\w+\.py", word) and not (ROOT / word).exists()}
    assert not missing | (modules - MODULES)


def test_every_named_setting_is_one() -> None:
    """A `MERGE_…` of the documents is a setting, or the one variable that shows where an error arose."""
    named = {name for page in PAGES for name in re.findall(r"\bMERGE_[A-Z_]+\b", page.read_text())}
    assert not named - {f"MERGE_{name.upper()}" for name in Settings.model_fields} - {"MERGE_DEBUG"}
