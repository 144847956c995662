"""Figures as pictures: what they say, in words and in shapes."""

import re

from tests.ui.reports import a_set, differences, evaluation, score
from tests.ui.test_render import HOSTILE, safe
from ui import charts, heat_map


def test_every_score_has_a_bar_and_a_number() -> None:
    """Of each set: its parents, average and merge, as long as their scores, with the interval behind."""
    seen = safe(charts.evaluation(evaluation()))
    bars = [attributes["class"] for tag, attributes in seen.tags if "mm-bar " in str(attributes.get("class"))]
    assert len(bars) == 3 * 3 + 5
    widths = [str(attributes["width"]) for tag, attributes in seen.tags if attributes.get("class") == "mm-fill"]
    assert widths[:3] == ["88.4", "51.2", "79.6"]
    assert "79.6 %" in seen.words
    assert "76.6 to 82.6 %" in seen.words


def test_a_picture_says_its_finding() -> None:
    """To those who hear the page: the merge, the best parent, the average, and whether that is more than chance."""
    sets = evaluation()["sets"]
    assert charts.finding(sets[0]) == (
        "On banking the merge has 79.6 % accuracy (76.6 to 82.6 %); the best parent, ana/minilm-banking, 88.4 %; "
        "the plain average 51.2 %. Clearly better than the average, by 28.4 points."
    )
    assert charts.finding(sets[2]).endswith("No clear difference from the average.")
    assert charts.finding(sets[3]).endswith("Clearly better than the average, by 13.6.")  # less perplexity is better
    labels = [
        attributes["aria-label"] for _, attributes in safe(charts.evaluation(evaluation())).tags if "role" in attributes
    ]
    assert labels == [charts.finding(one) for one in sets]


def test_an_outlier_does_not_flatten_the_others() -> None:
    """A perplexity far off is cut, and its number says so."""
    words = [score("parent", "a/b", 900.0, metric="perplexity"), *evaluation()["sets"][3]["scores"]]
    seen = safe(charts.evaluation({"sets": [a_set("news", words, metric="perplexity", better="lower")]}))
    widths = [float(str(attributes["width"])) for _, attributes in seen.tags if attributes.get("class") == "mm-fill"]
    assert widths[0] == 100.0
    assert widths[1] > 50
    assert "900 →" in seen.words


def test_the_table_says_differences_in_points() -> None:
    """With one decimal, as the figures that they are of; perplexities have no points."""
    words = safe(charts.evaluation(evaluation())).words
    assert "accuracy +28.4 points (+25.4 to +31.4)" in words
    assert "perplexity -13.6 (-15 to -12)" in words


def test_a_merge_without_figures_has_no_picture() -> None:
    """Only the reason stands there."""
    assert charts.evaluation({}) == ""
    assert charts.evaluation({"sets": [], "notes": ["No figures: the dataset is gone."]}) == (
        '<p class="mm-quiet">No figures: the dataset is gone.</p>'
    )
    assert heat_map.differences({}) == ""


def test_strangers_write_no_markup_into_pictures() -> None:
    """Neither by the names of sets and models nor by those of layers and blocks."""
    one = a_set(HOSTILE, [score("merge", HOSTILE, 0.5, task=HOSTILE), score("x", HOSTILE, 0.5)], in_domain=[HOSTILE])
    report = differences()
    report["layers"][0] = report["blocks"][0] = report["models"][0]["model"] = HOSTILE
    for fragment in (
        charts.evaluation({"sets": [one], "notes": [HOSTILE]}),
        charts.compared((HOSTILE, HOSTILE), [{"sets": [one]}] * 2),
        heat_map.differences(report | {"notes": [HOSTILE]}),
    ):
        assert "<img" not in fragment
        safe(fragment)


def test_two_merges_are_compared_on_what_both_were_evaluated_on() -> None:
    """Both figures and what lies between them; sets of one alone are left out."""
    other = evaluation()
    other["sets"] = [one for one in other["sets"] if one["name"] != "emotion"]
    for one in other["sets"]:
        for value in one["scores"]:
            value["metrics"] = {name: number * 1.1 for name, number in value["metrics"].items()}
    words = safe(charts.compared(("ana/one", "ana/two"), (evaluation(), other))).words
    assert "emotion" not in words
    assert "+8.0 points" in words  # banking, 79.6 % and 87.6 %
    assert "+3.04" in words  # perplexity
    assert "not evaluated on the same data" in charts.compared(("a", "b"), (evaluation(), {}))


def test_the_heat_map_has_a_cell_for_each_layer_and_block() -> None:
    """But for those that a model does not have; the darkest is where it differs most, and is named."""
    seen = safe(heat_map.differences(differences()))
    cells = [
        float(str(attributes["fill-opacity"]))
        for tag, attributes in seen.tags
        if tag == "rect" and "fill-opacity" in attributes
    ]
    assert len(cells) == 3 * (8 * 7 - 6)
    assert max(cells) == 1.0
    labels = [str(attributes["aria-label"]) for tag, attributes in seen.tags if attributes.get("role") == "img"]
    assert labels[2] == "ana/minilm-subjectivity differs most in layer head, norm: 0.108"
    assert "Relative distance from the base" in seen.words
    assert re.search(r"ana/minilm-banking and ana/minilm-emotion\s*31\.0 %\s*0\.120\s*0\.03", seen.words)


def test_one_large_distance_does_not_bleach_the_others() -> None:
    """The colours end where all but a few cells end, and the legend says so."""
    report = differences()
    report["models"][0]["cells"][7][0] = 40.0
    seen = safe(heat_map.differences(report))
    assert "or more" in seen.words
    cells = [
        float(str(attributes["fill-opacity"]))
        for tag, attributes in seen.tags
        if tag == "rect" and "fill-opacity" in attributes
    ]
    assert sorted(cells)[-20] > 0.5


def test_conflicts_of_signs_have_a_map_of_their_own() -> None:
    """One for all pairs, behind a switch, in shares of one half; without conflicts there is nothing to switch."""
    report = differences()
    assert "mm-switch" not in heat_map.differences(report)
    conflicts = [[None if cell is None else 0.02 for cell in row] for row in report["models"][0]["cells"]]
    conflicts[3][5] = 0.25
    seen = safe(heat_map.differences(report | {"conflicts": conflicts}))
    maps = [str(attributes["aria-label"]) for tag, attributes in seen.tags if attributes.get("role") == "img"]
    assert len(maps) == 4
    assert maps[3] == "The models pull apart most in layer 2, mlp.down: 25.0 %"
    depths = [str(one["fill-opacity"]) for tag, one in seen.tags if tag == "rect" and "fill-opacity" in one]
    assert depths[-(8 * 7 - 6) :].count("0.54") == 1  # 0.08 + 0.92 · 0.25 / 0.5
    assert "0 to 50% or more" in seen.words
