"""From a recipe to pinned parents, by headers alone: who may read what, what it is, which statistics there are.

`resolve` never raises for bad input; it says what is wrong as Problems with the field at fault. It fetches
no weight byte and writes nothing to disk.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from hub.client import Hub, HubUnavailable, SignInNeeded, explained
from hub.datasets import is_local, raise_unless_readable
from hub.identity import Identity, whoami, writing_problem
from hub.repository import RemoteRepo, open_repo, read_config, read_sides, read_small, read_weights
from hub.statistics import FoundStatistics, find_statistics, local_statistics, named_statistics
from merging.checkpoint import TOKENIZER_FILES, open_parent, specs_of, vocabulary_of
from merging.errors import InputError, MergeError, Problem, errors_of, raise_errors
from merging.parent import Parent, with_base
from merging.recipe import ModelEntry, Recipe, StatisticsKind, StatisticsRef, valid_repo_id
from merging.tensors import HeaderSource

TOKENIZER_LIMIT = 40_000_000  # bytes of one tokenizer file
MODELS_AT_ONCE = 8


@dataclass(frozen=True)
class Resolved:
    """A recipe whose every revision is pinned, and what is known of its models.

    `found` has one entry per model, None where it could not be resolved; `parents` has all of them, or nothing.
    `base` is the base of a method that needs one, None where none is named or it could not be resolved.
    """

    recipe: Recipe
    found: tuple[Parent | None, ...]
    problems: tuple[Problem, ...]
    base: Parent | None = None

    @property
    def parents(self) -> tuple[Parent, ...]:
        """Every parent in the recipe's order; empty as long as one is missing."""
        complete = tuple(parent for parent in self.found if parent is not None)
        return complete if len(complete) == len(self.found) else ()

    def raise_if_impossible(self, others: Iterable[Problem] = ()) -> "Resolved":
        """Itself, or an InputError with every error, those among `others` included, which are known by then."""
        if errors_of(self.problems):
            raise_errors([*self.problems, *others])
        return self


@dataclass(frozen=True)
class _Question:
    """What is asked of one model."""

    hub: Hub
    entry: ModelEntry
    where: str  # its field in the recipe
    kinds: Sequence[str]  # of statistics that the method needs
    folders_allowed: bool


@dataclass(frozen=True)
class _Seen:
    """One model after its headers were read."""

    entry: ModelEntry  # pinned
    parent: Parent
    repo: RemoteRepo | None  # None for a folder


def resolve(hub: Hub, recipe: Recipe, *, folders_allowed: bool = False) -> Resolved:
    """Pin and describe every model of the recipe. Raises HubUnavailable, and SignInNeeded for a token that ran out."""
    kinds = [kind for kind in ("fisher", "gram") if kind in recipe.method.needs]
    results: list[_Seen | MergeError] = []
    questions = [
        _Question(hub, entry, f"models.{index}.model", kinds, folders_allowed)
        for index, entry in enumerate(recipe.models)
    ]
    if recipe.base is not None:
        questions.append(_Question(hub, recipe.base, "base_model", (), folders_allowed))
    with ThreadPoolExecutor(MODELS_AT_ONCE) as pool:
        for future in [pool.submit(_see, question) for question in questions]:
            try:
                results.append(future.result())
            except MergeError as error:
                if isinstance(error, HubUnavailable) or (isinstance(error, SignInNeeded) and hub.signed_in):
                    raise  # every model would say the same
                results.append(error)
    problems = [problem for result in results if isinstance(result, MergeError) for problem in _problems(result)]
    seen = [None if isinstance(result, MergeError) else result for result in results]
    seen, more = _with_vocabularies(hub, seen, [question.where for question in questions])
    entries = [one.entry if one else question.entry for one, question in zip(seen, questions, strict=True)]
    found = tuple(one.parent if one else None for one in seen)
    count = len(recipe.models)
    base_model = entries[count].model if recipe.base else recipe.base_model
    pinned = recipe.model_copy(update={"models": tuple(entries[:count]), "base_model": base_model})
    base = found[count] if recipe.base else None
    return Resolved(pinned, found[:count], (*problems, *more, *_visibility(recipe, found)), base)


def with_pins(resolved: Resolved, recipe: Recipe) -> Resolved:
    """What was resolved of the same models, for a recipe that differs in weights, parameters or output."""
    entries = tuple(
        entry.model_copy(update={"model": pinned.model, "statistics": pinned.statistics})
        for entry, pinned in zip(recipe.models, resolved.recipe.models, strict=True)
    )
    base_model = resolved.recipe.base_model if recipe.base else recipe.base_model
    return replace(resolved, recipe=recipe.model_copy(update={"models": entries, "base_model": base_model}))


def result_is_private(recipe: Recipe, parents: Sequence[Parent], base: Parent | None = None) -> bool:
    """Whether the merged repo is private: as the recipe says, else when a parent or the base is private or gated."""
    if recipe.output.private is not None:
        return recipe.output.private
    return any(parent.restricted for parent in with_base(parents, base))


def check_output(hub: Hub, recipe: Recipe, identity: Identity | None = None) -> list[Problem]:
    """What is wrong with the place that the result goes to: not signed in, no right, taken.

    `identity` is the owner of the token where the caller has just asked; else the Hub is asked.
    """
    where, repo_id = "output.repo_id", recipe.output.repo_id
    if not hub.signed_in:
        fix = hub.advice("Sign in first")
        return [Problem("Not signed in", "a merge is published under your own name", fix, where)]
    if repo_id is None:
        return [Problem("The result has no name", "a merge becomes a new repo", "Name it owner/name", where)]
    if not valid_repo_id(repo_id):
        return [Problem(f"{repo_id} is not a valid name", "", "Use letters, digits, '-', '_' and '.'", where)]
    try:
        problem = writing_problem(identity or whoami(hub), repo_id.partition("/")[0], where)
        problems = [problem] if problem else []
        if errors_of(problems) or not repo_exists(hub, repo_id, where):
            return problems
    except InputError as error:
        return [Problem(p.what, p.why, p.fix, where, p.severity) for p in error.problems]
    return [*problems, taken(repo_id)]


def repo_exists(hub: Hub, repo_id: str, where: str = "") -> bool:
    """Whether a model repo of that name is there, as far as this person can see."""
    with explained(hub, repo_id, where):
        try:
            hub.api.model_info(repo_id, expand=["private"])
        except GatedRepoError:
            return True
        except RepositoryNotFoundError:
            return False
        return True


def taken(repo_id: str) -> Problem:
    """The problem of a name that is in use."""
    return Problem(
        f"{repo_id} exists already", "nothing of yours is ever overwritten", "Pick another name", "output.repo_id"
    )


def _problems(error: MergeError) -> tuple[Problem, ...]:
    return error.problems if isinstance(error, InputError) else (error.problem,)


def _see(question: _Question) -> _Seen:
    """One model from its headers. Raises InputError with the field at fault."""
    try:
        _check_local_text(question)
        return _see_folder(question) if question.entry.is_folder else _see_repo(question)
    except InputError as error:
        raise _located(error, question.where) from None


def _located(error: InputError, where: str) -> InputError:
    """The same error with `where` for the problems that name no field."""
    return type(error).of(Problem(p.what, p.why, p.fix, p.where or where, p.severity) for p in error.problems)


def _check_local_text(question: _Question) -> None:
    """InputError for text on this machine where that is not allowed, or which is needed and not there."""
    wish = question.entry.calibration
    if wish is None or not is_local(wish.data):
        return
    where = f"{question.where.removesuffix('model')}calibration.data"
    if not question.folders_allowed:
        raise InputError(f"{wish.data} is a file", "only datasets of the Hub can be used", "Name owner/dataset", where)
    if any(kind not in question.entry.statistics for kind in question.kinds):
        raise_unless_readable(wish.data, where)


def _see_folder(question: _Question) -> _Seen:
    entry = question.entry
    if not question.folders_allowed:
        raise InputError(f"{entry.model} is a folder", "only models of the Hub can be used", "Name owner/name")
    folder = Path(entry.model).expanduser()
    parent = open_parent(entry.model, folder, calibration=entry.calibration is not None)
    statistics = {kind: _statistics(question, kind, folder, parent.weights) for kind in question.kinds}
    return _pinned(entry, entry.model, parent, statistics, None)


def _see_repo(question: _Question) -> _Seen:
    hub, entry, where = question.hub, question.entry, question.where
    if "+" in entry.model:
        raise InputError(f"{entry.model} is an adapter", "adapters cannot be merged", "Merge it into its base first")
    if not valid_repo_id(entry.repo_id):
        raise InputError(f"{entry.model!r} is not the name of a model", "", "Write owner/name[@revision]")
    repo = open_repo(hub, entry.repo_id, entry.revision, where)
    with ThreadPoolExecutor(2) as pool:
        config = pool.submit(read_config, hub, repo, where)
        side = pool.submit(read_sides, hub, repo, where)
        headers = read_weights(hub, repo, where)
    parent = Parent(
        model=repo.repo_id,
        revision=repo.sha,
        config=config.result(),
        source=HeaderSource(specs_of(headers, repo.repo_id)),
        files={name: file.size for name, file in repo.files.items()},
        weights={name: repo.files[name].sha256 for name in headers},
        digests={name: file.digest for name, file in repo.files.items()},
        headers=headers,
        calibration=entry.calibration is not None,
        license=repo.license,
        fine_tuned_from=repo.fine_tuned_from,
        restricted=repo.restricted,
        side=side.result(),
    )
    statistics = {kind: _statistics(question, kind, repo, parent.weights) for kind in question.kinds}
    return _pinned(entry, f"{repo.repo_id}@{repo.sha}", parent, statistics, repo)


def _statistics(
    question: _Question, kind: str, place: RemoteRepo | Path, weights: Mapping[str, str]
) -> FoundStatistics | None:
    """The statistics of one kind that the entry names, or those found near the model (a repo or a folder).

    None are looked for where the entry names text to collect them from: what somebody named wins.
    """
    hub, entry = question.hub, question.entry
    ref = next((ref for name, ref in entry.statistics.items() if name == kind), None)
    if ref is not None:
        where = f"{question.where.removesuffix('model')}statistics.{kind}"
        try:
            return named_statistics(hub, kind, ref, where, folders_allowed=question.folders_allowed)
        except InputError as error:
            raise _located(error, where) from None
    if entry.calibration is not None:
        return None
    if isinstance(place, Path):
        return local_statistics(kind, place)
    return find_statistics(hub, kind, place, weights)


def _pinned(
    entry: ModelEntry,
    model: str,
    parent: Parent,
    statistics: Mapping[str, FoundStatistics | None],
    repo: RemoteRepo | None,
) -> _Seen:
    """The entry with every revision and hash written into it, and the parent with its statistics."""
    present = {kind: found for kind, found in statistics.items() if found is not None}
    refs: dict[StatisticsKind, StatisticsRef] = {**entry.statistics}
    for kind, found in present.items():
        refs["gram" if kind == "gram" else "fisher"] = StatisticsRef(source=found.fact.source, sha256=found.fact.sha256)
    restricted = parent.restricted or any(found.restricted for found in present.values())
    facts = {kind: found.fact for kind, found in present.items()}
    parent = Parent(**{**vars(parent), "statistics": facts, "restricted": restricted})
    return _Seen(entry.model_copy(update={"model": model, "statistics": refs}), parent, repo)


def _with_vocabularies(
    hub: Hub, seen: list[_Seen | None], places: Sequence[str]
) -> tuple[list[_Seen | None], list[Problem]]:
    """Give every remote parent the fingerprint of its vocabulary, reading as few tokenizer files as possible.

    Equal git blobs are equal files: when all models have the same ones, nothing is read.
    """
    problems: list[Problem] = []
    remote = {index: one.repo for index, one in enumerate(seen) if one and one.repo}
    blobs = {index: _tokenizer_blobs(repo) for index, repo in remote.items()}
    alike = len(set(blobs.values())) == 1 and len(remote) == len(seen)
    known: dict[tuple[tuple[str, str], ...], str] = {}
    result = list(seen)
    for index, repo in remote.items():
        if blobs[index] not in known:
            try:
                known[blobs[index]] = _blob_fingerprint(blobs[index]) if alike else _vocabulary(hub, repo)
            except InputError as error:
                problems += [Problem(p.what, p.why, p.fix, places[index]) for p in error.problems]
                known[blobs[index]] = ""
        one = result[index]
        assert one is not None
        parent = Parent(**{**vars(one.parent), "vocabulary": known[blobs[index]]})
        result[index] = _Seen(one.entry, parent, repo)
    return result, problems


def _tokenizer_blobs(repo: RemoteRepo) -> tuple[tuple[str, str], ...]:
    return tuple((name, repo.files[name].blob_id) for name in sorted(TOKENIZER_FILES) if name in repo.files)


def _blob_fingerprint(blobs: tuple[tuple[str, str], ...]) -> str:
    return sha256(repr(blobs).encode()).hexdigest() if blobs else ""


def _vocabulary(hub: Hub, repo: RemoteRepo) -> str:
    """The same fingerprint as that of the files on disk; `tokenizer.json` alone decides where there is one."""
    names = [name for name in TOKENIZER_FILES if name in repo.files]
    if "tokenizer.json" in names:
        names = ["tokenizer.json"]
    return vocabulary_of({name: read_small(hub, repo, name, TOKENIZER_LIMIT) for name in names})


def _visibility(recipe: Recipe, found: tuple[Parent | None, ...]) -> list[Problem]:
    """A warning when the recipe makes public what came from private or gated models."""
    if recipe.output.private is not False:
        return []
    return [
        Problem(
            f"The result will be public although {parent.model} is private or gated",
            "the recipe says so",
            "Make sure that its owner agrees, or remove `private: false`",
            "output.private",
            "warning",
        )
        for parent in found
        if parent is not None and parent.restricted
    ][:1]
