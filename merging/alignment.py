"""Brings the parents of a recipe under one set of names: those of the first parent, as transformers writes them today.

A checkpoint may lack the body's prefix or have it (`bert.encoder...`), name its norms in the old way (`gamma`,
`beta`), hold a tied copy of the word embeddings instead of the original, or have its labels in another order. From
headers and configs alone; nothing is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from merging.architecture import architecture_of
from merging.parent import Parent, StatisticsFact
from merging.tensors import TensorSource, TensorSpec


@dataclass(frozen=True)
class AlignedSource:
    """A source under other names; rows of some tensors in another order."""

    source: TensorSource
    names: Mapping[str, str]  # name here -> name in `source`
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # name here -> for each row the row in `source`

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """See `TensorSource.specs`."""
        return {name: replace(self.source.specs[disk], name=name) for name, disk in self.names.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """See `TensorSource.read`."""
        return reordered(self.source, self.names[name], self.rows.get(name), start, stop)

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """See `TensorSource.fill`."""
        if name in self.rows:
            out.copy_(self.read(name, start, start + out.numel()))
        else:
            self.source.fill(self.names[name], start, out)


def reordered(
    source: TensorSource, disk: str, rows: Sequence[int] | None, start: int = 0, stop: int | None = None
) -> Tensor:
    """Values [start:stop] of the flattened tensor `disk`, its rows in the order `rows` (as stored when None)."""
    if rows is None:
        return source.read(disk, start, stop)
    whole = source.read(disk).reshape(len(rows), -1)  # a head: small
    return whole[torch.tensor(rows)].reshape(-1)[start:stop]


def align(parents: Sequence[Parent]) -> tuple[Parent, ...]:
    """The parents with the names of the first one; unchanged when they are of several types or of none."""
    architecture = architecture_of(parents[0].config) if parents else None
    if architecture is None or any(parent.model_type != parents[0].model_type for parent in parents):
        return tuple(parents)
    chosen: dict[str, str] = {}  # key -> name in the plan
    tables = []
    for parent in parents:
        table: dict[str, str] = {}
        for name in parent.source.specs:
            key = architecture.key(name, parent.config)
            if key not in table or name == architecture.tied[0]:  # the original before its copies
                table.pop(key, None)  # in the order in which they are stored
                table[key] = name
        for key, name in table.items():
            chosen.setdefault(key, architecture.modern(name))
        tables.append({chosen[key]: name for key, name in table.items()})
    return tuple(_renamed(parent, table) for parent, table in zip(parents, tables, strict=True))


def _renamed(parent: Parent, names: Mapping[str, str]) -> Parent:
    plain = {name: disk for name, disk in names.items() if name != disk}
    if not plain and len(names) == len(parent.source.specs):
        return parent
    facts = {kind: _fact(fact, names) for kind, fact in parent.statistics.items()}
    return replace(parent, source=AlignedSource(parent.source, names), statistics=facts, names=plain)


def _fact(fact: StatisticsFact, names: Mapping[str, str]) -> StatisticsFact:
    """The fact under the plan's names; what the plan does not know keeps its own."""
    plan = {disk: name for name, disk in names.items()}
    return replace(
        fact,
        keys={plan.get(name, name): size for name, size in fact.keys.items()},
        tokens={plan.get(name, name): count for name, count in fact.tokens.items()},
        sketches={plan.get(name, name): values for name, values in fact.sketches.items()},
        traces={plan.get(name, name): trace for name, trace in fact.traces.items()},
    )


def with_rows(parent: Parent, rows: Mapping[str, tuple[int, ...]]) -> Parent:
    """The parent with the rows of some tensors (by plan name) in another order."""
    if not rows:
        return parent
    names = {name: parent.names.get(name, name) for name in parent.source.specs}
    inner = parent.source.source if isinstance(parent.source, AlignedSource) else parent.source
    return replace(parent, source=AlignedSource(inner, names, rows), rows=dict(rows))
