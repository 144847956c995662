"""Evaluation sets of the form: what the fields say is the recipe's `evaluate`, and back."""

import json
from pathlib import Path
from typing import Any

import pytest

from hub.dataset_look import look_at_rows
from merging.errors import InputError
from merging.parent import Parent
from merging.recipe import HANDED_OVER, SETS_LIMIT, recipe_from_dict
from merging.tensors import HeaderSource
from tests.ui.test_render import HOSTILE, safe
from ui import evaluation_words
from ui.evaluation_sets import (
    guessed_domain,
    handed_over,
    label_wish,
    matched,
    raise_if_unlabelled,
    read_set,
    title,
    uploaded_rows,
    with_set,
)
from ui.forms import add_model, empty_form, fill_form, read_form, remove_model

ROWS = [{"text": "card is lost", "intent": "card lost"}, {"text": "what is the fee", "intent": "fee"}]


def fields(**values: Any) -> dict[str, Any]:
    """The fields of a set that nobody touched but for these."""
    empty = {"source": "dataset", "data": "", "file": None, "text_column": None, "label_column": None}
    return empty | {"in_domain": [], "labels": "", "name": "", "examples": 500} | values


def parent(*labels: str) -> Parent:
    """A classifier with these labels; without any it is none."""
    config = {"id2label": dict(enumerate(labels))} if labels else {}
    return Parent("ana/x", "0" * 40, config, HeaderSource({}))


def a_form(*models: str, **evaluate: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A form with these models and one set."""
    draft, values = empty_form()
    for model in models:
        draft = add_model(draft, model)
    return draft | {"evaluate": [read_set(fields(**evaluate))]}, values


def test_a_set_is_named_by_the_task_of_its_model() -> None:
    """Also when the task's name changes as other models come."""
    form = a_form("ana/minilm-banking", data="ana/texts:test", in_domain=["ana/minilm-banking"])
    assert read_form(*form).evaluate[0].in_domain == ("minilm-banking",)
    draft, values = add_model(form[0], "ana/minilm-emotion"), form[1]
    assert read_form(draft, values).evaluate[0].in_domain == ("banking",)
    draft, values = remove_model(draft, values, 0)
    assert read_form(draft, values).evaluate[0].in_domain == ()


def test_a_recipe_with_sets_survives_the_form() -> None:
    """Every key of a set, also those that have no field; a task that is none stays wrong."""
    one = {"data": "ana/texts:en:test", "name": "texts", "kind": "classification", "in_domain": ["banking"]}
    one |= {"head": "emotion", "labels": {"0": "fee"}, "examples": 50, "max_length": 64, "seed": 3}
    data = {"merge_method": "average", "models": ["ana/minilm-banking", "ana/minilm-emotion"]}
    recipe = recipe_from_dict(data | {"evaluate": [one, {"data": "ana/news", "in_domain": ["nobody"]}]})
    assert read_form(*fill_form(recipe)).evaluate == recipe.evaluate


def test_an_upload_goes_with_the_recipe_and_not_in_it(tmp_path: Path) -> None:
    """Its rows are handed over by the set's number; the recipe knows no path."""
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    form = a_form("ana/one", "ana/two", source="upload", file=str(file), label_column="intent")
    recipe = read_form(*form)
    assert recipe.evaluate[0].data == HANDED_OVER
    assert str(tmp_path) not in recipe.to_yaml()
    assert "mine" not in recipe.to_yaml()  # it will be public, the file's name is not
    rows = handed_over(form[0]["evaluate"])[0]
    assert rows == [{"text": row["text"], "label": row["intent"]} for row in ROWS]
    file.unlink()
    with pytest.raises(InputError, match=r"The file is here no more: uploads expire\. Upload it again") as caught:
        handed_over(form[0]["evaluate"])
    assert caught.value.problem.where == "evaluate.0.data"


def test_a_file_that_is_none_is_told_by_its_name(tmp_path: Path) -> None:
    """Not by where the server keeps it."""
    file = tmp_path / "broken.jsonl"
    file.write_text("no json\n")
    with pytest.raises(InputError, match=r"broken\.jsonl cannot be read") as caught:
        uploaded_rows(str(file))
    assert str(tmp_path) not in str(caught.value)
    file.write_bytes(b" " * 5_000_001)
    with pytest.raises(InputError, match=r"broken\.jsonl is too long: 5\.0 MB, at most 5 MB are taken"):
        uploaded_rows(str(file))


def test_the_kind_of_an_upload_is_told_by_its_rows() -> None:
    """Words with tags, texts alone, texts with labels."""
    words = [{"tokens": ["Ana", "sings"], "ner_tags": ["B-PER", "O"]}]
    kinds = [
        read_set(fields(source="upload", file="/x/mine.jsonl"), look_at_rows(rows, "mine")).get("kind")
        for rows in (words, [{"text": "only words"}], ROWS)
    ]
    assert kinds == ["token-classification", "language-modelling", None]


def test_a_file_without_labels_is_none_for_a_classifier() -> None:
    """Language models read plain text; a classifier's answers have to be compared with something."""
    entry = read_set(fields(source="upload", file="/x/mine.csv"), look_at_rows([{"text": "only words"}], "mine"))
    raise_if_unlabelled(entry, [parent()])
    with pytest.raises(InputError, match="This file has no column of labels"):
        raise_if_unlabelled(entry, [parent("card lost", "fee")])


def test_an_upload_is_called_by_whose_domain_it_is() -> None:
    """Two files are told apart, also when nobody names them."""
    models = ("ana/minilm-banking", "ana/minilm-emotion")
    sets = [read_set(fields(source="upload", file="/x/mine.csv", in_domain=[model])) for model in models]
    assert [title(entry) for entry in sets] == ["minilm-banking", "minilm-emotion"]


def test_columns_and_labels_are_guessed() -> None:
    """By their usual names; what somebody names counts; a column that is not there does not."""
    look = look_at_rows(ROWS, "mine")
    assert (look.text, look.label, look.labels) == ("text", "intent", ("card lost", "fee"))
    assert look_at_rows(ROWS, "mine", label_column="text", text_column="intent").text == "intent"
    assert look_at_rows(ROWS, "mine", label_column="gone").label == "intent"
    assert look_at_rows([{"text": "a", "label": 1}], "mine", {"label": ["no", "yes"]}).labels == ("no", "yes")
    with pytest.raises(InputError, match="mine holds no rows"):
        look_at_rows([], "mine")


def test_the_domain_is_guessed_only_where_it_is_plain() -> None:
    """The one model whose labels these are; with two such models it is for people to say."""
    look = look_at_rows(ROWS, "mine")
    banking, mood = parent("fee", "Card_Lost"), parent("joy", "anger")
    assert guessed_domain(look, {"ana/banking": banking, "ana/mood": mood}) == ["ana/banking"]
    assert guessed_domain(look, {"ana/banking": banking, "ana/other": banking}) == []
    assert guessed_domain(look, {"ana/mood": mood}) == []
    assert matched(look, banking, {}) == {"card lost": "Card_Lost", "fee": "fee"}
    wrong = matched(look, mood, {"fee": "joy"})
    assert isinstance(wrong, InputError)
    assert "ana/x has no label 'card lost'" in str(wrong)


def test_labels_are_corrected_line_by_line() -> None:
    """A line that says nothing is an error in one sentence."""
    assert label_wish("0 = negative\n\n 1=positive ") == {"0": "negative", "1": "positive"}
    with pytest.raises(InputError, match=r"'negative' says of no label what it is called"):
        label_wish("0 = negative\nnegative")


def test_a_set_added_twice_is_one() -> None:
    """The later one; and there is an end to how many there may be."""
    sets = with_set([], read_set(fields(data="ana/texts")))
    sets = with_set(sets, read_set(fields(data="ana/texts", examples=20)))
    assert sets == [{"data": "ana/texts", "examples": 20}]
    with pytest.raises(InputError, match="There is no data"):
        read_set(fields())
    for number in range(SETS_LIMIT - 1):
        sets = with_set(sets, {"data": f"ana/{number}"})
    with pytest.raises(InputError, match="There is no room for another set"):
        with_set(sets, {"data": "ana/more"})


def test_strangers_write_no_markup_into_sets() -> None:
    """Neither by names of data nor by texts and labels."""
    look = look_at_rows([{"text": HOSTILE, "label": HOSTILE}], HOSTILE)
    error = InputError(HOSTILE, HOSTILE)
    for fragment in (
        evaluation_words.sets([{"data": HOSTILE, "name": HOSTILE, "in_domain": [HOSTILE]}]),
        evaluation_words.look(look, {}),
        evaluation_words.look(look, {HOSTILE: {HOSTILE: "x"}, "b": error}),
    ):
        assert "<img" not in fragment
        safe(fragment)
