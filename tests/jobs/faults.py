"""Every way in which the Hub misbehaves in the middle of a job, and what a job makes of it.

A `Case` says what is switched on before which stage, and what its user sees. `docs/faults.md` is written from the
cases; the tests run each of them, so that it cannot say what is not so.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from demo.loopback_hub import LoopbackHub
from demo.loopback_traffic import slow_down
from hub.client import Hub
from merging.recipe import Recipe, recipe_from_dict

REPO = "ann/merged"
STAGES = ("pin", "fetch", "calibrate", "merge", "publish")
BURST = (500, 502, 503, 504)
EXPIRED: dict[str, Any] = {"status": 401, "message": "Invalid credentials in Authorization header"}
BODY: dict[str, Any] = {"whole": True, "method": "GET"}  # of a file, not of its header
QUOTA = "Private repository storage limit reached, please upgrade your plan to increase your private storage limit."
FULL = {"objects": [{"oid": "0" * 64, "size": 1, "error": {"code": 507, "message": "Insufficient storage"}}]}
Left = Literal["whole", "private", "nothing", "empty", "theirs"]  # what stands under the output's name


class World:
    """A Hub with bob's two models and a text, and ann, who merges them. Each case has a copy of its own."""

    def __init__(self, hub: LoopbackHub, root: Path) -> None:
        from tests.tiny_models import save_tiny, sentences  # only here: the table needs no transformers

        self.hub, self._root, self._copies = hub, root, 0
        hub.move_to(root / "first")
        for user in ("ann", "bob"):
            hub.add_user(user)
        self._first = {user: hub.add_token(user) for user in ("ann", "bob")}
        self._tokens = dict(self._first)
        for seed in (0, 1):
            folder = save_tiny(root / f"m{seed}", seed=seed)
            self.bob.api.create_repo(f"bob/m{seed}")
            self.bob.api.upload_folder(repo_id=f"bob/m{seed}", folder_path=folder)
        self.bob.api.create_repo("bob/texts", repo_type="dataset")
        text = "text\n" + "\n".join(sentences(8)) + "\n"
        self.bob.api.upload_file(
            repo_id="bob/texts", repo_type="dataset", path_or_fileobj=text.encode(), path_in_repo="train.csv"
        )

    @property
    def ann(self) -> Hub:
        """The Hub as ann sees it."""
        return Hub(self.hub.url, self._tokens["ann"])

    @property
    def bob(self) -> Hub:
        """The Hub as bob sees it."""
        return Hub(self.hub.url, self._tokens["bob"])

    def anew(self) -> None:
        """Everything as it was at first, without faults."""
        self._copies, self._tokens = self._copies + 1, dict(self._first)
        copy = self._root / f"copy{self._copies}"
        shutil.copytree(self._root / "first", copy)
        self.hub.move_to(copy)

    def expire(self) -> None:
        """Ann's sign-in runs out."""
        self.hub.expire_token(self._tokens["ann"])

    def mend(self) -> Hub:
        """All is well again, and ann has signed in anew."""
        self.hub.clear_faults()
        self._tokens["ann"] = self.hub.add_token("ann")
        return self.ann

    def forget(self, repo_id: str) -> None:
        """The history of a repo is rewritten: its commits so far are gone."""
        self.bob.api.upload_file(path_or_fileobj=b"{}", path_in_repo="new.json", repo_id=repo_id)
        head = self.bob.api.model_info(repo_id).sha
        for path in self.hub.root.rglob("commits/*.json"):
            if repo_id.rpartition("/")[2] in str(path) and path.stem != head:
                path.unlink()
        self.hub.move_to(self.hub.root)

    def left(self) -> tuple[str, int]:
        """What stands under the output's name, and how many commits beyond the first one."""
        api = Hub(self.hub.url, self.hub.add_token("ann")).api
        if not api.repo_exists(REPO):
            return "nothing", 0
        files = set(api.list_repo_files(REPO))
        count = len(api.list_repo_commits(REPO)) - 1
        if "config.json" in files:
            return ("private" if api.model_info(REPO).private else "whole"), count
        return ("theirs" if files - {".gitattributes"} else "empty"), count


@dataclass(frozen=True)
class Case:
    """A fault before a stage. Without `ends` the job is done all the same; `log` must stand in its log."""

    fault: str  # in words
    stage: str
    act: Callable[[World], object]
    ends: str = ""  # the sentence that its user reads
    log: str = ""  # what the log must say, a regular expression
    left: Left = "whole"  # afterwards
    later: Left = "whole"  # after going on, or running it again, with everything mended
    statistics: bool = False  # the merge collects some
    slow: bool = False  # left out of `make test`

    @property
    def name(self) -> str:
        """For the test's id."""
        return f"{self.stage}: {self.fault}"


def recipe(case: Case) -> Recipe:
    """The merge that the case disturbs."""
    calibration = {"data": "bob/texts", "examples": 8, "max_length": 16}
    models = [{"model": f"bob/m{i}"} | ({"calibration": calibration} if case.statistics else {}) for i in (0, 1)]
    method = "regmean" if case.statistics else "average"
    return recipe_from_dict({"merge_method": method, "models": models, "output": {"repo_id": REPO}})


def general(why: str, url: str) -> str:
    """A sentence without what differs from run to run."""
    why = why.replace(url, "{hub}").replace("bob/m0", "bob/m1")
    why = re.sub(r"of [\d,]{9,} bytes", "of {many} bytes", re.sub(r", for \d+ s", "", why))
    return re.sub(r"'[0-9a-f]{40}'", "'{commit}'", why)


LEFT: dict[Left, str] = {
    "whole": "the merge, in one commit",
    "private": "the merge, in one commit, for its owner alone",
    "nothing": "no repo",
    "empty": "an empty repo of ours",
    "theirs": "the repo that took it, untouched",
}


def table() -> str:
    """One row a fault, for the docs."""
    rows = ["| switched on | before the stage | then | what the user reads | on the Hub |", "|---|---|---|---|---|"]
    for case in CASES:
        then = "ends" if case.ends else "goes on"
        words = case.ends or (f"`{LINE}`" if case.log else "")
        left = LEFT[case.left] + (f"; later {LEFT[case.later]}" if case.later != case.left else "")
        rows.append(f"| {case.fault} | {case.stage} | {then} | {words} | {left} |")
    return "\n".join(rows)


def on(path: str, *statuses: int, **fault: Any) -> Callable[[World], None]:
    """Requests of this path go wrong once (or as `times` says), with each of these statuses."""

    def act(world: World) -> None:
        for status in statuses:
            world.hub.set_fault(path, status=status, **fault)
        if not statuses:
            world.hub.set_fault(path, **fault)

    return act


def for_ever(path: str, **fault: Any) -> Callable[[World], None]:
    """Requests of this path go wrong until somebody mends it."""
    return on(path, times=None, **fault)


SLOW = "The Hub asks to slow down: We had to rate limit you: 1000 requests in 5 minutes. Try again in 60 minutes."
LINE = "waiting 12 s: the Hub asks to slow down"
BUSY = r"waiting \d+ s: the Hub asks to slow down"
OUT = "Your sign-in has run out: the Hub refuses it. Sign in again."
KEPT = "Your sign-in has run out: the result is kept and waits to be published. Sign in again and publish."
FAULT = "The Hub is at fault: overloaded. Try again in a minute."
AWAY = (
    "The Hub cannot be reached: {hub} does not answer (RemoteProtocolError). "
    "Try again in a minute, or mend HF_ENDPOINT."
)
PAGE = "<!doctype html><title>Just a moment</title><p>Checking your browser"
STRAY = AWAY.replace("RemoteProtocolError", "a web page came instead")
DAMAGED = "bob/m1: model.safetensors arrived damaged twice: its size or SHA-256 is wrong. Try again later."
HISTORY = "bob/m1 has no revision '{commit}': its history may have been rewritten. Name a branch, a tag or a commit."
HEADER = "bob/m1: model.safetensors has a header of {many} bytes: at most 25,000,000 are read. Save it again."
GONE = "bob/m1 does not exist, or it is private: you have no access to it. Check the name, or ask its owner for access."
GATED = "bob/m1 is gated: its owner has not let you in. Ask for access at {hub}/bob/m1."
EMPTY = "The result is kept and ann/merged exists and is empty"
COMMIT, CREATE, UPLOAD, BODIES = "/commit/", "/api/repos/create", "/_upload/", "^/_storage/"
INFO, FILES = "/api/models/bob/m1", "/m1/resolve/"


def _withdrawn(world: World) -> None:
    world.bob.api.update_repo_settings("bob/m1", private=True)


def _gated(world: World) -> None:
    world.bob.api.update_repo_settings("bob/m1", gated="manual")


def _deleted(world: World) -> None:
    world.bob.api.delete_repo("bob/m1")


def _moved(world: World) -> None:
    world.bob.api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="bob/m1")


def _renamed(world: World) -> None:
    world.bob.api.move_repo("bob/m1", "bob/renamed")


def _replaced(world: World) -> None:
    """Another repo has taken the name: the commit that was previewed is not its own."""
    _renamed(world)
    world.bob.api.create_repo("bob/m1")


def _taken(world: World) -> None:
    world.ann.api.create_repo(REPO)
    world.ann.api.upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id=REPO)


def _slow_down(path: str, seconds: int = 1) -> Callable[[World], None]:
    return on(path, **slow_down(seconds))


CASES: tuple[Case, ...] = (
    # Too many requests
    Case("429 with the Hub's rate-limit headers", "pin", _slow_down(INFO), log=BUSY),
    Case("429 with the Hub's rate-limit headers", "fetch", _slow_down(FILES), log=BUSY),
    Case("429 with Retry-After on the weights", "merge", on(BODIES, 429, headers={"Retry-After": "1"}), log=BUSY),
    Case("429 with the Hub's rate-limit headers", "publish", _slow_down(COMMIT), log=BUSY),
    Case("429 without a word for how long", "publish", on(CREATE, 429)),
    Case("429 that asks for an hour", "pin", _slow_down(INFO, 3600), SLOW, left="nothing"),
    Case("429 that asks for an hour", "merge", _slow_down(INFO, 3600), SLOW, left="nothing"),
    # Faults of its own
    *(Case("500, 502, 503, 504 one after another", stage, on("", *BURST)) for stage in ("pin", "fetch", "merge")),
    Case("500, 502, 503, 504 one after another", "calibrate", on("/texts", *BURST), statistics=True, slow=True),
    Case("500, 502, 503, 504 one after another", "publish", on("", *BURST)),
    Case("each of them for each request of a commit", "publish", on("preupload|batch|_upload|verify|/commit/", *BURST)),
    Case("503 that does not end", "pin", for_ever(INFO, status=503, message="overloaded"), FAULT, left="nothing"),
    Case("503 that does not end", "fetch", for_ever(INFO, status=503, message="overloaded"), FAULT, left="nothing"),
    Case("503 that does not end", "merge", for_ever(BODIES, status=503, message="overloaded"), FAULT, left="nothing"),
    Case(
        "503 that does not end",
        "calibrate",
        for_ever("/texts", status=503, message="overloaded"),
        FAULT,
        left="nothing",
        statistics=True,
        slow=True,
    ),
    Case(
        "whoami answers 503 and does not end",
        "publish",
        for_ever("/whoami", status=503, message="overloaded"),
        FAULT,
        left="nothing",
    ),
    Case(
        "500 at every commit",
        "publish",
        for_ever(COMMIT, status=500, message="overloaded"),
        f"ann/merged could not be published: overloaded. {EMPTY}: publish again.",
        left="empty",
    ),
    Case(
        "422 at verifying an upload",
        "publish",
        for_ever("/objects/verify", status=422, message="The LFS object is not complete"),
        f"ann/merged could not be published: The LFS object is not complete. {EMPTY}: publish again.",
        left="empty",
    ),
    # Something between us and it
    *(
        Case(f"a web page in place of {what}, once", stage, on(path, 200, page=PAGE))
        for stage, path, what in (
            ("pin", INFO, "an answer"),
            ("fetch", FILES, "a file"),
            ("merge", BODIES, "the weights"),
            ("publish", CREATE, "the answer to the creation"),
            ("publish", COMMIT, "the answer to the commit"),
        )
    ),
    *(
        Case("a web page in place of every answer", stage, for_ever(path, status=200, page=PAGE), STRAY, left="nothing")
        for stage, path in (("pin", INFO), ("merge", BODIES), ("publish", "/whoami"))
    ),
    # Connections
    Case("cut in a header of the weights", "pin", on(FILES, cut_after=3)),
    Case("cut in the list of a repo's files", "pin", on(f"{INFO}$", cut_after=3)),
    Case("cut in a small file", "fetch", on(FILES + ".*tokenizer", method="GET", cut_after=3)),
    Case("cut in the middle of the weights, three times", "merge", on(BODIES, cut_after=20_000, times=3)),
    Case("cut always", "merge", for_ever(BODIES, cut_after=20_000), AWAY, left="nothing", slow=True),
    Case("the weights come slowly", "merge", on(BODIES, speed=100_000, times=2)),
    Case("the answer to an upload is cut", "publish", on(UPLOAD, cut_after=0)),
    # What arrives
    Case("weights shorter than announced, once", "merge", on(BODIES, **BODY, shorten=9)),
    Case(
        "weights shorter than announced",
        "merge",
        for_ever(BODIES, **BODY, shorten=9),
        DAMAGED,
        left="nothing",
    ),
    Case("altered weights, once", "merge", on(BODIES, **BODY, alter=True)),
    Case(
        "altered weights",
        "merge",
        for_ever(f"{BODIES}.*model", **BODY, alter=True),
        DAMAGED,
        left="nothing",
    ),
    Case("an altered header", "pin", for_ever(BODIES, alter=True), HEADER, left="nothing"),
    Case("a header shorter than asked for, once", "pin", on(BODIES, shorten=2)),
    Case("an altered config, once", "pin", on(FILES + ".*config.json", **BODY, alter=True)),
    Case(
        "an altered config",
        "fetch",
        for_ever(FILES + ".*/config.json", **BODY, alter=True),
        DAMAGED.replace("model.safetensors", "config.json"),
        left="nothing",
    ),
    # What changes meanwhile
    Case("a new commit in a model", "fetch", _moved),
    Case(
        "the history of a model is rewritten",
        "fetch",
        lambda world: world.forget("bob/m1"),
        HISTORY,
        left="nothing",
    ),
    *(Case("a model is renamed", stage, _renamed) for stage in ("fetch", "merge", "publish")),
    Case("a model is renamed, another takes its name", "fetch", _replaced, HISTORY, left="nothing", later="nothing"),
    Case("a model is renamed, another takes its name", "merge", _replaced, HISTORY, left="nothing", later="nothing"),
    Case("a model is deleted", "fetch", _deleted, GONE, left="nothing", later="nothing"),
    Case("a model becomes private", "fetch", _withdrawn, GONE, left="nothing", later="nothing"),
    Case("a model becomes gated", "fetch", _gated, GATED, left="nothing", later="nothing"),
    Case("a model is deleted", "merge", _deleted, GONE, left="nothing", later="nothing"),
    Case("a model becomes private", "publish", _withdrawn, left="private"),
    Case("a model is deleted", "publish", _deleted, left="private"),
    Case(
        "the output's name is taken",
        "publish",
        _taken,
        "ann/merged exists already: nothing of yours is ever overwritten. Pick another name, or rename that repo.",
        left="theirs",
        later="theirs",
    ),
    Case(
        "the output's name is taken between look and creation",
        "publish",
        on(CREATE, 409, message="You already created this model repo"),
        "ann/merged exists already: nothing of yours is ever overwritten. Pick another name, or rename that repo.",
        left="nothing",
    ),
    # Sign-in
    *(
        Case("the sign-in runs out", stage, World.expire, OUT, left="nothing")
        for stage in ("pin", "fetch", "merge", "publish")
    ),
    Case("the sign-in runs out", "calibrate", World.expire, OUT, left="nothing", statistics=True, slow=True),
    Case("the sign-in runs out at an upload", "publish", for_ever("/preupload/", **EXPIRED), KEPT, left="empty"),
    Case("the sign-in runs out at the commit", "publish", for_ever(COMMIT, **EXPIRED), KEPT, left="empty"),
    Case(
        "a scope is missing for the creation",
        "publish",
        for_ever(CREATE, status=403, message="This token is missing required scope: contribute-repos"),
        "The Hub refused ann/merged: the scope contribute-repos was not granted. "
        "Sign in again and grant contribute-repos.",
        left="nothing",
    ),
    Case(
        "a scope is missing for the commit",
        "publish",
        for_ever(COMMIT, status=403, message="This token is missing required scope: write-repos"),
        f"ann/merged could not be published: the scope write-repos was not granted. {EMPTY}: sign in again, "
        "grant write-repos and publish.",
        left="empty",
    ),
    # Room
    Case(
        "the quota is full at the upload",
        "publish",
        for_ever("/objects/batch", status=200, answer=FULL),
        f"ann/merged could not be published: Insufficient storage. {EMPTY}: publish again.",
        left="empty",
    ),
    Case(
        "the quota is full at the commit",
        "publish",
        for_ever(COMMIT, status=403, message=QUOTA),
        f"ann/merged could not be published: {QUOTA[:-1]}. {EMPTY}: publish again.",
        left="empty",
    ),
    Case(
        "the storage is full",
        "publish",
        for_ever(UPLOAD, status=507, message="Insufficient storage"),
        f"ann/merged could not be published: Insufficient storage. {EMPTY}: publish again.",
        left="empty",
    ),
    # Done, and answered by an error
    Case("the repo is made, the answer is 500", "publish", on(CREATE, 500, done=True)),
    Case("the repo is made, the answer is cut", "publish", on(CREATE, cut_after=0)),
    Case("the commit is made, the answer is 502", "publish", on(COMMIT, 502, done=True)),
    Case("the commit is made, the answer is cut", "publish", on(COMMIT, cut_after=0)),
)
