"""The picture of a shared link."""

import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from hub.merged import MergedModel
from merging.errors import InputError
from merging.recipe import recipe_from_dict
from tests.ui.reports import evaluation
from ui.preview_picture import NEW, Busy, PreviewPictures, brand, picture

RECIPE = recipe_from_dict({"merge_method": "average", "models": ["ana/one", "ana/two"]})


def a_merge(**changes: Any) -> MergedModel:
    """A published merge without figures."""
    values = {"repo_id": "ana/merged", "recipe": RECIPE, "report": None, "private": False}
    return SimpleNamespace(**values | changes)  # type: ignore[return-value]


def opened(png: bytes | None) -> Image.Image:
    """The picture in some bytes."""
    assert png is not None
    return Image.open(BytesIO(png))


def test_a_picture_has_the_size_that_chats_expect() -> None:
    """And some tens of kilobytes at most, with figures and without, whatever the length of its names."""
    long = recipe_from_dict({"merge_method": "average", "models": [f"{'o' * 40}/{'m' * 90}-{n}" for n in range(8)]})
    report = {"evaluation": evaluation()}
    merges = [a_merge(), a_merge(report=report), a_merge(recipe=long, repo_id=f"{'o' * 40}/{'x' * 55}")]
    for png in (*map(picture, merges), brand()):
        assert opened(png).size == (1200, 630)
        assert len(png) < 60_000


def test_figures_are_drawn() -> None:
    """The merge's bar where there are some, none where there are none."""
    bar = (213, 94, 0)
    with_figures = opened(picture(a_merge(report={"evaluation": evaluation()}))).convert("RGB")
    assert bar in with_figures.getdata()  # type: ignore[operator]
    assert bar not in opened(picture(a_merge())).convert("RGB").getdata()  # type: ignore[operator]


def test_a_picture_is_made_once() -> None:
    """Also that of a name that stands for nothing; and a name that is none is asked of nobody."""
    asked: list[str] = []

    def merged(repo_id: str) -> MergedModel:
        asked.append(repo_id)
        if repo_id == "ana/missing":
            raise InputError("ana/missing does not exist")
        return a_merge(private=repo_id == "ana/secret")

    pictures = PreviewPictures(merged)
    for _ in range(2):
        assert pictures.of("ana/merged")
        assert pictures.of("ana/missing") is None
        assert pictures.of("ana/secret") is None
        assert pictures.of("../etc/passwd") is None
        assert pictures.of("") == brand()
    assert asked == ["ana/merged", "ana/missing", "ana/secret"]


def test_many_new_names_are_asked_of_nobody() -> None:
    """Beyond what a few minutes allow; nothing is kept of that."""
    asked: list[str] = []

    def merged(repo_id: str) -> MergedModel:
        asked.append(repo_id)
        raise InputError("no such model")

    pictures = PreviewPictures(merged)
    for number in range(NEW):
        assert pictures.of(f"ana/model-{number}") is None
    for _ in range(2):
        with pytest.raises(Busy):
            pictures.of("ana/another")
    assert len(asked) == NEW
    pictures._made.clear()
    assert pictures.of("ana/another") is None


def test_nobody_waits_for_the_pictures_of_others() -> None:
    """Two wait for a Hub that is slow; whoever comes then is answered at once, and draws once those have gone."""
    answered, begun = threading.Event(), threading.Semaphore(0)

    def merged(repo_id: str) -> MergedModel:
        begun.release()
        assert answered.wait(20)
        return a_merge(repo_id=repo_id)

    pictures = PreviewPictures(merged)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(pictures.of, f"ana/slow-{number}") for number in range(2)]
        assert all(begun.acquire(timeout=20) for _ in slow)
        with pytest.raises(Busy):
            pictures.of("ana/merged")
        answered.set()
        assert all(one.result() for one in slow)
    assert opened(pictures.of("ana/merged")).size == (1200, 630)


@pytest.mark.parametrize("words", ["ünïcödé", "名前", "a" * 400])
def test_any_words_can_be_drawn(words: str) -> None:
    """Names of sets are from strangers."""
    report = evaluation()
    report["sets"][0]["name"] = words
    assert opened(picture(a_merge(report={"evaluation": report})))
