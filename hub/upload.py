"""Uploads that can be watched: how many bytes of a commit's files are read, and then sent.

The client tells nobody how far an upload is but its own bars. Here a file that it sends over HTTP counts what is
read of it, and its bars for Xet are replaced by a counter while a commit is under way.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, TypeVar

import huggingface_hub.utils
from huggingface_hub import CommitOperationAdd
from huggingface_hub.utils import _xet, _xet_progress_reporting

from hub.patience import interrupt
from merging.progress import Progress

TICK = 0.2  # seconds between reports
PIECE = 1 << 20
T = TypeVar("T")


class _Stopped(BaseException):
    """The owner of the upload closed it: unwinds the client from inside a read."""


class UploadMeter:
    """What is under way, and how many of its bytes are done. Fed by the client's threads, read by `watched`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._message, self._total, self._partial = "", 0, False
        self._done: dict[str, int] = {}
        self.stopped = False

    def begin(self, message: str, total: int = 0, *, partial: bool = False) -> None:
        """Something else begins, of `total` bytes; 0 for what has none. `partial`: more will follow."""
        with self._lock:
            self._message, self._total, self._partial = message, total, partial
            self._done.clear()

    def at(self, name: str, position: int) -> None:
        """So much of one thing is done; a retry may go back."""
        if self.stopped:
            raise _Stopped
        with self._lock:
            self._done[name] = position

    def report(self) -> Progress:
        """How far it is now."""
        with self._lock:
            done = min(sum(self._done.values()), self._total)
            return Progress("publish", done, self._total, message=self._message, partial=self._partial)


class Upload(CommitOperationAdd):
    """A file of a commit whose bytes are counted as the client sends them."""

    meter: UploadMeter | None = None

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        """The opened file; `with_tqdm` is asked for when it is sent."""
        with super().as_file() as file:
            meter, read = self.meter, file.read
            if with_tqdm and meter is not None:

                def counted(count: int | None = -1) -> bytes:
                    data = read(-1 if count is None else count)
                    meter.at(self.path_in_repo, file.tell())
                    return data

                file.read = counted  # type: ignore[method-assign,assignment]
            yield file


def watched(work: Callable[[UploadMeter], T]) -> Generator[Progress, None, T]:
    """The result of `work`, which runs beside; closing the generator stops it at the next byte that it sends."""
    meter = UploadMeter()
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work, meter)
    try:
        while not wait([future], timeout=TICK).done:
            yield meter.report()
        return future.result()
    except (GeneratorExit, KeyboardInterrupt):
        meter.stopped = True
        _xet.abort_xet_session()  # type: ignore[no-untyped-call]
        while not wait([future], timeout=TICK).done:
            interrupt()  # it may wait for the Hub
        raise
    finally:
        pool.shutdown(wait=True)


def hash_files(uploads: Sequence[CommitOperationAdd], meter: UploadMeter) -> None:
    """Give each file its SHA-256; one that has several names is read once."""
    places = {str(upload.path_or_fileobj): os.stat(str(upload.path_or_fileobj)) for upload in uploads}
    inodes = {path: (found.st_dev, found.st_ino) for path, found in places.items()}
    sizes = {inode: places[path].st_size for path, inode in inodes.items()}
    meter.begin("reading the files", sum(sizes.values()), partial=True)
    known: dict[tuple[int, int], bytes] = {}
    for upload in uploads:
        path = str(upload.path_or_fileobj)
        if inodes[path] not in known:
            known[inodes[path]] = _sha256(path, meter)
        upload.upload_info.sha256 = known[inodes[path]]


def _sha256(path: str, meter: UploadMeter) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            meter.at(path, file.tell())
    return digest.digest()


@contextmanager
def sending(uploads: Sequence[Upload], meter: UploadMeter) -> Iterator[None]:
    """While these files are sent, by HTTP or by Xet, the meter counts."""

    class Bars:
        """Takes the place of the client's bars for Xet."""

        def __init__(self, *args: Any, **options: Any) -> None:
            pass

        def update_progress(self, group: Any, items: Any) -> None:
            if not meter.stopped:  # whatever is raised here is lost in the client
                meter.at("xet", group.total_bytes_completed)

        def close(self) -> None:
            pass

    meter.begin("sending", sum(upload.upload_info.size for upload in uploads))
    with ExitStack() as stack:
        for upload in uploads:
            upload.meter = meter
            stack.callback(setattr, upload, "meter", None)
        stack.enter_context(_replaced(_xet_progress_reporting, "XetUploadProgressReporter", Bars))
        stack.enter_context(_replaced(huggingface_hub.utils, "are_progress_bars_disabled", lambda name=None: False))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for a while; nothing where a later client has no such name: its uploads then tell less."""
    before = getattr(owner, name, None)
    if before is None:
        yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
