"""The pictures of a card: PNG files for a phone, the same bytes again, and never the end of a merge."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from hub.card_differences import differences_section
from hub.merge_report import public_report, read_report
from hub.pictures import pictures_of, write_pictures

HOSTILE = "$\\frac{1}{0}$ \x1b]0;x\x07<script>|[x](y)" + "長" * 400


def score(who: str, title: str, value: float, metric: str = "accuracy") -> dict[str, Any]:
    """One bar."""
    ends = {"low": {metric: value * 0.95}, "high": {metric: value * 1.05}}
    return {"who": who, "title": title, "task": "", "metrics": {metric: value}, "against_average": {}, **ends}


def one_set(name: str, *scores: dict[str, Any], metric: str = "accuracy") -> dict[str, Any]:
    """A set with its bars."""
    better = "lower" if metric == "perplexity" else "higher"
    facts = {"data": "ann/x", "revision": "", "kind": "classification", "in_domain": [], "head": ""}
    return {"name": name, "metric": metric, "better": better, "examples": 500, "scores": list(scores), **facts}


def evaluation(name: str = "banking") -> dict[str, Any]:
    """Two sets, of which one is measured by perplexity."""
    bars = [score("parent", f"ann/{name}", 0.9), score("average", "Average", 0.6), score("merge", "Merge", 0.85)]
    texts = [score("parent", "ann/a", 20.0, "perplexity"), score("merge", "Merge", 1234.0, "perplexity")]
    return {"sets": [one_set(name, *bars), one_set("texts", *texts, metric="perplexity")], "seconds": 1.0, "notes": []}


def swept(name: str = "alpha", values: tuple[float, ...] = (0.0, 0.5, 1.0)) -> dict[str, Any]:
    """An evaluation with a sweep of both sets."""
    found = evaluation()
    for one in found["sets"]:
        merge = one["scores"][-1]
        one["sweep"] = [
            {"value": value, **{part: merge[part] for part in ("metrics", "low", "high")}} for value in values
        ]
    return found | {"sweep": {"parameter": name, "model": "", "own": values[-1], "finding": f"Best at {name} = 1."}}


def differences(models: int = 2, layers: int = 3, name: str = "ann/m", reference: str = "base") -> dict[str, Any]:
    """Figures of some models, of which some cells are empty."""
    rows = ["embeddings", *map(str, range(layers)), "final"]
    cells: list[list[float | None]] = [[0.01 * row, None if row == 2 else 0.02] for row in range(len(rows))]
    based = reference == "base"
    pair = {"models": [0, 1], "distance": 0.03, "cosine": 0.1, "sign_conflict": 0.45}
    pair |= {} if based else {"cosine": None, "sign_conflict": None}
    return {
        "reference": reference,
        "base": "ann/base" if based else "",
        "sampled": 0.07,
        "layers": rows,
        "blocks": ["attention.query", "mlp.up"],
        "models": [{"model": f"{name}{number}", "distance": 0.02, "cells": cells} for number in range(models)],
        "pairs": [pair] if models > 1 else [],
        "conflicts": cells if based else [],
        "notes": ["Measured on 7% of the values, spread evenly over every tensor."],
    }


def size(png: bytes) -> tuple[int, int]:
    """Width and height; the file is whole."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.endswith(struct.pack(">I", zlib.crc32(b"IEND")))
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def chunks(png: bytes) -> set[bytes]:
    """The kinds of data in the file."""
    found, at = set(), 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.add(png[at + 4 : at + 8])
        at += 12 + length
    return found


def test_both_pictures_are_drawn_for_a_phone_and_say_in_words_what_they_show(tmp_path: Path) -> None:
    """Twice 390 pixels wide; files in the folder of the card; figures in the alternative text."""
    drawn = write_pictures({"evaluation": evaluation(), "differences": differences()}, tmp_path)
    assert [one.path for one in drawn] == ["figures/evaluation.png", "figures/differences.png"]
    assert all(size((tmp_path / one.path).read_bytes())[0] == 780 for one in drawn)
    assert all(300 < size(one.png)[1] < 2000 and len(one.png) < 200_000 for one in drawn)
    assert [one.alt for one in drawn] == [
        "Bars with 95 % intervals for each set of examples. "
        "banking: Merge 85.0% accuracy; texts: Merge 1,234.0 perplexity.",
        "Heat map, layers by blocks: how far each model is from the base. In all: ann/m0 2.0%, ann/m1 2.0%.",
    ]


@pytest.mark.slow
def test_the_same_data_are_the_same_bytes_without_date_or_version() -> None:
    """Also in another process: a job that publishes again makes the same commit."""
    report = {"evaluation": evaluation(), "differences": differences()}
    here = [one.png for one in pictures_of(report)]
    assert all(chunks(png) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"} for png in here)
    program = (
        "import json, sys, zlib; from hub.pictures import pictures_of;"
        "print(json.dumps([zlib.crc32(one.png) for one in pictures_of(json.load(sys.stdin))]))"
    )
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, input=json.dumps(report), capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == [zlib.crc32(png) for png in here]


def test_what_is_not_there_is_not_drawn() -> None:
    """A report without figures, sets without scores, one model alone with a base."""
    assert pictures_of({}) == ()
    assert pictures_of({"evaluation": {"sets": [one_set("empty")], "notes": []}, "differences": {}}) == ()
    alone = pictures_of({"differences": differences(1) | {"conflicts": []}})
    assert len(alone) == 1


def test_many_models_layers_and_names_of_strangers_fit() -> None:
    """Nine models are drawn as their mean, eighty layers stay on the picture, a name is plain text of one line."""
    nine = pictures_of({"differences": differences(9, 80)})
    assert size(nine[0].png)[1] < 2200
    strange = pictures_of({"evaluation": evaluation(HOSTILE), "differences": differences(2, name=HOSTILE)})
    assert len(strange) == 2
    assert all("\x1b" not in one.alt and "\n" not in one.alt and len(one.alt) < 400 for one in strange)


def test_a_sweep_is_drawn_as_lines() -> None:
    """Beside the bars; with what was found in its words; also over magnitudes, and by a stranger's name."""
    drawn = pictures_of({"evaluation": swept()})
    assert [one.path for one in drawn] == ["figures/evaluation.png", "figures/sweep.png"]
    assert size(drawn[1].png)[0] == 780
    assert drawn[1].alt == "Lines with 95 % intervals over alpha. Best at alpha = 1."
    for one in (
        swept(HOSTILE),
        swept(values=(1e-6, 1e-3, 1.0)),
        swept(values=(0.0, 1e-9, 1.0)),
        swept(values=(1.0, 1.0)),
    ):
        picture = pictures_of({"evaluation": one})[1]
        assert size(picture.png)[1] < 2000
        assert "\n" not in picture.alt
    assert len(pictures_of({"evaluation": swept(values=(1.0,))})) == 1


@pytest.mark.parametrize("broken", [{"models": 3}, {"layers": ["0"]}, {"models": [{"model": "a"}]}, "no data"])
def test_a_picture_that_cannot_be_drawn_is_left_out(broken: Any) -> None:
    """The other one is drawn; nothing is raised."""
    data = broken if isinstance(broken, str) else differences() | broken
    drawn = pictures_of({"evaluation": evaluation(), "differences": data})
    assert [one.path for one in drawn] == ["figures/evaluation.png"]


def test_the_card_says_the_figures_and_shows_the_picture() -> None:
    """Distances, cosines and conflicts as text, for those who see no picture; names stay what they are."""
    found = differences()
    text = differences_section(found, pictures_of({"differences": found}))
    assert "| `ann/m1` | 2.0% |" in text
    assert "| `ann/m0`, `ann/m1` | 3.0% | 0.10 | 45.0% |" in text
    assert "\n- Measured on 7% of the values, spread evenly over every tensor.\n" in text
    assert text.splitlines()[-1].startswith("![Heat map, layers by blocks")
    assert text.splitlines()[-1].endswith("](figures/differences.png)")
    mean = differences_section(differences(reference="mean"))
    assert "| model | from the mean of the models |" in mean
    assert "cosine" not in mean
    assert differences_section({}) == ""
    strange = differences_section(differences(name=HOSTILE), pictures_of({"differences": differences(name=HOSTILE)}))
    page = MarkdownIt("commonmark").enable("table").render(strange)
    assert "<script>" not in page
    assert (page.count("<img"), page.count("<a ")) == (1, 0)


def test_the_published_report_keeps_all_of_it() -> None:
    """What the card tells can be read back from `merge-report.json`."""
    text = public_report({"differences": differences()})
    assert read_report(text.encode(), "ann/x")["differences"] == differences()
