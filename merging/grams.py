"""Gram matrices G = mean over real tokens of x xᵀ, x the input of a linear layer, collected by hooks.

Float32 products of a few thousand rows are added up in float64. Layers that are fed the same tensor (q, k, v; gate,
up) share one Gram: that is seen from the tensors themselves, in every batch. Rows of padding do not count. An input
that is not one row per token (a pooler's, a classifier's) counts with all its rows; one that no example is part of
(DeBERTa's relative positions) counts once for each example. A layer called twice counts both inputs. A convolution
whose patches do not overlap is a linear layer on flattened patches; experts see the tokens that are sent to them
(`merging.experts`).
What is not covered: `F.linear` on a weight (no hook fires), other convolutions.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merging.errors import MergeError
from merging.experts import ExpertLayer

BLOCK = 384  # columns; a wider layer is done by blocks of the upper triangle
ROWS = 512  # that are gathered for one product: fewer make it slow
PRODUCTS = 8  # that are summed in float32 before they go into the float64 sum


@dataclass(frozen=True)
class Masks:
    """Which rows of a layer's input are real: 1 for a real token, (batch, tokens), by the side that the layer is on."""

    text: Tensor | None = None
    encoder: Tensor | None = None
    decoder: Tensor | None = None
    image: None = None  # every patch is real

    def of(self, side: str) -> Tensor | None:
        """The mask of that side; None when all rows count."""
        mask: Tensor | None = getattr(self, side)
        return mask


@dataclass
class _Open:
    """What is not in a sum yet: gathered rows, and the products of those before them."""

    rows: Tensor  # (ROWS, in) float32
    product: Tensor  # (in, in) float32, the lower triangle beyond a block stays 0
    filled: int = 0  # of the rows
    products: int = 0

    def multiply(self) -> None:
        """Add the product of the gathered rows to the others."""
        rows = self.rows[: self.filled]
        for begin in range(0, rows.shape[1], BLOCK):
            left = rows[:, begin : begin + BLOCK]
            self.product[begin : begin + BLOCK, begin:].addmm_(left.T, rows[:, begin:])
        self.filled = 0
        self.products += 1


class GramCollector:
    """Sums x xᵀ over the batches that `model(**inputs)` is run on inside `watch`."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        groups: Mapping[str, str],
        sides: Mapping[str, str] | None = None,
        experts: Sequence[ExpertLayer] = (),
    ) -> None:
        """`modules` by key; `groups` maps each key to the key whose Gram it shares (itself when alone).

        `sides` says which of the masks is that of a key's layer, "text" where it is silent.
        """
        self.modules, self.sides, self.experts = modules, sides or {}, experts
        self.groups = {**groups, **{name: key for layer in experts for name, key in layer.aliases.items()}}
        self.sums: dict[str, Tensor] = {}  # (in, in) float64, upper triangle
        self.tokens: dict[str, int] = dict.fromkeys(self.groups.values(), 0)
        self._open: dict[str, _Open] = {}

    @contextmanager
    def watch(self, masks: Masks) -> Iterator[None]:
        """Collect from the forward passes within.

        Raises SharingChanged when layers that shared their input before do not share it now.
        """
        with (
            _inputs(self.modules) as calls,
            _watched(self.modules, self._add(masks)),
            _expert_calls(self.experts, masks.text, self._add_rows),
        ):
            yield
        for key in self.modules:
            if calls[key] != calls[self.groups[key]]:
                raise SharingChanged(key)

    def _add(self, masks: Masks) -> Callable[[str, Tensor], None]:
        def add(key: str, x: Tensor) -> None:
            if self.groups[key] == key:
                rows, times = real_rows(patches(self.modules[key], x), masks.of(self.sides.get(key, "text")))
                self._add_rows(key, rows, times)

        return add

    def _add_rows(self, key: str, rows: Tensor, times: int = 1) -> None:
        self.tokens[key] += times * len(rows)
        self._accumulate(key, rows, times)

    def _accumulate(self, key: str, rows: Tensor, times: int) -> None:
        n = rows.shape[1]
        if key not in self.sums:
            self.sums[key] = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
            self._open[key] = _Open(torch.empty(ROWS, n, device=rows.device), torch.zeros(n, n, device=rows.device))
        opened = self._open[key]
        if times > 1:
            rows = rows * times**0.5
        while len(rows):
            taken = min(len(rows), ROWS - opened.filled)
            opened.rows[opened.filled : opened.filled + taken] = rows[:taken]
            opened.filled += taken
            rows = rows[taken:]
            if opened.filled == ROWS:
                opened.multiply()
                if opened.products == PRODUCTS:
                    self.sums[key] += opened.product
                    opened.product.zero_()
                    opened.products = 0

    def means(self) -> Iterator[tuple[str, Tensor]]:
        """(key, G), (in, in) float32 on the CPU, upper triangle. Empties the sums; a layer never called has none."""
        with torch.inference_mode():
            for key in list(self.sums):
                opened, total = self._open.pop(key), self.sums.pop(key)
                opened.multiply()
                if self.tokens[key]:
                    yield key, (total.add_(opened.product) / self.tokens[key]).float().cpu()


class SharingChanged(MergeError):
    """A layer shared its input with another one in the first batch, but not in a later one."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} does not share its input in every batch")
        self.key = key


def shared_inputs(modules: Mapping[str, nn.Module], run: Callable[[], Any], alone: set[str]) -> dict[str, str]:
    """Key -> the first key that is fed the same tensors in `run`; those in `alone` are kept to themselves."""
    with _inputs(modules) as calls:
        run()
    leaders: dict[tuple[int, ...], str] = {}
    groups = {}
    for key, inputs in calls.items():
        groups[key] = key if key in alone else leaders.setdefault(tuple(inputs), key)
    return groups


def real_rows(x: Tensor, mask: Tensor | None) -> tuple[Tensor, int]:
    """The rows of a layer's input that count, (rows, in) float32, and how many times each of them does.

    `mask` is (batch, tokens); None when all rows count.
    """
    rows = x.reshape(-1, x.shape[-1]).float()
    if mask is None:
        return rows, 1
    if x.shape[:-1] == mask.shape or (x.dim() == 2 and len(rows) == mask.numel()):
        real = mask.reshape(-1).bool()
        return (rows if bool(real.all()) else rows[real]), 1
    alone = x.dim() == 3 and len(x) == 1 and len(mask) > 1  # the same for every example of the batch
    return rows, len(mask) if alone else 1


def patches(module: nn.Module, x: Tensor) -> Tensor:
    """The input of a layer with its features last; (batch, patches, channels · height · width) for a convolution."""
    if not isinstance(module, nn.Conv2d):
        return x
    return nn.functional.unfold(x, module.kernel_size, stride=module.stride).transpose(1, 2)


@contextmanager
def _inputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[int]]]:
    """Key -> for each call the number of its input tensor: equal numbers, equal tensors. Keeps none alive."""
    calls: dict[str, list[int]] = {key: [] for key in modules}
    seen: dict[tuple[Any, ...], tuple[weakref.ref[Tensor], int]] = {}
    count = 0

    def note(key: str, x: Tensor) -> None:
        nonlocal count
        identity = (x.data_ptr(), tuple(x.shape), x.stride())
        reference, number = seen.get(identity, (None, -1))
        if reference is None or reference() is None:  # a new tensor, perhaps where a dead one was
            count += 1
            number = count
            seen[identity] = (weakref.ref(x), number)
        calls[key].append(number)

    with _watched(modules, note):
        yield calls


@contextmanager
def _watched(modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `see(key, input)` before each forward pass of each module. The hooks are gone afterwards."""

    def hook(key: str) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(key, next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)))

        return before

    handles = []
    try:
        for key, module in modules.items():
            handles.append(module.register_forward_pre_hook(hook(key), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _expert_calls(
    layers: Sequence[ExpertLayer], mask: Tensor | None, see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `see(key, rows)` for every expert before each forward pass of its layer."""

    def hook(layer: ExpertLayer) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert mask is not None, "experts are fed with tokens"
            for key, rows in layer.rows(args, kwargs, mask):
                if len(rows):
                    see(key, rows)

        return before

    handles = [layer.module.register_forward_pre_hook(hook(layer), with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
