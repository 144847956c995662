"""What the process does in which models are tried: see `jobs.try_it`, which starts it by `jobs.begin`.

It has no token, one thread, a low priority and a bound on its memory; each model is loaded, asked, and let go.
"""

import os
import resource
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub import patience
from hub.client import Hub
from jobs.stage import Stage
from jobs.stages import Steps
from jobs.try_it_models import Shelf, Trial, trials
from merging.errors import InputError, MergeError
from merging.progress import Progress

NICE = 10


def run(place: Path, request: Mapping[str, Any]) -> Steps:
    """Answer a question: {"answers": [{who, title, head, and an answer or "error"}], "notes": [...]}."""
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (request["memory"], resource.getrlimit(resource.RLIMIT_DATA)[1]))
    patience.be(patience.PAGE)  # somebody sits and waits
    try:
        return (yield from _answers(place, request))
    except MergeError:
        raise
    except Exception as error:
        traceback.print_exc()  # for the log of the service
        why = f"something went wrong here ({type(error).__name__})"
        raise MergeError("This could not be tried", why, "Try again later") from None


def _answers(place: Path, request: Mapping[str, Any]) -> Steps:
    from merging.answers import answer  # takes seconds

    yield Progress("try", 0, 0, message=f"looking at {request['repo_id']}")
    hub = Hub.anonymous(request["endpoint"])
    found, notes = trials(hub, request["repo_id"], request["commit"], request["limit"])
    shelf = Shelf(place, request["keep"], request["reserve"])
    yield from shelf.bring(hub, found)
    told = []
    for number, one in enumerate(found):
        yield Progress("try", number, len(found), "models", message=f"asking {_name(one)}")
        about = {"who": one.who, "title": one.title, "head": one.head}
        with shelf.laid_out(one) as folder:
            try:
                told.append(about | answer(folder, request["text"], request["other"], name=_name(one)))
            except InputError as error:
                told.append(about | {"error": str(error)})
    return {"answers": told, "notes": notes}


def _name(one: Trial) -> str:
    return one.repo.repo_id if not one.folder else f"{one.repo.repo_id}/{one.folder}"


TABLE: Mapping[str, Stage] = {"try": run}
