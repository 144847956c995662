"""Gram matrices G = mean over real tokens of x xᵀ, x the input of a linear layer, collected by hooks.

Float32 products are added up in float64. Layers that are fed the same tensor (q, k, v; gate, up) share one Gram:
that is seen from the tensors themselves, in every batch. Rows of padding do not count. An input that is not one
row per token (a pooler's, a classifier's) counts with all its rows. A layer called twice counts both inputs.
What is not covered: `F.linear` on a weight (no hook fires), experts, convolutions.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from merging.errors import MergeError

BLOCK = 768  # columns; a wider layer is done by blocks of the upper triangle


class GramCollector:
    """Sums x xᵀ over the batches that `model(**inputs)` is run on inside `watch`."""

    def __init__(self, modules: Mapping[str, nn.Module], groups: Mapping[str, str]) -> None:
        """`modules` by key; `groups` maps each key to the key whose Gram it shares (itself when alone)."""
        self.modules, self.groups = modules, groups
        self.sums: dict[str, Tensor] = {}  # (in, in) float64, upper triangle
        self.tokens: dict[str, int] = dict.fromkeys(groups.values(), 0)

    @contextmanager
    def watch(self, mask: Tensor) -> Iterator[None]:
        """Collect from the forward passes within. `mask` is (batch, tokens), 1 for a real token.

        Raises SharingChanged when layers that shared their input before do not share it now.
        """
        with _inputs(self.modules) as calls, _watched(self.modules, self._add(mask)):
            yield
        for key, leader in self.groups.items():
            if calls[key] != calls[leader]:
                raise SharingChanged(key)

    def _add(self, mask: Tensor) -> Callable[[str, Tensor], None]:
        def add(key: str, x: Tensor) -> None:
            if self.groups[key] == key:
                rows = real_rows(x, mask)
                self.tokens[key] += len(rows)
                self._accumulate(key, rows)

        return add

    def _accumulate(self, key: str, rows: Tensor) -> None:
        n = rows.shape[1]
        if key not in self.sums:
            self.sums[key] = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
        total = self.sums[key]
        for begin in range(0, n, BLOCK):  # the lower triangle beyond a block stays 0
            left = rows[:, begin : begin + BLOCK]
            total[begin : begin + BLOCK, begin:] += left.T @ rows[:, begin:]

    def means(self) -> dict[str, Tensor]:
        """G by key, (in, in) float32 on the CPU, upper triangle. Empties the sums; layers never called are left out."""
        means = {}
        for key in list(self.sums):
            if self.tokens[key]:
                means[key] = (self.sums[key] / self.tokens[key]).float().cpu()
            del self.sums[key]
        return means


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


def real_rows(x: Tensor, mask: Tensor) -> Tensor:
    """The rows of a layer's input that count, (rows, in) float32. `mask` is (batch, tokens)."""
    rows = x.reshape(-1, x.shape[-1]).float()
    per_token = x.shape[:-1] == mask.shape or (x.dim() == 2 and len(rows) == mask.numel())
    return rows[mask.reshape(-1).bool()] if per_token else rows


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
