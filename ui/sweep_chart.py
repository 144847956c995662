"""The merge at other values of one parameter, as lines with the band of their intervals: one picture for each set.

Drawn as SVG inside HTML from plain data (`evaluation` of a merge's report); see `ui.charts`. All text may be from
strangers.
"""

import math
from collections.abc import Sequence
from typing import Any

from hub.sweep_axis import named, places
from ui.charts import Data, between, figure, metric_name
from ui.render import details, table, text

WIDTH, HEIGHT = 340, 176  # points of a picture, as wide as a phone shows it
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 10, 26  # of its margins
TICKS = 4  # of the figures at the side, at least
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
LARGEST = 1e9  # figure that is drawn: whatever is beyond is no perplexity of a working model


def sweep(report: Data) -> str:
    """The sweep of an evaluation: what was found, a line for each set, the numbers as a table; "" without one."""
    told = report.get("sweep") or {}
    sets = [one for one in report.get("sets") or [] if len(_points(one)) > 1]
    if not told or not sets:
        return ""
    name = str(told["parameter"])
    where = f" of {told['model']}" if told.get("model") else ""
    marks = ["the band is its 95 % interval"]
    marks += ["the ring is this merge"] if told.get("own") is not None else []
    marks += ["the dashed line is the plain average"] if any(_average(one) is not None for one in sets) else []
    pictures = "".join(_picture(one, name, told.get("own")) for one in sets)
    return (
        f"<h4>The same merge at other values of {text(name + where, 140)}</h4>"
        f'<p class="mm-verdict">{text(told.get("finding", ""), 900)}</p>'
        f'<p class="mm-quiet">The line is the merge, {", ".join(marks)}.</p>'
        f'<div class="mm-sets">{pictures}</div>{details("The numbers of the sweep as a table", _numbers(sets, name))}'
    )


def _points(one: Data) -> Sequence[Data]:
    """The points of a set that have its figure and its interval, the smallest value first."""
    parts = ("metrics", "low", "high")
    known = [
        point
        for point in one.get("sweep") or []
        if all(abs(point[part].get(one["metric"], math.inf)) <= LARGEST for part in parts)
    ]
    return sorted(known, key=lambda point: float(point["value"]))


def _average(one: Data) -> float | None:
    """The figure of the plain average."""
    found = [score["metrics"].get(one["metric"]) for score in one.get("scores") or [] if score["who"] == "average"]
    return found[0] if found and abs(found[0] or 0.0) <= LARGEST else None


def _picture(one: Data, parameter: str, own: Any) -> str:
    """One set: the line over the values."""
    metric, points, average = one["metric"], _points(one), _average(one)
    heights = [value for point in points for value in (point["low"][metric], point["high"][metric])]
    ticks = _ticks([*heights, *([] if average is None else [average])])
    at = [LEFT + place * (WIDTH - LEFT - RIGHT) for place in places([point["value"] for point in points])]

    def spots(part: str) -> list[str]:
        return [f"{x:.1f} {_y(point[part][metric], ticks):.1f}" for x, point in zip(at, points, strict=True)]

    shapes = [
        f'<path class="mm-grid" d="M{LEFT} {_y(tick, ticks):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{_y(tick, ticks) + 4:.1f}" text-anchor="end">{_tick(tick, metric)}</text>'
        for tick in ticks
    ]
    shapes.append(f'<path class="mm-band" d="M{"L".join(spots("high") + spots("low")[::-1])}Z"/>')
    if average is not None:
        shapes.append(f'<path class="mm-at" d="M{LEFT} {_y(average, ticks):.1f}H{WIDTH - RIGHT}"/>')
    shapes.append(f'<path class="mm-line" d="M{"L".join(spots("metrics"))}"/>')
    for x, point in zip(at, points, strict=True):
        ring = ' class="mm-ring" r="6"' if point["value"] == own else ' r="3.5"'
        about = f"{parameter} = {point['value']:g}: {figure(point['metrics'][metric], metric)}"
        spot = f'<circle{ring} cx="{x:.1f}" cy="{_y(point["metrics"][metric], ticks):.1f}">'
        shapes.append(f"{spot}<title>{text(about, 200)}</title></circle>")
    for place in named(at, 30):
        words = f"{points[place]['value']:g}"
        shapes.append(f'<text x="{at[place]:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{words}</text>')
    name = metric_name(metric)
    lower = ", lower is better" if one.get("better") == "lower" else ""
    about = f"{name[:1].upper()}{name[1:]} by {parameter}{lower}"
    return (
        f'<figure class="mm-sweep"><figcaption><b>{text(one["name"], 120)}</b> '
        f'<span class="mm-quiet">{text(about, 200)}</span></figcaption>'
        f'<svg role="img" aria-label="{text(_heard(one, points, parameter), 900)}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(shapes)}</svg></figure>"
    )


def _heard(one: Data, points: Sequence[Data], parameter: str) -> str:
    """The line in words."""
    metric = one["metric"]
    told = ", ".join(f"{figure(point['metrics'][metric], metric)} at {point['value']:g}" for point in points)
    return f"{metric_name(metric)} on {one['name']} by {parameter}: {told}"


def _ticks(values: Sequence[float]) -> list[float]:
    """Round figures from below the least value to above the greatest."""
    least, most = min(values), max(values)
    rough = max(most - least, 1e-3 * max(map(abs, values)), 1e-6) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in STEPS if power * one >= rough)
    first = math.floor(least / step)
    return [step * place for place in range(first, max(math.ceil(most / step), first + 1) + 1)]


def _y(value: float, ticks: Sequence[float]) -> float:
    """How far down a figure stands."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (ticks[-1] - value) / (ticks[-1] - ticks[0])


def _tick(value: float, metric: str) -> str:
    return f"{value:.4g}" if metric == "perplexity" else f"{100 * value:.4g} %"


def _numbers(sets: Sequence[Data], parameter: str) -> str:
    rows = [
        (
            f"{point['value']:g}",
            text(one["name"]),
            "<br>".join(
                f"{text(metric_name(metric))} {figure(value, metric)}"
                + (f' <span class="mm-quiet">({spread})</span>' if (spread := between(point, metric)) else "")
                for metric, value in point["metrics"].items()
            ),
        )
        for one in sets
        for point in _points(one)
    ]
    return table((parameter[:60], "Data", "Score (95 % interval)"), rows)
