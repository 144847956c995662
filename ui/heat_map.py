"""Where the models of a merge differ, as a heat map layer by block, and how any two of them agree.

Drawn as SVG inside HTML from plain data (`differences` of a merge's report); see `ui.charts`. All text may be from
strangers.
"""

import math
from collections.abc import Iterable, Sequence

from ui.charts import Data, percent
from ui.render import details, plural, table, text

CELL, LEFT, TOP = 26, 78, 96  # points of a cell, of the layers' names, of the blocks' names
WIDE = 264  # points that the cells of a row have on a phone


def differences(report: Data) -> str:
    """How far each model is from the base, layer by block, and how any two of them agree; "" without models."""
    models = report.get("models") or []
    if not models or not report.get("layers"):
        return ""
    values = [value for model in models for row in model["cells"] for value in row if value is not None]
    top = _cap(values)
    where = "the base" if report.get("reference") == "base" else "the mean of the models"
    maps = "".join(_heat_map(model, report, top, where) for model in models)
    shown = f"0 to {top:.3g}{' or more' if max(values, default=0.0) > top else ''}"
    legend = (
        f'<p class="mm-legend"><span>Relative distance from {where}</span>'
        f'<span class="mm-ramp" aria-hidden="true"></span><span>{shown}</span></p>'
    )
    notes = "".join(f'<p class="mm-quiet">{text(note, 600)}</p>' for note in report.get("notes") or [])
    numbers = details("The numbers as a table", _distance_tables(models, report))
    return f'{legend}<div class="mm-maps">{maps}</div>{numbers}{pairs(report)}{notes}'


def _cap(values: Iterable[float]) -> float:
    """Where the colours end: the largest value, or what all but a twentieth stay below if that is far larger."""
    known = sorted(value for value in values if math.isfinite(value))
    if not known or known[-1] <= 0:
        return 1.0
    usual = known[int(0.95 * (len(known) - 1))]
    return known[-1] if known[-1] <= 2 * usual or usual <= 0 else 1.25 * usual


def _heat_map(model: Data, report: Data, top: float, where: str) -> str:
    """One model: a row for each layer, a column for each block."""
    layers, blocks = report["layers"], report["blocks"]
    cell = max(8.0, min(CELL, WIDE / len(blocks)))
    high = CELL if len(layers) <= 16 else 14
    shapes = []
    for row, (layer, values) in enumerate(zip(layers, model["cells"], strict=False)):
        y = TOP + row * high
        shapes.append(f'<text x="{LEFT - 6}" y="{y + high / 2 + 4:g}" text-anchor="end">{text(layer, 12)}</text>')
        for column, value in enumerate(values):
            if value is None:
                continue
            depth = min(1.0, max(0.0, value / top))
            shapes.append(
                f'<rect x="{LEFT + column * cell:.1f}" y="{y}" width="{cell - 2:.1f}" height="{high - 2}" rx="2" '
                f'fill-opacity="{0.08 + 0.92 * depth:.2f}"><title>{text(layer, 40)}, {text(blocks[column], 60)}: '
                f"{value:.3g}</title></rect>"
            )
    for column, block in enumerate(blocks):
        x = LEFT + (column + 0.6) * cell
        shapes.append(f'<text transform="translate({x:.1f} {TOP - 6}) rotate(-60)">{text(block, 18)}</text>')
    width, height = LEFT + len(blocks) * cell + 44, TOP + len(layers) * high
    distance = f"{model['distance']:.3g}" if isinstance(model.get("distance"), int | float) else "unknown"
    return (
        f'<figure class="mm-map" tabindex="0"><figcaption><b>{text(model["model"], 120)}</b> '
        f'<span class="mm-quiet">{distance} from {where}</span></figcaption>'
        f'<svg role="img" aria-label="{text(_where_most(model, report), 500)}" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">{"".join(shapes)}</svg></figure>'
    )


def _where_most(model: Data, report: Data) -> str:
    """In which layer and block a model differs most."""
    cells = [
        (value, layer, block)
        for layer, row in zip(report["layers"], model["cells"], strict=False)
        for block, value in zip(report["blocks"], row, strict=False)
        if value is not None
    ]
    if not cells:
        return f"{model['model']}: no distances are known"
    value, layer, block = max(cells, key=lambda cell: cell[0])
    return f"{model['model']} differs most in layer {layer}, {block}: {value:.3g}"


def _distance_tables(models: Sequence[Data], report: Data) -> str:
    parts = []
    for model in models:
        rows = [
            (text(layer, 40), *("" if value is None else f"{value:.3g}" for value in row))
            for layer, row in zip(report["layers"], model["cells"], strict=False)
        ]
        parts.append(f"<h4>{text(model['model'], 120)}</h4>{table(('Layer', *map(str, report['blocks'])), rows)}")
    return "".join(parts)


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
