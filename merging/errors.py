"""What can go wrong, said in one sentence: what is wrong, why, and what to do.

MergeError             anything that ends a merge with a reason
  InputError           the user's input is at fault (command line: exit 2; page: beside the field)
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

PART_LIMIT = 1000  # characters of each half of a sentence
PROBLEMS_LIMIT = 20  # that are told at once: whoever has more has enough to do, and a stranger may send thousands


@dataclass(frozen=True)
class Problem:
    """One thing that a person should know before a merge starts.

    `where` is the path of the field in the recipe (`models.1.model`, `parameters.alpha`,
    `output.repo_id`), empty when it concerns the recipe as a whole.
    """

    what: str
    why: str = ""
    fix: str = ""
    where: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        head = f"{self.what}: {self.why}" if self.why else self.what
        if self.why and self.what.endswith("?"):  # which may begin with a name, that stays as it is
            head = f"{self.what} {self.why}"
        parts = [_printable(part).rstrip(". ") for part in (head, self.fix) if part]
        return " ".join(part if part.endswith(("?", "!")) else f"{part}." for part in parts)

    def as_dict(self) -> dict[str, Any]:
        """The problem as plain data, with its sentence."""
        return {**asdict(self), "text": str(self)}


def _printable(words: str) -> str:
    """The words in one line of bounded length: names in them are from strangers."""
    words = words if len(words) <= PART_LIMIT else words[: PART_LIMIT - 1] + "…"
    return words if words.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in words)


def errors_of(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Those that stand in the way; the others are warnings."""
    return tuple(problem for problem in problems if problem.severity == "error")


def raise_errors(problems: Iterable[Problem]) -> None:
    """InputError with every error among them, if there is one."""
    if errors := errors_of(problems):
        raise InputError.of(errors)


class MergeError(Exception):
    """A merge cannot go on; `problem` says why in words for its user.

    `passing`: not the wish is at fault but the moment, so that the work may go on later from where it was.
    """

    passing = False

    def __init__(self, what: str, why: str = "", fix: str = "", where: str = "") -> None:
        self.problem = Problem(what, why, fix, where)
        super().__init__(str(self.problem))


class InputError(MergeError):
    """The input is at fault. `problems` holds all that was found, the first is the message."""

    def __init__(self, what: str, why: str = "", fix: str = "", where: str = "") -> None:
        super().__init__(what, why, fix, where)
        self.problems: tuple[Problem, ...] = (self.problem,)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> Self:
        """One error for several problems (at least one)."""
        all_problems = tuple(problems)
        first = all_problems[0]
        error = cls(first.what, first.why, first.fix, first.where)
        error.problems = all_problems
        return error

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


@contextmanager
def gathered(found: list[Problem]) -> Iterator[None]:
    """What an InputError says goes into `found`, so that what does not depend on it is looked at as well.

    Raises InputError with all that was found when that is enough.
    """
    try:
        yield
    except InputError as error:
        found.extend(error.problems)
        if len(found) >= PROBLEMS_LIMIT:
            raise InputError.of(found[:PROBLEMS_LIMIT]) from None
