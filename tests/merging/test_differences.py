"""How models differ: the figures of the report beside an independent computation from whole files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import products
from merging.architecture import ARCHITECTURES
from merging.checkpoint import open_parent
from merging.differences import lines
from merging.engine import Report, merge, run_to_end
from merging.glance import strangers
from merging.places import ORDER, block_of, places
from merging.plan import make_plan
from merging.products import CHUNK, EVERY, LEAST, MOST, places_of
from merging.recipe import recipe_from_dict
from merging.roles import Role
from tests.tiny_models import TINY, save_fine_tune, save_tiny

torch.set_num_threads(1)
LARGE = {"hidden_size": 96, "intermediate_size": 1024, "vocab_size": 3000}  # tensors of which a part is looked at


def run(out: Path, *folders: Path, base: Path | None = None, **options: Any) -> Report:
    """An average of the folders, or task arithmetic on a base."""
    models = [{"model": str(folder)} for folder in folders]
    wish: dict[str, Any] = {"merge_method": "task_arithmetic" if base else "average", "models": models}
    wish |= {"base_model": str(base)} if base else {}
    parents = [open_parent(str(folder), folder) for folder in folders]
    origin = open_parent(str(base), base) if base else None
    plan = make_plan(recipe_from_dict(wish), parents, origin).raise_if_impossible()
    return run_to_end(merge(plan, parents, out, base=origin, device="cpu", **options))


def body(folder: Path) -> dict[str, numpy.ndarray[Any, Any]]:
    """Every tensor but the head, float64, flat."""
    tensors = load_file(folder / "model.safetensors")
    return {k: v.double().numpy().ravel() for k, v in tensors.items() if not k.startswith("classifier")}


def flat(folder: Path) -> numpy.ndarray[Any, Any]:
    """The body as one vector."""
    return numpy.concatenate(list(body(folder).values()))


def test_distances_cosines_and_conflicts_are_those_of_the_whole_files(tmp_path: Path) -> None:
    """With a base, of small models: every value is looked at, in the totals and in a cell."""
    base = save_tiny(tmp_path / "base", seed=5)
    models = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(3)]
    found = run(tmp_path / "out", *models, base=base).differences
    origin = flat(base)
    learnt = [flat(model) - origin for model in models]
    assert (found["reference"], found["base"], found["sampled"]) == ("base", "", 1.0)
    for one, vector in zip(found["models"], learnt, strict=True):
        assert one["distance"] == pytest.approx(numpy.linalg.norm(vector) / numpy.linalg.norm(origin), rel=1e-3)
    for pair in found["pairs"]:
        i, j = pair["models"]
        sizes = [float(numpy.sum((learnt[k] + origin) ** 2)) for k in (i, j)]
        apart = numpy.linalg.norm(learnt[i] - learnt[j]) / numpy.sqrt(sum(sizes) / 2)
        product = learnt[i] * learnt[j]
        assert pair["distance"] == pytest.approx(apart, rel=1e-3)
        norms = numpy.linalg.norm(learnt[i]) * numpy.linalg.norm(learnt[j])
        assert pair["cosine"] == pytest.approx(product.sum() / norms, rel=1e-3)
        assert pair["sign_conflict"] == pytest.approx(-product[product < 0].sum() / abs(product).sum(), rel=1e-3)
    row, column = found["layers"].index("1"), found["blocks"].index("attention.query")
    names = [f"bert.encoder.layer.1.attention.self.query.{kind}" for kind in ("weight", "bias")]
    cell = [numpy.concatenate([body(folder)[name] for name in names]) for folder in (base, *models)]
    expected = numpy.linalg.norm(cell[2] - cell[0]) / numpy.linalg.norm(cell[0])
    assert found["models"][1]["cells"][row][column] == pytest.approx(expected, rel=1e-3)
    signs = [(cell[i + 1] - cell[0]) * (cell[j + 1] - cell[0]) for i, j in ((0, 1), (0, 2), (1, 2))]
    conflict = sum(-p[p < 0].sum() for p in signs) / sum(abs(p).sum() for p in signs)
    assert found["conflicts"][row][column] == pytest.approx(conflict, rel=1e-3)


def test_without_a_base_distances_are_from_the_mean_and_directions_unsaid(tmp_path: Path) -> None:
    """Two models are opposite as seen from their mean, whatever they learnt: no cosine, no conflict."""
    models = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    found = run(tmp_path / "out", *models).differences
    mean = (flat(models[0]) + flat(models[1])) / 2
    for one, folder in zip(found["models"], models, strict=True):
        expected = numpy.linalg.norm(flat(folder) - mean) / numpy.linalg.norm(mean)
        assert one["distance"] == pytest.approx(expected, rel=1e-3)
    (pair,) = found["pairs"]
    sizes = [numpy.sum(flat(model) ** 2) for model in models]
    apart = numpy.linalg.norm(flat(models[0]) - flat(models[1])) / numpy.sqrt(sum(sizes) / 2)
    assert pair == {"models": [0, 1], "distance": pytest.approx(apart, rel=1e-3), "cosine": None, "sign_conflict": None}
    assert (found["reference"], found["conflicts"]) == ("mean", [])
    assert found["notes"][-1] == (
        "No base was read: distances are from the mean of the models, and directions are not compared."
    )


def test_threads_and_memory_change_no_figure(tmp_path: Path) -> None:
    """Which values are looked at, and in what order they are added, follows from names and shapes alone."""
    base = save_tiny(tmp_path / "base", **LARGE)
    models = [save_fine_tune(tmp_path / str(seed), base, 0.1, seed) for seed in range(3)]
    alone = run(tmp_path / "alone", *models, base=base, threads=1).differences
    tight = run(tmp_path / "tight", *models, base=base, threads=4, memory=64 << 20).differences
    assert alone == tight
    assert alone["sampled"] < 0.9
    assert alone["notes"] == [f"Measured on {alone['sampled']:.0%} of the values, spread evenly over every tensor."]


def test_a_part_of_the_values_says_nearly_what_all_of_them_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks of a large tensor count for all of it."""
    base = save_tiny(tmp_path / "base", **LARGE)
    models = [save_fine_tune(tmp_path / str(seed), base, 0.1 * (seed + 1), seed) for seed in range(2)]
    part = run(tmp_path / "part", *models, base=base).differences
    monkeypatch.setattr(products, "LEAST", 1 << 20)
    places_of.cache_clear()
    whole = run(tmp_path / "whole", *models, base=base).differences
    places_of.cache_clear()
    assert part["sampled"] < whole["sampled"] == 1.0
    for one, other in zip(part["models"], whole["models"], strict=True):
        assert one["distance"] == pytest.approx(other["distance"], rel=0.03)
    assert part["pairs"][0]["distance"] == pytest.approx(whole["pairs"][0]["distance"], rel=0.03)
    assert part["pairs"][0]["sign_conflict"] == pytest.approx(0.5, abs=0.02)


def test_the_chunks_are_spread_evenly_and_stay_the_same() -> None:
    """One from each stretch of a tensor, drawn by its name; small tensors are looked at as a whole."""
    assert places_of("a", 5) == (0,)
    assert places_of("a", 0) == ()
    assert places_of("a", LEAST * CHUNK) == tuple(range(0, LEAST * CHUNK, CHUNK))
    size = 200 * EVERY * CHUNK + 7
    found = places_of("a", size)
    assert len(found) == 200
    assert [place // (EVERY * CHUNK) for place in found] == pytest.approx(list(range(200)), abs=1)
    assert len({place // CHUNK % EVERY for place in found}) > EVERY / 2  # no column of a matrix is preferred
    assert len(places_of("a", 10 * size)) == MOST
    assert found != places_of("b", size)
    assert places_of("a", 100 * CHUNK) == tuple(CHUNK * c for c in (9, 20, 33, 48, 61, 72, 80, 87))


def test_two_parents_that_are_one_and_a_parent_that_is_the_base(tmp_path: Path) -> None:
    """Equal values in files that differ: distance 0, and a sentence that says so."""
    base = save_tiny(tmp_path / "base", seed=5)
    one = save_fine_tune(tmp_path / "one", base, 0.1, 1)
    twin = save_fine_tune(tmp_path / "twin", base, 0.1, 1)
    tensors = load_file(twin / "model.safetensors")
    tensors["classifier.weight"] += 1
    save_file(tensors, twin / "model.safetensors", metadata={"format": "pt"})
    found = run(tmp_path / "out", one, twin).differences
    assert found["pairs"][0]["distance"] == 0
    assert found["notes"][0] == "one and twin are the same model, their heads aside."
    same = save_fine_tune(tmp_path / "same", base, 0.0, 1)
    tensors = load_file(same / "model.safetensors")
    tensors["classifier.weight"] += 1
    save_file(tensors, same / "model.safetensors", metadata={"format": "pt"})
    found = run(tmp_path / "based", one, same, base=base).differences
    assert [model["distance"] for model in found["models"]] == [pytest.approx(0.0507, rel=0.01), 0]
    assert found["pairs"][0]["cosine"] is None
    assert found["notes"][0] == "same is the base: it has learnt nothing since."


def test_models_that_have_nothing_in_common_are_named(tmp_path: Path) -> None:
    """The average of unrelated models fails: the report says which they are, with a base and without."""
    base = save_tiny(tmp_path / "base", seed=5)
    one, other = save_fine_tune(tmp_path / "one", base, 0.1, 1), save_fine_tune(tmp_path / "other", base, 30.0, 2)
    (first, *_) = run(tmp_path / "out", one, other).differences["notes"]
    assert first.startswith("one and other are nearly unrelated (1.4")
    assert first.endswith(" apart): the average of such models fails.")
    (first, *_) = run(tmp_path / "based", one, other, base=base).differences["notes"]
    assert first.startswith("other is nearly unrelated to its base (")
    related = run(tmp_path / "fine", one, save_fine_tune(tmp_path / "third", base, 0.1, 3)).differences["notes"]
    assert related[0].startswith("No base was read")


def test_strangers_are_named_before_the_merge_where_the_values_are_here(tmp_path: Path) -> None:
    """Some values of two folders tell; relatives, and models of which only headers are here, are left in peace."""
    base = save_tiny(tmp_path / "base", seed=5)
    one, other = save_fine_tune(tmp_path / "one", base, 0.1, 1), save_fine_tune(tmp_path / "other", base, 30.0, 2)
    relatives = [open_parent(str(folder), folder) for folder in (base, one)]
    mixed = [open_parent(folder.name, folder) for folder in (one, other)]
    assert strangers(relatives, None) == []
    assert strangers(mixed[:1], relatives[0]) == []
    (problem,) = strangers(mixed, None)
    assert str(problem).startswith("other is nearly unrelated to one: 1.4")
    assert str(problem).endswith(
        " apart as a share of their norm, fine-tunes of one model are less than 0.5. "
        "Merge fine-tunes of one model: the average of others fails."
    )
    assert (problem.where, problem.severity) == ("models.1.model", "warning")
    (problem,) = strangers(mixed, replace(relatives[0], model="base"))
    assert problem.what == "other is nearly unrelated to the base base"
    assert strangers([replace(parent, stamp=()) for parent in mixed], None) == []


def test_the_totals_are_said_in_a_few_lines(tmp_path: Path) -> None:
    """One for all distances from the base, one for each pair, then what makes the merge doubtful."""
    base = save_tiny(tmp_path / "base", seed=5)
    models = [save_fine_tune(tmp_path / name, base, 0.1, seed) for seed, name in enumerate(("one", "two"))]
    found = run(tmp_path / "out", *models, base=base).differences
    shown = [f"{100 * one['distance']:.1f}%" for one in found["models"]]
    (pair,) = found["pairs"]
    assert lines(found) == [
        f"distance from the base: one {shown[0]}, two {shown[1]}",
        f"one and two: {pair['distance']:.1%} apart, cosine {pair['cosine']:.2f}, "
        f"opposite signs {pair['sign_conflict']:.1%}",
    ]
    assert lines({}) == []


def test_an_interrupted_merge_reports_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen of finished shards is in the journal; a shard is not looked at twice."""
    monkeypatch.setattr("merging.steps.SHARD_BYTES", 20_000)
    models = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    undisturbed = run(tmp_path / "whole", *models).differences
    parents = [open_parent(str(folder), folder) for folder in models]
    plan = make_plan(
        recipe_from_dict({"merge_method": "average", "models": [{"model": str(m)} for m in models]}), parents
    )
    work = merge(plan, parents, tmp_path / "out")
    while len(list((tmp_path / "out").glob("*.safetensors"))) < 2:
        next(work)
    work.close()
    looked: list[str] = []
    look = products.Observer.look
    monkeypatch.setattr(products.Observer, "look", lambda self, step: (looked.append(step.name), look(self, step))[1])
    assert run(tmp_path / "out", *models).differences == undisturbed
    finished = {step.name for step in plan.shards[0].steps}
    assert looked
    assert not finished & set(looked)


def test_heads_that_stay_apart_are_not_compared(tmp_path: Path) -> None:
    """Each is its task's own; the layers are compared all the same, and the data is plain JSON."""
    models = [save_tiny(tmp_path / f"m{n}", seed=n, labels=[f"l{i}" for i in range(n + 2)]) for n in range(2)]
    found = run(tmp_path / "out", *models).differences
    assert json.loads(json.dumps(found)) == found
    assert (found["layers"], "head" in found["blocks"]) == (["embeddings", "0", "1", "final"], False)


@pytest.mark.parametrize("kind", [kind for kind in TINY if kind != "clip"])
def test_every_architecture_has_its_blocks_named(tmp_path: Path, kind: str) -> None:
    """Layers count from 0 in each stack, and no matrix of a layer is called other."""
    folder = save_tiny(tmp_path / "one", kind, labels=None)
    architecture = ARCHITECTURES[open_parent("one", folder).model_type]
    shapes = {name: spec.shape for name, spec in open_parent("one", folder).source.specs.items()}
    roles = {name: architecture.role(name, shape) for name, shape in shapes.items()}
    found = places(roles)
    if kind.startswith(("t5", "bart")):
        assert {"encoder 0", "encoder 1", "decoder 0", "decoder 1"} <= set(found.layers)
        assert {"cross-attention.query", "attention.query", "mlp.down"} <= set(found.blocks)
    else:
        assert [layer for layer in found.layers if layer.isdigit()] == ["0", "1"]
    strange = [
        n for n, (layer, block) in found.of.items() if block == "other" and layer[-1].isdigit() and len(shapes[n]) > 1
    ]
    assert strange == []
    assert set(found.blocks) <= set(ORDER)


def test_names_of_strangers_become_known_words() -> None:
    """Whatever a tensor is called, its block is one of a fixed set, and a number too long is no layer."""
    assert block_of("model.layers.3.<script>.weight", Role("linear")) == "other"
    assert block_of("x.layers.3.self_attn.q_proj.bias", Role("bias")) == "attention.query"
    assert block_of("x.layers.3.mlp.experts.7.w2.weight", Role("linear")) == "mlp.down"
    strange = places({f"model.layers.{'9' * 5000}.mlp.up_proj.weight": Role("linear")})
    assert (strange.layers, strange.blocks) == (("final",), ("other",))
