"""What strangers hand to the service, made at random: each target is a strategy and the reader that must stand it.

A reader either takes an input or refuses it by a MergeError whose sentences are short and of one line each. Anything
else that it raises is a fault, and so is an input that costs more than a few seconds.
"""

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

from hub.merge_report import read_report
from merging.checkpoint import checked_config, vocabulary_of
from merging.errors import Problem
from merging.header import parse_header, parse_index
from merging.json_text import plain_json
from merging.method import METHODS
from merging.modules import modules_of, parse_side
from merging.parent import Parent
from merging.plan import make_plan
from merging.recipe import recipe_from_dict, recipe_from_link, recipe_from_yaml
from merging.statistics import Provenance, check_values, fact_from_header, write_fisher, write_gram
from merging.tensors import HeaderSource
from merging.wish import wish_from_yaml
from tests.checkpoints import entry, raw_file
from tests.tiny_models import save_tiny
from ui import charts, heat_map, job_words, render

Strategy = st.SearchStrategy[Any]


@dataclass(frozen=True)
class Target:
    """Inputs at random, and who reads them."""

    inputs: Strategy
    read: Callable[[Any], object]


# Values that people and programs never write

HUGE = 77777777777777777777  # stands for a number of 5,000 digits, which Python does not print
NASTY_TEXT = st.sampled_from(
    ["", "\0", "../../etc/passwd", "/etc", "~root", "file:///etc/passwd", "--help", "-x/y", "a/b@c", "a\nb",
     "\u202ex", "\u200b", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "' OR 1=1 --", "${HOME}",
     "{{7*7}}", "$(id)", "a" * 5000, "!!python/object/apply:os.system [id]", "9" * 5000, "ana/é", "\ud800",
     "javascript:alert(1)", "NaN", "1e999", "%s%n"]
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([-1, 0, 2**31, 2**63, 10**40, HUGE, float("inf"), float("nan"), 1e308, -0.0, 5e-324]),
)
TEXT = st.one_of(st.text(max_size=30), NASTY_TEXT)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(TEXT, inner, max_size=5)),
    max_leaves=12,
)


def _changed(draw: Callable[[Strategy], Any], data: Any, chance: int = 6) -> Any:
    """The same data with some of its values and keys replaced, doubled or left out."""
    if draw(st.integers(0, chance)) == 0:
        return draw(DATA)
    if isinstance(data, dict):
        kept = {key: _changed(draw, value, chance) for key, value in data.items() if draw(st.integers(0, chance * 2))}
        return kept | (draw(st.dictionaries(TEXT, DATA, max_size=2)) if draw(st.integers(0, chance)) == 0 else {})
    if isinstance(data, list):
        return [_changed(draw, value, chance) for value in data for _ in range(1 + (draw(st.integers(0, 9)) == 0))]
    return data


CHANCES = st.sampled_from([6, 30, 200])  # one value in so many is another


def like(data: Any) -> Strategy:
    """Data that is almost this."""
    return st.composite(lambda draw: _changed(draw, data, draw(CHANCES)))()


def _json(data: Any) -> bytes:
    """As a hostile program writes it: with NaN, endless numbers, and halves of characters."""
    return json.dumps(data).replace(str(HUGE), "7" * 5000).encode(errors="surrogatepass")


# Recipes

RECIPE = {
    "merge_method": "regmean",
    "models": [
        {"model": "ana/one@" + "1" * 40, "parameters": {"weight": 0.5}, "task": "one", "statistics": {"gram": "ana/s"}},
        {"model": "ana/two", "calibration": {"data": "ana/texts:train", "examples": 10, "text_column": "t"}},
    ],
    "base_model": "ana/base",
    "parameters": {},
    "dtype": "bfloat16",
    "seed": 3,
    "evaluate": [{"data": "ana/texts:test", "name": "x", "labels": {"0": "a"}, "in_domain": ["one"], "examples": 5}],
    "output": {"repo_id": "ana/merged", "private": True, "root": "one"},
}
METHOD = st.sampled_from(sorted(METHODS))
YAML_PIECES = st.lists(
    st.sampled_from(
        ["a: ", "- ", "[", "]", "{", "}", ", ", "\n", "  ", "? ", ": ", "&x ", "*x", "!!int ", "!<tag:x> ", "|\n",
         ">\n", "'", '"', "#", "---\n", "...\n", "%YAML 1.1\n", "<<: ", "0x" + "f" * 5000, "1" + ":59" * 3000, "1_000",
         ".inf", ".nan", "2001-99-99", "~", "\t", "\ufeff", "\x85", "merge_method: average\n", "models: [a/b, c/d]\n",
         "@", "`"]
    ),
    max_size=60,
).map("".join)  # fmt: skip


def _yaml(data: Any) -> str:
    return str(yaml.safe_dump(data, allow_unicode=True)).replace(str(HUGE), "7" * 5000)


@st.composite
def _recipe(draw: Any) -> Any:
    return _changed(draw, RECIPE | {"merge_method": draw(METHOD)}, draw(CHANCES))


def _read_recipe(text: str) -> None:
    recipe = recipe_from_yaml(text)
    again = recipe_from_yaml(recipe.to_yaml())
    assert again == recipe
    recipe.effective_weights, recipe.tasks, recipe.to_link()
    render.recipe_link("", recipe)


def _read_dict(data: Any) -> None:
    recipe_from_dict(data).to_yaml()


# Links

PACKED = st.one_of(
    _recipe().map(_yaml).map(lambda text: zlib.compress(text.encode(errors="surrogatepass"))),
    YAML_PIECES.map(lambda text: zlib.compress(text.encode(errors="surrogatepass"))),
    st.integers(1, 60).map(lambda size: zlib.compress(bytes(size << 20), 9)),
    st.binary(max_size=200),
)
LINKS = st.one_of(
    PACKED.map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")),
    PACKED.map(lambda raw: base64.urlsafe_b64encode(raw).decode()[: len(raw) // 2]),
    TEXT,
)


# Headers, indexes and statistics

CODES = st.one_of(st.sampled_from(["F32", "BF16", "F16", "I64", "F8_E4M3", "C64", "BOOL"]), DATA)
HEADER = {"__metadata__": {"format": "pt"}, "a.weight": entry(), "b": entry("F16", (2, 2), (8, 16))}


@st.composite
def _file(draw: Any, header: Any = None) -> bytes:
    head = _changed(draw, header or HEADER, draw(CHANCES))
    if isinstance(head, dict) and draw(st.integers(0, 3)) == 0:
        head[draw(TEXT)] = {"dtype": draw(CODES), "shape": draw(DATA), "data_offsets": draw(DATA)}
    body = raw_file(_json(head), bytes(draw(st.sampled_from([16, 16, 0, 17, 8]))))
    return body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 9)) == 0 else body


def _read_header(body: bytes) -> None:
    parse_header(body[: 8 + 25_000_000], len(body), "f.safetensors")


@cache
def _statistics() -> Mapping[str, dict[str, Any]]:
    """The headers of two good statistics files, with their bytes."""
    found = {}
    source = Provenance({"model.safetensors": "ab" * 32}, model="ana/one", revision="1" * 40, examples=7)
    with TemporaryDirectory() as folder:
        rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
        gram = write_gram(Path(folder) / "g", {"q": rows.T @ rows / 9}, {"q": 9}, {"q": "q", "k": "q"}, source)
        fisher = write_fisher(Path(folder) / "f", {"q": torch.rand(2, 3)}, source)
        for kind, path in (("gram", gram), ("fisher", fisher)):
            raw = path.read_bytes()
            length = int.from_bytes(raw[:8], "little")
            found[kind] = {"header": json.loads(raw[8 : 8 + length]), "data": raw[8 + length :]}
    return found


@st.composite
def _statistics_file(draw: Any) -> bytes:
    good = _statistics()[draw(st.sampled_from(["gram", "fisher"]))]
    metadata = {}
    for key, value in good["header"]["__metadata__"].items():
        data = json.loads(value) if value[:1] in ("{", "[") else value
        data = _changed(draw, data, 12)
        metadata[key] = data if isinstance(data, str) else _json(data).decode()
    header = good["header"] | {"__metadata__": metadata}
    values = bytearray(good["data"])
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(values) // 4 - 1)) * 4
        values[place : place + 4] = torch.tensor(draw(st.floats(width=32))).numpy().tobytes()
    return raw_file(_json(header), bytes(values))


def _read_statistics(body: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "statistics.safetensors"
        path.write_bytes(body)
        fact_from_header(parse_header(body, len(body)), source="ana/one@1:gram.safetensors")
        check_values(path)


INDEX = {"metadata": {"total_size": 16}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


# Configs and the small files beside the weights


@cache
def _model() -> tuple[Any, Mapping[str, bytes]]:
    """A tiny model: its config, and its files."""
    with TemporaryDirectory() as folder:
        place = save_tiny(Path(folder) / "m", seed=0)
        return json.loads((place / "config.json").read_text()), {p.name: p.read_bytes() for p in place.iterdir()}


CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1},
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
    "auto_map": {"AutoModel": "evil.py--Evil"},
    "quantization_config": None,
    "problem_type": "single_label_classification",
    "text_config": {"hidden_size": 3},
    "torch_dtype": "float32",
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
SIDES = {
    "generation_config.json": {"max_length": 20, "eos_token_id": 2},
    "tokenizer_config.json": {"chat_template": "{{ x }}", "do_lower_case": True},
    "preprocessor_config.json": {"size": {"height": 2, "width": 2}, "image_mean": [0.5]},
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 32},
}


@st.composite
def _config(draw: Any) -> Any:
    chance = draw(CHANCES)
    return _json(_changed(draw, CONFIG, chance)), {
        name: _json(_changed(draw, data, chance)) for name, data in SIDES.items()
    }


def _read_config(given: tuple[bytes, Mapping[str, bytes]]) -> None:
    raw, sides = given
    header = parse_header(_model()[1]["model.safetensors"], len(_model()[1]["model.safetensors"]))
    try:
        config = checked_config(plain_json(raw), "ana/odd")
    except ValueError:
        return
    side = {name: parse_side(name, body, "ana/odd") for name, body in sides.items()}
    parents = [
        Parent(name, "1" * 40, data, HeaderSource(header.specs), headers={"model.safetensors": header}, side=more)
        for name, data, more in (("ana/good", _model()[0], {}), ("ana/odd", config, side))
    ]
    recipe = recipe_from_dict({"merge_method": "average", "models": ["ana/good", "ana/odd"]})
    for pair in (parents, parents[::-1]):
        plan = make_plan(recipe, pair)
        _page_of(render.preview(plan, pair, plan.problems, private=False, signed_in=True))
    _page_of(render.model_row("ana/odd", parents[1], "", (), (), "http://hub"))


TOKENIZER = {
    "model": {"type": "WordPiece", "vocab": {"a": 0, "b": 1}},
    "added_tokens": [{"content": "[PAD]", "id": 2}],
}


# A published merge as its page shows it

REPORT = {
    "format": "merge-report",
    "version": 1,
    "evaluation": {
        "sets": [{"name": "x", "data": "ana/texts", "revision": "1" * 40, "kind": "classification",
                  "metric": "accuracy", "better": "higher", "examples": 5, "in_domain": ["one"], "head": "one",
                  "scores": [{"who": "merge", "title": "merge", "task": "", "metrics": {"accuracy": 0.5},
                              "low": {"accuracy": 0.4}, "high": {"accuracy": 0.6},
                              "against_average": {"accuracy": [0.1, 0.0, 0.2]}}]}],
        "seconds": 3.0, "notes": ["one"]},
    "differences": {"layers": ["0"], "blocks": ["mlp.up"], "reference": "base",
                    "models": [{"model": "ana/one", "distance": 0.1, "cells": [[0.1]]},
                               {"model": "ana/two", "distance": 0.1, "cells": [[None]]}],
                    "pairs": [{"models": [0, 1], "cosine": 0.3, "distance": 0.1, "sign_conflict": 0.2}], "notes": []},
}  # fmt: skip


def _read_report(raw: bytes) -> None:
    report = read_report(raw, "ana/merged")
    _page_of("".join(charts.evaluation(report.get("evaluation") or {})))
    _page_of("".join(heat_map.differences(report.get("differences") or {})))


class _Tags(HTMLParser):
    """Every tag and attribute of a fragment."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            self.seen.add(name)
            assert not name.startswith("on"), (tag, name, value)
            assert name not in ("href", "src") or (value or "").startswith(("http", "/", "data:", "#")), (
                tag,
                name,
                value,
            )


def _page_of(fragment: str) -> None:
    """The fragment holds no script, no handler and no address that runs something."""
    tags = _Tags()
    tags.feed(fragment)
    assert not tags.seen & {"script", "iframe", "object", "embed", "img", "form", "base", "meta"}, tags.seen


def _show(words: str) -> None:
    _page_of(render.problems([Problem(words, words, words)]) + render.notice(words) + render.link(words, words))
    _page_of(job_words.log([{"time": 0, "stage": words, "level": "info", "message": words}]))
    _page_of(render.definitions({words: words}) + render.model_row(words, None, words, (), (), "http://hub"))


TARGETS: Mapping[str, Target] = {
    "recipe": Target(st.one_of(_recipe().map(_yaml), YAML_PIECES, TEXT), _read_recipe),
    "recipe data": Target(st.one_of(_recipe(), DATA), _read_dict),
    "wish": Target(like({"collect": ["gram"], "model": "ana/one", "text": {"data": "a/b"}}).map(_yaml), wish_from_yaml),
    "link": Target(LINKS, recipe_from_link),
    "header": Target(st.one_of(_file(), st.binary(max_size=100)), _read_header),
    "index": Target(like(INDEX).map(_json), lambda raw: parse_index(raw, "ana/odd")),
    "statistics": Target(_statistics_file(), _read_statistics),
    "config": Target(_config(), _read_config),
    "modules": Target(like(MODULES), lambda data: modules_of(data, "ana/odd")),
    "tokenizer": Target(
        like(TOKENIZER).map(lambda data: {"tokenizer.json": _json(data)}), lambda files: vocabulary_of(files)
    ),
    "merge report": Target(like(REPORT).map(_json), _read_report),
    "words": Target(TEXT, _show),
}
