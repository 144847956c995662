"""How far the models of a merge are apart, on its card: a table, and the picture of layers by blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

from hub.card_text import code, escape
from hub.pictures import Picture

PAIRS_SHOWN = 10
Data = Mapping[str, Any]


def differences_section(differences: Data, pictures: Sequence[Picture] = ()) -> str:
    """The part of a card on `differences` (see `merging.differences`), "" where nothing was compared."""
    models, pairs = differences.get("models", ()), differences.get("pairs", ())
    if not models:
        return ""
    based = differences["reference"] == "base"
    lines = ["## How far the models are apart", ""]
    lines += [f"| model | from {'the base' if based else 'the mean of the models'} |", "|---|---|"]
    lines += [f"| {code(one['model'])} | {percent(one['distance'])} |" for one in models]
    if pairs:
        directions = " cosine of what they learnt | opposite signs |" if based else ""
        lines += ["", f"| models | apart |{directions}", f"|---|---|{'---|---|' if based else ''}"]
        lines += [_pair(one, models, based=based) for one in pairs[:PAIRS_SHOWN]]
    if len(pairs) > PAIRS_SHOWN:
        lines += ["", f"And {len(pairs) - PAIRS_SHOWN} more pairs, in `merge-report.json`."]
    meaning = "A distance is the norm of the difference as a share of the norm of the weights, without the heads."
    if based and pairs:
        meaning += " Opposite signs: the share of the changes in which two models pull in opposite directions."
    lines += ["", meaning, *(f"- {escape(note, 600)}" for note in differences["notes"])]
    return "\n".join(lines + picture_lines(pictures, "differences"))


def picture_lines(pictures: Sequence[Picture], name: str) -> list[str]:
    """The picture of that name as lines of Markdown; none where it was not drawn."""
    found = [one for one in pictures if one.path.endswith(f"/{name}.png")]
    return [line for one in found for line in ("", f"![{escape(one.alt, 1000)}]({one.path})")]


def _pair(pair: Data, models: Sequence[Data], *, based: bool) -> str:
    names = ", ".join(code(models[index]["model"]) for index in pair["models"])
    cosine = "" if pair["cosine"] is None else f"{pair['cosine']:.2f}"
    directions = f" {cosine} | {percent(pair['sign_conflict'])} |" if based else ""
    return f"| {names} | {percent(pair['distance'])} |{directions}"


def percent(value: float | None) -> str:
    """A share for people, "" where there is none."""
    return "" if value is None else f"{value:.1%}"
