"""Models and Gram matrices larger than memory.

What of a model does not fit stays on disk, from where accelerate brings it in module by module; Gram matrices that do
not fit beside it are collected in several passes over the examples. Bytes everywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from merging.machine import available_memory

SHARE = 0.8  # of the memory that is free
MODEL_SHARE = 0.5  # of the budget, when the model does not fit beside its Gram matrices


def placement(need: int, place: torch.device, memory: int, folder: Path) -> tuple[dict[str, Any], int]:
    """(options of `from_pretrained` for a model of `need` bytes, memory that is left for Gram matrices).

    `memory` bounds both, 0 is what is free now. No options when the model fits: it is then loaded as always.
    """
    budget = memory or int(SHARE * available_memory()) or 1 << 62
    if place.type == "cuda":
        gpu = int(SHARE * torch.cuda.mem_get_info()[0])
        if need <= MODEL_SHARE * gpu:
            return {}, int(gpu - need)
        limits: dict[Any, int] = {0: int(MODEL_SHARE * gpu), "cpu": budget}
        return _spread(limits, folder), int((1 - MODEL_SHARE) * gpu)
    if need <= MODEL_SHARE * budget:
        return {}, budget - need
    return _spread({"cpu": int(MODEL_SHARE * budget)}, folder), int((1 - MODEL_SHARE) * budget)


def _spread(limits: Mapping[Any, int], folder: Path) -> dict[str, Any]:
    return {"device_map": "auto", "max_memory": dict(limits), "offload_folder": str(folder)}


def present(module: nn.Module) -> AbstractContextManager[Any]:
    """The module's weights are there within, wherever they are kept."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    context: AbstractContextManager[Any] = align_module_device(module)
    return context


class Parameters(Mapping[str, Tensor]):
    """The parameters of a model by name, each once; one that is kept on disk is read when it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        self._owners = {name: modules[name.rpartition(".")[0]] for name, _ in model.named_parameters()}

    def __getitem__(self, name: str) -> Tensor:
        owner = self._owners[name]
        with present(owner):
            value: Tensor = owner.get_parameter(name.rpartition(".")[2]).detach()
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)


def passes(costs: Mapping[str, int], room: int) -> list[list[str]]:
    """The keys in as few groups as fit into `room` each, in their order; at least one key a group."""
    groups: list[list[str]] = []
    left = 0
    for key, cost in costs.items():
        if not groups or cost > left:
            groups.append([])
            left = room
        groups[-1].append(key)
        left -= cost
    return groups


class Spilled(Mapping[str, Tensor]):
    """1-D float32 tensors in files of a temporary folder beside `place`: written once, read when they are asked for."""

    def __init__(self, place: Path) -> None:
        self._folder = TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent)
        self._sizes: dict[str, int] = {}

    def __setitem__(self, name: str, value: Tensor) -> None:
        value.numpy().tofile(self._path(len(self._sizes)))
        self._sizes[name] = value.numel()

    def __getitem__(self, name: str) -> Tensor:
        path = self._path(list(self._sizes).index(name))
        stored: Tensor = torch.from_file(path, size=self._sizes[name], dtype=torch.float32)  # type: ignore[no-untyped-call]
        return stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def _path(self, number: int) -> str:
        return f"{self._folder.name}/{number}.bin"


def gram_cost(inputs: Sequence[int], rows: int) -> int:
    """Memory of the Gram matrices of layers with so many inputs while they are collected from batches of `rows`."""
    return sum(12 * n * n + 4 * rows * n for n in inputs)  # float64 sum, float32 product, gathered rows
