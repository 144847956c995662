"""When the Hub does not answer, is at fault or asks to slow down: who waits how long, and who is told.

The client library repeats some calls, at once and five times, some never, and waits minutes where it is told to,
whoever sits before the page. Here every request of this process goes through one session that knows how long its
process may wait: a page a few seconds, a job for a Hub that is away for two minutes, and as long as the Hub's own
rate limits ask for. What is over is a `GaveUp`, which the library does not try again.

Repeated is what may be done twice: reads, uploads of a body under its own hash, questions by POST. The creation of a
repo and a commit are repeated here only if they never reached the Hub; else `hub.publish` looks first what was done.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import hf_request_event_hook, parse_ratelimit_headers
from huggingface_hub.utils.logging import set_verbosity

PASSING = (408, 429, 500, 502, 503, 504)  # statuses that may be others in a moment
QUESTIONS = re.compile(
    r"/preupload/|/paths-info/|/validate-yaml$|/info/lfs/objects/"
)  # POSTs that change nothing twice
CONNECT, SEND, ACT = 10.0, 60.0, 180.0  # seconds that a connection, a piece of an upload, and a commit may take
WINDOW, LEAST = 60.0, 500  # an answer that brings fewer bytes a second for so many seconds is asked for again


@dataclass(frozen=True)
class Patience:
    """How long this process waits. All in seconds; `say` is told of each longer wait, from any thread."""

    trouble: float = 3.0  # for a Hub that is away or at fault, from the first failure of a request
    asked: float = 3.0  # at a time, where the Hub asks to slow down
    read: float = 20.0  # for a piece of an answer
    first: float = 0.5  # the first pause; each is twice the one before, up to `longest`
    longest: float = 16.0
    quiet: float = 2.0  # nothing is said of shorter waits
    say: Callable[[str], None] = lambda text: None


PAGE = Patience()  # somebody sits and waits
WORK = Patience(
    trouble=150.0, asked=330.0, read=60.0
)  # a job or a command; the Hub counts requests in windows of five minutes
TURNS = 3  # so many times `asked` a request waits altogether


class GaveUp(httpx2.TransportError):
    """Patience is over. `status` is the Hub's last answer (0: none), `words` its reason, `asked` the wait it wants."""

    def __init__(self, status: int, words: str, waited: float = 0.0, asked: float = 0.0) -> None:
        super().__init__(words)
        self.status, self.words, self.waited, self.asked = status, words, waited, asked


class WebPage(httpx2.RemoteProtocolError):
    """What came is a page for people, of something between us and the Hub: whether it was asked is not known."""


class Interrupted(BaseException):
    """The process is to end, or what waits is not needed any more: see `interrupt`."""


_patience = PAGE
_wake = threading.Condition()
_round = 0  # grows with every interrupt
_said_until = 0.0  # monotonic: up to then people know that we wait


def be(patience: Patience) -> Patience:
    """From now on this process waits so long; what it was before."""
    global _patience
    before, _patience = _patience, patience
    return before


def interrupt() -> None:
    """End all that waits now in this process."""
    global _round
    with _wake:
        _round += 1
        _wake.notify_all()


class Trial:
    """One thing that is tried again until it works, or until patience is over."""

    def __init__(self) -> None:
        self._patience, self._began, self._tries = _patience, 0.0, 0

    def failed(self, status: int, words: str, asked: float | None = None) -> None:
        """Wait before the next try. Raises GaveUp when that would take too long.

        `status` is 0 where no answer came; `asked` the seconds that the Hub itself named.
        """
        now = time.monotonic()
        self._began = self._began or now
        waited = now - self._began
        pause = min(self._patience.first * 2**self._tries, self._patience.longest)
        self._tries += 1
        limit = self._patience.trouble
        if asked is not None:
            limit = TURNS * self._patience.asked
            pause = max(pause, asked + min(1.0, self._patience.first))  # windows are told in whole seconds
        if waited + pause > limit or (asked or 0.0) > self._patience.asked:
            raise GaveUp(status, words, waited, asked or 0.0)
        self._tell(pause, _reason(status))
        _wait(pause)

    def _tell(self, pause: float, reason: str) -> None:
        """One line for all threads that wait for the same."""
        global _said_until
        with _wake:
            until = time.monotonic() + pause
            known = until <= _said_until + self._patience.quiet / 2
            if pause < self._patience.quiet or known:
                return
            _said_until = until
        self._patience.say(f"waiting {pause:.0f} s: {reason}")


def _reason(status: int) -> str:
    if status == 429:
        return "the Hub asks to slow down"
    return f"the Hub is at fault (status {status})" if status else "the Hub does not answer"


def _wait(seconds: float) -> None:
    with _wake:
        before = _round
        if _wake.wait_for(lambda: _round != before, seconds):
            raise Interrupted


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: the Hub's rate limit where it is used up, else Retry-After."""
    limits = parse_ratelimit_headers(headers)
    if limits is not None and limits.remaining == 0:
        return float(limits.reset_in_seconds)
    after = str(headers.get("retry-after") or "").strip()
    return float(after) if after.isdigit() else None


class PatientClient(httpx2.Client):
    """The client library's session, with patience, and with an end of every wait for a byte."""

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """One request until it is answered. Raises GaveUp, and what no repetition would mend."""
        _bound(request)
        rewind, trial = _rewinder(request), Trial()
        while True:
            try:
                response = self._once(request, stream, options)
            except _failures(rewind is not None) as error:
                trial.failed(0, "a web page came instead" if isinstance(error, WebPage) else type(error).__name__)
            else:
                again = response.status_code == 429 or rewind is not None
                if response.status_code not in PASSING or not again:
                    return response
                response.close()
                trial.failed(response.status_code, words_of(response), asked_wait(response.headers))
            if rewind is not None:
                rewind()

    def _once(self, request: httpx2.Request, stream: bool, options: dict[str, Any]) -> httpx2.Response:
        response = super().send(request, stream=True, **options)
        if response.is_success and response.headers.get("content-type", "").startswith("text/html"):
            response.close()
            raise WebPage("a web page came instead of an answer")
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Steady(response.stream)
        try:
            if not stream or response.status_code in PASSING:
                response.read()
        except BaseException:
            response.close()
            raise
        return response


class _Steady(httpx2.SyncByteStream):
    """The body of an answer. One that breaks off or hardly moves ends as the library expects it of a cut one."""

    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        pieces, waited, got = iter(self._stream), 0.0, 0
        while True:
            began = time.monotonic()
            try:
                piece = next(pieces, None)
            except httpx2.NetworkError as error:
                raise httpx2.RemoteProtocolError(f"the answer was cut: {type(error).__name__}") from error
            if piece is None:
                return
            waited, got = waited + time.monotonic() - began, got + len(piece)
            if waited >= WINDOW:
                if got < LEAST * waited:
                    raise httpx2.RemoteProtocolError(f"only {got} bytes came in {waited:.0f} s")
                waited, got = 0.0, 0
            yield piece

    def close(self) -> None:
        """Give the connection back."""
        self._stream.close()


def _failures(repeatable: bool) -> tuple[type[Exception], ...]:
    """What may be tried again: anything on the way, or only what never reached the Hub."""
    if repeatable:
        return (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
    return (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


def _bound(request: httpx2.Request) -> None:
    """Nothing waits for ever: the library asks for no limit in most of its calls."""
    timeout = request.extensions.setdefault("timeout", {})
    acts = request.method == "POST" and not QUESTIONS.search(request.url.path)
    read = ACT if acts else _patience.read
    for name, seconds in (("connect", CONNECT), ("read", read), ("write", SEND), ("pool", SEND)):
        if timeout.get(name) is None:
            timeout[name] = seconds


def _rewinder(request: httpx2.Request) -> Callable[[], None] | None:
    """What makes the request ready to be sent once more; None for what may not be done twice."""
    if request.method not in ("GET", "HEAD", "PUT") and not QUESTIONS.search(request.url.path):
        return None
    if isinstance(request.stream, httpx2.ByteStream):
        return lambda: None
    body: Any = getattr(request.stream, "_stream", None)  # the file that is sent; its wrapper has no public name
    if not hasattr(body, "seek") or not hasattr(body, "tell"):
        return None
    start = body.tell()
    return lambda: body.seek(start) and None


def words_of(response: httpx2.Response) -> str:
    """What the Hub itself says of an error, in one bounded line."""
    said = response.headers.get("x-error-message")
    if not said:
        try:
            body = response.json()
            said = body.get("error") if isinstance(body, dict) else None
        except (ValueError, httpx2.HTTPError, httpx2.StreamError):
            said = None
    return " ".join(str(said or "").split())[:300] or f"status {response.status_code}"


def _session() -> httpx2.Client:
    return PatientClient(event_hooks={"request": [hf_request_event_hook]}, follow_redirects=True, timeout=None)


set_client_factory(_session)
set_verbosity(logging.ERROR)  # its warnings of each try name signed links; what people should know is said here
