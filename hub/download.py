"""Files of pinned repos into a job's own folder: access asked first, resumed, and verified.

Nothing goes through a cache that another user's job could read.
"""

import os
import shutil
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants

from hub.client import Hub, explained, may_pass, safe_path
from hub.digests import damaged, digest_of
from hub.patience import Interrupted, Trial, interrupt
from hub.repository import RemoteRepo, open_repo
from hub.statistics import REFERENCE
from merging.checkpoint import sha256_of
from merging.errors import InputError, MergeError
from merging.parent import Parent, StatisticsFact
from merging.progress import Progress
from merging.tensors import HeaderSource

AT_ONCE = 4  # files
TICK = 0.2  # seconds between reports
REST = ".cache"  # in a folder: where the client keeps what is not whole
constants.DOWNLOAD_CHUNK_SIZE = 1 << 20  # what has arrived of a piece is lost when an answer is cut, and is not told
os.environ.setdefault("HF_XET_CHUNK_CACHE_SIZE_BYTES", "0")  # a second copy of all that is fetched, of up to 10 GB


class _Stopped(BaseException):
    """The owner of the download closed it: unwinds the client from inside its progress hook."""


class _Meter:
    """Counts bytes as they arrive, over all files; the client feeds it through a tqdm class."""

    def __init__(self) -> None:
        self.done = 0
        self.kept = 0  # of it, what an earlier start had fetched of a file
        self.stopped = False
        self._lock = threading.Lock()

    def add(self, count: float | None, *, kept: bool = False) -> None:
        if self.stopped:
            raise _Stopped
        with self._lock:
            self.done += int(count or 0)
            self.kept += int(count or 0) if kept else 0

    def bar(self) -> type[Any]:
        """A class that the client takes for tqdm."""
        meter = self

        class Bar:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self.total, self.n = kwargs.get("total"), 0
                meter.add(kwargs.get("initial"), kept=True)

            def update(self, n: float | None = 1) -> None:
                meter.add(n)

            def __enter__(self) -> "Bar":
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def __getattr__(self, name: str) -> Any:
                return lambda *args, **kwargs: None

        return Bar


def fetch(hub: Hub, parent: Parent, files: Sequence[str], folder: Path) -> Generator[Progress, None, None]:
    """Download `files` of a pinned parent into `folder`; what is there and right already is kept.

    Asks for access again with this token first. Sizes and digests are those of `facts_of`; a file that arrives wrong
    twice is a HubUnavailable. Closing the generator stops it, and the next call goes on.
    """
    yield from _download(
        hub,
        parent.model,
        parent.revision,
        {name: facts_of(parent, name) for name in files},
        folder,
    )


def fetchable(repo: RemoteRepo) -> Parent:
    """A repo of which more than a model is wanted, or less, as `fetch` takes it."""
    sizes = {name: file.size for name, file in repo.files.items()}
    digests = {name: file.digest for name, file in repo.files.items()}
    return Parent(repo.repo_id, repo.sha, {}, HeaderSource({}), files=sizes, digests=digests)


def facts_of(parent: Parent, name: str) -> tuple[int, str]:
    """Size in bytes (-1 where it is not known) and digest ("" where it is not) of a file as the Hub lists them."""
    return parent.files.get(name, -1), parent.weights.get(name) or parent.digests.get(name, "")


def fetch_statistics(hub: Hub, fact: StatisticsFact, path: Path) -> Generator[Progress, None, None]:
    """Bring a pinned statistics file to `path`, from the Hub or from this machine. Its values are not looked at.

    Access is asked for first, size and SHA-256 are checked, and a right file that is there already is kept.
    """
    if path.is_file() and fact.sha256 and sha256_of(path) == fact.sha256:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    match = REFERENCE.fullmatch(fact.source)
    if match is None or fact.source.startswith(("/", "./", "../", "~")):
        shutil.copyfile(Path(fact.source).expanduser(), path)
        return
    draft = path.with_name(path.name + ".download")
    files = {match["path"]: (fact.nbytes, fact.sha256)}
    yield from _download(hub, match["repo"], match["revision"], files, draft)
    (draft / match["path"]).replace(path)
    shutil.rmtree(draft)


def _download(
    hub: Hub, repo_id: str, revision: str, files: dict[str, tuple[int, str]], folder: Path
) -> Generator[Progress, None, None]:
    for name in files:
        if not safe_path(name):
            raise InputError(f"{repo_id} has a file name that cannot be used", "", "Pick another model")
    repo = open_repo(hub, repo_id, revision)
    if repo.sha != revision:
        raise InputError(f"{repo_id}@{revision[:40]} is not pinned", "a commit is needed", "Resolve the recipe first")
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(max(0, size) for size, _ in files.values())
    present = [name for name, facts in files.items() if is_right(folder / name, facts)]
    kept = sum(files[name][0] for name in present)
    yield Progress("fetch", kept, total, message=repo_id, kept=kept)
    downloads = Downloads(hub)
    try:
        left = {downloads.start(repo_id, revision, name, files[name], folder) for name in files if name not in present}
        for _ in finished(left):
            yield Progress(
                "fetch", min(total, kept + downloads.done), total, message=repo_id, kept=kept + downloads.kept
            )
    finally:
        downloads.close()
    shutil.rmtree(folder / REST, ignore_errors=True)
    yield Progress("fetch", total, total, message=repo_id, kept=kept + downloads.kept)


class Downloads:
    """Single files of pinned repos on their way to the disk, several at a time, until it is closed.

    The owner sees to it that the repo may be read, and removes `REST` of each folder when it is closed.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub, self._meter = hub, _Meter()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._started: list[Future[None]] = []

    @property
    def done(self) -> int:
        """Bytes that have arrived."""
        return self._meter.done

    @property
    def kept(self) -> int:
        """Bytes of these that an earlier start had fetched."""
        return self._meter.kept

    def start(self, repo_id: str, revision: str, name: str, facts: tuple[int, str], folder: Path) -> Future[None]:
        """Bring a file to `folder / name`, checked by its `facts_of`; the errors of `fetch` are in the future."""
        future = self._pool.submit(_one, self._hub, repo_id, revision, name, facts, folder, self._meter)
        self._started.append(future)
        return future

    def close(self) -> None:
        """Stop what is under way, and wait for its threads."""
        self._meter.stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        running = [future for future in self._started if not future.cancelled()]  # nobody tells `wait` of the others
        while wait(running, timeout=TICK).not_done:
            interrupt()  # one may wait for the Hub


def finished(futures: Iterable[Future[None]]) -> Iterator[None]:
    """A tick now and then until all are done. Raises the first error."""
    left = set(futures)
    while left:
        done, left = wait(left, timeout=TICK, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        yield


def _one(hub: Hub, repo_id: str, revision: str, name: str, facts: tuple[int, str], folder: Path, meter: _Meter) -> None:
    """One file. What breaks off is taken up by the client, and tried anew while there is patience; damage once more."""
    trial, wrong = Trial(), 0
    while wrong < 2:
        try:
            with explained(hub, repo_id, revision=revision):
                try:
                    hub.api.hf_hub_download(
                        repo_id,
                        name,
                        revision=revision,
                        local_dir=folder,
                        cache_dir=folder / REST / "hub",
                        force_download=wrong > 0,
                        tqdm_class=meter.bar(),
                    )
                except (httpx2.TransportError, ConnectionError, TimeoutError, RuntimeError) as error:
                    if not may_pass(error):
                        raise
                    trial.failed(0, type(error).__name__)
                    continue
                except OSError as error:
                    if "Consistency check failed" not in str(error):  # of another length than was announced
                        raise
        except Interrupted:
            raise _Stopped from None
        if is_right(folder / name, facts):
            return
        (folder / name).unlink(missing_ok=True)
        wrong += 1
    raise damaged(repo_id, name)


def is_right(path: Path, facts: tuple[int, str]) -> bool:
    """Whether a file is there with the size and, where it is known, the digest that the Hub lists.

    A file that was right is dated by its hash: as long as nobody writes to it, it is not hashed again.
    """
    size, digest = facts
    if not path.is_file() or path.is_symlink() or (size >= 0 and path.stat().st_size != size):
        return False
    if not digest:
        return True
    seal = int(digest[:7], 16) * 10**9  # ns since 1970: before the year 1979
    try:
        if path.stat().st_mtime_ns == seal:
            return True
        with path.open("rb") as file:
            if digest_of(file, path.stat().st_size, digest) != digest:
                return False
        os.utime(path, ns=(seal, seal))
        return True
    except OSError as error:
        raise MergeError(f"{path.name} cannot be read", error.strerror or "") from None
