"""What a person can ask of the jobs: the page and the command line use the same calls.

Nothing here runs a job: that is the worker's, another process. Only its owner sees a job; to anybody else its id
answers as if there were none.
"""

import json
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dbos._sys_db import WorkflowStatus

from hub.client import Hub
from hub.identity import whoami
from hub.resolve import Resolved
from jobs import settle
from jobs.job import Job, JobFolder, JobSpec, job_id, read_json
from jobs.limits import Limits, Needs
from jobs.outline import outline_of
from jobs.preview import Preview, make_preview
from jobs.ready import Readiness
from jobs.record import STATUS, failure_of, job_of, spec_of
from jobs.statistics_preview import StatisticsPreview, preview_statistics
from jobs.store import ACTIVE, QUEUE, WORKFLOW, Store, a_worker_lives, answers
from jobs.text import HandedOver, raise_unless_handed_over
from jobs.turns import line
from jobs.upkeep import clean_expired, paused, stranded
from jobs.verify import verifiable
from jobs.verify_result import Verification, kept
from merging.errors import InputError, MergeError, raise_errors
from merging.recipe import Recipe
from merging.wish import StatisticsWish, wish_from_yaml
from settings import Settings, parse_size

HISTORY = 100  # jobs in a user's list
PRIORITY = 5  # of 1..9; a job without one would go first
LINE_SECONDS = 1.0  # that the order of the waiting jobs is taken to stay


class JobService:
    """The jobs of one home folder and database."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings)
        self._client = self._store.client()
        self._limits = Limits(settings, self._store)
        self._readiness = Readiness(self._store, parse_size(settings.disk_reserve))
        self._line: tuple[float, dict[str, int]] = (0.0, {})
        self._line_lock = threading.Lock()

    def close(self) -> None:
        """Give the connections back."""
        self._client.destroy()
        self._store.engine.dispose()

    def preview(
        self,
        recipe: Recipe,
        hub: Hub,
        *,
        folders_allowed: bool = False,
        with_output: bool = True,
        resolved: Resolved | None = None,
    ) -> Preview:
        """Plan from headers alone, of what was `resolved` or is now. Bad input is in `problems`, not raised."""
        return make_preview(
            recipe,
            hub,
            free=self._limits.free,
            folders_allowed=folders_allowed,
            with_output=with_output,
            resolved=resolved,
        )

    @answers
    def submit(
        self,
        recipe: Recipe,
        hub: Hub,
        *,
        nonce: str = "",
        folders_allowed: bool = False,
        rows: HandedOver | None = None,
    ) -> Job:
        """Check everything once more and queue the job. The same user, recipe, rows and nonce give the same job.

        `rows` holds what was handed over for evaluation sets whose data say so: number of the set -> its rows, as
        `jobs.text.labelled` gives them. Raises InputError with all that was found: bad input, not signed in, too many
        jobs.
        """
        user, text, rows = whoami(hub).name, recipe.to_yaml(), rows or {}
        raise_unless_handed_over(recipe, rows)
        marked = json.dumps([text, sorted(rows.items())]) if rows else text
        new_id = job_id(user, marked, nonce or uuid.uuid4().hex)
        known = self._find(new_id, user)
        if known is not None:
            return self._job(known)
        self._check_limit(user, recipe.output.repo_id)
        preview = self.preview(recipe, hub, folders_allowed=folders_allowed)
        raise_errors(preview.problems)
        plan = preview.plan
        needs = Needs(plan.disk_bytes, plan.download_bytes + plan.output_bytes)
        return self._queue(hub, user, new_id, text, needs, folders_allowed=folders_allowed, rows=rows)

    def preview_statistics(self, wish: StatisticsWish, hub: Hub) -> StatisticsPreview:
        """What a wish for statistics would do. Bad input is in `problems`, not raised."""
        return preview_statistics(wish, hub, free=self._limits.free)

    @answers
    def submit_statistics(
        self, wish: StatisticsWish, hub: Hub, *, texts: Sequence[str] | None = None, nonce: str = ""
    ) -> Job:
        """Check a wish for statistics and queue its job. `texts` is what was handed over with it, where it says so.

        Raises InputError with all that was found. The same user, wish, text and nonce give the same job.
        """
        if wish.text_is_handed_over != bool(texts):
            raise InputError(
                "There is no text", "statistics are collected from it", "Upload or paste some", "text.data"
            )
        user, marked = whoami(hub).name, json.dumps([wish.to_yaml(), *(texts or ())])
        new_id = job_id(user, marked, nonce or uuid.uuid4().hex)
        known = self._find(new_id, user)
        if known is not None:
            return self._job(known)
        preview = self.preview_statistics(wish, hub)
        raise_errors(preview.problems)
        needs = Needs(preview.download_bytes, preview.download_bytes)
        named = wish.model_copy(update={"repo_id": preview.wish.repo_id})
        return self._queue(hub, user, new_id, named.to_yaml(), needs, texts=texts)

    @answers
    def submit_verification(self, repo_id: str, hub: Hub, *, commit: str = "", nonce: str = "") -> Job:
        """Queue the verification of a published merge, at its newest commit or the one that is named.

        Raises InputError with all that was found. A commit that is being verified for this user already gives that job.
        """
        user, found = whoami(hub).name, verifiable(hub, repo_id, commit or None)
        for status in self._active(user):
            if failure_of(status) is None and wish_from_yaml(spec_of(status).recipe_yaml) == found.wish:
                return self._job(status)
        new_id = job_id(user, found.wish.to_yaml(), nonce or uuid.uuid4().hex)
        ended = self._find(new_id, user)
        if ended is not None:
            return self._job(ended)
        folder = self._folder(new_id)
        folder.create()
        folder.append_log("pin", f"It {found.words}")  # its first line
        try:
            return self._queue(hub, user, new_id, found.wish.to_yaml(), Needs(found.disk_bytes, found.moved))
        except MergeError:
            folder.remove()
            raise

    def verification(self, repo_id: str, commit: str) -> Verification | None:
        """What was found when this commit of a repo was last verified here. The caller knows that it may be seen."""
        return kept(self._store.home, repo_id, commit)

    def _queue(
        self,
        hub: Hub,
        user: str,
        new_id: str,
        wish_yaml: str,
        needs: Needs,
        *,
        folders_allowed: bool = False,
        texts: Sequence[str] | None = None,
        rows: HandedOver | None = None,
    ) -> Job:
        """Queue a job that was checked, unless the user has too many, or one for the same repo, or it is too large."""
        scopes = None if hub.scopes is None else tuple(sorted(hub.scopes))
        spec = JobSpec(wish_yaml, user, new_id, hub.endpoint, scopes, folders_allowed, hub.own_machine)
        with self._store.submitting():
            if self._find(new_id, user) is not None:
                return self.get(new_id, user)  # the same click came twice, and the other one was faster
            self._check_limit(user, outline_of(wish_yaml).makes)
            self._limits.check_bytes(user, needs)
            self.enqueue(new_id, spec, str(hub.token), texts, rows)
            self._limits.note(new_id, user, needs.moved)
        return self.get(new_id, user)

    def enqueue(
        self,
        new_id: str,
        spec: JobSpec,
        token: str,
        texts: Sequence[str] | None = None,
        rows: HandedOver | None = None,
    ) -> None:
        """Put a job that was checked into the queue, its token beside it, and what was handed over."""
        spec = replace(spec, stages=spec.stages or outline_of(spec.recipe_yaml).stages)
        self._store.tokens.put(spec.token_ref, token)
        if texts:
            self._folder(new_id).write_text(texts)
        if rows:
            self._folder(new_id).write_rows(rows)
        self._client.enqueue(
            {
                "workflow_name": WORKFLOW,
                "queue_name": QUEUE,
                "workflow_id": new_id,
                "queue_partition_key": spec.user,
                "priority": PRIORITY,
                "authenticated_user": spec.user,
            },
            spec.as_dict(),
        )

    @answers
    def list(self, user: str) -> Sequence[Job]:
        """The jobs of a user, newest first."""
        found = self._client.list_workflows(user=user, name=WORKFLOW, sort_desc=True, limit=HISTORY)
        return [self._job(status) for status in found]

    @answers
    def get(self, id: str, user: str) -> Job:
        """One job of a user. Raises InputError for one that is unknown or somebody else's."""
        return self._job(self._require(id, user))

    @answers
    def log(self, id: str, user: str) -> Sequence[dict[str, Any]]:
        """The log of a job: time, stage, level and message of each line."""
        self._require(id, user)
        return self._folder(id).read_log()

    @answers
    def report(self, id: str, user: str) -> dict[str, Any] | None:
        """The report of the merge, None before there is one."""
        self._require(id, user)
        report: dict[str, Any] | None = read_json(self._folder(id).report)
        return report

    @answers
    def cancel(self, id: str, user: str) -> Job:
        """Stop a job wherever it is; the answer says what it came to (it may have ended just before).

        A running stage is stopped within two seconds. What was published stays published: see `url` and `left`.
        """
        before = self._require(id, user)
        if before.status in ACTIVE:
            self._client.cancel_workflow(id)
            if before.status != "PENDING" and self._require(id, user).status == "CANCELLED":
                self._release(id)  # no worker has it, so nobody else would clean up
        elif (failure := failure_of(before)) is not None and failure.kept:
            self._folder(id).remove()  # it is given up
        return self.get(id, user)

    @answers
    def go_on(self, id: str, hub: Hub) -> Job:
        """Go on with a failed job where it ended, with the token of a new sign-in: often there is only to publish.

        One that goes on already is answered as it is. Raises InputError for one that kept nothing, or when the user
        has too many jobs.
        """
        user = whoami(hub).name
        with self._store.submitting():
            job, failure = self.get(id, user), failure_of(self._require(id, user))
            if job.status in ("waiting", "running"):
                return job  # the button was pressed in another tab, too
            if failure is None or not (job.publishable or job.resumable):
                raise InputError("This job has no result to publish", f"it is {job.status}", "Run it again")
            steps = self._client.list_workflow_steps(id)
            step = next(one["function_id"] for one in steps if one["function_name"] == failure.stage)
            self._check_limit(user, job.repo_id, going_on=id)
            self._store.tokens.put(id, str(hub.token))
            self._folder(id).create()
            self._folder(id).renewed.touch()
            self._client.rewind_workflow(id, start_step=step, queue_name=QUEUE, queue_partition_key=user)
        return self.get(id, user)

    @property
    def forgets(self) -> bool:
        """Whether the jobs lie on this machine's own disk, which a Space loses at each restart."""
        return self._store.is_sqlite

    @property
    def expiry(self) -> str:
        """When goes what is kept here, in one sentence for its owners."""
        days, hours = self._settings.keep_days, self._settings.upload_hours
        return (
            f"Jobs, their logs and results that wait to be published are deleted {days} day{'s' * (days != 1)} after "
            f"their end, uploads after {hours} hour{'s' * (hours != 1)}, texts handed over with a job at its end."
        )

    def not_ready(self) -> Sequence[str]:
        """Why jobs cannot be taken or done now, one sentence each; empty when all is well."""
        return self._readiness.reasons()

    @answers
    def worker_alive(self) -> bool:
        """False when queued jobs wait for nobody."""
        return a_worker_lives(self._store)

    @answers
    def stranded(self) -> tuple[str, ...]:
        """Ids of waiting or running jobs that no worker of this version can run."""
        return stranded(self._client)

    def clean_expired(self, now: float | None = None) -> int:
        """Delete jobs that ended more than `keep_days` ago, with all their files. Returns how many."""
        return clean_expired(self._store, self._client, self._settings.keep_days, now)

    def _check_limit(self, user: str, repo_id: str | None, going_on: str = "") -> None:
        """No more jobs than allowed, and no two that make the same repo. Raises InputError."""
        active = self._active(user)
        for status in active:
            other = outline_of(spec_of(status).recipe_yaml)
            if repo_id and other.makes == repo_id:
                raise InputError(
                    f"A job of yours is making {repo_id} already",
                    f"job {status.workflow_id} is {STATUS[status.status]}",
                    "Wait for it, or pick another name",
                    "output.repo_id",
                )
        everybody = self._client.list_workflows(name=WORKFLOW, status=ACTIVE, load_input=False, load_output=False)
        others = [id for id in paused(self._store, self._client, user) if id != going_on]
        self._limits.check_jobs(len(active), len(everybody), len(others))

    def _active(self, user: str) -> Sequence[WorkflowStatus]:
        """A user's jobs that wait or run, the newest first."""
        return self._client.list_workflows(user=user, name=WORKFLOW, status=ACTIVE, sort_desc=True, load_output=False)

    def _ahead(self, id: str) -> int:
        """Jobs, running and waiting, that come before a waiting one; the whole line is read once a second."""
        with self._line_lock:
            when, places = self._line
            if time.monotonic() - when > LINE_SECONDS or id not in places:
                places = {one.workflow_id: place for place, one in enumerate(line(self._client.list_workflows))}
                self._line = (time.monotonic(), places)
        return places.get(id, 0)

    def _find(self, id: str, user: str) -> WorkflowStatus | None:
        found = self._client.list_workflows(workflow_ids=[id], user=user, name=WORKFLOW)
        return found[0] if found else None

    def _require(self, id: str, user: str) -> WorkflowStatus:
        status = self._find(id, user) if id.isalnum() else None
        if status is None:
            raise InputError(
                "There is no such job", f"{id[:40]!r} is not one of yours", "Look at the list of your jobs"
            )
        return status

    def _folder(self, id: str) -> JobFolder:
        return JobFolder(self._store.home, id)

    def _release(self, id: str) -> None:
        self._folder(id).free()
        if not settle.is_unsettled(self._folder(id)):  # else a worker looks at the Hub with it
            self._store.tokens.delete(id)

    def _job(self, status: WorkflowStatus) -> Job:
        """The engine's record as its owner reads it."""
        id, state = status.workflow_id, STATUS[status.status]
        steps = self._client.list_workflow_steps(id)
        event = self._client.get_event(id, "progress", timeout_seconds=0) if state == "running" else None
        return job_of(status, steps, event, self._folder(id), self._ahead(id) if state == "waiting" else 0)
