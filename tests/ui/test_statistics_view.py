"""What the Statistics page shows: every word of a file's header and of the Hub is a stranger's."""

import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs

import pytest

from hub.statistics_look import Look
from jobs.job import Job, StageState
from jobs.statistics_preview import StatisticsPreview
from merging.errors import InputError, Problem
from merging.recipe import recipe_from_dict, recipe_from_link
from merging.summary import Summary
from merging.wish import HANDED_OVER, statistics_wish
from ui import statistics_view
from ui.statistics_form import by_field, read_text, read_wish, shown_columns

HUB = "https://hub.example"
SUMMARY = Summary(
    kind="gram",
    source="ann/s@" + "a" * 40 + ":merge-statistics/gram.safetensors",
    nbytes=25_000_000,
    layers=72,
    widest=1536,
    examples=600,
    tokens=20_000,
    fullness=13.0,
    lacking=0,
    belongs=True,
    model="ann/a",
    revision="b" * 40,
    sha256="c" * 64,
)
VALUES: dict[str, Any] = {
    "model": "https://huggingface.co/ann/a",
    "collect": ["gram"],
    "source": "paste",
    "dataset": "",
    "upload": None,
    "paste": "one\ntwo",
    "text_column": "",
    "target_column": "",
    "image_column": "",
    "variant": "auto",
    "label_column": "",
    "examples": 600,
    "max_length": 128,
    "seed": 0,
    "publish": "own",
    "private": False,
}


def test_a_card_links_the_file_and_the_merge_with_its_pins() -> None:
    """The merge form opens with the model's revision, the source and its SHA-256."""
    html = statistics_view.summary(SUMMARY, HUB)
    assert f'{HUB}/ann/s/blob/{"a" * 40}/merge-statistics/gram.safetensors"' in html
    assert "fits these weights" in html
    packed = statistics_view.merge_link(SUMMARY).partition("recipe=")[2]
    (entry,) = recipe_from_link(packed).models
    assert entry.model == "ann/a@" + "b" * 40
    assert (entry.statistics["gram"].source, entry.statistics["gram"].sha256) == (SUMMARY.source, "c" * 64)


def test_strangers_words_are_text() -> None:
    """A model, a dataset and a repo of a header cannot be markup, and lead nowhere."""
    evil = Summary(**{**vars(SUMMARY), "model": "<script>x</script>", "dataset": '"><img src=x>', "belongs": False})
    html = statistics_view.found(Look("ann/<b>", summaries=(evil,)), HUB)
    assert "<script>" not in html
    assert "<img" not in html
    assert "ann/<b>" not in html
    assert "Use it in a merge" not in html
    assert "other weights" in html
    assert "a merge refuses them" in html


def test_the_way_back_to_a_merge() -> None:
    """Every model of it is a way to its own statistics, with the same way back; strangers' words are text."""
    recipe = recipe_from_dict({"merge_method": "fisher", "models": ["ann/a@main", "ann/b"]})
    html = statistics_view.for_a_merge(recipe, "fisher", "ann/a@" + "b" * 40)
    assert "For Fisher of <b>ann/a</b>, <a href" in html
    (query,) = (parse_qs(one.partition("?")[2]) for one in re.findall(r'href="(/statistics[^"]*)"', unescape(html)))
    assert (query["model"], query["collect"]) == (["ann/b"], ["fisher"])
    assert recipe_from_link(query["recipe"][0]) == recipe
    (back,) = re.findall(r'href="(/\?recipe=[^"]*)"', html)
    assert recipe_from_link(back.partition("=")[2]) == recipe


def test_nothing_published_is_said() -> None:
    """With what was found broken."""
    html = statistics_view.found(Look("ann/a", problems=(Problem("It is broken", severity="warning"),)), HUB)
    assert "No statistics of ann/a are published yet." in html
    assert "It is broken" in html


def test_the_preview_of_an_impossible_wish_counts_what_to_mend() -> None:
    """Warnings are shown and not counted."""
    wish = read_wish(VALUES)
    problems = (Problem("No"), Problem("Perhaps", severity="warning"))
    html = statistics_view.preview(StatisticsPreview(wish, None, False, 0, problems), problems, 2)
    assert "Not yet: 1 thing to mend" in html
    assert "Perhaps" in html


def test_a_job_that_is_done_shows_what_it_made() -> None:
    """Its summary, and a pull request by its own word."""
    job = Job(
        id="m1",
        user="ann",
        status="done",
        stage="clean",
        stages=(StageState("pin", "done"),),
        progress=None,
        created=0.0,
        updated=0.0,
        recipe_yaml="",
        method="statistics",
        models=("ann/a",),
        repo_id="ann/a",
        url=f"{HUB}/ann/a/discussions/3",
        purpose="statistics",
        summaries=(SUMMARY.as_dict(),),
    )
    html = statistics_view.job(job, HUB)
    assert "Open the pull request to ann/a" in html
    assert "Gram matrices (RegMean)" in html
    assert "Statistics of ann/a" in html
    assert "/model?id=" not in html
    assert "/statistics?model=ann%2Fa" in statistics_view.job_links(job)


def test_the_form_is_a_wish_and_a_text() -> None:
    """The text itself is no part of the wish."""
    wish = read_wish(VALUES)
    assert wish == statistics_wish({"collect": ["gram"], "model": "ann/a", "text": {"data": HANDED_OVER}})
    assert read_text(VALUES) == ["one", "two"]
    named = VALUES | {"source": "dataset", "dataset": "ann/texts:train", "text_column": "body"}
    assert (read_wish(named).text.data, read_wish(named).text.text_column) == ("ann/texts:train", "body")
    assert read_text(named) is None


@pytest.mark.parametrize(
    ("changes", "reads", "shown"),
    [
        ({}, "text", {"text_column"}),
        ({}, "images", set()),
        ({"source": "dataset"}, "pairs", {"text_column", "target_column"}),
        ({"source": "dataset"}, "images", {"image_column"}),
        ({"source": "dataset"}, "images and text", {"text_column", "image_column"}),
        ({"collect": ["fisher"], "variant": "empirical"}, "text", {"text_column", "variant"}),
        (
            {"collect": ["gram", "fisher"], "variant": "empirical", "source": "dataset"},
            "text",
            {"text_column", "variant", "label_column"},
        ),
    ],
)
def test_only_columns_that_mean_something_are_asked_for(changes: dict[str, Any], reads: Any, shown: set[str]) -> None:
    """A text that is handed over has one column; labels are of an empirical Fisher alone."""
    assert {name for name, visible in shown_columns(VALUES | changes, reads).items() if visible} == shown


def test_columns_and_variant_are_part_of_the_wish() -> None:
    """Of a dataset; a Gram alone has neither variant nor labels, a text that is handed over no columns."""
    columns = {"target_column": " answer ", "image_column": "photo", "label_column": "gold", "variant": "empirical"}
    named = VALUES | columns | {"source": "dataset", "dataset": "ann/texts", "collect": ["fisher"]}
    text = read_wish(named).text
    assert (text.target_column, text.image_column, text.label_column) == ("answer", "photo", "gold")
    assert text.variant == "empirical"
    gram = read_wish(named | {"collect": ["gram"]}).text
    assert (gram.variant, gram.label_column) == ("auto", None)
    pasted = read_wish(named | {"source": "paste"}).text
    assert (pasted.variant, pasted.label_column, pasted.target_column) == ("empirical", None, None)


@pytest.mark.parametrize(
    ("changes", "sentence", "part"),
    [
        ({"collect": []}, "No kind of statistics is ticked: there are two. Tick one or both.", "model"),
        ({"paste": " "}, "There is no text: statistics are collected from it. Paste one example a line.", "data"),
        ({"source": "upload"}, "There is no text: statistics are collected from it. Upload a file.", "data"),
        ({"source": "dataset"}, "There is no text: statistics are collected from it. Name a dataset.", "data"),
        ({"examples": 0}, "text.examples = '0': input should be greater than or equal to 1. Mend it.", "data"),
        ({"examples": None}, "text.examples = 'None': input should be a valid integer. Mend it.", "data"),
        ({"model": "x"}, "model = 'x': a model of the Hub is owner/name or owner/name@revision. Mend it.", "model"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], sentence: str, part: str) -> None:
    """In the part of the page where they stand."""
    with pytest.raises(InputError) as error:
        read_wish(VALUES | changes)
    assert str(error.value) == sentence
    assert list(by_field(error.value.problems)) == [part]


def test_an_upload_that_is_gone_is_said_to_be() -> None:
    """It lives an hour."""
    with pytest.raises(InputError, match=r"The file is here no more: uploads expire\. Upload it again"):
        read_text(VALUES | {"source": "upload", "upload": "/nowhere/a.txt"})
