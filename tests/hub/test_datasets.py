"""Text and labels from local files and from datasets of the Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.datasets import is_local, load_rows
from merging.errors import InputError, MergeError
from tests.hub.helpers import SignIn
from tests.tiny_models import pictures

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test

ROOT = Path(__file__).parents[2]
NOBODY = Hub("http://127.0.0.1:9", False)
TSV = 'text\tlabel\tsplit\nshe said "hi\tgreet\ttrain\nbye\tleave\ttest\n\tempty\ttrain\n'


def rows(data: str | Path, **options: Any) -> list[tuple[str, str | None]]:
    """Rows of a local file."""
    return load_rows(NOBODY, str(data), files_allowed=True, **options)


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    """Three rows, one without text; a quotation mark that means nothing."""
    path = tmp_path / "texts.tsv"
    path.write_text(TSV)
    return path


def test_a_tsv_is_read_without_quotes(tsv: Path) -> None:
    """Empty texts are left out, labels are names."""
    assert rows(tsv, label_column="label") == [('she said "hi', "greet"), ("bye", "leave")]


def test_a_split_of_a_file(tsv: Path) -> None:
    """`file.tsv:test` keeps the rows whose column `split` says so."""
    assert rows(f"{tsv}:test") == [("bye", None)]


def test_csv_jsonl_and_txt(tmp_path: Path) -> None:
    """The other three kinds of file."""
    (tmp_path / "a.csv").write_text('review,stars\n"good, really",5\n')
    (tmp_path / "a.jsonl").write_text('{"id": 1, "body": "hello"}\n\n{"id": 2, "body": "there"}\n')
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert rows(tmp_path / "a.csv", label_column="stars") == [("good, really", "5")]
    assert rows(tmp_path / "a.jsonl") == [("hello", None), ("there", None)]
    assert rows(tmp_path / "a.txt") == [("one", None), ("two", None)]


def test_a_text_with_its_target(tmp_path: Path) -> None:
    """For an encoder-decoder: the usual name of a target is found, a named one is used, none is no error."""
    (tmp_path / "a.jsonl").write_text('{"article": "long", "summary": "short", "title": "t"}\n')
    assert rows(tmp_path / "a.jsonl", reads="pairs", text_column="article") == [(("long", "short"), None)]
    named = {"text_column": "article", "target_column": "title"}
    assert rows(tmp_path / "a.jsonl", reads="pairs", **named) == [(("long", "t"), None)]
    (tmp_path / "b.txt").write_text("alone\n")
    assert rows(tmp_path / "b.txt", reads="pairs") == [("alone", None)]
    with pytest.raises(InputError, match="has no column 'answer': it has article, summary, title"):
        rows(tmp_path / "a.jsonl", reads="pairs", text_column="article", target_column="answer")


def test_pictures_in_a_folder_and_beside_a_file(tmp_path: Path) -> None:
    """RGB images with the names of their folders as labels, or with a text in a table."""
    for seed, name in enumerate(("cats/one.png", "dogs/two.png")):
        (tmp_path / name).parent.mkdir()
        pictures(1, seed)[0].convert("L").save(tmp_path / name)
    found = rows(tmp_path, reads="images", label_column="label")
    assert [(image.mode, image.size, label) for image, label in found] == [
        ("RGB", (20, 16), "cats"),
        ("RGB", (20, 16), "dogs"),
    ]
    (tmp_path / "all.csv").write_text("image,caption\ncats/one.png,a cat\n")
    ((image, text), label) = rows(tmp_path / "all.csv", reads="images and text")[0]
    assert (image.size, text, label) == ((20, 16), "a cat", None)
    (tmp_path / "all.csv").write_text("where,caption\ncats/one.png,a cat\n")
    with pytest.raises(InputError, match=r"Which column of .*all.csv is the image\?"):
        rows(tmp_path / "all.csv", reads="images")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no image")
    with pytest.raises(InputError, match="holds an image that cannot be read"):
        rows(tmp_path / "broken", reads="images")


def test_a_sample_is_drawn_by_its_seed(tmp_path: Path) -> None:
    """The same seed, the same texts; each at most once."""
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(100))))
    first = rows(tmp_path / "a.txt", examples=10, seed=1)
    assert first == rows(tmp_path / "a.txt", examples=10, seed=1)
    assert first != rows(tmp_path / "a.txt", examples=10, seed=2)
    assert len(set(first)) == 10


@pytest.mark.parametrize(
    ("name", "body", "options", "said"),
    [
        ("a.csv", "x,y\none,two\n", {}, "Which column of .* is the text\\? It has x, y. Name it as text_column"),
        ("a.csv", "text,y\na,b\n", {"text_column": "t"}, "has no column 't': it has text, y"),
        ("a.csv", "text,y\na,b\n", {"label_column": "label"}, "has no column 'label': it has text, y"),
        ("a.jsonl", "{nope\n", {}, "cannot be read: it is not jsonl"),
        ("a.jsonl", "[1]\n", {}, "cannot be read: it is not jsonl: a line is not an object"),
        ("a.txt", "\n\n", {}, "holds no text: every row of it is empty"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, body: str, options: dict[str, str], said: str) -> None:
    """What is wrong with a file, in one sentence that lists what there is."""
    (tmp_path / name).write_text(body)
    with pytest.raises(InputError, match=said):
        rows(tmp_path / name, **options)


def test_a_missing_file_and_an_unknown_kind(tmp_path: Path) -> None:
    """Only the four kinds are read."""
    with pytest.raises(InputError, match=r"none\.txt cannot be read: there is no such file\. Check the path\."):
        rows(tmp_path / "none.txt")
    (tmp_path / "texts.parquet").write_text("x")
    with pytest.raises(InputError, match=r"a file ending in .jsonl, .csv, .tsv, .txt is needed"):
        rows(tmp_path / "texts.parquet")


def test_a_service_reads_no_file_of_its_own(tsv: Path) -> None:
    """Local files have to be allowed."""
    with pytest.raises(InputError, match="is a file: only datasets of the Hub can be used here"):
        load_rows(NOBODY, str(tsv))


@pytest.mark.parametrize(
    ("data", "local"),
    [
        ("a/b", False),
        ("a/b:c:d", False),
        ("imdb", False),
        ("/a/b", True),
        ("./x", True),
        ("x.csv", True),
        ("x.tsv:test", True),
    ],
)
def test_files_and_datasets_are_told_apart(data: str, local: bool) -> None:
    """By how they begin and end."""
    assert is_local(data) is local


@pytest.mark.parametrize("data", ["merging", "demo/data", "a:b:c:d", ":x"])
def test_a_folder_of_the_server_is_no_dataset(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would load a local folder of that name; we do not."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match="names no dataset"):
        load_rows(NOBODY, data)


@pytest.mark.parametrize(
    "name", ["x/../../models/ann/m", "merging/../../../etc/passwd", "a/b/c", "a?b", "a%2fb", "a/b@main"]
)
def test_a_path_is_no_dataset(name: str) -> None:
    """It reaches neither another route of the Hub nor a look at whether such a file lies on the server."""
    with pytest.raises(InputError, match=r"names no dataset. Write owner/name"):
        load_rows(NOBODY, name)


def test_another_hub_than_the_environments_is_refused() -> None:
    """The library follows HF_ENDPOINT: a token must not go to another Hub than its own."""
    with pytest.raises(MergeError, match=r"Datasets come from another Hub: HF_ENDPOINT is not http://127.0.0.1:9"):
        load_rows(NOBODY, "ann/texts")


# Datasets of the Hub, in a process that has HF_ENDPOINT set


CODE = """
import json, sys
from pathlib import Path
from hub.client import Hub
from hub.datasets import load_rows
from merging.errors import InputError
hub = Hub(sys.argv[1], input() or False)
for data, options in json.loads(sys.argv[2]):
    try:
        print(json.dumps(load_rows(hub, data, cache_dir=Path(sys.argv[3]), **options)))
    except InputError as error:
        print(json.dumps(str(error)))
"""


def ask(hub: Hub, folder: Path, *questions: tuple[str, dict[str, Any]]) -> list[Any]:
    """Rows, or the sentence of the error, for each question."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE, hub.url, json.dumps(questions), str(folder / "cache")]
    run = subprocess.run(command, cwd=ROOT, input=str(hub.token or ""), env=environment, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert not hub.token or str(hub.token) not in run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


CARD = """---
configs:
- config_name: default
  data_files: [{split: train, path: train.csv}, {split: test, path: test.csv}]
dataset_info:
  features:
  - {name: text, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': leave, '1': greet}}}
---
"""
EVIL = """---
configs:
- config_name: default
  data_files: [{split: train, path: %s}]
---
"""


def test_datasets_of_the_hub(hub: LoopbackHub, ann: Hub, sign_in: SignIn, tmp_path: Path) -> None:
    """Splits, class names, private ones with the own token only, and each fault in one sentence."""

    def dataset(name: str, files: dict[str, bytes], private: bool = False) -> None:
        ann.api.create_repo(name, repo_type="dataset", private=private)
        for path, body in files.items():
            ann.api.upload_file(path_or_fileobj=body, path_in_repo=path, repo_id=name, repo_type="dataset")

    secret = tmp_path / "secret.txt"
    secret.write_text("the server's own secret\n")
    csvs = {"train.csv": b"text,label\nhello,1\n", "test.csv": b"text,label\nbye,0\nciao,0\n"}
    dataset("ann/texts", {"README.md": CARD.encode(), **csvs}, private=True)
    dataset("ann/evil", {"README.md": (EVIL % secret).encode()})
    answers = ask(
        ann,
        tmp_path,
        ("ann/texts", {"label_column": "label"}),
        ("ann/texts:test", {"examples": 1, "seed": 3}),
        ("ann/texts:default:test", {}),
        ("ann/texts:nope", {}),
        ("ann/texts:nope:test", {}),
        ("ann/missing", {}),
        ("ann/evil", {}),
    )
    assert answers[0] == [["hello", "greet"]]
    assert len(answers[1]) == 1
    assert answers[2] == [["bye", None], ["ciao", None]]
    assert answers[3] == "ann/texts has no split 'nope': it has train, test. Name one of these."
    assert answers[4] == "ann/texts has no config 'nope': it has default. Name one of these."
    assert answers[5].startswith("ann/missing does not exist, or it is private")
    assert "secret" not in json.dumps(answers[6]).replace("secret.txt", "")
    assert answers[6].startswith("The dataset ann/evil cannot be read: Data files don't belong to ann/evil")
    (refused,) = ask(sign_in("bob"), tmp_path, ("ann/texts", {}))
    assert refused.startswith("ann/texts does not exist, or it is private: you have no access to it")
