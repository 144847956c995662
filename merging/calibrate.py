"""Gram and Fisher statistics from a model in a local folder and a list of texts.

    for progress in collect("gram", Path("model"), texts, Path("gram.safetensors"), examples=600): ...

Grams come from modules (`nn.Linear`, transformers' `Conv1D`) and are keyed by the weight's name on disk, which is
proven by value (`merging.naming`). Text only; the model has to fit in memory (twice for Fisher).
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from merging.architecture import architecture_of
from merging.checkpoint import Checkpoint, sha256_of
from merging.errors import InputError
from merging.fishers import FisherCollector, output_of
from merging.grams import GramCollector, SharingChanged, shared_inputs
from merging.loading import Loaded, batches, encode, load
from merging.naming import Names, prove_names
from merging.progress import Progress
from merging.statistics import Provenance, write_fisher, write_gram

Kind = Literal["gram", "fisher"]


def collect(
    kind: Kind,
    folder: Path,
    texts: Sequence[str],
    out: Path,
    *,
    examples: int = 600,
    max_length: int = 128,
    batch_size: int = 16,
    seed: int = 0,
    device: str = "auto",
    model: str = "",
    revision: str = "",
    dataset: str = "",
    dataset_revision: str = "",
) -> Generator[Progress, None, Path]:
    """Run the model on `examples` of the texts (drawn by `seed`) and write the statistics file `out`.

    Reports examples done. Raises InputError when there is no text, when the model does not load or has no layer that
    statistics can be collected for, or when it gives NaN.
    """
    chosen = choose_texts(texts, examples, seed)
    attention = "eager" if kind == "fisher" else "sdpa"
    loaded = load(folder, max_length=max_length, device=device, attention=attention, name=model)
    checkpoint = Checkpoint(folder)
    try:
        parameters = dict(loaded.model.named_parameters())
        names = prove_names(parameters, checkpoint, getattr(loaded.model, "base_model_prefix", ""))
    finally:
        checkpoint.close()
    provenance = Provenance(
        weights={name: sha256_of(folder / name) for name in checkpoint.files},
        model=model,
        revision=revision,
        dataset=dataset,
        dataset_revision=dataset_revision,
        examples=len(chosen),
        max_length=loaded.max_length,
        seed=seed,
        skipped=names.skipped,
    )
    with _exact_products():
        if kind == "gram":
            return (yield from _collect_gram(loaded, names, chosen, batch_size, provenance, out))
        return (yield from _collect_fisher(loaded, names, chosen, provenance, out))


def choose_texts(texts: Sequence[str], examples: int, seed: int) -> list[str]:
    """`examples` different rows of `texts`, drawn by `seed`; all where there are fewer. Blank ones do not count."""
    real = [text for text in texts if text.strip()]
    if not real or examples < 1:
        raise InputError("There is no text to calibrate with", "every row is empty", "Give at least one sentence")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed)).tolist()
    return [real[index] for index in order[:examples]]


def linear_layers(loaded: Loaded, names: Names) -> dict[str, nn.Module]:
    """Disk name of the weight -> module, for every layer whose input Gram defines its weight.

    Left out is what the architecture does not call linear. A head that is tied to the embeddings is the embeddings'
    parameter and goes by their name, so it is left out, too.
    """
    architecture = architecture_of(loaded.config)
    layers: dict[str, nn.Module] = {}
    for name, module in loaded.model.named_modules():
        disk = names.disk.get(f"{name}.weight")
        if not isinstance(module, nn.Linear | Conv1D) or disk is None:
            continue
        role = architecture.role(disk, tuple(module.weight.shape)) if architecture else None
        if role is not None and role.kind == ("conv1d" if isinstance(module, Conv1D) else "linear"):
            layers[disk] = module
    return layers


def _collect_gram(
    loaded: Loaded, names: Names, texts: Sequence[str], size: int, provenance: Provenance, out: Path
) -> Generator[Progress, None, Path]:
    layers = linear_layers(loaded, names)
    if not layers:
        raise InputError(
            "The model has no linear layer to collect from", "none could be proven to be a tensor on disk", "See issues"
        )
    alone: set[str] = set()
    while True:
        try:
            collector = yield from _run_gram(loaded, layers, texts, size, alone)
            break
        except SharingChanged as changed:
            alone.add(changed.key)  # one more pass, in which this layer has a Gram of its own
    tokens, groups = collector.tokens, collector.groups
    grams = collector.means()
    for key, gram in grams.items():
        if not bool(gram.isfinite().all()):
            raise InputError(f"The input of {key} is not finite", "the model gives NaN or infinite values", "Mend it")
    aliases = {key: leader for key, leader in groups.items() if leader in grams}
    return write_gram(out, grams, {key: tokens[key] for key in grams}, aliases, provenance)


def _run_gram(
    loaded: Loaded, layers: dict[str, nn.Module], texts: Sequence[str], size: int, alone: set[str]
) -> Generator[Progress, None, GramCollector]:
    done, model = 0, loaded.model
    if set(layers.values()) <= set(model.base_model.modules()):
        model = model.base_model  # scores of a whole vocabulary for every token would cost more than all else
    with torch.inference_mode():
        probe = {
            name: tensor.to(loaded.device) for name, tensor in encode(loaded, texts[:1], return_tensors="pt").items()
        }
        collector = GramCollector(layers, shared_inputs(layers, lambda: model(**probe), alone))
        for chosen, inputs in batches(loaded, texts, size):
            with collector.watch(inputs["attention_mask"]):
                model(**inputs)
            done += len(chosen)
            yield Progress("calibrate", done, len(texts), "examples", "Gram matrices")
    return collector


def _collect_fisher(
    loaded: Loaded, names: Names, texts: Sequence[str], provenance: Provenance, out: Path
) -> Generator[Progress, None, Path]:
    output = output_of(loaded.model)
    collector = FisherCollector(loaded.model, list(names.disk), output)
    for index, text in enumerate(texts):
        inputs = {
            name: tensor.to(loaded.device) for name, tensor in encode(loaded, [text], return_tensors="pt").items()
        }
        collector.add(inputs, torch.Generator().manual_seed(provenance.seed * 1_000_003 + index))
        if index % 10 == 9 or index + 1 == len(texts):
            yield Progress("calibrate", index + 1, len(texts), "examples", "Fisher information")
    values = {names.disk[name]: value for name, value in collector.means().items()}
    for name, value in values.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"The gradient of {name} is not finite", "the model gives NaN", "Mend it")
    return write_fisher(out, values, provenance, variant="sampled" if output == "tokens" else "exact")


@contextmanager
def _exact_products() -> Any:
    """Full float32 products on a GPU, whatever the process has set."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
