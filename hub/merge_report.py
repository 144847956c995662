"""`merge-report.json` in a published merge: figures and differences, public facts and nothing else.

Whoever reads it from a repo reads a stranger's file: bounded, strict in what its fields are, text never trusted.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from merging.errors import InputError

REPORT_FILE = "merge-report.json"
REPORT_LIMIT = 2_000_000  # bytes
FORMAT, VERSION = "merge-report", 1
PARTS = ("evaluation", "differences")

Name = Annotated[str, Field(max_length=300)]
Sentence = Annotated[str, Field(max_length=2000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Metrics = Annotated[dict[Annotated[str, Field(max_length=40)], Number], Field(max_length=20)]
Cells = Annotated[list[Annotated[list[Number | None], Field(max_length=200)]], Field(max_length=2000)]
Three = Annotated[list[Number], Field(min_length=3, max_length=3)]


class _Facts(BaseModel):
    """Data of which unknown keys are dropped: a later version may say more."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Score(_Facts):
    """Figures of one model on one set, with the ends of their intervals, and against the average."""

    who: Literal["parent", "average", "ensemble", "instance-wise", "merge"]
    title: Name
    task: Name = ""
    metrics: Metrics
    low: Metrics
    high: Metrics
    against_average: Annotated[dict[Name, Three], Field(max_length=20)] = {}


class SweepPoint(_Facts):
    """Figures of the merge at one value of a sweep."""

    value: Number
    metrics: Metrics
    low: Metrics
    high: Metrics


class Sweep(_Facts):
    """What a sweep goes over, and what it found."""

    parameter: Name
    model: Name = ""
    own: Number | None = None  # of the published merge
    finding: Sentence = ""


class EvaluatedSet(_Facts):
    """One set of labelled text."""

    name: Name
    data: Name = ""
    revision: Name = ""
    kind: Name
    metric: Name
    better: Literal["higher", "lower"]
    examples: Annotated[int, Field(ge=0)]
    in_domain: Annotated[list[Name], Field(max_length=50)] = []
    head: Name = ""
    scores: Annotated[list[Score], Field(max_length=100)] = []
    sweep: Annotated[list[SweepPoint], Field(max_length=50)] = []


class Evaluation(_Facts):
    """What the stage evaluate found."""

    sets: Annotated[list[EvaluatedSet], Field(max_length=50)] = []
    seconds: Number = 0.0
    sweep: Sweep | None = None
    notes: Annotated[list[Sentence], Field(max_length=200)] = []


class ModelDistances(_Facts):
    """How far one model is from the reference, in all and by layer and block."""

    model: Name
    distance: Number | None = None
    cells: Cells = []


class Pair(_Facts):
    """Two models beside each other."""

    models: Annotated[list[int], Field(min_length=2, max_length=2)]
    cosine: Number | None = None
    distance: Number | None = None
    sign_conflict: Number | None = None


class Differences(_Facts):
    """Where the models differ, see `merging.differences`."""

    layers: Annotated[list[Name], Field(max_length=2000)] = []
    blocks: Annotated[list[Name], Field(max_length=200)] = []
    models: Annotated[list[ModelDistances], Field(max_length=50)] = []
    pairs: Annotated[list[Pair], Field(max_length=1300)] = []
    conflicts: Cells = []  # of signs, the mean of all pairs; none where no base was read
    reference: Literal["base", "mean"] = "mean"
    base: Name = ""
    sampled: Number = 1.0  # share of the values that were looked at
    notes: Annotated[list[Sentence], Field(max_length=200)] = []


class MergeReport(_Facts):
    """The whole file."""

    format: Literal["merge-report"]
    version: Literal[1]
    evaluation: Evaluation = Evaluation()
    differences: Differences = Differences()


def public_report(report: Mapping[str, Any]) -> str:
    """What of a merge's report others may read, as the text of the file. It holds the same for the same report."""
    parts = {name: report[name] for name in PARTS if report.get(name)}
    told = MergeReport.model_validate({"format": FORMAT, "version": VERSION} | parts)
    return told.model_dump_json(exclude_unset=True, indent=1) + "\n"


def read_report(raw: bytes, repo_id: str) -> dict[str, Any]:
    """`evaluation` and `differences` in the bytes of a file, as plain data. Raises InputError."""
    try:
        told = MergeReport.model_validate_json(raw)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])[:100]
        why = f"{where or 'it'} is not as it should be"
        raise InputError(f"{repo_id} has a broken {REPORT_FILE}", why, "Ask its owner") from None
    _check(told.differences, repo_id)
    return {name: getattr(told, name).model_dump() for name in PARTS if name in told.model_fields_set}


def _check(found: Differences, repo_id: str) -> None:
    """Every row and pair belongs to what is named."""
    tables = [*(model.cells for model in found.models), *([found.conflicts] if found.conflicts else [])]
    rows = all(len(table) == len(found.layers) for table in tables)
    cells = all(len(row) == len(found.blocks) for table in tables for row in table)
    pairs = all(0 <= index < len(found.models) for pair in found.pairs for index in pair.models)
    if not (rows and cells and pairs):
        why = "its tables do not fit each other"
        raise InputError(f"{repo_id} has a broken {REPORT_FILE}", why, "Ask its owner")
