"""What a job that was cancelled while it was publishing has left on the Hub: looked at, noted, and told.

A cancel cannot take back a commit that the Hub has made, and a request that was cut off may still be answered. So a
worker looks at the Hub with the job's token before that token is deleted: at once, or, when it was killed in that
moment, with its next upkeep. It looks once, for a minute at most, for the token is to end with its job: a Hub that is
away then is not asked again, and the job says so. Nothing is ever deleted there.
"""

import json
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.job import JobFolder, read_json, write_atomically
from jobs.stage import job_folder
from merging.progress import Progress
from merging.recipe import Recipe
from merging.wish import StatisticsWish, wish_from_yaml

LOOKS, EVERY = 4, 2.0  # how often, and after how many seconds, an empty repo is looked at again: the Hub may be slow
WAITS = 20.0, 15.0, 10.0  # seconds at most that the Hub may be away, may ask for, and may take for a piece of an answer


def is_unsettled(folder: JobFolder) -> bool:
    """Whether the job has begun to publish and nobody knows what came of it."""
    return folder.publishing.exists() and not folder.published.exists() and not folder.settled.exists()


def give_up(folder: JobFolder) -> None:
    """Note that nobody could look."""
    write_atomically(folder.settled, json.dumps({"known": False}))


def words(folder: JobFolder, repo_id: str) -> str:
    """One sentence about what a cancelled job has left, "" for nothing (or for what `published.json` tells)."""
    if not folder.publishing.exists() or folder.published.exists():
        return ""
    settled = read_json(folder.settled)
    if settled is None:
        return f"It was being published: whether {repo_id} is there already is being looked at."
    if not settled.get("known"):
        return f"It was being published, and the Hub did not say how far it came: look whether {repo_id} is there."
    return f"{repo_id} had been made and is empty." if settled.get("empty") else ""


@contextmanager
def less_patient() -> Iterator[None]:
    """A look that cannot be had soon is had another time: the worker ends one that takes a minute."""
    from hub import patience

    before = patience.be(patience.PAGE)
    trouble, asked, read = map(min, WAITS, (before.trouble, before.asked, before.read))
    patience.be(replace(before, trouble=trouble, asked=asked, read=read))
    try:
        yield
    finally:
        patience.be(before)


def settle(path: Path, request: Mapping[str, Any]) -> Generator[Progress, None, dict[str, Any]]:
    """The stage: find the job's own commit, or its empty repo, and note it."""
    with less_patient():
        return (yield from _look(path, request))


def _look(path: Path, request: Mapping[str, Any]) -> Generator[Progress, None, dict[str, Any]]:
    from hub.publish import standing
    from hub.publish_statistics import published_before
    from jobs.stages import hub_of

    folder, hub = job_folder(path), hub_of(request)
    wish = wish_from_yaml(folder.pinned.read_text())
    yield Progress("settle", 0, 1, "steps")
    empty = False
    for look in range(LOOKS):
        if isinstance(wish, StatisticsWish):
            published = published_before(hub, wish.model_id, wish.publish, folder.id)
        else:
            assert isinstance(wish, Recipe)
            published, empty = standing(hub, wish.output.repo_id or "", folder.id)
        if published is not None:
            write_atomically(folder.published, json.dumps(published.as_dict()))
            break
        if not empty and not isinstance(wish, StatisticsWish):
            break
        if look + 1 < LOOKS:
            time.sleep(EVERY)
    write_atomically(folder.settled, json.dumps({"known": True, "empty": empty}))
    return {}
