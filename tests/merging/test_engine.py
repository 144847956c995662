"""The engine on real tiny models: values, heads, memory discipline, interruption."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merging import engine
from merging.calibrate import collect
from merging.checkpoint import open_parent, sha256_of
from merging.engine import Report, merge, run_to_end
from merging.errors import InputError
from merging.parent import Parent
from merging.plan import make_plan
from merging.recipe import Recipe, recipe_from_dict
from merging.statistics import Statistics
from tests.tiny_models import save_tiny, sentences

torch.set_num_threads(1)


def recipe(*folders: Path, method: str = "average", **more: object) -> Recipe:
    """A recipe for folders."""
    models = [{"model": str(folder)} for folder in folders]
    return recipe_from_dict({"merge_method": method, "models": models, **more})


def opened(wish: Recipe) -> list[Parent]:
    """Its parents from disk."""
    return [open_parent(entry.model, Path(entry.model)) for entry in wish.models]


def run(wish: Recipe, out: Path, **options: object) -> Report:
    """Merge to the end."""
    parents = opened(wish)
    return run_to_end(merge(make_plan(wish, parents), parents, out, **options))  # type: ignore[arg-type]


def grams_of(folder: Path, out: Path, seed: int) -> Statistics:
    """Gram statistics of a model, from its own random texts."""
    for _ in collect("gram", folder, sentences(8, seed), out, examples=8):
        pass
    return Statistics(out)


@pytest.mark.parametrize(("kind", "labels"), [("bert", ("no", "yes")), ("llama", None), ("gpt2", None)])
def test_average_equals_the_mean_of_all_tensors(tmp_path: Path, kind: str, labels: tuple[str, ...] | None) -> None:
    """Every tensor of the result is the weighted mean of the parents', computed here from whole files."""
    folders = [save_tiny(tmp_path / str(seed), kind, seed=seed, labels=labels) for seed in range(3)]
    wish = recipe(*folders)
    wish = wish.model_copy(
        update={
            "models": tuple(
                entry.model_copy(update={"parameters": {"weight": weight}})
                for entry, weight in zip(wish.models, (1.0, 2.0, 5.0), strict=True)
            )
        }
    )
    run(wish, tmp_path / "out", threads=2)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    parts = [load_file(folder / "model.safetensors") for folder in folders]
    assert merged.keys() == parts[0].keys()
    for name, values in merged.items():
        expected = sum(part[name].double() * weight for part, weight in zip(parts, (0.125, 0.25, 0.625), strict=True))
        assert float((values.double() - expected).abs().max()) < 1e-7, name


def test_different_labels_keep_one_head_per_task_beside_one_body(tmp_path: Path) -> None:
    """Each subfolder and the root load with plain transformers; the body is one file with several names."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    sets = {"colour": ("red", "green", "blue"), "mood": ("sad", "glad"), "size": ("s", "m", "l", "xl")}
    folders = [
        save_tiny(tmp_path / f"tiny-{task}", seed=i, labels=labels) for i, (task, labels) in enumerate(sets.items())
    ]
    out = tmp_path / "out"
    wish = recipe(*folders, output={"root": "mood"})
    report = run(wish, out)
    for task, labels in sets.items():
        model = AutoModelForSequenceClassification.from_pretrained(out / task)
        assert tuple(model.config.id2label.values()) == labels
        parent = load_file(tmp_path / f"tiny-{task}" / "model.safetensors")
        assert torch.equal(model.classifier.weight, parent["classifier.weight"])
        AutoTokenizer.from_pretrained(out / task)
    root = AutoModelForSequenceClassification.from_pretrained(out)
    assert tuple(root.config.id2label.values()) == sets["mood"]
    bodies = {(out / folder / "model-00001-of-00002.safetensors").stat().st_ino for folder in ("", *sets)}
    assert len(bodies) == 1
    assert sum(name.endswith("00001-of-00002.safetensors") for name in report.files) == 1
    assert all(sha256_of(out / name) == digest for name, digest in report.files.items())


@pytest.mark.parametrize("method", ["average"])
def test_the_number_of_threads_does_not_change_a_byte(tmp_path: Path, method: str) -> None:
    """1, 2 and 4 threads write the same files."""
    folders = [save_tiny(tmp_path / str(seed), "llama", seed=seed, labels=None) for seed in range(2)]
    digests = {
        json.dumps(dict(run(recipe(*folders, method=method), tmp_path / f"out{threads}", threads=threads).files))
        for threads in (1, 2, 4)
    }
    assert len(digests) == 1


def test_sharded_parents_with_different_shards_merge(tmp_path: Path) -> None:
    """How a parent is cut into files does not matter."""
    one = save_tiny(tmp_path / "one", seed=1)
    many = save_tiny(tmp_path / "many", seed=2, shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 1
    run(recipe(one, many), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    left = load_file(one / "model.safetensors")
    right = {name: values for shard in many.glob("*.safetensors") for name, values in load_file(shard).items()}
    for name, values in merged.items():
        torch.testing.assert_close(values, (left[name] + right[name]) / 2)


def test_half_precision_is_averaged_in_float32_and_stored_as_asked(tmp_path: Path) -> None:
    """bf16 parents are accumulated in float32; the recipe's dtype decides the output."""
    folders = [save_tiny(tmp_path / str(seed), seed=seed, dtype=torch.bfloat16) for seed in range(3)]
    run(recipe(*folders), tmp_path / "same")
    run(recipe(*folders, dtype="float32"), tmp_path / "wide")
    parts = [load_file(folder / "model.safetensors") for folder in folders]
    same, wide = (load_file(tmp_path / name / "model.safetensors") for name in ("same", "wide"))
    for name in same:
        mean = sum(part[name].double() for part in parts) / 3
        torch.testing.assert_close(wide[name].double(), mean, rtol=1e-6, atol=1e-7)
        assert torch.equal(same[name], wide[name].bfloat16())
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"


def test_nan_in_a_parent_stops_the_merge_and_names_it(tmp_path: Path) -> None:
    """A parent with NaN is named with its tensor, and no shard gets its final name."""
    good, bad = (save_tiny(tmp_path / name, seed=i) for i, name in enumerate(("good", "bad")))
    from safetensors.torch import save_file

    tensors = load_file(bad / "model.safetensors")
    tensors["bert.pooler.dense.weight"][0, 0] = float("nan")
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"bad holds NaN or infinity: in bert.pooler.dense.weight"):
        run(recipe(good, bad), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_an_interrupted_merge_goes_on_from_its_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the generator leaves finished shards, which the next run keeps; the bytes are the same."""
    monkeypatch.setattr("merging.steps.SHARD_BYTES", 20_000)
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    wish = recipe(*folders)
    undisturbed = run(wish, tmp_path / "whole")
    parents = opened(wish)
    work = merge(make_plan(wish, parents), parents, tmp_path / "out")
    while len(list((tmp_path / "out").glob("*.safetensors"))) < 2:
        next(work)
    work.close()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.safetensors")}
    again = run(wish, tmp_path / "out")
    assert again.files == undisturbed.files
    first = sorted(kept)[0]
    assert (tmp_path / "out" / first).stat().st_mtime_ns == kept[first]


def test_all_starts_of_a_merge_stand_in_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds, memory, machines and notes of what an interrupted run had finished, beside those of the run that ends.

    That all was finished already changes nothing.
    """
    monkeypatch.setattr("merging.steps.SHARD_BYTES", 20_000)
    wish = recipe(*(save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)))
    undisturbed, parents, path = run(wish, tmp_path / "whole"), opened(wish), tmp_path / "out.journal.json"
    work = merge(make_plan(wish, parents), parents, tmp_path / "out")
    while not path.exists():
        next(work)
    work.close()
    journal = json.loads(path.read_text())
    assert 0 < journal["told"]["seconds"] < undisturbed.seconds + 60
    earlier = {
        "seconds": 1000.0,
        "hashing": 100.0,
        "peak_memory": 1 << 50,
        "device": "NVIDIA H100",
        "notes": ["a note"],
    }
    path.write_text(json.dumps(journal | {"told": journal["told"] | earlier}))
    for _ in range(2):
        found = run(wish, tmp_path / "out")
        assert found.files == undisturbed.files
        assert (found.seconds > 1000, found.hashing >= 100, found.peak_memory) == (True, True, 1 << 50)
        assert (found.device, found.cpu, found.torch) == ("NVIDIA H100 and cpu", undisturbed.cpu, undisturbed.torch)
        assert found.notes == ("a note",)


def test_a_finished_shard_with_other_bytes_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's hash decides, not the name."""
    monkeypatch.setattr("merging.steps.SHARD_BYTES", 20_000)
    wish = recipe(*(save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)))
    files = run(wish, tmp_path / "out").files
    shard = tmp_path / "out" / sorted(files)[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    assert run(wish, tmp_path / "out").files == files
    assert sha256_of(shard) == files[shard.name]


def test_a_shard_that_was_never_noted_takes_no_room_beside_the_new_one(tmp_path: Path) -> None:
    """A kill between a shard's name and its note leaves it behind: the next run deletes it before it writes."""
    wish = recipe(*(save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)))
    files = run(wish, tmp_path / "out").files
    (tmp_path / "out.journal.json").unlink()
    seen = []
    parents = opened(wish)
    for _ in merge(make_plan(wish, parents), parents, tmp_path / "out"):
        seen.append({path.name for path in (tmp_path / "out").glob("model.*")})
    assert {"model.safetensors", "model.safetensors.partial"} not in seen
    assert run(wish, tmp_path / "out").files == files


def test_a_merge_needs_no_file_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no posix_fallocate: the bytes are the same."""
    wish = recipe(*(save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)))
    files = run(wish, tmp_path / "reserved").files
    monkeypatch.delattr("os.posix_fallocate")
    assert run(wish, tmp_path / "out").files == files


def test_other_weights_under_the_same_names_are_merged_anew(tmp_path: Path) -> None:
    """Shards of an earlier run are kept for the same weights only."""
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    before = run(recipe(*folders), tmp_path / "out").files
    save_tiny(folders[1], seed=7)
    assert run(recipe(*folders), tmp_path / "out").files != before


def test_other_statistics_are_merged_anew(tmp_path: Path) -> None:
    """Shards of an earlier run are kept for the same statistics only; the name of their file tells nothing."""
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    wish, parents = recipe(*folders, method="regmean"), []
    files: list[dict[str, Statistics]] = []
    for folder, parent in zip(folders, opened(wish), strict=True):
        files.append({"gram": grams_of(folder, tmp_path / f"{folder.name}.safetensors", 5)})
        parents.append(replace(parent, statistics={"gram": files[-1]["gram"].fact}))
    plan = make_plan(wish, parents)
    before = run_to_end(merge(plan, parents, tmp_path / "out", statistics=files)).files
    files[0] = {"gram": grams_of(folders[0], tmp_path / "0.safetensors", 6)}
    again = run_to_end(merge(plan, parents, tmp_path / "out", statistics=files)).files
    assert again == run_to_end(merge(plan, parents, tmp_path / "whole", statistics=files)).files != before


def test_code_and_old_paths_are_not_carried(tmp_path: Path) -> None:
    """`auto_map` of a parent never reaches the result, and Python files stay behind."""
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    config = json.loads((folders[0] / "config.json").read_text())
    (folders[0] / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    (folders[0] / "evil.py").write_text("raise SystemExit")
    run(recipe(*folders), tmp_path / "out")
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert not list((tmp_path / "out").rglob("*.py"))


def test_the_merge_path_never_loads_a_model() -> None:
    """`load_file`, `from_pretrained` and `state_dict` do not occur where a merge runs."""
    root = Path(engine.__file__).parent
    names = ["engine", "plan", "heads", "compatibility", "checkpoint", "side_files", "statistics", "tensors", "method"]
    files = [root / f"{name}.py" for name in names] + list((root / "methods").glob("*.py"))
    assert len(files) > 11
    for file in files:
        tree = ast.parse(file.read_text())
        used = {getattr(node, "attr", None) or getattr(node, "id", None) for node in ast.walk(tree)}
        used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not used & {"load_file", "from_pretrained", "state_dict"}, file.name
