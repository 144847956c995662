"""A published merge and its parents answer to a line of text, in a process of their own."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs import try_it
from jobs.follow import follow
from jobs.local import merge_here
from jobs.push import push_here
from jobs.try_it import OFTEN, Question, TryIt, person_at
from merging.errors import InputError
from merging.recipe import recipe_from_dict
from settings import Settings
from tests.jobs.processes import alive, wait_for
from tests.tiny_models import save_sentence_model, save_tiny

pytestmark = pytest.mark.slow  # a Hub, merges and a process that loads models
TASKS = {"banking": ("card lost", "top up", "fee"), "mood": ("anger", "joy")}


@dataclass
class Scene:
    """A Hub with models of ann's, and somebody who tries."""

    hub: LoopbackHub
    ann: Hub
    trying: TryIt
    root: Path

    def publish(self, name: str, folder: Path, *, private: bool = False) -> str:
        """A model of ann's."""
        self.ann.api.create_repo(f"ann/{name}", private=private)
        self.ann.api.upload_folder(repo_id=f"ann/{name}", folder_path=folder)
        return f"ann/{name}"

    def merge(self, models: Sequence[str], name: str = "merged", *, private: bool = False) -> str:
        """The average of models, published; its commit."""
        recipe = recipe_from_dict({"merge_method": "average", "models": [{"model": model} for model in models]})
        out = self.root / name
        follow(merge_here(self.ann, recipe, out, device="cpu", check=False), "none")
        return follow(push_here(self.ann, out, f"ann/{name}", private=private), "none").published.commit

    def ask(self, repo: str = "ann/merged", text: str = "one two three", other: str = "", who: str = "") -> Question:
        """A question to its end; everybody asks once."""
        commit = self.ann.api.model_info(repo).sha
        question = self.trying.ask(repo, commit, text, other, who or f"person {time.monotonic()}")
        wait_for(lambda: question.ended, 100)
        return question

    def answers(self, **more: Any) -> list[dict[str, Any]]:
        """The answers to a question that has some."""
        question = self.ask(**more)
        assert question.problem is None
        found: list[dict[str, Any]] = question.result["answers"]
        return found


@pytest.fixture(scope="module")
def trying(_server: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TryIt]:
    """One process for all tests: to start it costs more than what most of them ask."""
    home = tmp_path_factory.mktemp("home")
    running = TryIt(Settings(home=home, try_limit="3MB", disk_reserve="1MB"), _server.url)
    yield running
    process = running._process
    running.close()
    assert process is None or not alive(process.pid)


@pytest.fixture
def scene(hub: LoopbackHub, trying: TryIt, tmp_path: Path) -> Scene:
    """Nothing published yet."""
    hub.add_user("ann")
    return Scene(hub, Hub(hub.url, hub.add_token("ann")), trying, tmp_path)


def heads(scene: Scene, **private: bool) -> list[str]:
    """Two classifiers with labels of their own, published."""
    found = []
    for seed, (task, labels) in enumerate(TASKS.items(), start=1):
        folder = save_tiny(scene.root / task, seed=seed, labels=labels)
        found.append(scene.publish(f"minilm-{task}", folder, private=private.get(task, False)))
    return found


def test_each_head_answers_beside_its_parent(scene: Scene) -> None:
    """The probabilities are those of plain transformers; a body is fetched once; asked again, nothing is."""
    scene.merge(heads(scene))
    scene.hub.reset_counters()
    told = scene.answers()
    fetched = scene.hub.counters()["weight_bytes"]
    paths = [path for task in (*TASKS, "merged") for path in (scene.root / task).rglob("*.safetensors")]
    files = {path.stat().st_ino: path.stat().st_size for path in paths}
    assert 0.9 * sum(files.values()) < fetched < sum(files.values())  # headers do not count
    assert [(one["who"], one["title"], one["head"]) for one in told] == [
        ("merge", "The merge", "banking"),
        ("parent", "ann/minilm-banking", "banking"),
        ("merge", "The merge", "mood"),
        ("parent", "ann/minilm-mood", "mood"),
    ]
    for one, folder in zip(told, ("merged/banking", "banking", "merged/mood", "mood"), strict=True):
        place = scene.root / folder
        model = transformers.AutoModelForSequenceClassification.from_pretrained(place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        with torch.inference_mode():
            shares = model(**tokenizer("one two three", return_tensors="pt")).logits[0].softmax(-1)
        expected = {model.config.id2label[index]: float(share) for index, share in enumerate(shares)}
        assert dict(one["labels"]) == pytest.approx(expected, abs=1e-5)
        assert [label for label, _ in one["labels"]] == sorted(expected, key=lambda label: -expected[label])
    process = scene.trying._process
    assert process is not None
    assert os.getpriority(os.PRIO_PROCESS, process.pid) >= 10
    assert scene.answers() == told
    assert scene.hub.counters()["weight_bytes"] == fetched
    assert scene.trying._process is process
    assert list(scene.trying._place.glob("now-*")) == []


def test_language_models_continue_and_embedding_models_compare(scene: Scene) -> None:
    """Each merge with its parents; two lines for the embedding."""
    writers = [
        scene.publish(f"writer-{seed}", save_tiny(scene.root / f"w{seed}", "gpt2", seed=seed, labels=None))
        for seed in (1, 2)
    ]
    scene.merge(writers, "writer")
    told = scene.answers(repo="ann/writer")
    assert [one["who"] for one in told] == ["merge", "parent", "parent"]
    assert {one["kind"] for one in told} == {"text"}
    folder = scene.root / "w1"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("one two three", return_tensors="pt")
    written = model.generate(input_ids=ids["input_ids"], max_new_tokens=32, do_sample=False, pad_token_id=0)
    assert told[1]["text"] == tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    embedders = [
        scene.publish(f"embed-{seed}", save_sentence_model(scene.root / f"e{seed}", seed=seed)) for seed in (1, 2)
    ]
    scene.merge(embedders, "embed")
    told = scene.answers(repo="ann/embed", text="one two", other="one two")
    assert [(one["kind"], pytest.approx(1.0)) for one in told] == [("similarity", one["value"]) for one in told]
    other = scene.answers(repo="ann/embed", text="one two", other="a b c")
    assert all(one["value"] < 0.9999 for one in other)


def test_what_cannot_be_tried_says_why(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not merged here, private, too large, a parent that is not public; each in a sentence."""
    models = heads(scene, mood=True)
    scene.merge(models, "hidden", private=True)
    assert "ann/hidden does not exist, or it is private" in str(scene.ask("ann/hidden").problem)
    assert str(scene.ask(models[0]).problem) == (
        "ann/minilm-banking cannot be tried here: it was not merged here. Open a model that was."
    )
    scene.merge(models)
    scene.ann.api.update_repo_settings("ann/merged", private=False)
    question = scene.ask()
    assert [one["head"] for one in question.result["answers"]] == ["banking", "banking", "mood"]
    (note,) = question.result["notes"]
    assert note.startswith("ann/minilm-mood is left out: ann/minilm-mood does not exist, or it is private")
    monkeypatch.setattr(scene.trying, "limit", 1000)
    assert "ann/merged is not tried here: its weights take " in str(scene.ask().problem)


def test_a_hostile_model_is_a_sentence_and_the_next_question_works(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config that takes all memory, or all time; modules that name code."""
    scene.merge(heads(scene))
    config = (scene.root / "merged" / "mood" / "config.json").read_text()

    def publish(text: str) -> None:
        scene.ann.api.upload_file(repo_id="ann/merged", path_or_fileobj=text.encode(), path_in_repo="mood/config.json")

    publish(config.replace('"vocab_size": ', '"vocab_size": 9999999'))
    told = {(one["who"], one["head"]): one for one in scene.answers()}
    assert "ann/merged/mood does not" in told["merge", "mood"]["error"]
    assert told["parent", "mood"]["kind"] == "labels"
    publish(config.replace('"num_hidden_layers": ', '"num_hidden_layers": 9999999'))
    monkeypatch.setattr(try_it, "RUN_SECONDS", 1.0)  # the memory that it may take would last for many
    process = scene.trying._process
    assert process is not None
    assert str(scene.ask().problem) == (
        "The models took too long: 1 seconds are allowed. Try a shorter text, or again later."
    )
    assert not alive(process.pid)
    monkeypatch.setattr(try_it, "RUN_SECONDS", 60.0)
    publish(config)
    assert len(scene.answers()) == 4


def test_the_shelf_gives_up_what_was_used_longest_ago(scene: Scene) -> None:
    """At most four times the limit stays on the disk."""
    scene.merge(heads(scene))
    scene.answers()
    shelf = scene.trying._place / "files"
    old = shelf / ("0" * 40)
    old.write_bytes(b"0" * 12_000_000)
    os.utime(old, (1, 1))
    again = save_tiny(scene.root / "third", seed=9, labels=TASKS["mood"])
    scene.publish("minilm-third", again)
    scene.merge(["ann/minilm-mood", "ann/minilm-third"], "next")
    scene.answers(repo="ann/next")
    assert not old.exists()
    assert sum(path.stat().st_size for path in shelf.iterdir()) <= 12_000_000


def test_nobody_asks_too_often_or_too_much(tmp_path: Path) -> None:
    """One question at a time, ten in five minutes, a short line, places kept for users; a household of IPv6 is one."""
    trying = TryIt(Settings(home=tmp_path))
    trying._thread = True  # type: ignore[assignment]  # nobody answers
    with pytest.raises(InputError, match="This text is too long to try: 2,001 characters, at most 2,000 are read"):
        trying.ask("a/b", "", "x" * 2001, "", "ann")
    with pytest.raises(InputError, match="There is no text: the models answer to one"):
        trying.ask("a/b", "", " ", "", "ann")
    for _ in range(OFTEN):
        question = trying.ask("a/b", "", "x", "", "ann")
        with pytest.raises(InputError, match="You are trying something already: one question at a time"):
            trying.ask("a/b", "", "x", "", "ann")
        trying._waiting.remove(question)
    with pytest.raises(InputError, match="You have asked often: 10 questions in 5 minutes are allowed"):
        trying.ask("a/b", "", "x", "", "ann")
    asked = [trying.ask("a/b", "", "x", "", f"person {number}") for number in range(20)]
    assert trying.ahead(asked[3]) == 3
    with pytest.raises(InputError, match=r"now: 20 questions are waiting\. Try again in a minute"):
        trying.ask("a/b", "", "x", "", "bob")
    trying._waiting.clear()
    for number in range(15):
        trying.ask("a/b", "", "x", "", person_at(f"10.0.0.{number}"))
    with pytest.raises(InputError, match=r"now: 15 questions are waiting\. Sign in, or try again in a minute"):
        trying.ask("a/b", "", "x", "", person_at("somebody"))
    trying.ask("a/b", "", "x", "", "bob")
    assert person_at("2001:db8::1") == person_at("2001:db8::ffff") != person_at("2001:db8:1::1")
    assert person_at("10.0.0.1") != person_at("10.0.0.2")
