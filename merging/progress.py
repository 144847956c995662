"""How far a piece of work has come."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One report of a stage. `done` and `total` are in `unit`; a total of 0 means that it is not known yet."""

    stage: str
    done: int
    total: int
    unit: str = "bytes"
    message: str = ""

    @property
    def fraction(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0
