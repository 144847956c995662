"""Evaluation sets that cannot work are told beside their field, before anything is queued."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.preview import make_preview
from merging.recipe import HANDED_OVER, recipe_from_dict
from tests.tiny_models import save_tiny

CARD = """---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
  splits:
  - name: test
---
"""


@pytest.fixture
def ann(hub: LoopbackHub, tmp_path: Path) -> Hub:
    """Two classifiers, and a dataset whose card says what is in it."""
    hub.add_user("ann")
    found = Hub(hub.url, hub.add_token("ann"))
    api: HfApi = found.api
    for name, labels in (("a", ("bad", "good")), ("b", ("x", "y"))):
        api.create_repo(f"ann/{name}")
        api.upload_folder(repo_id=f"ann/{name}", folder_path=save_tiny(tmp_path / name, labels=labels))
    api.create_repo("ann/reviews", repo_type="dataset")
    api.upload_file(repo_id="ann/reviews", repo_type="dataset", path_or_fileobj=CARD.encode(), path_in_repo="README.md")
    return found


def problems(ann: Hub, *sets: dict[str, Any]) -> dict[str, str]:
    """Field -> sentence, of the sets of a recipe of both models."""
    recipe = recipe_from_dict({"merge_method": "average", "models": ["ann/a", "ann/b"], "evaluate": list(sets)})
    preview = make_preview(recipe, ann, free=10**12, with_output=False)
    return {problem.where: str(problem) for problem in preview.problems if problem.where.startswith("evaluate")}


def test_what_works_has_no_problem(ann: Hub) -> None:
    """Text that comes with the recipe, and a dataset whose labels are said to be the model's."""
    right = {"data": "ann/reviews", "label_column": "label", "labels": {"neg": "bad", "pos": "good"}}
    assert problems(ann, right, {"data": HANDED_OVER, "in_domain": ["b"]}) == {}


def test_each_problem_stands_at_its_field(ann: Hub) -> None:
    """Unknown tasks, a dataset that is not there, a file, a column, a split, labels, a kind."""
    none = "is private: you have no access to it. Check the name, or ask its owner for access."
    assert problems(
        ann,
        {"data": HANDED_OVER, "head": "c", "in_domain": ["a", "d"]},
        {"data": "ann/none"},
        {"data": "./mine.csv"},
        {"data": "ann/reviews", "label_column": "stars"},
        {"data": "ann/reviews::train"},
        {"data": "ann/reviews", "label_column": "label", "in_domain": ["a"]},
        {"data": HANDED_OVER, "name": "text", "kind": "language-modelling"},
    ) == {
        "evaluate.0.head": "a and d: there is no task c: the tasks are a, b. Pick one.",
        "evaluate.0.in_domain": "a and d: there is no task d: the tasks are a, b. Pick some.",
        "evaluate.1.data": f"ann/none does not exist, or it {none}",
        "evaluate.2.data": (
            "./mine.csv is a file: only datasets of the Hub are read by name. Name owner/dataset, or upload the file."
        ),
        "evaluate.3.label_column": "ann/reviews has no column 'stars': it has text, label. Name one of these.",
        "evaluate.4.data": "ann/reviews has no split 'train': it has test. Name one of these.",
        "evaluate.5.labels": (
            "ann/a has no label 'neg', which stands in reviews: its labels are bad, good; those of reviews are "
            "neg, pos. Say which label of the data is which of the model."
        ),
        "evaluate.6.kind": (
            "text: no model is made for language-modelling: there would be no figures. "
            "Pick another kind, or leave the set out."
        ),
    }
