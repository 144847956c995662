"""A tensor group cut into blocks as the engine cuts it, for tests of methods that work block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from merging.method import MergeMethod
from merging.tensors import TensorGroup


def in_blocks(group: TensorGroup, lengths: Sequence[int]) -> list[TensorGroup]:
    """The flat group as blocks of these lengths, each of which can read all of them again."""
    size, blocks = group.tensors[0].numel(), []

    def again() -> Iterator[TensorGroup]:
        return iter(blocks)

    def part(values: Tensor, start: int, length: int) -> Tensor:
        return values.reshape(-1)[start : start + length].clone()

    assert sum(lengths) == size
    for place, length in enumerate(lengths):
        start = sum(lengths[:place])
        blocks.append(
            replace(
                group,
                tensors=tuple(part(tensor, start, length) for tensor in group.tensors),
                base=None if group.base is None else part(group.base, start, length),
                fishers=None if group.fishers is None else tuple(part(one, start, length) for one in group.fishers),
                start=start,
                size=size,
                again=again,
            )
        )
    return blocks


def merged_in_blocks(method: MergeMethod, group: TensorGroup, lengths: Sequence[int], **options: object) -> Tensor:
    """What a method makes of the blocks, put together."""
    return torch.cat([method.function(block, **options) for block in in_blocks(group, lengths)])
