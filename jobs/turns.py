"""Whose job is next: people take turns.

DBOS lets one job of a person run at a time and picks the next person by chance, so that somebody with one job may
wait long behind somebody with fifty. Here the next one is who has been waiting longest, where waiting begins when
one's own job before it has ended.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dbos._queue import Queue
from dbos._sys_db import SystemDatabase, WorkflowStatus
from sqlalchemy.exc import DBAPIError

from jobs.store import ENDED, QUEUE

List = Callable[..., Sequence[WorkflowStatus]]  # `list_workflows` of DBOS or of a client of it


def line(list_workflows: List) -> tuple[WorkflowStatus, ...]:
    """The jobs that run, then those that wait in the order in which they will start, as far as is known now."""
    bare: dict[str, Any] = {"queue_name": QUEUE, "load_input": False, "load_output": False}
    active = list_workflows(status=["ENQUEUED", "PENDING"], **bare)
    running = [one for one in active if one.status == "PENDING"]
    waiting: dict[str, list[WorkflowStatus]] = {}
    for one in sorted(active, key=lambda one: (one.priority or 0, one.created_at or 0, one.workflow_id)):
        if one.status == "ENQUEUED":
            waiting.setdefault(one.queue_partition_key or "", []).append(one)
    ends = _ends(list_workflows, waiting, bare) if len(waiting) > 1 else {}
    return (*running, *_in_turn(waiting, [one.queue_partition_key or "" for one in running], ends))


def _ends(
    list_workflows: List, waiting: Mapping[str, Sequence[WorkflowStatus]], bare: Mapping[str, Any]
) -> dict[str, tuple[int, int]]:
    """(when the last job of each waiting person ended in Unix ms, how many did) since the oldest one was queued."""
    oldest = min(jobs[0].created_at or 0 for jobs in waiting.values())
    since = datetime.fromtimestamp(oldest / 1000 - 1, UTC).isoformat()
    ends: dict[str, tuple[int, int]] = {}
    for one in list_workflows(status=ENDED, user=list(waiting), completed_after=since, **bare):
        if one.dequeued_at:  # one that was cancelled while it waited took nobody's turn
            person = one.queue_partition_key or one.authenticated_user or ""
            last, count = ends.get(person, (0, 0))
            ends[person] = max(last, one.completed_at or 0), count + 1
    return ends


def _in_turn(
    waiting: Mapping[str, Sequence[WorkflowStatus]], running: Sequence[str], ends: Mapping[str, tuple[int, int]]
) -> list[WorkflowStatus]:
    """Everybody's first job by how long it has been first, then everybody's second one, and so on.

    SQLite's clock counts whole seconds: within one, who had fewer turns comes first.
    """

    def place(person: str) -> tuple[bool, int, int, str]:
        (end, turns), queued = ends.get(person, (0, 0)), waiting[person][0].created_at or 0
        return person in running, max(end, queued), turns, person

    people = sorted(waiting, key=place)
    rounds = max((len(jobs) for jobs in waiting.values()), default=0)
    return [waiting[person][turn] for turn in range(rounds) for person in people if turn < len(waiting[person])]


def take_turns() -> None:
    """Let the workers of this process claim jobs in this order. Call once, before DBOS is launched."""
    setattr(SystemDatabase, "start_queued_partitioned_workflows", _claim)  # noqa: B010


def _claim(
    self: SystemDatabase,
    queue: Queue,
    executor_id: str,
    app_version: str,
    max_tasks: int = sys.maxsize,
    **more: Any,
) -> list[str]:
    """In place of DBOS' own: the ids of at most `max_tasks` jobs that are this worker's now, no two of one person.

    Each is claimed by DBOS itself, which looks at the limits once more; a claim that another worker disturbed is
    made again at the next look at the queue.
    """
    ahead = line(self.list_workflows)
    busy = {one.queue_partition_key for one in ahead if one.status == "PENDING"}
    claimed: list[str] = []
    for person in dict.fromkeys(one.queue_partition_key for one in ahead if one.status == "ENQUEUED"):
        if len(claimed) >= max_tasks:
            break
        if person in busy:
            continue
        try:
            found, _ = self.start_queued_workflows(queue, executor_id, app_version, person, **more)
        except DBAPIError:
            if claimed:
                break  # they are ours already
            raise
        claimed += found
    return claimed
