"""The figures of a merge on its card and in its repo, read back as a stranger's file."""

import copy
import json
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from demo.loopback_hub import LoopbackHub
from hub.card_figures import figures_section, model_index
from hub.client import Hub
from hub.merge_report import REPORT_FILE, public_report, read_report
from hub.merged import read_merged
from merging.errors import InputError


def score(who: str, title: str, value: float, task: str = "") -> dict[str, Any]:
    """Figures of one model."""
    metrics = {"accuracy": value, "macro_f1": value - 0.1}
    low, high = ({name: one + shift for name, one in metrics.items()} for shift in (-0.05, 0.04))
    against = {} if who == "average" else {name: [0.021, -0.01, 0.05] for name in metrics}
    return {
        "who": who,
        "title": title,
        "task": task,
        "metrics": metrics,
        "low": low,
        "high": high,
        "against_average": against,
    }


def point(value: float, accuracy: float) -> dict[str, Any]:
    """Figures of the merge at one value of a sweep."""
    figures = score("merge", "Merge", accuracy)
    return {"value": value, **{part: figures[part] for part in ("metrics", "low", "high")}}


EVALUATION: dict[str, Any] = {
    "sets": [
        {
            "name": "phones | *x*",
            "data": "ann/reviews:default:test",
            "revision": "a" * 40,
            "kind": "classification",
            "metric": "accuracy",
            "better": "higher",
            "examples": 1500,
            "in_domain": ["phones"],
            "head": "",
            "scores": [
                score("parent", "ann/`m`", 0.9, "phones"),
                score("average", "Average", 0.7),
                score("merge", "Merge", 0.85),
            ],
            "sweep": [point(0.0, 0.7), point(1.0, 0.85)],
        }
    ],
    "seconds": 3.5,
    "sweep": {"parameter": "alpha", "model": "", "own": 1.0, "finding": "Accuracy is best at alpha = 1: *85.0 %*."},
    "notes": ["There is no instance-wise ensemble: it needs the Gram statistics of two parents."],
}
DIFFERENCES: dict[str, Any] = {
    "layers": ["0", "head"],
    "blocks": ["mlp.up"],
    "models": [{"model": "ann/m", "distance": 0.1, "cells": [[0.1], [None]]}],
    "pairs": [{"models": [0, 0], "cosine": 1.0, "distance": 0.0, "sign_conflict": 0.0}],
    "reference": "mean",
    "notes": [],
}
REPORT = {"evaluation": EVALUATION, "differences": DIFFERENCES, "cpu": "Some CPU", "files": {}}


def test_a_report_is_read_as_it_was_written() -> None:
    """Figures and differences, and nothing else that the engine noted."""
    written = public_report(REPORT)
    assert "Some CPU" not in written
    found = read_report(written.encode(), "ann/m")
    assert found["evaluation"] == EVALUATION
    assert {name: found["differences"][name] for name in DIFFERENCES} == DIFFERENCES
    assert read_report(public_report({}).encode(), "ann/m") == {}


HOSTILE = [
    b"\xff",
    b"[]",
    b'{"format": "other", "version": 1}',
    b'{"format": "merge-report", "version": 1, "evaluation": {"sets": [{"name": 1}]}}',
    b'{"format": "merge-report", "version": 1, "evaluation": {"notes": ["' + b"x" * 3000 + b'"]}}',
    b'{"format": "merge-report", "version": 1, "evaluation": {"seconds": NaN}}',
    b'{"format": "merge-report", "version": 1, "evaluation": {"sweep": {"parameter": 1}}}',
    b'{"format": "merge-report", "version": 1, "evaluation": {"sweep": {"parameter": "alpha", "own": Infinity}}}',
    b'{"format": "merge-report", "version": 1, "differences": {"layers": ["0"], "models": [{"model": "a"}]}}',
    b'{"format": "merge-report", "version": 1, "differences": {"pairs": [{"models": [0, 1]}]}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("raw", HOSTILE)
def test_a_broken_report_is_one_sentence(raw: bytes) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(InputError, match=r"^ann/m has a broken merge-report\.json"):
        read_report(raw, "ann/m")


def test_a_merge_is_read_with_its_figures_or_without(hub: LoopbackHub) -> None:
    """Those of a broken file are left out: the page of the model stands all the same."""
    hub.add_user("ann")
    api = HfApi(endpoint=hub.url, token=hub.add_token("ann"))
    recipe = b"merge_method: average\nmodels: [ann/one, ann/two]\n"
    for name, body in (("good", public_report(REPORT).encode()), ("bad", b"{}"), ("none", None)):
        api.create_repo(f"ann/{name}")
        for path, data in (("recipe.yaml", recipe), ("config.json", b"{}"), (REPORT_FILE, body)):
            if data is not None:
                api.upload_file(repo_id=f"ann/{name}", path_or_fileobj=data, path_in_repo=path)
    reader = Hub.anonymous(hub.url)
    assert (read_merged(reader, "ann/good").report or {})["evaluation"] == EVALUATION
    assert read_merged(reader, "ann/bad").report is None
    assert read_merged(reader, "ann/none").report is None


def test_the_card_has_a_table_with_intervals() -> None:
    """One row a model; names of strangers stay text, also in a table."""
    text = figures_section(EVALUATION)
    lines = text.splitlines()
    assert lines[2] == "**phones \\| \\*x\\*** (in the domain of `phones`): 1,500 examples from " + (
        "`ann/reviews:default:test`"
    )
    assert lines[4] == "| model | accuracy, % | macro F1, % | against the average |"
    assert lines[6] == "| `ann/'m'` | 90.0 (85.0 to 94.0) | 80.0 (75.0 to 84.0) | +2.1 (−1.0 to +5.0) |"
    assert lines[7] == "| Average | 70.0 (65.0 to 74.0) | 60.0 (55.0 to 64.0) |  |"
    assert lines[8].startswith("| **Merge** | 85.0 (80.0 to 89.0) |")
    assert text.endswith("- There is no instance-wise ensemble: it needs the Gram statistics of two parents.")
    assert figures_section({}) == ""


def test_the_card_tells_a_sweep_in_words_and_numbers() -> None:
    """What was found, and a row for each value; the published merge is named among them."""
    lines = figures_section(EVALUATION).splitlines()
    start = lines.index("### The same merge at other values of `alpha`")
    assert lines[start + 2] == "Accuracy is best at alpha = 1: \\*85.0 %\\*."
    assert lines[start + 4 : start + 10] == [
        "**phones \\| \\*x\\***",
        "",
        "| `alpha` | accuracy, % | macro F1, % |",
        "| --- | --- | --- |",
        "| 0 | 70.0 (65.0 to 74.0) | 60.0 (55.0 to 64.0) |",
        "| **1**, this merge | 85.0 (80.0 to 89.0) | 75.0 (70.0 to 79.0) |",
    ]


def test_the_hub_reads_the_figures_of_the_merge() -> None:
    """By its own library: task, dataset with config, split and revision, metrics. None without figures."""
    head = yaml.safe_dump({"tags": ["merge"], **model_index("ann/merged", EVALUATION)})
    found = ModelCard(f"---\n{head}---\n").data.eval_results
    assert [(one.metric_type, one.metric_value, one.metric_name) for one in found] == [
        ("accuracy", 0.85, "accuracy"),
        ("f1", 0.75, "macro F1"),
    ]
    one = found[0]
    told = (one.task_type, one.dataset_type, one.dataset_config, one.dataset_split, one.dataset_revision)
    assert told == ("text-classification", "ann/reviews", "default", "test", "a" * 40)
    assert model_index("ann/merged", {"sets": [], "notes": ["There are no figures."]}) == {}
    mine = copy.deepcopy(EVALUATION)
    mine["sets"][0] |= {"data": "", "revision": ""}
    assert model_index("ann/m", mine)["model-index"][0]["results"][0]["dataset"] == {
        "type": "custom",
        "name": "phones | *x*",
    }
    json.dumps(mine)
