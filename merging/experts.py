"""Layers of experts: transformers packs the weights of all experts of a layer into one module without Linear layers.

Each expert is an MLP, W2 · (act(W1 x) ⊙ W3 x), fed only with the tokens that the router sends to it. On disk its
weights stand one by one (`experts.0.w1`, or `experts.0.gate_proj`). The router itself is averaged.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merging.offload import present
from merging.tensors import TensorSource


@dataclass(frozen=True)
class ExpertLayer:
    """One packed module: `gate_up_proj` (experts, 2·inner, width), `down_proj` (experts, width, inner), `act_fn`."""

    module: Any
    names: tuple[tuple[str, str, str], ...]  # of each expert, on disk: gate, up, down

    @property
    def inputs(self) -> list[int]:
        """Rows of each Gram matrix of the layer: of its gates, and of its downs."""
        gate_up, down = self.module.gate_up_proj.shape, self.module.down_proj.shape
        return [size for shape in (gate_up, down) for size in [int(shape[2])] * len(self.names)]

    @property
    def aliases(self) -> dict[str, str]:
        """Disk name -> the name whose Gram it shares: gate and up see the same tokens."""
        return {
            name: leader for gate, up, down in self.names for name, leader in ((gate, gate), (up, gate), (down, down))
        }

    def split_gate_up(self, values: Tensor) -> dict[str, Tensor]:
        """Values of `gate_up_proj` by the disk names of the gates and the ups."""
        halves = [zip(names[:2], part.chunk(2), strict=True) for names, part in zip(self.names, values, strict=True)]
        return {name: half for pair in halves for name, half in pair}

    def split_down(self, values: Tensor) -> dict[str, Tensor]:
        """Values of `down_proj` by disk name."""
        return {down: part for (_, _, down), part in zip(self.names, values, strict=True)}

    def rows(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], mask: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(disk name of the leader, inputs (tokens, in) float32) of every expert, padding left out.

        `mask` is (batch, tokens), 1 for a real token; the module's inputs are (batch · tokens, width) and the numbers
        of the chosen experts (batch · tokens, k).
        """
        states = args[0] if args else kwargs["hidden_states"]
        chosen = args[1] if len(args) > 1 else kwargs["top_k_index"]
        states = states.reshape(-1, states.shape[-1])
        real = mask.reshape(-1).bool()
        with present(self.module):
            for number, (gate_name, _, down_name) in enumerate(self.names):
                rows = states[real & (chosen == number).any(-1)].float()
                yield gate_name, rows
                gate, up = nn.functional.linear(rows, self.module.gate_up_proj[number].float()).chunk(2, dim=-1)
                yield down_name, self.module.act_fn(gate) * up


def find_experts(model: nn.Module, disk: TensorSource) -> list[ExpertLayer]:
    """Every packed layer of experts whose weights are, value by value, those of experts on disk."""
    layers = []
    for name, module in model.named_modules():
        packed, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
        if not isinstance(packed, nn.Parameter) or not isinstance(down, nn.Parameter) or packed.dim() != 3:
            continue
        place = re.match(r"(?:.*\.)?layers\.\d+\.", name)
        candidates = [other for other in disk.specs if place and other.startswith(place[0]) and ".experts." in other]
        with present(module):
            packed, down = module.gate_up_proj, module.down_proj  # type: ignore[assignment]
            found = [
                tuple(_proven(values, disk, candidates, number) for values in (*packed[number].chunk(2), down[number]))
                for number in range(len(packed))
            ]
        if all(None not in names for names in found):
            layers.append(ExpertLayer(module, tuple(found)))  # type: ignore[arg-type]
    return layers


def packed_experts(model: nn.Module, layers: Sequence[ExpertLayer]) -> dict[str, Callable[[Tensor], dict[str, Tensor]]]:
    """Name of each packed parameter -> what splits a tensor of its shape into those of the experts, by disk name."""
    places = {id(module): name for name, module in model.named_modules()}
    split: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {}
    for layer in layers:
        split[f"{places[id(layer.module)]}.gate_up_proj"] = layer.split_gate_up
        split[f"{places[id(layer.module)]}.down_proj"] = layer.split_down
    return split


def _proven(values: Tensor, disk: TensorSource, names: list[str], number: int) -> str | None:
    """The one disk tensor of that expert that holds exactly these values."""
    own = [name for name in names if f".experts.{number}." in name and disk.specs[name].shape == tuple(values.shape)]
    wanted = values.detach().cpu().reshape(-1)
    same = [name for name in own if torch.equal(disk.read(name).to(wanted.dtype), wanted)]
    return same[0] if len(same) == 1 else None
