"""The diagonal Fisher: mean over examples of E_y (∂ log p(y|x) / ∂θ)², squared per example (Matena & Raffel 2022).

What y is for each kind of model stands in `merging.objectives`, where it is drawn from in `merging.variants`.

Values are sums over the decisions of an example and means over examples, not divided by anything else: norms, floor
and coefficients belong to the merge (`merging.methods.fisher`).

The weight of a linear layer gets no gradient from autograd: that of example x is Σ_t δ_t x_tᵀ, built from the
layer's inputs and the gradients at its outputs one layer at a time, so that the sums stay in the cache; an
embedding's touches only the rows that were looked up. All other parameters, tied ones, convolutions and packed
experts go through autograd.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from merging.objectives import Head
from merging.variants import Variant

CLASSES = 16  # gradients held at a time
PLAIN_BYTES = 2**30  # of gradients that autograd holds at a time


@dataclass
class _Call:
    """One forward pass of a linear layer or an embedding: its input and its output in the graph."""

    key: str
    source: Tensor  # rows (tokens, in), or ids (tokens,)
    output: Tensor


class FisherCollector:
    """Sums squared gradients of one example at a time into `sums`, by parameter name, float32."""

    def __init__(self, model: nn.Module, wanted: Sequence[str], head: Head, variant: Variant) -> None:
        """`wanted` are parameter names of `model`, whose gradients are switched off when none of them needs any."""
        self.model, self.head, self.variant = model, head, variant
        self.wanted, self.parameters = list(wanted), dict(model.named_parameters())
        self.linears, self.embeddings = _direct(model, set(wanted))
        self.sums = {name: torch.zeros_like(self.parameters[name], requires_grad=False) for name in wanted}
        self.examples = 0
        self._settle()

    def add(self, inputs: Mapping[str, Tensor], generator: torch.Generator, gold: Tensor | None = None) -> None:
        """Add one example: `inputs` is a batch of one without padding.

        `generator` (CPU) draws answers for the sampled variant; `gold` are the true ones, for the empirical.
        """
        if not self.examples:
            self._give_up_read_weights(inputs)
        with torch.enable_grad(), self._record() as calls:
            decisions = self.head.decisions(self.model(**inputs), inputs)
            if self.variant == "exact":
                values, scales = decisions.exact()
            else:
                answers = decisions.draw(generator) if self.variant == "sampled" else gold
                assert answers is not None, "the empirical Fisher needs gold answers"
                values = decisions.log_probability(answers)[None]
                scales = torch.ones_like(values.detach())
        for begin in range(0, len(values), self._chunk):
            end = min(begin + self._chunk, len(values))
            self._add_gradients(calls, values, scales, range(begin, end), keep=end < len(values))
        self.examples += 1

    def means(self) -> dict[str, Tensor]:
        """The Fisher by parameter name, float32 on the CPU. Empties the sums."""
        return {name: (self.sums.pop(name) / max(1, self.examples)).cpu() for name in list(self.sums)}

    def _settle(self) -> None:
        """Autograd is asked for what no direct layer owns, and holds as many gradients at a time as fit."""
        direct = {f"{key}.weight" for key in (*self.linears, *self.embeddings)}
        self.plain = [name for name in self.wanted if name not in direct]
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in self.plain)
        self._plain: list[Tensor] = [self.parameters[name] for name in self.plain]
        held = sum(4 * parameter.numel() for parameter in self._plain)
        self._chunk = max(1, min(CLASSES, PLAIN_BYTES // max(1, held)))

    def _give_up_read_weights(self, inputs: Mapping[str, Tensor]) -> None:
        """Leave weights to autograd that the model reads without calling their layer (DeBERTa's relative positions).

        Seen by a forward pass in which a weight asks for a gradient except inside its own layer's call.
        """
        layers = self.linears | self.embeddings
        handles = []
        for module in layers.values():
            module.weight.requires_grad_()
            handles.append(module.register_forward_pre_hook(lambda module, args: _ask(module, False)))
            handles.append(module.register_forward_hook(lambda module, args, output: _ask(module, True)))
        try:
            with torch.enable_grad():
                logits = self.head.decisions(self.model(**inputs), inputs).logits
        finally:
            for handle in handles:
                handle.remove()
        weights = [module.weight for module in layers.values()]
        if logits.requires_grad:
            found = torch.autograd.grad(logits.sum(), weights, allow_unused=True)
            for key, gradient in zip(layers, found, strict=True):
                if gradient is not None:
                    self.linears.pop(key, None)
                    self.embeddings.pop(key, None)
        self._settle()

    def _add_gradients(self, calls: list[_Call], values: Tensor, scales: Tensor, chunk: range, keep: bool) -> None:
        """Square and add √scale · ∂value of the values in `chunk`."""
        seeds = torch.zeros(len(chunk), len(values), device=values.device)
        seeds[range(len(chunk)), list(chunk)] = scales[chunk.start : chunk.stop].sqrt()
        gradients = _gradients(values, [call.output for call in calls] + self._plain, seeds, keep)
        for name, gradient in zip(self.plain, gradients[len(calls) :], strict=True):
            if gradient is not None:
                self.sums[name].add_(gradient.square().sum(0))
        for key in dict.fromkeys(call.key for call in calls):
            pairs = [
                (call.source, gradient.reshape(len(chunk), -1, gradient.shape[-1]))  # (classes, tokens, out)
                for call, gradient in zip(calls, gradients, strict=False)
                if call.key == key and gradient is not None
            ]
            if pairs and key in self.embeddings:
                _add_embedding(self.sums[f"{key}.weight"], pairs, self.embeddings[key].padding_idx)
            elif pairs:
                _add_linear(self.sums[f"{key}.weight"], pairs, self.linears[key])

    @contextmanager
    def _record(self) -> Iterator[list[_Call]]:
        """The calls of all direct layers in the forward pass within. The hooks are gone afterwards."""
        calls: list[_Call] = []

        def after(key: str) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
                source = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)).detach()
                if not output.requires_grad:
                    output = output.detach().requires_grad_()  # the first layers: nothing below asks for a gradient
                rows = source.expand(output.shape[:-1]) if key in self.embeddings else source
                rows = rows.reshape(-1) if key in self.embeddings else rows.reshape(-1, rows.shape[-1])
                calls.append(_Call(key, rows, output))
                return output

            return hook

        handles = []
        try:
            for key, module in (self.linears | self.embeddings).items():
                handles.append(module.register_forward_hook(after(key), with_kwargs=True))
            yield calls
        finally:
            for handle in handles:
                handle.remove()


def _gradients(values: Tensor, targets: list[Tensor], seeds: Tensor, keep: bool) -> tuple[Tensor | None, ...]:
    """seeds · ∂values/∂target of each target, (seeds, *target.shape); None where no value depends on it.

    One seed goes through plain autograd, which has a rule for every operation; several go as one batch.
    """
    options: dict[str, Any] = {"retain_graph": keep, "allow_unused": True}
    if len(seeds) > 1:
        return torch.autograd.grad(values, targets, seeds, is_grads_batched=True, **options)
    found = torch.autograd.grad(values, targets, seeds[0], **options)
    return tuple(None if gradient is None else gradient[None] for gradient in found)


def _ask(module: Any, gradient: bool) -> None:
    module.weight.requires_grad_(gradient)


def _direct(model: nn.Module, wanted: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(linear layers, embeddings) by name whose weight is wanted and belongs to that one module alone."""
    owners: dict[int, int] = {}
    for _, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    linears, embeddings = {}, {}
    for key, module in model.named_modules():
        if f"{key}.weight" in wanted and owners[id(module.weight)] == 1:
            if type(module) in (nn.Linear, Conv1D):
                linears[key] = module
            elif type(module) is nn.Embedding and module.max_norm is None:
                embeddings[key] = module
    return linears, embeddings


def _add_linear(total: Tensor, pairs: list[tuple[Tensor, Tensor]], module: nn.Module) -> None:
    """total += Σ_classes (Σ_t δ_t x_tᵀ)², in the module's layout. `pairs` are (x, δ) of each call."""
    buffer = torch.empty_like(total)
    for index in range(len(pairs[0][1])):
        for number, (rows, deltas) in enumerate(pairs):
            left, right = (rows, deltas[index]) if isinstance(module, Conv1D) else (deltas[index], rows)
            if number:
                buffer.addmm_(left.T, right)
            else:
                torch.mm(left.T, right, out=buffer)
        total.addcmul_(buffer, buffer)


def _add_embedding(total: Tensor, pairs: list[tuple[Tensor, Tensor]], padding: int | None) -> None:
    """total[v] += Σ_classes (Σ_{t: id_t = v} δ_t)². `pairs` are (ids, δ) of each call."""
    ids = torch.cat([source for source, _ in pairs])
    deltas = torch.cat([gradient for _, gradient in pairs], dim=1)  # (classes, tokens, width)
    found, place = torch.unique(ids, return_inverse=True)
    sums = deltas.new_zeros(len(deltas), len(found), deltas.shape[-1]).index_add_(1, place, deltas)
    squares = sums.square_().sum(0)
    if padding is not None:
        squares[found == padding] = 0
    total.index_add_(0, found, squares)
