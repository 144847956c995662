"""Every listed model type: Gram matrices and RegMean against hooks and plain linear algebra written here.

Nothing of the product is used for the expected values but the Gram that the solve is given: module names are paired
with disk tensors by their values, examples run one at a time, so that no padding can be counted.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from merging.architecture import ARCHITECTURES
from merging.calibrate import collect
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics, check_values
from tests.tiny_models import TINY, pictures, save_tiny, sentences

torch.set_num_threads(1)
COUNT, LENGTH, BATCH = 40, 48, 8
LABELS = ("no", "yes", "so")
ALPHA, RIDGE, WEIGHTS = 0.9, 1e-3, (0.75, 0.25)
QUICK = {"bert", "t5", "vit"}
KINDS = [(kind, None) for kind in TINY if kind != "vit"] + [
    (kind, LABELS) for kind in ("bert", "roberta", "deberta-v2", "electra", "bart", "gpt2", "llama", "vit")
]


def examples(kind: str, labels: Any, seed: int) -> list[Any]:
    """What a model of that kind is calibrated with."""
    texts = sentences(COUNT, seed=seed)
    if kind == "vit":
        return pictures(COUNT, seed)
    if kind == "clip":
        return list(zip(pictures(COUNT, seed), texts, strict=True))
    if kind.startswith(("t5", "bart")) and not labels:
        return list(zip(texts, sentences(COUNT, seed=seed + 50), strict=True))
    return texts


def inputs_of(folder: Path, kind: str, example: Any) -> dict[str, Any]:
    """One example, unpadded, as a user of transformers would write it."""
    if kind == "vit":
        return dict(
            transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(example, return_tensors="pt")
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if kind == "clip":
        image, text = example
        pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(image, return_tensors="pt")
        return dict(tokenizer(text, return_tensors="pt")) | dict(pixels)
    if isinstance(example, tuple):
        inputs = tokenizer(example[0], return_tensors="pt")
        target = tokenizer(example[1], return_tensors="pt")["input_ids"]
        shifted = torch.cat([torch.tensor([[0]]), target[:, :-1]], dim=1)  # decoder_start_token_id is 0
        return {"input_ids": inputs["input_ids"], "decoder_input_ids": shifted}
    inputs = tokenizer(example, return_tensors="pt")
    return {name: value for name, value in inputs.items() if name != "token_type_ids"}


def independent_grams(folder: Path, kind: str, given: list[Any]) -> dict[str, Tensor]:
    """Disk name -> mean of x xᵀ, float64, over every row that a linear layer, patch projection or expert sees."""
    model = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0]).from_pretrained(
        folder
    )
    model.eval()
    disk = load_file(folder / "model.safetensors")
    rows: dict[str, list[Tensor]] = {}

    def name_of(weight: Tensor) -> list[str]:
        return [name for name, value in disk.items() if value.shape == weight.shape and torch.equal(value, weight)]

    def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = [*args, *kwargs.values()][0]
        for name in name_of(module.weight.detach()):
            if isinstance(module, nn.Conv2d):
                size = module.kernel_size[0]
                x = x.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3)
            rows.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).double())

    def see_experts(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states, chosen = args[0], args[1]
        for number in range(len(module.gate_up_proj)):
            gate, up = (name_of(part.detach())[0] for part in module.gate_up_proj[number].chunk(2))
            own = states[(chosen == number).any(-1)]
            rows.setdefault(gate, []).append(own.double())
            rows.setdefault(up, []).append(own.double())
            inner = module.act_fn(own @ disk[gate].T) * (own @ disk[up].T)
            rows.setdefault(name_of(module.down_proj[number].detach())[0], []).append(inner.double())

    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D | nn.Conv2d):
            module.register_forward_pre_hook(see, with_kwargs=True)
        elif isinstance(getattr(module, "gate_up_proj", None), nn.Parameter):
            module.register_forward_pre_hook(see_experts, with_kwargs=True)
    with torch.no_grad():
        for example in given:
            model(**inputs_of(folder, kind, example))
    joined = {name: torch.cat(parts) for name, parts in rows.items()}
    return {name: values.T @ values / len(values) for name, values in joined.items() if len(values)}


def solved(weights: list[Tensor], grams: list[Tensor]) -> Tensor:
    """The weighted mean plus the regression's change, (out, in) float64, by a dense solve."""
    mean = sum(share * weight for share, weight in zip(WEIGHTS, weights, strict=True))
    shrunk = [ALPHA * gram + (1 - ALPHA) * gram.diagonal().diag() for gram in grams]
    total = sum(share * gram for share, gram in zip(WEIGHTS, shrunk, strict=True))
    total = total + RIDGE * total.diagonal().mean() * torch.eye(len(total), dtype=torch.float64)
    pull = sum(share * (weight - mean) @ gram for share, weight, gram in zip(WEIGHTS, weights, shrunk, strict=True))
    return mean + torch.linalg.solve(total, pull.T).T


def as_matrix(name: str, value: Tensor, conv1d: bool) -> Tensor:
    """(out, in) float64 of a stored weight."""
    wide = value.double()
    turned = conv1d and not name.startswith(("lm_head", "score"))
    return wide.T if turned else wide.flatten(1)


def collected(folder: Path, given: list[Any]) -> Statistics:
    """The product's Gram file."""
    out = folder / "gram.safetensors"
    _exhaust(collect("gram", folder, given, out, examples=COUNT, max_length=LENGTH, batch_size=BATCH))
    check_values(out)
    return Statistics(out)


def _exhaust(work: Iterator[Any]) -> None:
    for _ in work:
        pass


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        pytest.param(
            kind,
            labels,
            id=f"{kind} {'classifier' if labels else 'itself'}",
            marks=[] if kind in QUICK else [pytest.mark.slow],
        )
        for kind, labels in KINDS
    ],
)
def test_a_merge_of_that_type_equals_an_independent_computation(tmp_path: Path, kind: str, labels: Any) -> None:
    """Grams to 1e-4, the solve given the same Grams to 1e-6, nothing fallen back, and transformers loads the result."""
    folders = [save_tiny(tmp_path / str(seed), kind, seed=seed, labels=labels) for seed in range(2)]
    given = [examples(kind, labels, seed) for seed in range(2)]
    files = [collected(folder, own) for folder, own in zip(folders, given, strict=True)]
    expected = [independent_grams(folder, kind, own) for folder, own in zip(folders, given, strict=True)]
    worst = 0.0
    for file, grams in zip(files, expected, strict=True):
        for name in file.fact.keys:
            error = float((file.gram(name).double() - grams[name]).norm() / grams[name].norm())
            worst = max(worst, error)
            assert error < 1e-4, name
    parents = [
        replace(open_parent(str(folder), folder), statistics={"gram": file.fact})
        for folder, file in zip(folders, files, strict=True)
    ]
    models = [{"model": str(f), "parameters": {"weight": w}} for f, w in zip(folders, WEIGHTS, strict=True)]
    wish = {"merge_method": "regmean", "models": models, "parameters": {"alpha": ALPHA, "ridge": RIDGE}}
    plan = make_plan(recipe_from_dict(wish), parents)
    assert not plan.errors, plan.errors
    run_to_end(merge(plan, parents, tmp_path / "out", statistics=[{"gram": file} for file in files], threads=1))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    parts = [load_file(folder / "model.safetensors") for folder in folders]
    off = 0.0
    linear = {name for name in merged if all(name in file.fact.keys for file in files)}
    for name, value in merged.items():
        if name in linear:
            matrices = [as_matrix(name, part[name], kind == "gpt2") for part in parts]
            wanted = solved(matrices, [file.gram(name).double() for file in files])
            found = as_matrix(name, value, kind == "gpt2")
        else:
            wanted = sum(share * part[name].double() for share, part in zip(WEIGHTS, parts, strict=True))
            found = value.double()
        error = float((found - wanted).abs().max()) if value.is_floating_point() else 0.0
        off = max(off, error / max(1.0, float(wanted.abs().max())))
        assert error <= 1e-6 * max(1.0, float(wanted.abs().max())), name
    weights = sum(merged[name].numel() for name in merged if plan.fallbacks.get(name))
    share = weights / sum(value.numel() for value in merged.values())
    print(f"\n{kind}: Gram {worst:.1e}, solve {off:.1e}, fallen back {share:.1%} of {len(merged)} tensors")
    tied = {name for name in expected[0] if name not in files[0].fact.keys}
    assert all("embed" in name or "shared" in name or "wte" in name or "gate" in name for name in tied), tied
    assert not plan.fallbacks
    kind_class = getattr(transformers, parents[0].architecture)
    _, info = kind_class.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_every_listed_type_is_compared() -> None:
    """Types that share an entry with a compared one count: they have the same tensors."""
    compared = {ARCHITECTURES[kind.partition(" ")[0]] for kind in TINY}
    assert set(ARCHITECTURES.values()) == compared
