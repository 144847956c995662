"""Evaluation sets as people read them: those of the form, and what a look at one has found. HTML of escaped text."""

from collections.abc import Mapping, Sequence
from typing import Any

from hub.dataset_look import DataLook
from merging.errors import InputError
from merging.recipe import HANDED_OVER
from ui import evaluation_sets, render
from ui.render import text

SHOWN = 12  # labels in a list


def sets(found: Sequence[Mapping[str, Any]]) -> str:
    """The sets of the form, each with a button that removes it."""
    if not found:
        return '<p class="mm-quiet">No set yet: the merge will be published without figures.</p>'
    return f'<ul class="mm-picked">{"".join(_set(number, one) for number, one in enumerate(found))}</ul>'


def _set(number: int, one: Mapping[str, Any]) -> str:
    name = text(evaluation_sets.title(one), 60)
    source = "an uploaded file" if one["data"] == HANDED_OVER else str(one["data"])
    domain = ", ".join(one.get("in_domain", ()))
    about = f"{source}, {f'own domain of {domain}' if domain else 'new to all models'}"
    return (
        f'<li><span><b>{name}</b> <span class="mm-quiet">{text(about, 400)}</span></span> '
        f'<button type="button" class="mm-small" data-choice="{number}" aria-label="Remove {name}">Remove</button></li>'
    )


def look(found: DataLook, matches: Mapping[str, Mapping[str, str] | InputError]) -> str:
    """The first text and its labels; for each model whose domain it is, which label is which."""
    words = f'<p class="mm-quiet">First text: “{text(found.example)}”</p>' if found.example else ""
    if found.labels and not matches:
        more = f" and {len(found.labels) - SHOWN} more" if len(found.labels) > SHOWN else ""
        words += f'<p class="mm-quiet">Labels: {text(", ".join(found.labels[:SHOWN]), 600)}{more}</p>'
    return words + "".join(_match(model, one) for model, one in matches.items())


def _match(model: str, one: Mapping[str, str] | InputError) -> str:
    if isinstance(one, InputError):
        return render.problems(one.problems)
    other = {label: match for label, match in one.items() if label != match}
    if not other:
        return f'<p class="mm-good">All {render.plural(len(one), "label")} are called as {text(model)} calls them.</p>'
    rows = [(text(label, 80), text(match, 80)) for label, match in list(one.items())[:100]]
    return render.details(f"{len(one)} labels matched by name", render.table(("In the data", f"Of {model}"), rows))
