"""How well a merge does, as pictures: bars for every set that it was evaluated on; two merges side by side.

Drawn as SVG inside HTML from plain data (`evaluation` of a merge's report). Colours are variables of `style.css`, so
that dark mode follows, and every bar stands beside its name and number. Each picture says its finding in words to those
who hear the page, and has its numbers as a table one click away. All text may be from strangers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ui.render import details, table, text

Data = Mapping[str, Any]
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "entity_f1": "entity F1", "perplexity": "perplexity"}
KINDS = ("parent", "average", "ensemble", "instance-wise", "merge")  # colours of bars in `style.css`
OUTLIER = 4.0  # times the median: what is further off would make all other bars look alike, and is cut


def percent(value: float) -> str:
    """A share between 0 and 1 in words: `71.2 %`."""
    return f"{100 * value:.1f} %"


def figure(value: Any, metric: str) -> str:
    """A score as people write it: shares in percent, perplexities as they are, `–` for none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if metric != "perplexity":
        return percent(value)
    return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"


def between(score: Data, metric: str) -> str:
    """The interval of a score, `68.0 to 74.1 %`; "" where there is none."""
    low, high = (score.get(side, {}).get(metric) for side in ("low", "high"))
    if low is None or high is None:
        return ""
    return f"{figure(low, metric).removesuffix(' %')} to {figure(high, metric)}"


def metric_name(metric: str) -> str:
    """`macro F1` of `macro_f1`."""
    return METRICS.get(metric, metric.replace("_", " "))


# Evaluation


def evaluation(report: Data) -> str:
    """All sets of an evaluation as bars, what was noted, and the numbers as a table; "" where there are no sets."""
    sets = report.get("sets") or []
    notes = "".join(f'<p class="mm-quiet">{text(note, 600)}</p>' for note in report.get("notes") or [])
    if not sets:
        return notes
    return f'<div class="mm-sets">{"".join(map(_bars, sets))}</div>{_all_numbers(sets)}{notes}'


def finding(one: Data) -> str:
    """What the figures of one set say, in a sentence or two, for those who hear the page and for link previews."""
    metric = one["metric"]
    merge = _scores(one, "merge")
    if not merge:
        return f"No figure of the merge on {one['name']}."
    told = f"{figure(merge[0]['metrics'].get(metric), metric)} {metric_name(metric)}"
    spread = between(merge[0], metric)
    words = f"On {one['name']} the merge has {told}{f' ({spread})' if spread else ''}"
    best = _best(_scores(one, "parent"), one)
    others = [f"the best parent, {best['title']}, {figure(best['metrics'].get(metric), metric)}"] if best else []
    average = _scores(one, "average")
    others += [f"the plain average {figure(average[0]['metrics'].get(metric), metric)}"] if average else []
    verdict = _verdict(merge[0], one)
    return f"{words}{''.join(f'; {other}' for other in others)}.{f' {verdict}.' if verdict else ''}"


def _verdict(merge: Data, one: Data) -> str:
    """Whether the merge differs from the plain average by more than chance."""
    against = merge.get("against_average", {}).get(one["metric"])
    if not against or len(against) != 3 or any(value is None for value in against):
        return ""
    difference, low, high = against
    if low <= 0 <= high:
        return "No clear difference from the average"
    better = (difference > 0) == (one.get("better", "higher") == "higher")
    size = f"{abs(difference):.3g}" if one["metric"] == "perplexity" else f"{100 * abs(difference):.1f} points"
    return f"Clearly {'better' if better else 'worse'} than the average, by {size}"


def _scores(one: Data, who: str) -> Sequence[Data]:
    return [score for score in one.get("scores") or [] if score["who"] == who]


def _best(scores: Sequence[Data], one: Data) -> Data | None:
    known = [score for score in scores if isinstance(score["metrics"].get(one["metric"]), int | float)]
    sign = 1 if one.get("better", "higher") == "higher" else -1
    return max(known, key=lambda score: sign * score["metrics"][one["metric"]], default=None)


def _bars(one: Data) -> str:
    """One set: a bar for each score, its interval, and a line where the plain average stands."""
    metric = one["metric"]
    scores = [score for score in one.get("scores") or [] if isinstance(score["metrics"].get(metric), int | float)]
    end = _end(scores, metric)
    average = _scores(one, "average")
    mark = average[0]["metrics"].get(metric) if average else None
    rows = "".join(_bar(score, metric, end, mark) for score in scores)
    domain = (
        f"domain of {', '.join(one['in_domain'])}" if one.get("in_domain") else "none of the models was made for it"
    )
    lower = "; lower is better" if one.get("better") == "lower" else ""
    name = metric_name(metric)
    about = f"{name[:1].upper()}{name[1:]} on {one['examples']:,} examples{lower}; {domain}"
    verdict = _verdict(_scores(one, "merge")[0], one) if _scores(one, "merge") else ""
    said = f'<p class="mm-verdict">{text(verdict)}.</p>' if verdict else ""
    return (
        f'<section class="mm-set"><h4>{text(one["name"])}</h4><p class="mm-quiet">{text(about, 500)}</p>'
        f'<div class="mm-bars" role="img" aria-label="{text(finding(one), 900)}">{rows}</div>{said}</section>'
    )


def _end(scores: Sequence[Data], metric: str) -> float:
    """Where the axis ends: 1 for shares; else behind the worst that is no outlier."""
    if metric != "perplexity":
        return 1.0
    values = sorted(score["metrics"][metric] for score in scores) or [1.0]
    reach = OUTLIER * values[len(values) // 2]
    tops = [max(score.get("high", {}).get(metric) or 0.0, score["metrics"][metric]) for score in scores]
    return max([top for top in tops if top <= reach] or [reach], default=1.0) * 1.05 or 1.0


def _bar(score: Data, metric: str, end: float, mark: float | None) -> str:
    kind = score["who"] if score["who"] in KINDS else "parent"
    value = score["metrics"][metric]
    at = [
        _place(number, end) for number in (value, score.get("low", {}).get(metric), score.get("high", {}).get(metric))
    ]
    shape = f'<rect class="mm-fill" y="3" width="{at[0]}" height="10"/>'
    if mark is not None and kind != "average":
        shape += f'<path class="mm-at" d="M{_place(mark, end)} 0V16"/>'
    if at[1] is not None and at[2] is not None:
        shape += f'<path class="mm-whisker" d="M{at[1]} 8H{at[2]}M{at[1]} 5V11M{at[2]} 5V11"/>'
    cut = " →" if value > end else ""
    title = str(score["title"])
    short = title.rpartition("/")[2] or title
    return (
        f'<div class="mm-bar mm-of-{kind}"><span class="mm-who" title="{text(title, 120)}">{text(short, 60)}</span>'
        f'<svg viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">{shape}</svg>'
        f'<span class="mm-value">{figure(value, metric)}{cut}</span></div>'
    )


def _place(value: float | None, end: float) -> float | None:
    """Where a value stands on an axis of 100 steps."""
    return None if value is None else round(100 * min(max(value / end, 0.0), 1.0), 2)


def _all_numbers(sets: Sequence[Data]) -> str:
    """Every number of every set, in one table that is closed at first."""
    rows = []
    for one in sets:
        for score in one.get("scores") or []:
            cells = [
                f"{text(metric_name(metric))} {figure(value, metric)}"
                + (f' <span class="mm-quiet">({spread})</span>' if (spread := between(score, metric)) else "")
                for metric, value in score["metrics"].items()
            ]
            rows.append((text(score["title"], 120), text(one["name"]), "<br>".join(cells), _against(score)))
    head = ("Model", "Data", "Score (95 % interval)", "Against the average")
    return details("The numbers as a table", table(head, rows))


def _against(score: Data) -> str:
    """The differences from the plain average with their intervals."""
    cells = []
    for metric, values in (score.get("against_average") or {}).items():
        if len(values) == 3 and all(isinstance(value, int | float) for value in values):
            difference, low, high = (_change(value, metric) for value in values)
            spread = f'<span class="mm-quiet">({low} to {high})</span>'
            cells.append(f"{text(metric_name(metric))} {difference}{_unit(metric)} {spread}")
    return "<br>".join(cells)


def compared(titles: Sequence[str], reports: Sequence[Data]) -> str:
    """The merges of two evaluations side by side: of each set that both have, both figures and what lies between."""
    first, second = ({(one["name"], one["data"]): one for one in report.get("sets") or []} for report in reports)
    rows = []
    for key, one in first.items():
        other, metric = second.get(key), one["metric"]
        left = _scores(one, "merge")
        right = _scores(other, "merge") if other is not None and other["metric"] == metric else []
        if left and right:
            values = [side[0]["metrics"].get(metric) for side in (left, right)]
            cells = [
                f'{figure(value, metric)} <span class="mm-quiet">({between(side[0], metric)})</span>'
                for value, side in zip(values, (left, right), strict=True)
            ]
            name = f"{text(one['name'])} <span class=mm-quiet>{text(metric_name(metric))}</span>"
            rows.append((name, *cells, _step(values, metric)))
    if not rows:
        return '<p class="mm-quiet">These two were not evaluated on the same data.</p>'
    return table(("Data", *(text(title, 120) for title in titles), "Difference"), rows)


def _step(values: Sequence[Any], metric: str) -> str:
    if not all(isinstance(value, int | float) for value in values):
        return "–"
    return _change(values[1] - values[0], metric) + _unit(metric)


def _change(difference: float, metric: str) -> str:
    """A difference with its sign; of shares in points."""
    return f"{difference:+.3g}" if metric == "perplexity" else f"{100 * difference:+.1f}"


def _unit(metric: str) -> str:
    """What stands behind a difference."""
    return "" if metric == "perplexity" else " points"
