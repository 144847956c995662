"""Gram and Fisher statistics from a model in a local folder and a list of examples (see `merging.loading`).

    for progress in collect("gram", Path("model"), texts, Path("gram.safetensors"), examples=600): ...

Grams come from modules (`nn.Linear`, transformers' `Conv1D`, patch projections, experts) and are keyed by the weight's
name on disk, which is proven by value (`merging.naming`). For Fisher the model has to fit in memory, twice.
"""

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from merging.architecture import GENERIC, architecture_of
from merging.checkpoint import Checkpoint, sha256_of
from merging.errors import InputError
from merging.experts import ExpertLayer, find_experts, packed_experts
from merging.fishers import FisherCollector
from merging.grams import ROWS, GramCollector, Masks, SharingChanged, shared_inputs
from merging.loading import Example, Loaded, batches, encode, load
from merging.naming import Names, prove_names
from merging.objectives import gold_of, head_of
from merging.offload import Parameters, Spilled, gram_cost, passes
from merging.progress import Progress
from merging.roles import Kind as RoleKind
from merging.roles import inputs_of
from merging.sketch import sketch
from merging.statistics import Provenance, pack_triangle, traces_of, write_fisher, write_triangles
from merging.variants import variant_of

Kind = Literal["gram", "fisher"]


def collect(
    kind: Kind,
    folder: Path,
    texts: Sequence[Example],
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
    variant: str = "auto",
    labels: Sequence[Any] | None = None,
    numbers: str = "float32",
    memory: int = 0,
) -> Generator[Progress, None, Path]:
    """Run the model on `examples` of the texts (drawn by `seed`) and write the statistics file `out`.

    `variant` is that of a Fisher, exact, sampled, empirical or by the kind of model ("auto", see
    `merging.variants`); `labels`, one for each of the texts, are read for the empirical one alone. Reports examples
    done. Raises InputError when there is no text, when the model does not load or has no layer that statistics can be
    collected for, when the empirical Fisher lacks its labels, or when the model gives NaN. `numbers` is how Gram
    matrices are stored: float32, or bfloat16 in half the space (docs/statistics.md). `memory` (bytes) bounds the
    model and its Gram matrices, 0 is what is free: see `merging.offload`.
    """
    rows = _choose_rows(texts, examples, seed)
    chosen = [texts[row] for row in rows]
    attention = "eager" if kind == "fisher" else None
    loaded = load(folder, max_length=max_length, device=device, attention=attention, name=model, memory=memory)
    if loaded.offloaded and kind == "fisher":
        raise InputError(
            f"{model or folder.name} does not fit into memory", "a Fisher needs its gradients there", "Collect a Gram"
        )
    checkpoint = Checkpoint(folder)
    try:
        names = prove_names(Parameters(loaded.model), checkpoint, getattr(loaded.model, "base_model_prefix", ""))
        experts = find_experts(loaded.model, checkpoint)
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
            return (yield from _collect_gram(loaded, names, experts, chosen, batch_size, provenance, out, numbers))
        labelled = [(texts[row], None if labels is None else labels[row]) for row in rows]
        disk = tuple(checkpoint.specs)
        return (yield from _collect_fisher(loaded, names, experts, disk, labelled, variant, provenance, out))


def choose_texts(texts: Sequence[Example], examples: int, seed: int) -> list[Example]:
    """`examples` different rows of `texts`, drawn by `seed`; all where there are fewer. Blank ones do not count."""
    return [texts[row] for row in _choose_rows(texts, examples, seed)]


def _choose_rows(texts: Sequence[Example], examples: int, seed: int) -> list[int]:
    real = [row for row, text in enumerate(texts) if not isinstance(text, str) or text.strip()]
    if not real or examples < 1:
        raise InputError("There is no text to calibrate with", "every row is empty", "Give at least one sentence")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed)).tolist()
    return [real[index] for index in order[:examples]]


def linear_layers(loaded: Loaded, names: Names) -> dict[str, nn.Module]:
    """Disk name of the weight -> module, for every layer whose input Gram defines its weight.

    Left out is what the architecture does not call linear. A head that is tied to the embeddings is the embeddings'
    parameter and goes by their name, so it is left out, too.
    """
    architecture = architecture_of(loaded.config) or GENERIC
    layers: dict[str, nn.Module] = {}
    for name, module in loaded.model.named_modules():
        disk = names.disk.get(f"{name}.weight")
        if disk is None or not isinstance(module, nn.Linear | Conv1D | nn.Conv2d):
            continue
        if architecture.role(disk, tuple(module.weight.shape)).kind == _kind(module):
            layers[disk] = module
    return layers


def _kind(module: nn.Module) -> RoleKind:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, Conv1D):
        return "conv1d"
    assert isinstance(module, nn.Conv2d)
    plain = module.kernel_size == module.stride and module.groups == 1 and module.dilation == (1, 1)
    return "patch" if plain and module.padding in ((0, 0), "valid") else "other"


def sides_of(loaded: Loaded, layers: Iterable[str]) -> dict[str, str]:
    """Which mask says what is real in each layer's input, by disk name; see `merging.grams.Masks`."""
    architecture = architecture_of(loaded.config) or GENERIC

    def side(name: str) -> str:
        if re.search(architecture.vision, name):
            return "image"
        if architecture.sequence_pairs:
            return "encoder" if re.search(architecture.encoder, name) else "decoder"
        return "text"

    return {name: side(name) for name in layers}


def masks_of(inputs: Mapping[str, Tensor]) -> Masks:
    """The masks of one batch. A decoder without a mask of its own is fed with the encoder's text."""
    text = inputs.get("attention_mask")
    return Masks(text=text, encoder=text, decoder=inputs.get("decoder_attention_mask", text))


def _collect_gram(
    loaded: Loaded,
    names: Names,
    experts: Sequence[ExpertLayer],
    examples: Sequence[Example],
    size: int,
    provenance: Provenance,
    out: Path,
    numbers: str,
) -> Generator[Progress, None, Path]:
    layers = linear_layers(loaded, names)
    if not layers:
        raise InputError(
            "The model has no linear layer to collect from", "none could be proven to be a tensor on disk", "See issues"
        )
    alone: set[str] = set()
    while True:
        try:
            found = yield from _run_gram(loaded, layers, experts, examples, size, alone, out)
            break
        except SharingChanged as changed:
            alone.add(changed.key)  # once more, with a Gram of its own for this layer
    aliases = {key: leader for key, leader in found.groups.items() if leader in found.sizes}
    parameters = Parameters(loaded.model)
    places = {disk: name for name, disk in names.disk.items()}
    provenance = replace(provenance, sketches={disk: sketch(parameters[places[disk]]) for disk in layers})
    return write_triangles(out, found.triangles, found.sizes, found.traces, found.tokens, aliases, provenance, numbers)


@dataclass
class _Found:
    """The Gram matrices of all passes so far, by key."""

    triangles: dict[str, Tensor] | Spilled
    sizes: dict[str, int] = field(default_factory=dict)
    traces: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    def take(self, collector: GramCollector) -> None:
        """Add what one pass collected."""
        self.groups |= collector.groups
        for key, gram in collector.means():
            if not bool(gram.isfinite().all()):
                raise InputError(
                    f"The input of {key} is not finite", "the model gives NaN or infinite values", "Mend it"
                )
            self.triangles[key] = pack_triangle(gram)
            self.traces |= traces_of({key: gram})
            self.sizes[key], self.tokens[key] = len(gram), collector.tokens[key]


def _run_gram(
    loaded: Loaded,
    layers: dict[str, nn.Module],
    experts: Sequence[ExpertLayer],
    examples: Sequence[Example],
    size: int,
    alone: set[str],
    out: Path,
) -> Generator[Progress, None, _Found]:
    """As many passes over the examples as the memory beside the model asks for: one, unless the model is large."""
    model = loaded.model
    if set(layers.values()) <= set(model.base_model.modules()):
        model = model.base_model  # scores of a whole vocabulary for every token would cost more than all else
    sides, done = sides_of(loaded, layers), 0
    with torch.inference_mode():
        probe = encode(loaded, examples[:1])
        groups = shared_inputs(layers, lambda: model(**probe), alone)
        costs = {key: gram_cost([_inputs(layers[key])], ROWS) for key in dict.fromkeys(groups.values())}
        costs |= {f"experts {number}": gram_cost(layer.inputs, ROWS) for number, layer in enumerate(experts)}
        plan = passes(costs, loaded.room)
        found = _Found({} if len(plan) == 1 else Spilled(out))
        for keys in plan:
            own = {key: layer for key, layer in layers.items() if groups[key] in keys}
            packed = [layer for number, layer in enumerate(experts) if f"experts {number}" in keys]
            collector = GramCollector(own, {key: groups[key] for key in own}, sides, packed)
            for chosen, inputs in batches(loaded, examples, size):
                with collector.watch(masks_of(inputs)):
                    model(**inputs)
                done += len(chosen)
                yield Progress("calibrate", done, len(plan) * len(examples), "examples", "Gram matrices")
            found.take(collector)
    return found


def _inputs(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return inputs_of(_kind(module), tuple(weight.shape))


def _collect_fisher(
    loaded: Loaded,
    names: Names,
    experts: Sequence[ExpertLayer],
    disk: Sequence[str],
    examples: Sequence[tuple[Example, Any]],
    wish: str,
    provenance: Provenance,
    out: Path,
) -> Generator[Progress, None, Path]:
    head = head_of(loaded)
    variant = variant_of(head.output, head.classes, wish)
    gold = [gold_of(loaded, head, *example) if variant == "empirical" else None for example in examples]
    packed = packed_experts(loaded.model, experts)
    collector = FisherCollector(loaded.model, [*names.disk, *packed], head, variant)
    for index, (example, _) in enumerate(examples):
        generator = torch.Generator().manual_seed(provenance.seed * 1_000_003 + index)
        collector.add(encode(loaded, [example]), generator, gold[index])
        if index % 10 == 9 or index + 1 == len(examples):
            yield Progress("calibrate", index + 1, len(examples), "examples", "Fisher information")
    values: dict[str, Tensor] = {}
    for name, value in collector.means().items():
        values |= packed[name](value) if name in packed else {names.disk[name]: value}
    for name, value in values.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"The gradient of {name} is not finite", "the model gives NaN", "Mend it")
    skipped = {name: why for name, why in names.skipped.items() if name not in packed}
    other = "no parameter of its own: a buffer, or a copy of another tensor"
    skipped |= {name: skipped.get(name, other) for name in disk if name not in values}
    provenance = replace(provenance, skipped=skipped)
    return write_fisher(out, values, provenance, variant=variant, output=head.output)


@contextmanager
def _exact_products() -> Any:
    """Full float32 products on a GPU, whatever the process has set."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
