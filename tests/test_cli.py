"""The command line as a shell sees it: exit codes, what is on stdout and what on stderr, and nobody's files touched."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from demo.loopback_hub import LoopbackHub
from tests.jobs.processes import SECRET, Workers
from tests.tiny_models import save_tiny, sentences

pytestmark = pytest.mark.slow  # a process for each command
ROOT = Path(__file__).parents[1]
PUBLIC = ("README.md", "merge-report.json", "recipe.yaml")


class Shell:
    """Runs commands in a folder, with a Hub and somebody's token."""

    def __init__(self, folder: Path, hub: LoopbackHub, token: str = "") -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MERGE_"))}
        self.environment = kept | {
            "HF_HOME": str(folder / "hf-home"),
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MERGE_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            **({"HF_TOKEN": token} if token else {}),
        }

    def run(self, *words: object, rc: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        """The command's end; its exit code must be `rc`, and it shows no traceback."""
        command = [sys.executable, str(ROOT / "cli.py"), *map(str, words)]
        env = self.environment | environment
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == rc, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def recipe(self, *models: Any, name: str = "recipe.yaml", **more: Any) -> Path:
        """A recipe file of models given as names or entries."""
        entries = [{"model": model} if isinstance(model, str) else model for model in models]
        path = self.folder / name
        path.write_text(yaml.safe_dump({"merge_method": "average", "models": entries, **more}))
        return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """Two tiny classifiers."""
    root = tmp_path_factory.mktemp("models")
    return [save_tiny(root / name, seed=seed) for seed, name in enumerate(("one", "two"), start=1)]


@pytest.fixture
def shell(tmp_path: Path, hub: LoopbackHub, models: Sequence[Path]) -> Shell:
    """Ann's shell, in a folder with her models in ./one and ./two."""
    folder = tmp_path / "desk"
    for model in models:
        shutil.copytree(model, folder / model.name)
    hub.add_user("ann")
    return Shell(folder, hub, hub.add_token("ann"))


@pytest.fixture
def api(shell: Shell) -> HfApi:
    """The Hub as ann sees it."""
    return HfApi(endpoint=shell.environment["HF_ENDPOINT"], token=shell.environment["HF_TOKEN"])


def test_methods(shell: Shell) -> None:
    """A table, or one object."""
    assert "regmean" in shell.run("methods").stdout
    assert {"average", "fisher", "regmean"} <= set(json.loads(shell.run("methods", "--json").stdout))


def test_a_reader_that_goes_away_is_no_error(shell: Shell) -> None:
    """`cli.py methods | head -1`: a line, no complaint, and the exit code that a shell makes of it."""
    reading, writing = os.pipe()
    os.close(reading)
    for words in (("methods",), ("methods", "--json")):
        command = [sys.executable, str(ROOT / "cli.py"), *words]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=shell.environment, timeout=60)
        assert (done.returncode, done.stderr) == (141, b"")
    os.close(writing)


def test_plan(shell: Shell) -> None:
    """One object on stdout; problems on stderr with exit 2, also as an object."""
    told = json.loads(shell.run("plan", shell.recipe("./one", "./two"), "--json").stdout)
    assert told["possible"] is True
    done = shell.run("plan", shell.recipe("./one", "./three"), rc=2)
    assert done.stdout == ""
    assert "three is not a folder: nothing is there. Check the path." in done.stderr


def test_an_impossible_plan_is_its_problems_and_nothing_else(shell: Shell) -> None:
    """A recipe that cannot be read, models that do not fit: exit 2, one object or one sentence each."""
    bad = shell.folder / "bad.yaml"
    bad.write_text("merge_method: regmaen\nmodels: [./one, ./three, four]\nseed: x\noutput: {repo_id: others/free}\n")
    done = shell.run("plan", bad, "--json", rc=2)
    told = json.loads(done.stdout)
    assert (told.keys(), told["possible"]) == ({"possible", "problems"}, False)
    wheres = [problem["where"] for problem in told["problems"]]
    assert wheres == ["seed", "merge_method", "models.1.model", "models.2.model", "output.repo_id"]
    assert done.stderr == "".join(f"error: {problem['text']}\n" for problem in told["problems"])
    assert shell.run("merge", bad, "out", rc=2).stderr == done.stderr
    assert shell.run("submit", bad, rc=2).stderr == done.stderr
    twins = [{"model": "./one", "task": "a"}, {"model": "./three", "task": "a"}]
    done = shell.run("merge", shell.recipe(*twins), "out", rc=2)
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [
        f" {shell.folder.resolve() / 'three'} is not a folder",
        " Two models have the task a",
    ]
    other = save_tiny(shell.folder / "gpt", "gpt2").name
    done = shell.run("plan", shell.recipe("./one", f"./{other}"), rc=2)
    assert done.stdout == ""
    assert done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())


def test_plan_looks_at_the_name_of_the_result(shell: Shell, api: HfApi) -> None:
    """Taken, not ours or no name at all; who is not signed in is told that nobody knows."""

    def said(repo_id: str, rc: int = 2, **environment: str) -> str:
        recipe = shell.recipe("./one", "./two", output={"repo_id": repo_id})
        done = shell.run("plan", recipe, "--json", rc=rc, **environment)
        found = json.loads(done.stdout)["problems"]  # the models are of random weights, which is said, too
        return " ".join(problem["text"] for problem in found if not problem["where"].startswith("models"))

    api.create_repo("ann/taken")
    assert said("ann/free", rc=0) == ""
    assert said("ann/taken").startswith("ann/taken exists already")
    assert said("others/free").startswith("You may not write to others: you are ann.")
    assert "a repo id is owner/name" in said("no name")
    assert said("ann/taken", rc=0, HF_TOKEN="") == (
        "Whether the result can become ann/taken is not known: nobody is signed in. "
        "Run `hf auth login`, or set HF_TOKEN."
    )


def test_folders_are_planned_without_a_hub(shell: Shell) -> None:
    """No output in the recipe: nobody is asked."""
    told = shell.run("plan", shell.recipe("./one", "./two"), HF_ENDPOINT="http://127.0.0.1:9").stdout
    assert re.search(r"output \S+ kB, downloads 0 bytes, needs at most \S+ [kM]B of disk at a time", told)


def test_a_recipe_that_cannot_be_read_is_named(shell: Shell) -> None:
    """Missing, a folder, empty, not text: each is one sentence with the path."""
    (shell.folder / "empty.yaml").write_text(" \n")
    (shell.folder / "latin.yaml").write_bytes("models: [./zwölf]".encode("latin-1"))
    sentences = {
        "nowhere.yaml": "nowhere.yaml cannot be read: there is no such file. Check the path.",
        "one": "one is a folder: a recipe is a YAML file. Name the file in it.",
        "empty.yaml": "empty.yaml is empty. Begin with `merge_method:` and `models:`.",
        "latin.yaml": "latin.yaml is no recipe: it is not text in UTF-8. Name a YAML file, or save it as UTF-8.",
        "latin.yaml/x": "latin.yaml/x cannot be read: not a directory. Check the path.",
    }
    for name, sentence in sentences.items():
        assert shell.run("plan", name, rc=2).stderr == f"error: {sentence}\n"


def test_a_token_that_does_not_do_is_told_with_the_way_to_a_better_one(shell: Shell) -> None:
    """None, a wrong one, one that cannot be sent: the sentence names the command and the variable."""
    recipe = shell.recipe("ann/hidden", "./two")
    done = shell.run("plan", recipe, rc=2, HF_TOKEN="")
    assert done.stderr == (
        "error: ann/hidden does not exist, or it is private: nobody is signed in. "
        "Check the name, or for a private model run `hf auth login` or set HF_TOKEN.\n"
    )
    again = "Mend HF_TOKEN if it is set, else run `hf auth login`.\n"
    refused = f"error: Your token is not valid: the Hub refuses it. {again}"
    assert shell.run("plan", recipe, rc=2, HF_TOKEN="hf_wrong").stderr == refused
    assert shell.run("jobs", rc=2, HF_TOKEN="hf_wrong").stderr == refused
    done = shell.run("jobs", rc=2, HF_TOKEN="hf_wröng")
    assert done.stderr == f"error: Your token is not valid: it holds characters that no token has. {again}"


def test_a_device_that_is_not_there_leaves_nothing(shell: Shell) -> None:
    """Refused before anything is made."""
    before = sorted(shell.folder.iterdir())
    recipe = shell.recipe("./one", "./two")
    done = shell.run("merge", recipe, "out", "--device", "cuda", rc=2, CUDA_VISIBLE_DEVICES="")
    assert done.stderr == "error: device cuda: this machine has none that torch can use. Use cpu or auto.\n"
    assert sorted(shell.folder.iterdir()) == sorted([*before, recipe])


def test_a_folder_without_a_dot(shell: Shell) -> None:
    """`one` is not taken for a model of the Hub in silence."""
    done = shell.run("plan", shell.recipe("one", "./two"), rc=2)
    assert done.stderr == "error: one is a folder: a name without ./ is a model of the Hub. Write ./one.\n"


def test_merge(shell: Shell) -> None:
    """The report or the folder on stdout, nothing left beside it, and never into what is there."""
    recipe = shell.recipe("./one", "./two")
    told = json.loads(shell.run("merge", recipe, "out", "--json", "--no-check", "--device", "cpu").stdout)
    assert told["method"] == "average"
    assert (shell.folder / "out" / "model.safetensors").is_file()
    assert not (shell.folder / "out.work").exists()
    done = shell.run("merge", recipe, "out", rc=2)
    assert (done.stdout, "out is not empty" in done.stderr) == ("", True)
    before = recipe.read_text()
    assert shell.run("merge", "recipe.yaml", "recipe.yaml", rc=2).stderr == (
        "error: recipe.yaml is the recipe itself: the merged model becomes a folder. Name a new folder.\n"
    )
    assert "one/config.json is a file: the merged" in shell.run("merge", recipe, "one/config.json", rc=2).stderr
    assert recipe.read_text() == before
    shell.folder = shell.folder / "here"
    shell.folder.mkdir()
    done = shell.run("merge", recipe, ".", rc=2)
    assert done.stderr.startswith("error: . is the folder that you are in: the result cannot take its place.")


def test_progress_in_json_lines(shell: Shell) -> None:
    """On stderr, one object a line, in bytes done of bytes to do; stdout holds the result alone."""
    words = ("merge", shell.recipe("./one", "./two"), "out", "--no-check", "--device", "cpu")
    done = shell.run(*words, "--json", "--progress", "json")
    assert json.loads(done.stdout)["method"] == "average"
    told = [json.loads(line)["progress"] for line in done.stderr.splitlines() if line.startswith("{")]
    assert {"pin", "merge"} <= {one["stage"] for one in told}
    size = (shell.folder / "out" / "model.safetensors").stat().st_size
    last = [one for one in told if (one["stage"], one["unit"]) == ("merge", "bytes")][-1]
    assert (last["done"], last["total"]) == (size, size)
    shutil.rmtree(shell.folder / "out")
    assert not shell.run(*words, "--progress", "none").stderr.startswith("{")


def test_waiting_for_a_job_shows_its_progress(shell: Shell, api: HfApi) -> None:
    """Its stages in words, bytes and speed as of any other work, and at the end the job alone on stdout."""
    for name in ("one", "two"):
        api.create_repo(f"ann/{name}")
        api.upload_folder(repo_id=f"ann/{name}", folder_path=shell.folder / name)
    recipe = shell.recipe("ann/one", "ann/two", output={"repo_id": "ann/merged"}, seed=60)  # tenths of a second
    (shell.folder / "home").mkdir()
    workers = Workers(shell.folder / "home")
    try:
        workers.start()
        done = shell.run("submit", recipe, "--wait", "--json", "--progress", "json", MERGE_SECRET_KEY=SECRET)
    finally:
        workers.stop()
    assert json.loads(done.stdout)["status"] == "done"
    assert "  merge" in done.stderr.splitlines()
    told = [json.loads(line)["progress"] for line in done.stderr.splitlines() if line.startswith("{")]
    merging = [one for one in told if one["stage"] == "merge" and one["unit"] == "steps"]
    assert {one["total"] for one in merging} == {60}
    assert any(5 < (one["speed"] or 0) < 15 and 0 < one["left"] < 6 for one in merging)


def test_a_work_folder_of_the_users_is_not_touched(shell: Shell) -> None:
    """OUT.work with something of the user's in it: refused, unchanged, also for another recipe."""
    mine = shell.folder / "out.work" / "jobs" / "merge" / "recipe.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = shell.run("merge", shell.recipe("./one", "./two"), "out", rc=2)
    assert "out.work was not made by a merge: nothing in it is touched." in done.stderr
    assert mine.read_text() == "mine"


def test_one_merge_at_a_time_goes_to_one_place(shell: Shell) -> None:
    """The work folder is locked by whoever uses it."""
    work = shell.folder / "out.work"
    work.mkdir()
    with (work / ".merge-my-models").open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        done = shell.run("merge", shell.recipe("./one", "./two"), "out", rc=2)
    assert "out.work is in use: another merge to the same place is running." in done.stderr


def test_a_merge_that_fails_says_what_is_kept(shell: Shell) -> None:
    """Exit 1 for what is not the input's fault, with the folder that the same command goes on from."""
    (shell.folder / "sitecustomize.py").write_text(
        "import sys\nif 'merging.check' in sys.orig_argv: sys.exit('out of luck')\n"
    )
    recipe = shell.recipe("./one", "./two")
    done = shell.run("merge", recipe, "out", rc=1, PYTHONPATH=str(shell.folder))
    assert "error: The merged model did not pass its check: SystemExit: out of luck." in done.stderr
    assert f"What was done is kept in {shell.folder / 'out.work'}: the same command goes on" in done.stderr
    assert shell.run("merge", recipe, "out", "--no-check").stdout == "out\n"
    assert not (shell.folder / "out.work").exists()


def test_a_merge_that_cannot_go_on_keeps_nothing(shell: Shell) -> None:
    """NaN in a parent: the same command would end the same way, so no work folder is left and no hope raised."""
    weights = load_file(shell.folder / "two" / "model.safetensors")
    next(value for name, value in sorted(weights.items()) if "query.weight" in name).fill_(float("nan"))
    save_file(weights, shell.folder / "two" / "model.safetensors", {"format": "pt"})
    done = shell.run("merge", shell.recipe("./one", "./two"), "out", "--no-check", rc=2)
    assert "two holds NaN or infinity: in bert.encoder" in done.stderr
    assert "goes on from there" not in done.stderr
    assert not (shell.folder / "out.work").exists()


def test_only_a_merge_is_pushed(shell: Shell, api: HfApi) -> None:
    """A model that was never merged is refused, and nothing is made."""
    assert shell.run("push", "one", "ann/merged", rc=2).stderr == (
        "error: one was not made by `merge`: it has no report of a merge. Push the folder that `merge` wrote.\n"
    )
    assert not api.repo_exists("ann/merged")


def test_bad_options_and_settings_are_exit_2(shell: Shell) -> None:
    """A device that is none, places that cannot be written, settings that cannot be read."""
    recipe = shell.recipe("./one", "./two")
    for words in (("--device", "tpu"), ("--threads", "-1"), ("--treads", "1")):
        (line,) = shell.run("merge", recipe, "out", *words, rc=2).stderr.splitlines()
        assert re.fullmatch(rf"error: .*{words[0]}.* See `cli\.py merge --help`\.", line)
    assert "cannot be written" in shell.run("merge", recipe, recipe / "out", rc=2).stderr
    done = shell.run("statistics", "./one", "--data", "x.txt", "--out", "nodir/x", rc=2)
    assert "nodir/x cannot be written" in done.stderr
    done = shell.run("worker", "--slot", "1", rc=2, MERGE_PORT="abc")
    assert done.stderr.startswith("error: MERGE_PORT cannot be used: input should be a valid integer")
    assert "cannot be used" in shell.run("jobs", rc=2, MERGE_HOME=str(recipe / "home")).stderr


def test_ctrl_c_is_130_and_no_traceback(shell: Shell) -> None:
    """While the imports go on, and while a command works: one line at most."""
    waits = "import time; print('here', flush=True); time.sleep(60)"
    finder = f"""
import sys
class Finder:
    def find_spec(name, *_):
        if name == "jobs.preview":
            {waits}
sys.meta_path.insert(0, Finder)
"""
    recipe = shell.recipe("./one", "./two")
    for module, text, said in (("typer", waits, ""), ("sitecustomize", finder, "Stopped.\n")):
        folder = shell.folder / module
        folder.mkdir()
        (folder / f"{module}.py").write_text(text)
        command = [sys.executable, str(ROOT / "cli.py"), "plan", str(recipe)]
        env = shell.environment | {"PYTHONPATH": str(folder)}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == "here\n"
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=60)
        assert (running.returncode, told) == (130, said)


def test_evaluate(shell: Shell) -> None:
    """Figures as one object or a table; a label column that is not there is exit 2."""
    rows = [json.dumps({"text": text, "label": "yes"}) for text in sentences(4)]
    (shell.folder / "rows.jsonl").write_text("\n".join(rows))
    told = json.loads(shell.run("evaluate", "./one", "--data", "rows.jsonl", "--json").stdout)
    (one,) = told["sets"]
    (score,) = one["scores"]
    assert (one["examples"], score["title"], set(score["metrics"])) == (4, "./one", {"accuracy", "macro_f1"})
    shown = shell.run("evaluate", "./one", "./one", "--data", "rows.jsonl", "--ensemble", "--label", "yes=no").stdout
    assert shown.startswith("rows.jsonl: accuracy in %, macro F1 in % of 4 examples, with 95 % intervals\n  ./one")
    assert "Ensemble of logits" in shown
    (shell.folder / "plain.txt").write_text("\n".join(sentences(4)))
    assert shell.run("evaluate", "./one", "--data", "plain.txt", rc=2).stderr == (
        "error: plain.txt has no labels: text is its only column. Take data with a label in each row.\n"
    )
    (shell.folder / "three.csv").write_text("text,x,y\na,b,c\n")
    assert shell.run("evaluate", "./one", "--data", "three.csv", rc=2).stderr == (
        "error: Which column of three.csv is the label? It has text, x, y. Name it as label_column.\n"
    )
    done = shell.run("evaluate", "./one", "--data", "rows.jsonl", "--label-column", "nope", rc=2)
    assert (done.stdout, "has no column 'nope'" in done.stderr) == ("", True)


def test_a_merge_is_evaluated_and_pushed_with_its_figures(shell: Shell, api: HfApi) -> None:
    """From a file beside the recipe, of which nothing becomes public but the figures; a missing one ends it at once."""
    for name in ("one", "two"):
        api.create_repo(f"ann/{name}")
        api.upload_folder(repo_id=f"ann/{name}", folder_path=shell.folder / name)
    rows = [json.dumps({"text": text, "label": ("No", "Yes")[place % 2]}) for place, text in enumerate(sentences(12))]
    (shell.folder / "secret.jsonl").write_text("\n".join(rows))
    sets = [{"data": "./secret.jsonl", "name": "mine"}, {"data": "./secret.jsonl", "name": "bad", "label_column": "x"}]
    recipe = shell.recipe("ann/one", "ann/two", evaluate=sets)
    told = json.loads(shell.run("merge", recipe, "out", "--json").stdout)["evaluation"]
    (mine,) = told["sets"]
    assert [score["who"] for score in mine["scores"]] == ["parent", "parent", "ensemble", "merge"]
    assert told["notes"] == [
        "bad: there are no figures. bad has no column 'x': it has text, label. Name one of these.",
        "The merge is the plain average itself.",
        "There is no instance-wise ensemble: it needs the Gram statistics of two parents.",
    ]
    assert not list(shell.folder.glob("out.work*"))
    shell.run("push", "out", "ann/merged")
    published = {name: Path(api.hf_hub_download("ann/merged", name)).read_text() for name in PUBLIC}
    assert json.loads(published["merge-report.json"])["evaluation"]["sets"] == told["sets"]
    assert "| `ann/one` |" in published["README.md"]
    assert not [name for name, text in published.items() if "secret" in text or str(shell.folder) in text]
    missing = shell.recipe("ann/one", "ann/two", evaluate=[{"data": "./none.jsonl"}])
    assert "none.jsonl cannot be read: there is no such file" in shell.run("merge", missing, "two-out", rc=2).stderr


def test_the_variant_of_a_fisher(shell: Shell) -> None:
    """Gold labels come from their column, and the file says so; without them, or for a Gram, exit 2."""
    rows = [json.dumps({"text": text, "label": "yes"}) for text in sentences(4)]
    (shell.folder / "rows.jsonl").write_text("\n".join(rows))
    words = ("./one", "--data", "rows.jsonl", "--variant", "empirical")
    shell.run("statistics", *words, "--kind", "fisher", "--label-column", "label", "--out", "f.safetensors")
    with safe_open(shell.folder / "f.safetensors", "pt") as file:
        assert file.metadata()["variant"] == "empirical"
    done = shell.run("statistics", *words, "--kind", "fisher", rc=2)
    assert "The empirical Fisher needs gold labels: an example has no label. Use the exact" in done.stderr
    done = shell.run("statistics", *words, rc=2)
    assert "--variant and --label-column are of a Fisher: a Gram has none. Add --kind fisher." in done.stderr


def test_evaluate_names_things_as_their_user_does(shell: Shell, api: HfApi) -> None:
    """A model of the Hub, a folder, a task: never the folder that they lie in for the time being."""
    api.create_repo("ann/one")
    api.upload_folder(repo_id="ann/one", folder_path=shell.folder / "one")
    (shell.folder / "rows.jsonl").write_text(json.dumps({"text": "one", "label": "maybe"}))
    end = "its labels are no, yes; those of rows.jsonl are maybe. Say which label of the data is which of the model.\n"
    for model in ("./one", "ann/one"):
        done = shell.run("evaluate", model, "--data", "rows.jsonl", rc=2)
        assert done.stderr == f"error: {model} has no label 'maybe', which stands in rows.jsonl: {end}"
        done = shell.run("evaluate", f"{model}:banking", "--data", "rows.jsonl", rc=2)
        assert done.stderr == (f"error: {model} has no task banking: no such folder in it. Name one of its folders.\n")


def test_paths_in_a_recipe_are_relative_to_it(shell: Shell, tmp_path: Path) -> None:
    """Models, statistics and calibration text, from another working directory."""
    (shell.folder / "texts.txt").write_text("\n".join(sentences(8)))
    shell.run("statistics", "./one", "--data", "texts.txt", "--out", "g.safetensors", "--device", "cpu")
    entries = [
        {"model": "./one", "statistics": {"gram": "./g.safetensors"}},
        {"model": "./two", "calibration": {"data": "texts.txt", "examples": 8}},
    ]
    recipe = shell.recipe(*entries, merge_method="regmean")
    shell.folder = tmp_path
    shell.run("merge", recipe, "out", "--no-check", "--device", "cpu")
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.fixture
def on_base(shell: Shell, models: Sequence[Path]) -> dict[str, Any]:
    """What a recipe of ./one and ./two on their base in ./base says, with the base in the list of models too."""
    save_tiny(shell.folder / "base", seed=0, labels=None)
    folder = shell.folder.resolve()
    return {"models": [str(folder / "base"), "./one", "./two"], "base_model": "./base", "merge_method": "ties"}


def test_folders_on_a_base(shell: Shell, on_base: dict[str, Any]) -> None:
    """Planned, merged and named; a base that the list names by another path is none of the models."""
    recipe = shell.recipe(*on_base.pop("models"), **on_base)
    told = shell.run("plan", recipe).stdout
    assert told.startswith(f"ties, weights 0.5, 0.5, base {shell.folder.resolve() / 'base'}\n")
    report = json.loads(shell.run("merge", recipe, "out", "--json", "--no-check", "--device", "cpu").stdout)
    assert report["fallbacks"]["classifier.weight"] == "the base has no such tensor"
    written = yaml.safe_load((shell.folder / "out" / "recipe.yaml").read_text())
    assert [Path(entry["model"]).name for entry in written["models"]] == ["one", "two"]
    done = shell.run("plan", shell.recipe("./one", "./two", merge_method="ties"), rc=2)
    assert "error: TIES needs the model that the others were fine-tuned from: the recipe names none." in done.stderr
    done = shell.run("plan", shell.recipe("./one", "./two", merge_method="ties", base_model="base"), rc=2)
    assert "error: base is a folder: a name without ./ is a model of the Hub. Write ./base." in done.stderr


def test_a_push_on_a_private_base_is_private(shell: Shell, api: HfApi, on_base: dict[str, Any]) -> None:
    """As the base is, and when it is out of sight; a folder has no visibility."""
    for name, private in (("one", False), ("base", True)):
        api.create_repo(f"ann/{name}", private=private)
        api.upload_folder(repo_id=f"ann/{name}", folder_path=shell.folder / name)
    recipe = shell.recipe("ann/one", merge_method="slerp", base_model="ann/base")
    shell.run("merge", recipe, "out", "--no-check", "--device", "cpu")
    done = shell.run("push", "out", "ann/merged")
    assert "note: ann/merged is private, as a parent is" in done.stderr
    card = Path(api.hf_hub_download("ann/merged", "README.md")).read_text()
    assert "its base `ann/base` merged into one by **SLERP**" in card
    api.delete_repo("ann/base")
    shutil.copytree(shell.folder / "out", shell.folder / "again", ignore=shutil.ignore_patterns(".merge-push.json"))
    done = shell.run("push", "again", "ann/next")
    assert "note: ann/next is private: not every parent in recipe.yaml can be seen" in done.stderr
    local = shell.recipe("./one", merge_method="slerp", base_model="./base")
    shell.run("merge", local, "local", "--no-check", "--device", "cpu")
    assert shell.run("push", "local", "ann/open").stderr == ""
    assert yaml.safe_load(Path(api.hf_hub_download("ann/open", "recipe.yaml")).read_text())["base_model"] == "base"


def test_push(shell: Shell, api: HfApi) -> None:
    """Public, with a card and no path of this machine; the user's files stay; the same again is the same commit."""
    shell.run("merge", shell.recipe("./one", "./two"), "out", "--no-check")
    (shell.folder / "intent.json").write_text("mine")
    recipe = (shell.folder / "out" / "recipe.yaml").read_text()
    assert str(shell.folder) in recipe
    first = json.loads(shell.run("push", "out", "ann/merged", "--json").stdout)
    assert json.loads(shell.run("push", "out", "ann/merged", "--json").stdout) == first
    assert (shell.folder / "intent.json").read_text() == "mine"
    assert (shell.folder / "out" / "recipe.yaml").read_text() == recipe
    info = api.model_info("ann/merged")
    assert (info.private, info.sha) == (False, first["commit"])
    names = {sibling.rfilename for sibling in info.siblings or []}
    assert {"README.md", "recipe.yaml", "config.json", "model.safetensors"} <= names
    assert not any(name.startswith(".merge") for name in names)
    for name in ("README.md", "recipe.yaml"):
        assert str(shell.folder) not in Path(api.hf_hub_download("ann/merged", name)).read_text()
    published = yaml.safe_load(Path(api.hf_hub_download("ann/merged", "recipe.yaml")).read_text())
    assert [entry["model"] for entry in published["models"]] == ["one", "two"]


def test_a_push_of_other_weights_is_not_the_same(shell: Shell) -> None:
    """The recipe is as before, the weights are not: refused, not called published."""
    shell.run("merge", shell.recipe("./one", "./two"), "out", "--no-check")
    shell.run("push", "out", "ann/merged")
    weights = shell.folder / "out" / "model.safetensors"
    weights.unlink()
    shutil.copy(shell.folder / "one" / "model.safetensors", weights)
    assert "ann/merged exists already" in shell.run("push", "out", "ann/merged", rc=2).stderr
    (shell.folder / "out" / "config.json").unlink()
    assert "config.json or the weights are missing" in shell.run("push", "out", "ann/next", rc=2).stderr


def test_a_push_of_private_parents_is_private(shell: Shell, api: HfApi) -> None:
    """As a parent is, and when a parent is out of sight; with the full card when all are known."""
    for name, private in (("one", True), ("two", False)):
        api.create_repo(f"ann/{name}", private=private)
        api.upload_folder(repo_id=f"ann/{name}", folder_path=shell.folder / name)
    shell.run("merge", shell.recipe("ann/one", "ann/two"), "out", "--no-check")
    done = shell.run("push", "out", "ann/merged")
    assert done.stdout == f"{api.endpoint}/ann/merged\n"
    assert "note: ann/merged is private, as a parent is" in done.stderr
    assert api.model_info("ann/merged").private
    assert "## From what" in Path(api.hf_hub_download("ann/merged", "README.md")).read_text()
    api.delete_repo("ann/two")
    assert "not every parent" in shell.run("push", "out", "ann/again").stderr
    assert api.model_info("ann/again").private


def test_statistics_of_a_private_model_are_private(shell: Shell, api: HfApi) -> None:
    """Published as the model is; a folder has no place to publish to."""
    (shell.folder / "texts.txt").write_text("\n".join(sentences(8)))
    words = ("--data", "texts.txt", "--publish", "--device", "cpu")
    done = shell.run("statistics", "./one", *words, rc=2)
    assert "./one is a folder: statistics are published for a model of the Hub. Name its id." in done.stderr
    api.create_repo("ann/secret", private=True)
    api.upload_folder(repo_id="ann/secret", folder_path=shell.folder / "one")
    shell.run("statistics", "ann/secret", *words)
    assert api.model_info("ann/secret-merge-statistics").private
    card = Path(api.hf_hub_download("ann/secret-merge-statistics", "README.md")).read_text()
    assert ("a text that is not published" in card, "texts.txt" in card) == (True, False)


def test_statistics_of_few_tokens_are_not_made_public(shell: Shell, api: HfApi) -> None:
    """Refused with the file kept, unless they are private or somebody says that this is fine."""
    api.create_repo("ann/one")
    api.upload_folder(repo_id="ann/one", folder_path=shell.folder / "one")
    (shell.folder / "texts.txt").write_text("\n".join(sentences(2)))
    words = ("statistics", "ann/one", "--data", "texts.txt", "--publish", "--device", "cpu", "--out")
    *prose, held, few, error = shell.run(*words, "g.safetensors", rc=2).stderr.splitlines()
    tokens = r"2 examples \(there are no more; 600 were asked for\), \d+ tokens: 0\.\d+ tokens for each input"
    assert re.match(tokens, held), prose
    assert "fewer tokens than inputs: the solve leans on the ridge there" in few
    assert few.startswith("warning: ")
    assert error == (
        "error: The statistics of ann/one come from few tokens and would be public: such a file says much about "
        "single texts. Collect from more text, add --private, or add --few-texts-are-fine; "
        "the file is kept at g.safetensors."
    )
    assert (shell.folder / "g.safetensors").is_file()
    assert not api.repo_exists("ann/one-merge-statistics")
    shell.run(*words, "h.safetensors", "--few-texts-are-fine")
    assert not api.model_info("ann/one-merge-statistics").private
    api.delete_repo("ann/one-merge-statistics")
    shell.run(*words, "i.safetensors", "--private")
    assert api.model_info("ann/one-merge-statistics").private


def test_statistics_are_shown_and_published_next_to_the_model(shell: Shell, api: HfApi) -> None:
    """What there is in words and as an object; the model's repo takes them once, and a look finds them."""
    api.create_repo("ann/one")
    api.upload_folder(repo_id="ann/one", folder_path=shell.folder / "one")
    assert shell.run("statistics", "ann/one", "--show").stderr == "No statistics of ann/one were found.\n"
    (shell.folder / "texts.txt").write_text("\n".join(sentences(8)))
    words = ("--data", "texts.txt", "--publish-to", "model", "--device", "cpu", "--out")
    link = shell.run("statistics", "ann/one", *words, "g.safetensors").stdout.strip()
    assert link == f"ann/one@{api.model_info('ann/one').sha}"
    done = shell.run("statistics", "ann/one", *words, "again.safetensors", rc=2)
    assert "ann/one has gram statistics already: nothing in a model's repo is replaced" in done.stderr
    assert not (shell.folder / "again.safetensors").exists()
    shown = shell.run("statistics", "ann/one", "--show").stdout
    assert shown.startswith(f"Gram matrices (RegMean): {link}:merge-statistics/gram.safetensors\n  model: ann/one at ")
    assert "  weights: the same\n  collected from: a text that is not published\n  examples: 8," in shown
    assert "  fullness: 1.1 tokens for each input of the layer with the fewest\n" in shown
    told = json.loads(shell.run("statistics", "./g.safetensors", "--show", "--json").stdout)
    assert [(one["kind"], one["belongs"], one["dataset"]) for one in told["statistics"]] == [("gram", None, "")]


def test_the_queue(shell: Shell, api: HfApi) -> None:
    """submit, jobs and cancel; somebody who is not signed in is told so."""
    for name in ("one", "two"):
        api.create_repo(f"ann/{name}")
        api.upload_folder(repo_id=f"ann/{name}", folder_path=shell.folder / name)
    recipe = shell.recipe("ann/one", "ann/two", output={"repo_id": "ann/merged"})
    job = shell.run("submit", recipe).stdout.strip()
    (listed,) = json.loads(shell.run("jobs", "--json").stdout)
    assert (listed["id"], listed["status"]) == (job, "waiting")
    assert json.loads(shell.run("cancel", job, "--json").stdout)["status"] == "cancelled"
    assert "Not signed in" in shell.run("jobs", rc=2, HF_TOKEN="").stderr
