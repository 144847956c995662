"""The process in which models are tried: `python -m jobs.try_it_child FOLDER PARENT_PID LIFELINE`, see `jobs.try_it`.

It has no token, one thread, a low priority and a bound on its memory; each model is loaded, asked, and let go.
"""

import os
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hub.client import Hub
from jobs.stage import main
from jobs.stages import Steps
from jobs.try_it_models import Shelf, Trial, trials
from merging.errors import InputError
from merging.progress import Progress

NICE = 10


def run(place: Path, request: Mapping[str, Any]) -> Steps:
    """Ask a merge and its parents: {"answers": [{who, title, head, and an answer or "error"}], "notes": [...]}."""
    from merging.answers import answer

    resource.setrlimit(resource.RLIMIT_DATA, (request["memory"], resource.getrlimit(resource.RLIMIT_DATA)[1]))
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


if __name__ == "__main__":
    with suppress(OSError):
        os.nice(NICE)
    main(sys.argv[1:], {"try": run})
