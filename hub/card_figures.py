"""The figures of a merge on its card: a table for people, and `model-index` for the Hub."""

from collections.abc import Mapping, Sequence
from typing import Any

from hub.card_text import code, escape

TASKS = {
    "classification": "text-classification",
    "token-classification": "token-classification",
    "language-modelling": "text-generation",
}
METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "entity_f1": "entity F1",
    "precision": "precision",
    "recall": "recall",
    "perplexity": "perplexity",
}
HUB_TYPES = {"macro_f1": "f1", "entity_f1": "f1"}  # as the Hub calls these metrics
Data = Mapping[str, Any]


def figure(value: float, metric: str) -> str:
    """A figure for people: a share in percent, a perplexity as it is."""
    return f"{value:.4g}" if metric == "perplexity" else f"{100 * value:.1f}"


def figures_section(evaluation: Data) -> str:
    """The table of a card, "" where nothing was evaluated; or the sentences why there are no figures."""
    if not evaluation:
        return ""
    lines = ["## How well it does", ""]
    for one in evaluation["sets"]:
        lines += [*_table(one), ""]
    if evaluation["sets"]:
        lines += [
            "In brackets 95 % intervals: the examples drawn anew 1,000 times. The column against the average compares "
            "on the same draws: where its brackets leave out 0, the difference is more than the luck of the examples.",
            "",
        ]
    lines += _sweep(evaluation)
    lines += [f"- {escape(note, 600)}" for note in evaluation["notes"]]
    return "\n".join(lines).rstrip()


def _sweep(evaluation: Data) -> list[str]:
    """The merge at the values of a sweep: what was found, and a table for each set; nothing without a sweep."""
    told = evaluation.get("sweep")
    if not told:
        return []
    where = f" of {code(told['model'])}" if told["model"] else ""
    title = f"### The same merge at other values of {code(told['parameter'])}{where}"
    lines = [title, "", escape(told["finding"], 900)]
    for one in evaluation["sets"]:
        points = one.get("sweep") or []
        if not points:
            continue
        metrics = list(points[0]["metrics"])
        head = [METRICS.get(metric, metric) + ("" if metric == "perplexity" else ", %") for metric in metrics]
        rows = []
        for point in points:
            value = f"{point['value']:g}"
            value = f"**{value}**, this merge" if point["value"] == told["own"] else value
            rows.append(f"| {value} | {' | '.join(_cells(point, metrics))} |")
        lines += ["", f"**{escape(one['name'])}**", "", f"| {code(told['parameter'])} | {' | '.join(head)} |"]
        lines += ["| --- " * (len(head) + 1) + "|", *rows]
    return [*lines, ""]


def model_index(repo_id: str, evaluation: Data) -> dict[str, Any]:
    """The `model-index` of a front matter: the merge's own figures, in the form that the Hub reads; empty for none."""
    results = [
        {
            "task": {"type": TASKS[one["kind"]], "name": one["name"]},
            "dataset": _dataset(one),
            "metrics": [
                {"type": HUB_TYPES.get(metric, metric), "name": METRICS.get(metric, metric), "value": round(value, 4)}
                for metric, value in score["metrics"].items()
            ],
        }
        for one in evaluation.get("sets", ())
        for score in one["scores"]
        if score["who"] == "merge" and one["kind"] in TASKS
    ]
    return {"model-index": [{"name": repo_id.rpartition("/")[2], "results": results}]} if results else {}


def _dataset(one: Data) -> dict[str, Any]:
    """The dataset as the Hub names it; text that was handed over is `custom`."""
    name, *parts = one["data"].split(":")
    found = {"type": name or "custom", "name": one["name"]}
    if len(parts) == 2:
        found["config"] = parts[0]
    if parts and parts[-1]:
        found["split"] = parts[-1]
    if one["revision"]:
        found["revision"] = one["revision"]
    return found


def _table(one: Data) -> list[str]:
    metrics = list(one["scores"][0]["metrics"]) if one["scores"] else []
    where = f"in the domain of {', '.join(map(code, one['in_domain']))}" if one["in_domain"] else "out of every domain"
    data = f" from {code(one['data'])}" if one["data"] else ""
    unit = "" if one["metric"] == "perplexity" else ", %"
    lower = "; lower is better" if one["better"] == "lower" else ""
    head = [f"{METRICS.get(metric, metric)}{unit}" for metric in metrics]
    rows = [
        f"**{escape(one['name'])}** ({where}): {one['examples']:,} examples{data}{lower}",
        "",
        f"| model | {' | '.join(head)} | against the average |",
        "| --- " * (len(head) + 2) + "|",
    ]
    return rows + [_row(score, one["metric"], metrics) for score in one["scores"]]


def _row(score: Data, first: str, metrics: Sequence[str]) -> str:
    title = code(score["title"]) if score["who"] == "parent" else escape(score["title"])
    title = f"**{title}**" if score["who"] == "merge" else title
    cells = _cells(score, metrics)
    against = score["against_average"].get(first)
    difference = ""
    if against:
        value, low, high = (_signed(one, first) for one in against)
        difference = f"{value} ({low} to {high})"
    return f"| {title} | {' | '.join(cells)} | {difference} |"


def _cells(score: Data, metrics: Sequence[str]) -> list[str]:
    """Each figure with its interval: `85.0 (80.0 to 89.0)`."""
    return [
        f"{figure(score['metrics'][metric], metric)} "
        f"({figure(score['low'][metric], metric)} to {figure(score['high'][metric], metric)})"
        for metric in metrics
    ]


def _signed(value: float, metric: str) -> str:
    return f"{'+' if value >= 0 else '−'}{figure(abs(value), metric)}"
