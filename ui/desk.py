"""What the pages and the public API ask of the floors below, with the answers that many may share."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from hub.client import Hub
from hub.common_base import CommonBase, common_base
from hub.dataset_look import DataLook, look_at_dataset
from hub.identity import Identity, whoami
from hub.merged import MergedModel, read_merged
from hub.resolve import Resolved, check_output, repo_exists, resolve, with_pins
from hub.statistics_look import Look, look
from jobs.job import Job
from jobs.preview import Preview, with_lookups
from jobs.service import JobService
from jobs.statistics_preview import StatisticsPreview
from jobs.store import StoreAway
from jobs.text import HandedOver
from jobs.try_it import TryIt
from jobs.verify_result import Verification
from merging.errors import InputError, MergeError
from merging.parent import Parent
from merging.recipe import Recipe, RecipeError, valid_repo_id
from merging.wish import StatisticsWish
from ui.security import Access

T = TypeVar("T")
NAMES_TRIED = 20
TENSORS_KEPT = 1_000_000  # of all models that were looked at lately: some 900 bytes of memory each
WORKER_PATIENCE = 30.0  # seconds that a worker may take to start


class Recent:
    """Answers that stay good for some seconds. Keys hold hashes of tokens, never tokens."""

    def __init__(self, seconds: float, most: int = 256, size: Callable[[Any], int] = lambda _: 1) -> None:
        """Keeps answers of `most` together, each of a `size`; the oldest go first."""
        self._seconds, self._most, self._size = seconds, most, size
        self._kept: OrderedDict[Any, tuple[float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, ask: Callable[[], T], *, anew: bool = False) -> T:
        """The kept answer, or a new one; in any case a new one if `anew`."""
        with self._lock:
            when, answer = self._kept.get(key, (0.0, None))
        if when and not anew and time.monotonic() - when < self._seconds:
            return answer  # type: ignore[no-any-return]
        fresh = ask()
        with self._lock:
            self._kept[key] = (time.monotonic(), fresh)
            self._kept.move_to_end(key)
            while sum(self._size(kept) for _, kept in self._kept.values()) > self._most:
                self._kept.popitem(last=False)
        return fresh

    def forget(self) -> None:
        """Ask for everything anew."""
        with self._lock:
            self._kept.clear()


class Turns:
    """Which question of a session is its newest: the answer to an older one may come later, and is not shown.

    The browser counts: Gradio's queue does not keep the order of different events.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, session: str, turn: int) -> None:
        """The session's question of this number is here."""
        with self._lock:
            self._asked[session] = max(turn, self._asked.get(session, turn))
            self._asked.move_to_end(session)
            while len(self._asked) > self._most:
                self._asked.popitem(last=False)

    def newest(self, session: str, turn: int) -> bool:
        """Whether nothing that was asked later is here."""
        with self._lock:
            return self._asked.get(session, turn) <= turn


def tensors_of(resolved: Resolved) -> int:
    """How many tensors the headers of all models name, and one for each answer at least."""
    return 1 + sum(len(parent.source.specs) for parent in (*resolved.found, resolved.base) if parent)


def who(hub: Hub) -> str:
    """A key for one person's answers."""
    return hashlib.sha256(f"{hub.url}\0{hub.token}".encode()).hexdigest()


@dataclass
class Desk:
    """The service behind the pages, and how people are known to it."""

    service: JobService
    access: Access
    public_url: str = ""  # absolute address of this service, "" to use that of the request
    examples: Path | None = None  # a list of merges to begin with, see `ui.examples`
    trying: TryIt | None = None  # None where models are not tried
    _opened: float = field(default_factory=time.monotonic)
    _identities: Recent = field(default_factory=lambda: Recent(60.0))
    _jobs: Recent = field(default_factory=lambda: Recent(0.8))
    _workers: Recent = field(default_factory=lambda: Recent(5.0))
    _looks: Recent = field(default_factory=lambda: Recent(20.0, 64))
    _merged: Recent = field(default_factory=lambda: Recent(3.0, 64))
    _datasets: Recent = field(default_factory=lambda: Recent(300.0, 64))
    _reports: Recent = field(default_factory=lambda: Recent(5.0, 64))
    _bases: Recent = field(default_factory=lambda: Recent(600.0))
    _resolved: Recent = field(default_factory=lambda: Recent(60.0, TENSORS_KEPT, tensors_of))

    def hub(self, token: gr.OAuthToken | None, request: gr.Request | None) -> Hub:
        """The Hub as the asking person sees it."""
        return self.access.hub(token, request)

    def identity(self, hub: Hub) -> Identity:
        """Who is signed in, asked of the Hub. Raises SignInNeeded."""
        if not hub.signed_in:
            return whoami(hub)
        return self._identities.get(who(hub), lambda: whoami(hub))

    def identity_or_none(self, hub: Hub) -> Identity | None:
        """Who is signed in, None when nobody is or the sign-in has run out."""
        try:
            return self.identity(hub)
        except InputError:
            return None

    def base_url(self, request: gr.Request | None) -> str:
        """The absolute address of this service, without a final slash."""
        if self.public_url or request is None:
            return self.public_url.rstrip("/")
        return str(request.headers.get("origin", "")).rstrip("/")

    def recipe(self, read: Callable[[], Recipe], hub: Hub) -> Recipe:
        """The recipe that somebody means. Raises InputError with all that is wrong with it and with its models."""
        try:
            return read()
        except RecipeError as error:
            raise with_lookups(error, lambda rest: self.preview(rest, hub)) from None

    def preview(self, recipe: Recipe, hub: Hub) -> Preview:
        """What would happen. Nobody signed in: the place of the result is not looked at.

        As weights, parameters and names change, the models are not looked up again; `submit` does so in any case.
        """
        models = [(entry.model, entry.statistics, entry.calibration) for entry in recipe.models]
        base = recipe.base.model if recipe.base else ""
        key = repr((who(hub), models, base, sorted(recipe.method.needs), recipe.output.private))
        resolved = with_pins(self._resolved.get(key, lambda: resolve(hub, recipe)), recipe)
        preview = self.service.preview(recipe, hub, with_output=False, resolved=resolved)
        if not hub.signed_in:
            return preview
        problems = check_output(hub, recipe, self.identity_or_none(hub))
        return replace(preview, problems=(*preview.problems, *problems))

    def common_base(self, parents: Sequence[Parent], hub: Hub) -> CommonBase:
        """The base that models have in common; asked again for the same ones, the Hub is not."""
        key = (who(hub), tuple((parent.model, parent.revision) for parent in parents))
        return self._bases.get(key, lambda: common_base(hub, parents))

    def free_name(self, hub: Hub, owner: str, name: str) -> str:
        """`name`, or `name-2`, `name-3`, ... when the owner has a repo of that name already."""
        if not hub.signed_in or not owner or not name:
            return name
        try:
            for number in range(1, NAMES_TRIED):
                free = name if number == 1 else f"{name}-{number}"
                if not valid_repo_id(f"{owner}/{free}") or not repo_exists(hub, f"{owner}/{free}"):
                    return free
        except MergeError:
            pass  # the preview will say what is wrong
        return name

    def submit(self, recipe: Recipe, hub: Hub, nonce: str = "", rows: HandedOver | None = None) -> Job:
        """Queue a merge, with the rows uploaded for its evaluation. Raises InputError with all that is wrong."""
        return self.service.submit(recipe, hub, nonce=nonce, rows=rows)

    def look_at_dataset(self, data: str, hub: Hub, *, text_column: str, label_column: str) -> DataLook:
        """Columns and labels of a dataset, by its first rows."""
        key = (who(hub), data, text_column, label_column)
        return self._datasets.get(key, lambda: look_at_dataset(hub, data, text_column, label_column))

    def report(self, id: str, hub: Hub) -> dict[str, Any]:
        """What is known of a merge that was made: its evaluation, where its models differ; {} before there is one."""
        user = self.identity(hub).name
        return self._reports.get((user, id), lambda: self.service.report(id, user) or {})

    def look(self, name: str, hub: Hub, *, anew: bool = False) -> Look:
        """The statistics of a model, or in a statistics repo; `anew` once some were published: merges may find them."""
        if anew:
            self._resolved.forget()
        return self._looks.get((who(hub), name), lambda: look(hub, name), anew=anew)

    def preview_statistics(self, wish: StatisticsWish, hub: Hub) -> StatisticsPreview:
        """What a wish for statistics would do."""
        return self.service.preview_statistics(wish, hub)

    def submit_statistics(self, wish: StatisticsWish, hub: Hub, texts: Sequence[str] | None, nonce: str) -> Job:
        """Queue a statistics job. Raises InputError with all that is wrong."""
        return self.service.submit_statistics(wish, hub, texts=texts, nonce=nonce)

    def job(self, id: str, hub: Hub) -> Job:
        """A job of the asking person; asked often, it is read once."""
        user = self.identity(hub).name
        return self._jobs.get(("job", user, id), lambda: self.service.get(id, user))

    def jobs(self, hub: Hub) -> Sequence[Job]:
        """The jobs of the asking person, newest first."""
        user = self.identity(hub).name
        return self._jobs.get(("jobs", user), lambda: self.service.list(user))

    def log(self, id: str, hub: Hub) -> Sequence[dict[str, Any]]:
        """The log of a job."""
        user = self.identity(hub).name
        return self._jobs.get(("log", user, id), lambda: self.service.log(id, user))

    def cancel(self, id: str, hub: Hub) -> Job:
        """Stop a job."""
        return self.service.cancel(id, self.identity(hub).name)

    def go_on(self, id: str, hub: Hub) -> Job:
        """Go on with a failed job that kept what was done."""
        return self.service.go_on(id, hub)

    def merged(self, repo_id: str, hub: Hub) -> MergedModel:
        """A published merge; the parts of its page ask for it at the same time."""
        return self._merged.get((who(hub), repo_id), lambda: read_merged(hub, repo_id))

    def verification(self, merged: MergedModel) -> Verification | None:
        """What was found when the commit that the asking person has just seen was last verified here."""
        return self.service.verification(merged.repo_id, merged.revision)

    def verify(self, repo_id: str, hub: Hub, nonce: str = "") -> Job:
        """Queue the verification of a published merge. Raises InputError with all that is wrong."""
        return self.service.submit_verification(repo_id, hub, nonce=nonce)

    def worker_alive(self) -> bool:
        """False when queued jobs wait for nobody."""
        try:
            return self._workers.get("worker", self.service.worker_alive)
        except StoreAway:
            return False

    @property
    def forgets(self) -> bool:
        """Whether a restart of this service loses its jobs: a Space whose job store lies on its own disk."""
        return self.service.forgets and not self.access.single_user

    def worker_missing(self) -> bool:
        """True when nobody works although there was time enough for a worker to start."""
        return time.monotonic() - self._opened > WORKER_PATIENCE and not self.worker_alive()
