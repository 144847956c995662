"""The pictures of a card, as PNG files: how good the merge is, and where its models differ.

Drawn for a phone: 390 pixels wide at twice the resolution, colours that colour-blind eyes tell apart (Okabe and Ito
2008; cividis, Nuñez et al. 2018), figures beside the bars. The bytes follow from the data and matplotlib's version.
Names come from strangers: they are drawn as plain text. A picture that cannot be drawn is left out.
"""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.sweep_axis import named, places
from merging.places import FINAL, HEAD

if TYPE_CHECKING:  # half a second that no one waits for who draws nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
WIDTH = 3.9  # inches; at 100 pixels an inch as a phone shows them
DPI = 200
TEXT = 7.5  # points
SETS, SCORES, MODELS, ROWS, COLUMNS = 8, 14, 4, 100, 24  # at most of each in one picture
NAME = 22  # letters of a name
TITLE = 0.48  # inches of a panel that are not its map
INK, PALE = "#222222", "#dddddd"
COLOURS = {
    "merge": "#0072B2",
    "average": "#E69F00",
    "ensemble": "#009E73",
    "instance-wise": "#CC79A7",
    "parent": "#999999",
}
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "entity_f1": "entity F1", "perplexity": "perplexity"}
Cells = Sequence[Sequence[float | None]]  # layers by blocks
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A file beside the card, and what it shows in words."""

    path: str  # in the repo
    alt: str
    png: bytes


def pictures_of(report: Mapping[str, Any]) -> tuple[Picture, ...]:
    """The pictures of what a report has: `evaluation` and `differences`, see `merging.differences`. Never raises."""
    found = []
    evaluation, differences = (report.get(name) or {} for name in ("evaluation", "differences"))
    drawings = (("evaluation", _evaluation, evaluation), ("sweep", _sweep, evaluation))
    for name, draw, data in (*drawings, ("differences", _differences, differences)):
        picture = _drawn(name, draw, data)
        found += [picture] if picture else []
    return tuple(found)


def write_pictures(report: Mapping[str, Any], folder: Path) -> tuple[Picture, ...]:
    """The pictures of a report, as files in the folder that will be published."""
    found = pictures_of(report)
    for picture in found:
        (folder / picture.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / picture.path).write_bytes(picture.png)
    return found


def _drawn(name: str, draw: Callable[[Mapping[str, Any]], "tuple[Figure, str] | None"], data: Any) -> Picture | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that the font has not
            made = draw(data)
            if made is None:
                return None
            figure, alt = made
            file = BytesIO()
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    except Exception as error:  # whatever is wrong with a picture, the merge is published
        log.warning("no picture of %s: %s", name, type(error).__name__)
        return None
    return Picture(f"{FOLDER}/{name}.png", alt, file.getvalue())


# How good it is


def _evaluation(data: Mapping[str, Any]) -> "tuple[Figure, str] | None":
    """For each set a bar a model, with its interval."""
    sets = [one for one in data.get("sets", ()) if one.get("scores")][:SETS]
    if not sets:
        return None
    counts = [min(SCORES, len(one["scores"])) for one in sets]
    height = sum(0.19 * count + 0.5 for count in counts)
    figure = _figure(height)
    top = height
    for one, count in zip(sets, counts, strict=True):
        axes = figure.add_axes((0.37, (top - 0.3 - 0.19 * count) / height, 0.49, 0.19 * count / height))
        _bars(axes, one)
        top -= 0.19 * count + 0.5
    best = [f"{_name(one['name'])}: {_best(one)}" for one in sets]
    return figure, f"Bars with 95 % intervals for each set of examples. {'; '.join(best)}."


def _bars(axes: "Axes", one: Mapping[str, Any]) -> None:
    metric, scores = one["metric"], one["scores"][:SCORES]
    share = metric != "perplexity"
    factor = 100 if share else 1
    for place, score in enumerate(scores):
        value = score["metrics"][metric] * factor
        low, high = (score.get(side, {}).get(metric, value / factor) * factor for side in ("low", "high"))
        colour = COLOURS.get(score["who"], COLOURS["parent"])
        axes.barh(place, value, 0.7, color=colour)
        axes.plot([low, high], [place, place], color=INK, linewidth=1, solid_capstyle="butt")
        text = f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
        axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=TEXT, color=INK)
    axes.set_yticks(range(len(scores)), [_name(score["title"]) for score in scores])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlim(0, 100 if share else None)
    unit = f"{METRICS.get(metric, metric)}{', %' if share else ''}"
    better = "" if one.get("better", "higher") == "higher" else ", lower is better"
    _title(axes, f"{_name(one['name'])} ({unit}{better}, n = {one['examples']})")
    axes.tick_params(axis="y", length=0)
    _plain(axes, [*axes.get_yticklabels(), *axes.get_xticklabels()])
    for label, score in zip(axes.get_yticklabels(), scores, strict=True):
        label.set_fontweight("bold" if score["who"] == "merge" else "normal")


def _best(one: Mapping[str, Any]) -> str:
    merge = next((score for score in one["scores"] if score["who"] == "merge"), one["scores"][-1])
    value = merge["metrics"][one["metric"]]
    shown = f"{value:.1%}" if one["metric"] != "perplexity" else f"{value:,.1f}"
    return f"{_name(merge['title'])} {shown} {METRICS.get(one['metric'], one['metric'])}"


# How good it would be at other values


def _sweep(data: Mapping[str, Any]) -> "tuple[Figure, str] | None":
    """For each set a line over the values of the sweep, with the band of its intervals."""
    told, sets = data.get("sweep"), [one for one in data.get("sets", ()) if len(one.get("sweep") or ()) > 1][:SETS]
    if not told or not sets:
        return None
    each, foot = 1.6, 0.25  # inches of a set, of the legend
    height = each * len(sets) + foot
    figure = _figure(height)
    for place, one in enumerate(sets):
        _line(figure.add_axes((0.13, 1 - (each * place + 1.3) / height, 0.82, 1.0 / height)), one, told)
    legend = f"Band: 95 %.{' Ring: this merge.' if told.get('own') is not None else ''} Dashed: the plain average."
    figure.text(0.05, 0.1 / height, legend, fontsize=TEXT - 0.5, color=INK)
    return figure, f"Lines with 95 % intervals over {_name(told['parameter'])}. {_sentence(told['finding'])}"


def _line(axes: "Axes", one: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    metric, points = one["metric"], one["sweep"]
    factor = 1 if metric == "perplexity" else 100
    values = [point["value"] for point in points]
    heights, low, high = ([point[part][metric] * factor for point in points] for part in ("metrics", "low", "high"))
    at = places(values)
    axes.fill_between(at, low, high, color=COLOURS["merge"], alpha=0.2, linewidth=0)
    axes.plot(at, heights, color=COLOURS["merge"], linewidth=1.5, marker="o", markersize=3)
    own = [place for place, value in enumerate(values) if value == told.get("own")]
    axes.plot([at[place] for place in own], [heights[place] for place in own], "o", mfc="white", mec=INK, ms=6)
    for score in [score for score in one.get("scores", ()) if score["who"] == "average"]:
        axes.axhline(score["metrics"][metric] * factor, color=COLOURS["average"], linewidth=1, linestyle="--")
    shown = named(at, 0.08)
    axes.set_xticks([at[place] for place in shown], [f"{values[place]:g}" for place in shown])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    unit = "" if metric == "perplexity" else ", %"
    title = f"{_name(one['name'])}: {METRICS.get(metric, metric)}{unit} by {_name(told['parameter'])}"
    axes.set_title(title, fontsize=TEXT, color=INK, loc="left", x=-0.1, pad=4, parse_math=False)
    _plain(axes, [*axes.get_yticklabels(), *axes.get_xticklabels()])


def _sentence(text: Any) -> str:
    """Words as one line of printable letters, whole."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)[:600]).split())


# Where they differ


def _differences(data: Mapping[str, Any]) -> "tuple[Figure, str] | None":
    """A heat map of layers by blocks for each model, or their mean; and one of the conflicts."""
    layers, blocks = list(data.get("layers", ())), list(data.get("blocks", ()))
    models = list(data.get("models", ()))
    if not layers or not blocks or not models or len(layers) > ROWS or len(blocks) > COLUMNS:
        return None
    base = data.get("reference") == "base"
    of = "the base" if base else "the mean"
    if len(models) > MODELS:
        maps = [(f"distance from {of}, mean of {len(models)} models", _mean([one["cells"] for one in models]))]
    else:
        maps = [(f"{_name(one['model'])}: distance from {of}", one["cells"]) for one in models]
    most = _scale(layers, [cells for _, cells in maps])
    panels = [(title, cells, most) for title, cells in maps]
    if data.get("conflicts"):
        panels.append(("opposite signs, share of the changes", data["conflicts"], 0.5))
    row = max(0.045, min(0.13, 3.5 / len(layers)))
    each, foot = row * len(layers) + TITLE, 0.85  # of a panel; of the names of the blocks
    figure = _figure(each * len(panels) + foot)
    for place, (title, cells, limit) in enumerate(panels):
        _heat(figure, title, cells, limit, (layers, blocks), (place, each, foot, len(panels)))
    shown = ", ".join(f"{_name(one['model'])} {_percent(one.get('distance'))}" for one in models[:12])
    return figure, f"Heat map, layers by blocks: how far each model is from {of}. In all: {shown}."


def _heat(
    figure: "Figure",
    title: str,
    cells: Cells,
    limit: float,
    names: tuple[Sequence[str], Sequence[str]],
    at: tuple[int, float, float, int],  # number of the panel, its height, that of the foot (inches), panels
) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    layers, blocks = names
    place, each, foot, count = at
    height = each * count + foot
    inner = (each - TITLE) / height
    below = (height - each * place - 0.3) / height - inner
    axes = figure.add_axes((0.2, below, 0.66, inner))
    values = [[math.nan if value is None else value for value in row] for row in cells]
    colours = colormaps["cividis"].with_extremes(bad=PALE)
    image = axes.imshow(values, cmap=colours, vmin=0, vmax=limit, aspect="auto", interpolation="nearest")
    step = max(1, round(0.13 * len(layers) / max(0.01, each - TITLE)))  # of the layers so many are named
    rows = range(0, len(layers), step)
    axes.set_yticks(rows, [_name(layers[row]) for row in rows])
    last = place == count - 1
    axes.set_xticks(range(len(blocks)), [_name(block) for block in blocks] if last else [""] * len(blocks))
    axes.tick_params(axis="x", labelrotation=90)
    _title(axes, title)
    scale = figure.add_axes((0.88, below, 0.025, inner))
    above = any(value is not None and value > limit for row in cells for value in row)
    digits = 0 if limit > 0.04 else 1 if limit > 0.004 else None
    form = PercentFormatter(1.0, decimals=digits)
    bar = figure.colorbar(image, cax=scale, format=form, extend="max" if above else "neither")
    bar.locator = MaxNLocator(3, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.outline.set_visible(False)  # type: ignore[operator]
    _plain(bar.ax, bar.ax.get_yticklabels())
    _plain(axes, [*axes.get_yticklabels(), *axes.get_xticklabels()])


def _scale(layers: Sequence[str], tables: Sequence[Cells]) -> float:
    """The largest value of a layer: one new head or pooler would leave all others in the dark."""
    rows = [row for cells in tables for layer, row in zip(layers, cells, strict=True) if layer not in (FINAL, HEAD)]
    rows = rows or [row for cells in tables for row in cells]
    return max((value for row in rows for value in row if value is not None), default=0.0) or 1.0


def _mean(tables: Sequence[Cells]) -> list[list[float | None]]:
    """Cell by cell, of those that have a value."""
    means: list[list[float | None]] = []
    for rows in zip(*tables, strict=True):
        means.append([])
        for values in zip(*rows, strict=True):
            known = [value for value in values if value is not None]
            means[-1].append(sum(known) / len(known) if known else None)
    return means


# What both share


def _figure(height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(text, fontsize=TEXT, color=INK, loc="left", x=-0.25, pad=4, parse_math=False)


def _plain(axes: "Axes", labels: Sequence[Any]) -> None:
    """Text as it stands, nothing of it a formula, and no frame."""
    for label in labels:
        label.set_parse_math(False)
        label.set_fontsize(TEXT - 0.5)
        label.set_color(INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2, color=PALE)


def _name(text: Any) -> str:
    """A stranger's name as one short line of printable letters; the end tells models of one owner apart."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text)[:300])
    line = " ".join(line.split())
    return line if len(line) <= NAME else f"{line[: NAME // 2 - 1]}…{line[-NAME // 2 :]}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"
