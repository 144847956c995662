"""What a verification has found: its data, its words, and where the service keeps it, by repo and commit."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.job import read_json, write_atomically
from merging.equality import Difference

Verdict = Literal["identical", "within", "different"]
SHOWN = 10  # tensors and files that are named
FOLDER = "verified"  # of the service's home


@dataclass(frozen=True)
class Verification:
    """A published merge beside the one that its recipe makes. It names no person."""

    repo_id: str
    commit: str
    when: float  # Unix seconds
    verdict: Verdict
    weight_files: int  # in the published repo
    same_files: int  # of these, with the SHA-256 of those that were made again
    tensors: int  # in all of its models
    differing: int  # of these, those that are not the same bit for bit, or in one of the two alone
    reasons: tuple[str, ...] = ()  # what makes it different
    largest: Difference | None = None  # of the tensors that were compared value by value
    notes: tuple[str, ...] = ()  # of files beside the weights that are not what the recipe makes
    seconds: float = 0.0

    @property
    def day(self) -> str:
        """`2026-11-21`, in UTC."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.when))

    @property
    def title(self) -> str:
        """`Verified identical on 2026-11-21 (commit abcdef12)`."""
        words = {
            "identical": "Verified identical",
            "within": "Verified equal within tolerance",
            "different": "Found different from its recipe",
        }[self.verdict]
        return f"{words} on {self.day} (commit {self.commit[:8]})"

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, one fact each."""
        found = []
        if self.verdict == "identical":
            found.append(
                f"Merged again from its recorded revisions, all {self.tensors:,} tensors came out bit for bit the same"
                f" ({self.same_files} of {self.weight_files} weight files have the same SHA-256)."
            )
        if self.largest is not None:
            found.append(
                f"{self.differing:,} of {self.tensors:,} tensors are not the same bit for bit. The largest difference: "
                f"{self.largest.words}, where {self.largest.tolerance:.2g} is allowed for {self.largest.dtype}."
            )
        return (*found, *self.reasons, *self.notes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with its words."""
        largest = None if self.largest is None else self.largest.as_dict()
        return asdict(self) | {"largest": largest, "title": self.title, "sentences": list(self.sentences)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Verification":
        """What `as_dict` gave."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        largest = known.get("largest")
        known |= {"largest": Difference(**largest) if largest else None}
        return cls(**known | {name: tuple(known.get(name) or ()) for name in ("reasons", "notes")})


def keep(home: Path, found: Verification) -> None:
    """Keep a result: whoever may see the repo may see it, as long as the repo stands at that commit."""
    path = _path(home, found.repo_id, found.commit)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = found.as_dict()
    write_atomically(path, json.dumps({name: data[name] for name in Verification.__dataclass_fields__}))


def kept(home: Path, repo_id: str, commit: str) -> Verification | None:
    """The last result for a repo at a commit, None where there is none that can be read."""
    data = read_json(_path(home, repo_id, commit))
    try:
        found = Verification.from_dict(data)
    except (TypeError, AttributeError):
        return None
    return found if (found.repo_id, found.commit) == (repo_id, commit) else None


def _path(home: Path, repo_id: str, commit: str) -> Path:
    return home / FOLDER / f"{hashlib.sha256(f'{repo_id}@{commit}'.encode()).hexdigest()[:40]}.json"
