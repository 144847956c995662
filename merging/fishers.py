"""The diagonal Fisher: mean over examples of E_y∼p(y|x) (∂ log p(y|x) / ∂θ)², squared per example.

Classifiers: the expectation is exact, over all classes: one forward pass of one example, and the gradients of all
classes in one batched backward pass. Several independent labels: the sum over labels of p(1−p)(∂z/∂θ)²; one number
(regression): (∂z/∂θ)². Causal language models: y is sampled, one token at each position given the real text before
it, and the log-probabilities are summed over the sequence (Matena & Raffel 2022, section 3; ALGORITHMS section 2).

The weight of a linear layer gets no gradient from autograd: that of example x is Σ_t δ_t x_tᵀ, built from the
layer's inputs and the gradients at its outputs one layer at a time, so that the sums stay in the cache; an
embedding's touches only the rows that were looked up. All other parameters, and tied ones, go through autograd.
What is not covered: token classification, masked language models, sequence-to-sequence, models without a head.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from merging.errors import InputError

CLASSES = 16  # gradients held at a time
Output = Literal["classes", "labels", "number", "tokens"]


def output_of(model: Any) -> Output:
    """What the model's logits mean. Raises InputError where the Fisher of such a model is not defined here."""
    name, config = type(model).__name__, model.config
    if name.endswith("ForSequenceClassification"):
        problem = getattr(config, "problem_type", None)
        if config.num_labels == 1 or problem == "regression":
            return "number"
        return "labels" if problem == "multi_label_classification" else "classes"
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "tokens"
    raise InputError(
        f"No Fisher for {name}",
        "it is collected for text classifiers and causal language models only",
        "Use a model with such a head, or a method without Fisher",
    )


@dataclass
class _Call:
    """One forward pass of a linear layer or an embedding: its input and its output in the graph."""

    key: str
    source: Tensor  # rows (tokens, in), or ids (tokens,)
    output: Tensor


class FisherCollector:
    """Sums squared gradients of one example at a time into `sums`, by parameter name, float32."""

    def __init__(self, model: nn.Module, wanted: Sequence[str], output: Output) -> None:
        """`wanted` are parameter names of `model`, whose gradients are switched off when none of them needs any."""
        self.model, self.output = model, output
        parameters = dict(model.named_parameters())
        self.linears, self.embeddings = _direct(model, set(wanted))
        direct = {f"{key}.weight" for key in (*self.linears, *self.embeddings)}
        self.plain = [name for name in wanted if name not in direct]
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self.plain)
        self.sums = {name: torch.zeros_like(parameters[name], requires_grad=False) for name in wanted}
        self._plain = [parameters[name] for name in self.plain]
        self.examples = 0

    def add(self, inputs: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Add one example: `inputs` is a batch of one without padding. `generator` (CPU) draws sampled tokens."""
        with torch.enable_grad(), self._record() as calls:
            logits = self.model(**inputs).logits.float()
            values, scales = _objective(logits, self.output, generator)
        for begin in range(0, len(values), CLASSES):
            keep = begin + CLASSES < len(values)
            self._add_gradients(calls, values, scales, range(begin, min(begin + CLASSES, len(values))), keep)
        self.examples += 1

    def means(self) -> dict[str, Tensor]:
        """The Fisher by parameter name, float32 on the CPU. Empties the sums."""
        return {name: (self.sums.pop(name) / max(1, self.examples)).cpu() for name in list(self.sums)}

    def _add_gradients(self, calls: list[_Call], values: Tensor, scales: Tensor, chunk: range, keep: bool) -> None:
        """Square and add √scale · ∂value of the values in `chunk`."""
        seeds = torch.zeros(len(chunk), len(values), device=values.device)
        seeds[range(len(chunk)), list(chunk)] = scales[chunk.start : chunk.stop].sqrt()
        targets = [call.output for call in calls] + self._plain
        gradients = torch.autograd.grad(
            values, targets, seeds, retain_graph=keep, is_grads_batched=True, allow_unused=True
        )
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


def _objective(logits: Tensor, output: Output, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(values, scales): the Fisher is Σ scale · (∂value/∂θ)²."""
    if output == "tokens":
        logs = logits[0].log_softmax(-1)  # (tokens, vocabulary)
        drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator).to(logs.device)
        return logs.gather(1, drawn).sum()[None], torch.ones(1, device=logs.device)
    row = logits[0]  # (classes,)
    if output == "classes":
        logs = row.log_softmax(-1)
        return logs, logs.detach().exp()
    if output == "labels":
        chance = row.detach().sigmoid()
        return row, chance * (1 - chance)
    return row, torch.ones_like(row.detach())
