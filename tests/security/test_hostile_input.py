"""The worst that strangers can hand in: one sentence, in a bounded time and memory; nothing else is opened."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo.loopback_hub import LoopbackHub
from hub import repository
from hub.client import Hub
from hub.repository import open_repo, read_weights
from merging.errors import InputError
from merging.json_text import plain_json
from merging.recipe import recipe_from_yaml
from merging.statistics import Provenance, check_values, triangle_length, write_triangles
from merging.yaml_text import read_yaml
from tests.hub.conftest import _forget_searches as _forget_searches
from tests.hub.conftest import ann as ann
from tests.hub.conftest import sign_in as sign_in
from tests.hub.conftest import tiny as tiny
from tests.hub.helpers import Models

ROOT = Path(__file__).parents[2]
MEASURE = """
import json, os, resource, time
from merging.errors import MergeError
from tests.security.worst import CASES
for name, (made, read) in CASES.items():
    if os.fork():
        os.wait()
        continue
    given = made()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        read(given)
        said = "taken"
    except MergeError as error:
        said = str(error)
    spent, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([name, grown // 1024, spent, said]), flush=True)
    os._exit(0)
"""
WORST = {
    "a header of 100 MB": (0, "f has a header of 100,000,000 bytes"),
    "a header of empty lists": (60, "f has a broken header: it is not a table of tensors"),
    "a header of short names": (60, "f has a broken header: it is not a table of tensors"),
    "a million tensors": (60, "f has a broken header: it is not a table of tensors"),
    "200,000 tensors": (420, "taken"),
    "a header of metadata": (60, "f has a broken header: it is not a table of tensors"),
    "YAML of brackets": (30, "The recipe is nested too deeply: line 1 is inside more than 30 lists and tables."),
    "YAML of one number": (30, "The recipe is not valid YAML: line 1, column 1: a number of 199,990 characters."),
    "YAML of ones": (160, "The recipe is not a mapping: it is list."),
    "a link that unpacks to 50 MB": (30, "The recipe link cannot be read: it is cut off or damaged."),
    "JSON of 100,000 levels": (60, "ana/odd has a broken tokenizer_config.json: it is not JSON of the right form."),
}


@pytest.mark.slow
def test_the_worst_of_each_kind_costs_a_bounded_memory() -> None:
    """Each in a process of its own: MB beyond what it took before, seconds, and the sentence."""
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = {name: (grown, spent, said) for name, grown, spent, said in map(json.loads, done.stdout.splitlines())}
    print(*(f"{name}: {grown} MB, {spent:.1f} s" for name, (grown, spent, _) in told.items()), sep="\n")
    assert told.keys() == WORST.keys()
    for name, (most, sentence) in WORST.items():
        grown, spent, said = told[name]
        assert said.startswith(sentence), (name, said)
        assert grown <= most, (name, grown)
        assert spent < 15, (name, spent)


def test_a_gram_of_any_size_is_checked_in_a_little_memory(tmp_path: Path) -> None:
    """A tensor that is read only because a stranger put it there is never in memory as a whole."""
    import resource

    import torch

    n = 6000
    triangle = torch.zeros(triangle_length(n))
    weights = Provenance({"model.safetensors": "0" * 64})
    path = write_triangles(tmp_path / "g", {"a": triangle}, {"a": n}, {"a": 0.0}, {"a": 5}, {"a": "a"}, weights)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_values(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 90_000  # KB; the file has 72 MB


@pytest.mark.parametrize("text", ["seed: 0x" + "f" * 5000, "seed: 1" + ":59" * 3000, "a: &x 1", "a: !!int 1", "a: *x"])
def test_yaml_that_does_more_than_it_says(text: str) -> None:
    """Numbers without an end, anchors, tags, aliases."""
    with pytest.raises(InputError) as caught:
        read_yaml(text)
    assert len(str(caught.value)) < 200


def test_a_recipe_of_many_models_asks_nobody() -> None:
    """It is refused before any of them is looked up."""
    text = "merge_method: average\nmodels: [" + "a/b," * 101 + "]"
    with pytest.raises(InputError, match="a recipe has at most 100 models"):
        recipe_from_yaml(text)


def test_a_model_of_too_many_tensors(ann: Hub, tiny: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all its files, and the rest of them is not read."""
    ann.api.create_repo("ann/many")
    ann.api.upload_folder(repo_id="ann/many", folder_path=tiny(0, shard_size="30KB"))
    repo = open_repo(ann, "ann/many")
    assert read_weights(ann, repo)
    monkeypatch.setattr(repository, "TENSOR_LIMIT", 10)
    with pytest.raises(InputError, match="ann/many has too many tensors: at most 10 of one model are merged"):
        read_weights(ann, repo)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 80 + "]" * 80, '{"a":' * 500 + "1" + "}" * 500])
def test_json_is_bounded_in_depth(text: str) -> None:
    """What could be parsed but not walked is refused like what cannot be parsed."""
    with pytest.raises(ValueError, match=r"nested too deeply|Expecting|recursion"):
        plain_json(text)
    assert plain_json("[" * 50 + "]" * 50)


# Datasets, in a process that has HF_ENDPOINT set

CODE = """
import sys
from pathlib import Path
from hub.client import Hub
from hub.datasets import load_rows
from merging.errors import InputError
hub = Hub(sys.argv[1], input())
for data in sys.argv[3:]:
    try:
        rows = load_rows(hub, data, cache_dir=Path(sys.argv[2]), reads="images and text")
        print([image.size for (image, _), _ in rows])
    except InputError as error:
        print(error)
"""
FEATURES = """---
dataset_info:
  features:
  - {name: image, dtype: image}
  - {name: text, dtype: string}
---
"""


@pytest.mark.slow
def test_pictures_come_from_the_dataset_alone(hub: LoopbackHub, ann: Hub, tmp_path: Path) -> None:
    """A row that names a file of this machine, an address, or a place above the dataset opens nothing."""
    Image.new("RGB", (9, 7)).save(tmp_path / "own.png")

    def dataset(name: str, files: dict[str, bytes]) -> str:
        ann.api.create_repo(name, repo_type="dataset")
        for path, body in files.items():
            ann.api.upload_file(path_or_fileobj=body, path_in_repo=path, repo_id=name, repo_type="dataset")
        return name

    picture = (tmp_path / "own.png").read_bytes()
    good = dataset("ann/pictures", {"metadata.csv": b"file_name,text\nx.png,hi\n", "x.png": picture})
    bad: dict[str, Any] = {
        "ann/disk": {"path": str(tmp_path / "own.png"), "bytes": None},
        "ann/plain": str(tmp_path / "own.png"),
        "ann/net": f"{hub.url}/api/whoami-v2",
        "ann/up": "hf://datasets/ann/pictures@main/../../x.png",
    }
    for name, image in bad.items():
        row = json.dumps({"image": image, "text": "hi"}).encode()
        dataset(name, {"README.md": FEATURES.encode(), "a.jsonl": row + b"\n"})
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE, hub.url, str(tmp_path / "cache"), good, *bad]
    run = subprocess.run(command, cwd=ROOT, input=str(ann.token), env=environment, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    first, *others = run.stdout.splitlines()
    assert first == "[(9, 7)]"
    assert len(others) == len(bad)
    for name, said in zip(bad, others, strict=True):
        assert said.startswith(f"{name} names a picture that is not in it: "), said
