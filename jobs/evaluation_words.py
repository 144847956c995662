"""An evaluation as a table of plain text, for a shell."""

from collections.abc import Mapping
from typing import Any

from hub.card_figures import METRICS, figure


def table(evaluation: Mapping[str, Any]) -> list[str]:
    """The lines of the table: one block for each set, then the notes; none where nothing was evaluated."""
    lines: list[str] = []
    for one in evaluation.get("sets", ()):
        metrics = list(one["scores"][0]["metrics"])
        head = ", ".join(
            METRICS.get(metric, metric) + ("" if metric == "perplexity" else " in %") for metric in metrics
        )
        width = max(len(_title(score)) for score in one["scores"])
        lines.append(f"{one['name']}: {head} of {one['examples']:,} examples, with 95 % intervals")
        lines += [f"  {_title(score):{width}}  {_figures(score, metrics)}" for score in one["scores"]]
    return lines + _sweep(evaluation) + [f"  note: {note}" for note in evaluation.get("notes", ())]


def _sweep(evaluation: Mapping[str, Any]) -> list[str]:
    """A block for each set with a line for each value, and what was found; none without a sweep."""
    told = evaluation.get("sweep")
    if not told:
        return []
    lines = []
    for one in evaluation["sets"]:
        points = one.get("sweep") or []
        metrics = list(points[0]["metrics"]) if points else []
        names = [f"{told['parameter']} = {point['value']:g}" for point in points]
        lines += [f"{one['name']} by {told['parameter']}"] if points else []
        width = max(map(len, names), default=0)
        lines += [f"  {name:{width}}  {_figures(point, metrics)}" for name, point in zip(names, points, strict=True)]
    return [*lines, f"  {told['finding']}"]


def _title(score: Mapping[str, Any]) -> str:
    return str(score["title"])


def _figures(score: Mapping[str, Any], metrics: list[str]) -> str:
    shown = []
    for metric in metrics:
        value, low, high = (figure(score[part][metric], metric) for part in ("metrics", "low", "high"))
        shown.append(f"{value:>5} ({low} to {high})")
    return "  ".join(shown)
