"""The model card of a merge. Names come from strangers: whatever they hold, the card stays a card."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hub.card_differences import differences_section, picture_lines
from hub.card_figures import figures_section, model_index
from hub.card_text import code, escape, front_matter
from hub.how_to_load import Loadable, how_to_load, loadable
from hub.pictures import Picture
from merging.engine import Report
from merging.parent import Parent, with_base
from merging.recipe import Recipe

PERMISSIVE = ("cc0-1.0", "unlicense", "wtfpl", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "apache-2.0", "cc-by-4.0")
FALLBACKS_SHOWN = 20


def merged_license(licenses: Sequence[str]) -> str:
    """The licence that the parents allow: the one they share, the most demanding of permissive ones, a single
    restrictive one among permissive ones; "" when a parent names none, "other" when they cannot be had in one.
    """
    named = sorted({name.lower() for name in licenses})
    if not named or "" in named:
        return ""
    demanding = [name for name in named if name not in PERMISSIVE]
    if not demanding:
        return max(named, key=PERMISSIVE.index)
    return demanding[0] if len(demanding) == 1 else "other"


def render_card(
    recipe: Recipe,
    parents: Sequence[Parent],
    report: Report | Mapping[str, Any],
    *,
    repo_id: str,
    base: Parent | None = None,
    service_url: str = "",
    pictures: Sequence[Picture] = (),
) -> str:
    """The README.md of the merged repo: what it is, from what, by what, and how to load it.

    `recipe` is the pinned one, `report` the engine's (or its `as_dict`), `base` that of a method which needs one.
    `service_url` is the address of this service, without which no link back is made. `pictures` lie beside the card.
    """
    report = report.as_dict() if isinstance(report, Report) else report
    heads = _tasks(recipe, report)
    by_task = dict(zip(recipe.tasks, parents, strict=True))
    root = loadable(by_task.get(recipe.output.root or "", parents[0]) if heads else parents[0])
    models = [loadable(by_task[task], task) for task in heads] or [root]
    blocks = [
        front_matter(_metadata(recipe, parents, root, base) | model_index(repo_id, report.get("evaluation") or {})),
        f"# {escape(repo_id.rpartition('/')[2])}",
        _what(recipe, parents, heads),
        _parents_table(recipe, parents, base),
        how_to_load(repo_id, models),
        "\n".join(
            [
                figures_section(report.get("evaluation") or {}),
                *picture_lines(pictures, "evaluation"),
                *picture_lines(pictures, "sweep"),
            ]
        ),
        differences_section(report.get("differences") or {}, pictures),
        _facts(report),
        f"## Recipe\n\nAs `recipe.yaml` in this repo has it, with pinned revisions:\n\n{_recipe_block(recipe)}",
        _link_back(repo_id, service_url),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _metadata(recipe: Recipe, parents: Sequence[Parent], root: Loadable, base: Parent | None = None) -> dict[str, Any]:
    bases = list(dict.fromkeys(parent.model for parent in parents if parent.revision))
    licence = merged_license([parent.license for parent in with_base(parents, base)])
    data: dict[str, Any] = {"library_name": "sentence-transformers" if root.sentence_class else "transformers"}
    if bases:
        data |= {"base_model": bases, "base_model_relation": "merge"}
    data["tags"] = ["merge", "merge-my-models", recipe.method.name]
    if root.sentence_class:
        data["tags"] += ["sentence-transformers", "feature-extraction"]
    if root.tag:
        data["pipeline_tag"] = root.tag
    if licence:
        data["license"] = licence
    if licence == "other":
        data["license_name"] = "those-of-the-parents"
    return data


def _tasks(recipe: Recipe, report: Mapping[str, Any]) -> tuple[str, ...]:
    """The tasks that have a folder of their own, in the recipe's order; none when there is one model."""
    folders = {path.partition("/")[0] for path in report["files"] if "/" in path}
    return recipe.tasks if folders & set(recipe.tasks) else ()


def _what(recipe: Recipe, parents: Sequence[Parent], heads: Sequence[str]) -> str:
    method = recipe.method
    paper = f" ([paper]({method.paper}))" if method.paper.startswith("https://") else (
        f" ({escape(method.paper)})" if method.paper else ""
    )  # fmt: skip
    kind = escape(parents[0].model_type or "transformer")
    what = f"{len(parents)} fine-tuned {kind} models" if len(parents) > 1 else f"A fine-tuned {kind} model"
    if recipe.base is not None:
        what += f" and {'their' if len(parents) > 1 else 'its'} base {code(recipe.base.repo_id)}"
    text = f"{what} merged into one by **{escape(method.title)}**{paper}."
    if heads:
        text += f" They share one body; each of the {len(heads)} tasks keeps its own head, in a folder of its own."
    return text


def _parents_table(recipe: Recipe, parents: Sequence[Parent], base: Parent | None = None) -> str:
    weighted = any(parameter.name == "weight" for parameter in recipe.method.parameters)
    weights = [f"{weight:.4g}" if weighted else "" for weight in recipe.effective_weights]
    shown = [*zip(parents, weights, strict=True), *([(base, "the base")] if base else [])]
    rows = ["## From what", "", "| model | revision | weight | licence |", "|---|---|---|---|"]
    for parent, weight in shown:
        name = parent.model if parent.revision else parent.model.rstrip("/").rpartition("/")[2]
        licence = code(parent.license) or "not named"
        rows.append(f"| {code(name)} | {code(parent.revision[:12]) or 'a folder'} | {weight} | {licence} |")
    if not all(parent.license for parent, _ in shown):
        rows += ["", "Not every parent names a licence: ask their owners before you pass this model on."]
    return "\n".join(rows)


def _facts(report: Mapping[str, Any]) -> str:
    lines = [
        "## How it was made",
        "",
        f"{report['parameters']:,} parameters, merged in {report['seconds']:.0f} s on {code(report['device'])} "
        f"({code(report['cpu'])}, torch {code(report['torch'])}).",
    ]
    lines += [f"- {escape(note, 500)}" for note in report["notes"]]
    fallbacks = list(report["fallbacks"].items())
    if fallbacks:
        lines += ["", f"The method did not apply to {len(fallbacks)} tensors, which were averaged:", ""]
        lines += [f"- {code(name)}: {escape(reason)}" for name, reason in fallbacks[:FALLBACKS_SHOWN]]
        if len(fallbacks) > FALLBACKS_SHOWN:
            lines.append(f"- and {len(fallbacks) - FALLBACKS_SHOWN} more")
    return "\n".join(lines)


def _recipe_block(recipe: Recipe) -> str:
    """The recipe as YAML in a fence that is longer than any run of backticks in it."""
    text = recipe.without_output().to_yaml().strip()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}yaml\n{text}\n{fence}"


def _link_back(repo_id: str, service_url: str) -> str:
    if not service_url.startswith(("https://", "http://")):
        return "Made with Merge My Models."
    url = service_url.rstrip("/")
    return f"Made with [Merge My Models]({url}). [Merge again]({url}/?model={repo_id}) with the same recipe."
