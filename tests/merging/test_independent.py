"""RegMean of whole models against a computation of its own: hooks, plain sums, one dense solve in float64.

Nothing of the product is used for the expected values: not its Grams, not its names, not its solver.
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

from merging.calibrate import collect
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.plan import make_plan
from merging.recipe import recipe_from_dict
from merging.statistics import Statistics
from tests.tiny_models import save_tiny, sentences

torch.set_num_threads(1)
KINDS: list[tuple[str, Any]] = [("bert", ("no", "yes")), ("llama", None), ("gpt2", None), ("llama", ("no", "yes"))]
TEXTS, LENGTH, BATCH = 120, 16, 8
RIDGE = 1e-2  # the tiny vocabulary spans few directions: a small ridge would compare the rounding of the Grams


def independent_grams(folder: Path, texts: list[str]) -> dict[str, Tensor]:
    """Mean of x xᵀ over real tokens for every Linear and Conv1D, one text at a time, so that nothing is padded."""
    loader = transformers.AutoModelForCausalLM
    if "Classification" in transformers.AutoConfig.from_pretrained(folder).architectures[0]:
        loader = transformers.AutoModelForSequenceClassification
    model = loader.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def hook(name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + rows.T @ rows
            counts[name] = counts.get(name, 0) + len(rows)

        return add

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt"))
    return {f"{name}.weight": sums[name] / counts[name] for name in sums}


def expected(parts: list[dict[str, Tensor]], grams: list[dict[str, Tensor]], conv1d: bool) -> dict[str, Tensor]:
    """W = W̄ + [Σ w (W − W̄) G] (S + λI)⁻¹ for linear weights, the mean for all else, in float64."""
    merged = {}
    for name in parts[0]:
        mean = sum(part[name].double() for part in parts) / len(parts)
        if not all(name in gram for gram in grams):
            merged[name] = mean
            continue
        turn = conv1d and not name.startswith(("lm_head", "score"))
        weights = [part[name].double().T if turn else part[name].double() for part in parts]
        mean = mean.T if turn else mean
        total = sum(gram[name] for gram in grams) / len(grams)
        total = total + RIDGE * total.diagonal().mean() * torch.eye(len(total), dtype=torch.float64)
        pull = sum((w - mean) @ gram[name] for w, gram in zip(weights, grams, strict=True)) / len(parts)
        solved = mean + torch.linalg.solve(total, pull.T).T
        merged[name] = solved.T if turn else solved
    return merged


def merged_by_the_product(folders: list[Path], texts: list[list[str]], out: Path) -> dict[str, Tensor]:
    """Statistics, plan and engine as a user would have them."""
    files = []
    for folder, own in zip(folders, texts, strict=True):
        options: dict[str, Any] = {"examples": TEXTS, "max_length": LENGTH, "batch_size": BATCH, "seed": 0}
        _exhaust(collect("gram", folder, own, folder / "gram.safetensors", **options))
        files.append({"gram": Statistics(folder / "gram.safetensors")})
    models = [{"model": str(folder)} for folder in folders]
    recipe = recipe_from_dict({"merge_method": "regmean", "models": models, "parameters": {"ridge": RIDGE}})
    parents = [
        replace(open_parent(str(folder), folder), statistics={"gram": opened["gram"].fact})
        for folder, opened in zip(folders, files, strict=True)
    ]
    plan = make_plan(recipe, parents)
    assert not plan.fallbacks
    run_to_end(merge(plan, parents, out, statistics=files, threads=2))
    return load_file(out / "model.safetensors")


def _exhaust(work: Iterator[Any]) -> None:
    for _ in work:
        pass


@pytest.mark.parametrize(("kind", "labels"), KINDS, ids=["bert", "llama", "gpt2", "llama classifier"])
def test_a_merged_model_equals_an_independent_computation(tmp_path: Path, kind: str, labels: Any) -> None:
    """Every tensor of the merged model, linear or not, to 2e-5 of its size; RegMean differs from the average."""
    folders = [save_tiny(tmp_path / str(seed), kind, seed=seed, labels=labels) for seed in range(2)]
    texts = [sentences(TEXTS, seed=seed) for seed in range(2)]
    merged = merged_by_the_product(folders, texts, tmp_path / "out")
    parts = [load_file(folder / "model.safetensors") for folder in folders]
    grams = [independent_grams(folder, own) for folder, own in zip(folders, texts, strict=True)]
    if "lm_head.weight" not in parts[0]:
        for gram in grams:  # tied: an embedding
            gram.pop("lm_head.weight", None)
    wanted = expected(parts, grams, conv1d=kind == "gpt2")
    assert merged.keys() == wanted.keys()
    off = {name: float((merged[name].double() - values).abs().max()) for name, values in wanted.items()}
    print(f"\n{kind}: largest absolute difference {max(off.values()):.1e}")
    for name, values in wanted.items():
        assert off[name] < 2e-5 * max(1.0, float(values.abs().max())), f"{name}: {off[name]}"
    linear = [name for name in grams[0] if name in parts[0]]
    moved = [float((wanted[name] - (parts[0][name] + parts[1][name]).double() / 2).abs().max()) for name in linear]
    assert min(moved) > 1e-4
