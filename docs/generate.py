"""Writes the parts of the docs that repeat the code: `python -m docs.generate`, with --check only compares.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->` in README.md or a page of docs/.
"""

import argparse
import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TREE = (
    "app.py",
    "cli.py",
    "settings.py",
    "merging",
    "merging/methods",
    "merging/evaluation",
    "hub",
    "jobs",
    "ui",
    "demo",
    "benchmarks",
)


def methods() -> str:
    """A row for each merge method."""
    from merging.method import METHODS
    from merging.recipe import Recipe  # noqa: F401  (imports every method)

    rows = ["| method | what it does | needs | parameters | paper |", "| --- | --- | --- | --- | --- |"]
    for name, method in sorted(METHODS.items()):
        aliases = "".join(f", `{alias}`" for alias in method.aliases)
        words = {"gram": "Gram matrices", "fisher": "Fisher", "base": "the base model"}
        needs = ", ".join(words[need] for need in sorted(method.needs)) or "–"
        parameters = ", ".join(f"`{p.name}` = {p.default}" for p in method.parameters)
        rows.append(f"| `{name}`{aliases} | {method.summary} | {needs} | {parameters} | {method.paper} |")
    return "\n".join(rows)


def parameters() -> str:
    """Every parameter of every method with its range."""
    from merging.method import METHODS
    from merging.recipe import Recipe  # noqa: F401

    rows = ["| method | parameter | default | values | meaning |", "| --- | --- | --- | --- | --- |"]
    for name, method in sorted(METHODS.items()):
        for p in method.parameters:
            each = ", one a model" * p.per_model + ", by layer" * p.option.by_layer
            rows.append(f"| `{name}` | `{p.name}` | {p.default} | {p.range}{each} | {p.option.help} |")
        rows += [
            f"| `{name}` | `{other}` | – | read, without effect | {why} |" for other, why in method.ignores.items()
        ]
    return "\n".join(rows)


def architectures() -> str:
    """A row for each family of models."""
    from merging.architecture import ARCHITECTURES

    families: dict[str, list[str]] = {}
    for kind, architecture in ARCHITECTURES.items():
        families.setdefault(architecture.name, []).append(f"`{kind}`")
    names = [f"{name} ({', '.join(sorted(kinds))})" for name, kinds in sorted(families.items())]
    return "; ".join(names) + "."


def settings() -> str:
    """Every setting with its default."""
    from settings import Settings

    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `MERGE_{name.upper()}` | {field.default if field.default is not None else '–'} | ")
        rows[-1] += f"{field.description} |"
    return "\n".join(rows)


def commands() -> str:
    """The help of every command."""
    import typer.main
    from click.testing import CliRunner

    from cli import app

    group = typer.main.get_command(app)
    parts = []
    for name in sorted(group.commands):  # type: ignore[attr-defined]
        run = CliRunner().invoke(group, [name, "--help"], prog_name="cli.py", env={"TERM": "dumb", "COLUMNS": "110"})
        parts.append("```\n" + re.sub(r"[ \t]+$", "", run.output.strip(), flags=re.MULTILINE) + "\n```")
    return "\n\n".join(parts)


def tree() -> str:
    """Every file of the product with the first sentence of its docstring."""
    lines = []
    for place in TREE:
        path = ROOT / place
        if path.is_file():
            lines.append(f"{place:24} {_sentence(path)}")
            continue
        lines.append(f"{place + '/':24} {_sentence(path / '__init__.py')}".rstrip())
        for file in sorted(path.glob("*.py")):
            if file.name != "__init__.py":
                lines.append(f"  {file.name:22} {_sentence(file)}")
    return "```\n" + "\n".join(lines) + "\n```"


def _sentence(path: Path) -> str:
    """The first sentence of a module's docstring."""
    if not path.exists():
        return ""
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = doc.split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[^.])\.(?:\s|$)", first)[0]


def faults() -> str:
    """A row for each fault of the Hub that the tests switch on."""
    from tests.jobs.faults import table

    return table()


PARTS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "parameters": parameters,
    "architectures": architectures,
    "settings": settings,
    "commands": commands,
    "faults": faults,
    "tree": tree,
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 when a part is not current; write nothing")
    check = parser.parse_args().check
    stale = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        new = PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[3]}", text)
        if new != text:
            stale.append(page.name)
            if not check:
                page.write_text(new)
    if check and stale:
        print(f"Not current: {', '.join(stale)}. Run `make docs`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
