"""Where the models of a merge differ and pull apart, as heat maps layer by block, and how any two of them agree.

Drawn as SVG inside HTML from plain data (`differences` of a merge's report); see `ui.charts`. All text may be from
strangers.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from ui.charts import Data, percent
from ui.render import details, plural, table, text

CELL, LEFT, TOP = 26, 78, 96  # points of a cell, of the layers' names, of the blocks' names
WIDE = 264  # points that the cells of a row have on a phone
Cells = Sequence[float | None]  # a row of a map
HALF = 0.5  # the share of opposite signs of changes that have nothing to do with each other: where its colours end


def differences(report: Data) -> str:
    """How far each model is from the base, layer by block, and how any two of them agree; "" without models."""
    models = report.get("models") or []
    if not models or not report.get("layers"):
        return ""
    notes = "".join(f'<p class="mm-quiet">{text(note, 600)}</p>' for note in report.get("notes") or [])
    return f"{_maps(report)}{pairs(report)}{notes}"


def _maps(report: Data) -> str:
    """The distances; a switch between them and the conflicts of signs where these are known."""
    if not report.get("conflicts"):
        return _distances(report)
    return (
        '<div class="mm-differ"><fieldset class="mm-switch"><legend class="mm-sr">What the colours say</legend>'
        '<label><input type="radio" name="mm-differ" checked> Distance</label>'
        '<label><input type="radio" name="mm-differ" id="mm-conflict"> Sign conflict</label></fieldset>'
        f'<div class="mm-distances">{_distances(report)}</div>'
        f'<div class="mm-conflicts">{_conflicts(report)}</div></div>'
    )


def _distances(report: Data) -> str:
    models = report["models"]
    values = [value for model in models for row in model["cells"] for value in row if value is not None]
    top = _cap(values)
    where = "the base" if report.get("reference") == "base" else "the mean of the models"
    maps = "".join(
        _heat_map(
            model["cells"],
            report,
            top,
            _number,
            f'<b>{text(model["model"], 120)}</b> <span class="mm-quiet">{_total(model)} from {where}</span>',
            _most(model["cells"], report, f"{model['model']} differs most", _number)
            or f"{model['model']}: no distances are known",
        )
        for model in models
    )
    shown = f"0 to {top:.3g}{' or more' if max(values, default=0.0) > top else ''}"
    numbers = "".join(
        f"<h4>{text(model['model'], 120)}</h4>{_table(model['cells'], report, _number)}" for model in models
    )
    return _figure(f"Relative distance from {where}", shown, maps, numbers)


def _conflicts(report: Data) -> str:
    cells = report["conflicts"]
    spoken = _most(cells, report, "The models pull apart most", percent) or "No conflicts are known"
    drawn = _heat_map(cells, report, HALF, percent, "<b>All pairs of models together</b>", spoken)
    words = "Changes to the base in opposite directions, as a share of all"
    return _figure(words, f"0 to {HALF:.0%} or more", drawn, _table(cells, report, percent))


def _figure(words: str, shown: str, maps: str, numbers: str) -> str:
    legend = (
        f'<p class="mm-legend"><span>{words}</span><span class="mm-ramp" aria-hidden="true"></span>'
        f"<span>{shown}</span></p>"
    )
    return f'{legend}<div class="mm-maps">{maps}</div>{details("The numbers as a table", numbers)}'


def _number(value: float) -> str:
    return f"{value:.3g}"


def _total(model: Data) -> str:
    return _number(model["distance"]) if isinstance(model.get("distance"), int | float) else "unknown"


def _cap(values: Iterable[float]) -> float:
    """Where the colours end: the largest value, or what all but a twentieth stay below if that is far larger."""
    known = sorted(value for value in values if math.isfinite(value))
    if not known or known[-1] <= 0:
        return 1.0
    usual = known[int(0.95 * (len(known) - 1))]
    return known[-1] if known[-1] <= 2 * usual or usual <= 0 else 1.25 * usual


def _heat_map(
    cells: Sequence[Cells], report: Data, top: float, said: Callable[[float], str], caption: str, spoken: str
) -> str:
    """A row for each layer, a column for each block; `caption` is HTML, `spoken` its finding in words."""
    layers, blocks = report["layers"], report["blocks"]
    cell = max(8.0, min(CELL, WIDE / len(blocks)))
    high = CELL if len(layers) <= 16 else 14
    shapes = []
    for row, (layer, values) in enumerate(zip(layers, cells, strict=False)):
        y = TOP + row * high
        shapes.append(f'<text x="{LEFT - 6}" y="{y + high / 2 + 4:g}" text-anchor="end">{text(layer, 12)}</text>')
        for column, value in enumerate(values):
            if value is None:
                continue
            depth = min(1.0, max(0.0, value / top))
            shapes.append(
                f'<rect x="{LEFT + column * cell:.1f}" y="{y}" width="{cell - 2:.1f}" height="{high - 2}" rx="2" '
                f'fill-opacity="{0.08 + 0.92 * depth:.2f}"><title>{text(layer, 40)}, {text(blocks[column], 60)}: '
                f"{said(value)}</title></rect>"
            )
    for column, block in enumerate(blocks):
        x = LEFT + (column + 0.6) * cell
        shapes.append(f'<text transform="translate({x:.1f} {TOP - 6}) rotate(-60)">{text(block, 18)}</text>')
    width, height = LEFT + len(blocks) * cell + 44, TOP + len(layers) * high
    return (
        f'<figure class="mm-map" tabindex="0"><figcaption>{caption}</figcaption>'
        f'<svg role="img" aria-label="{text(spoken, 500)}" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">{"".join(shapes)}</svg></figure>'
    )


def _most(cells: Sequence[Cells], report: Data, words: str, said: Callable[[float], str]) -> str:
    """Where a map is darkest, "" for an empty one."""
    known = [
        (value, layer, block)
        for layer, row in zip(report["layers"], cells, strict=False)
        for block, value in zip(report["blocks"], row, strict=False)
        if value is not None
    ]
    if not known:
        return ""
    value, layer, block = max(known, key=lambda cell: cell[0])
    return f"{words} in layer {layer}, {block}: {said(value)}"


def _table(cells: Sequence[Cells], report: Data, said: Callable[[float], str]) -> str:
    rows = [
        (text(layer, 40), *("" if value is None else said(value) for value in row))
        for layer, row in zip(report["layers"], cells, strict=False)
    ]
    return table(("Layer", *map(str, report["blocks"])), rows)


def pairs(report: Data) -> str:
    """Any two of the models: how alike their changes are, and where they pull apart."""
    found, models = report.get("pairs") or [], report.get("models") or []
    if not found:
        return ""
    rows = []
    for pair in found:
        names = [models[index]["model"] for index in pair["models"]]
        conflict, cosine, distance = pair.get("sign_conflict"), pair.get("cosine"), pair.get("distance")
        rows.append(
            (
                f"{text(names[0], 120)} and {text(names[1], 120)}",
                _share_bar(conflict),
                "–" if cosine is None else f"{cosine:.3f}",
                "–" if distance is None else f"{distance:.3g}",
            )
        )
    head = ("Models", "Changes in opposite directions", "Cosine of the changes", "Relative distance")
    known = [place for place in range(len(head)) if any(row[place] != "–" for row in rows)]
    shown = table([head[place] for place in known], [[row[place] for place in known] for row in rows])
    return f"<h4>{plural(len(found), 'pair')} of models</h4>{shown}"


def _share_bar(value: float | None) -> str:
    """A share as a short bar beside its number."""
    if value is None:
        return "–"
    width = round(100 * min(max(value, 0.0), 1.0), 1)
    bar = f'<rect class="mm-fill" y="4" width="{width}" height="8"/>'
    svg = f'<svg viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">{bar}</svg>'
    return f'<span class="mm-share-bar">{svg}<span>{percent(value)}</span></span>'
