"""One person's view of one Hub, and its refusals put into words.

Every function of this package takes a `Hub` first. Nothing that depends on who asks is shared between two of
them. How long anybody waits for the Hub is said in `hub.patience`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session, hf_raise_for_status

from hub.patience import PASSING, GaveUp, Trial
from merging.errors import InputError, MergeError

CLIENT_ERRORS = (HfHubHTTPError, HFValidationError, EntryNotFoundError, httpx2.HTTPError, OSError)
TOKEN = re.compile(r"[!-~]{1,8192}")  # what can be sent as one
UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
COMMIT = re.compile("[0-9a-f]{40}")
DEFAULT = "https://huggingface.co"  # the Hub where HF_ENDPOINT names no other
LOG_IN = "Run `hf auth login`, or set HF_TOKEN"
LOG_IN_AGAIN = "Mend HF_TOKEN if it is set, else run `hf auth login`"  # HF_TOKEN goes before a login


class SignInNeeded(InputError):
    """Nobody is signed in, or the sign-in has run out: sign in and try again."""

    passing = True


class HubUnavailable(MergeError):
    """The Hub cannot be reached or is at fault: try again later."""

    passing = True


@dataclass(frozen=True)
class Hub:
    """The Hub at `endpoint` (None: the library's own) as the owner of `token` sees it; `False` is nobody.

    `scopes` are those that the sign-in granted, where the caller knows them; None when it does not.
    `own_machine`: who asks is at a shell, and signs in there and on no page.
    """

    endpoint: str | None = None
    token: str | Literal[False] = field(default=False, repr=False)
    scopes: frozenset[str] | None = None
    own_machine: bool = False

    def __post_init__(self) -> None:
        if self.token is not False and not self.token:
            raise ValueError("the token of a Hub is False or a text, never None or empty")

    @classmethod
    def anonymous(cls, endpoint: str | None = None) -> "Hub":
        """The Hub as nobody in particular sees it."""
        return cls(endpoint, False)

    @property
    def signed_in(self) -> bool:
        """Whether there is a token at all; `identity.whoami` says whether it is good."""
        return self.token is not False

    @cached_property
    def api(self) -> HfApi:
        """The client, which sends this token and no other."""
        return HfApi(endpoint=self.endpoint, token=self.token)

    @property
    def url(self) -> str:
        """The Hub's address without a final slash."""
        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    def advice(self, page: str, shell: str = LOG_IN) -> str:
        """What to do about a sign-in: in the words of a page, or of a shell where there is none."""
        return shell if self.own_machine else page

    def lacks(self, *scopes: str) -> bool:
        """True when the sign-in is known to carry none of these scopes."""
        return self.scopes is not None and not self.scopes & set(scopes)


def hub_of_this_machine() -> Hub:
    """The Hub as the owner of this machine's own token sees it (`hf auth login` or HF_TOKEN), else as anybody.

    Raises SignInNeeded for a token that cannot be sent.
    """
    token = get_token()
    if token and not TOKEN.fullmatch(token):
        raise SignInNeeded("Your token is not valid", "it holds characters that no token has", LOG_IN_AGAIN)
    return Hub(None, token or False, own_machine=True)


def safe_path(path: str) -> bool:
    """True for a relative path with plain components: what may become a file of ours."""
    parts = path.split("/")
    return bool(path) and not UNSAFE.search(path) and not any(part in ("", ".", "..") for part in parts)


def read_bytes(
    hub: Hub, repo_id: str, path: str, revision: str, *, start: int = 0, stop: int | None = None, limit: int = 0
) -> bytes:
    """Bytes `[start:stop]` of a file at a commit, into memory; more than `limit` (or stop - start) is refused.

    An answer that breaks off is asked for again. Raises the client's own errors (see `explained`) and InputError for
    a body that is too long.
    """
    limit = stop - start if stop is not None else limit
    headers = build_hf_headers(token=hub.token)
    if stop is not None:
        headers["Range"] = f"bytes={start}-{stop - 1}"
    url = hf_hub_url(repo_id, path, revision=revision, endpoint=hub.endpoint)
    trial = Trial()
    while True:
        try:
            body = _body(url, headers, limit)
            if stop is not None and len(body) < stop - start:
                raise httpx2.RemoteProtocolError("the answer is too short")
        except (httpx2.RemoteProtocolError, httpx2.TimeoutException) as error:
            trial.failed(0, type(error).__name__)
            continue
        if len(body) > limit:
            raise InputError(f"{repo_id}: {path} is too large", f"more than {limit:,} bytes", "Shorten it")
        return body


def _body(url: str, headers: dict[str, str], limit: int) -> bytes:
    """The body of an answer, whole or the range asked for; of one that is longer than the limit, a little more."""
    body = bytearray()
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    # not the library's `http_stream_backoff`: it begins anew in the middle of a body that is cut
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as answer:
        hf_raise_for_status(answer)
        if "Range" in headers and answer.status_code != 206:
            name = url.rpartition("/")[2]
            raise HubUnavailable(f"{name} cannot be read in part", "the Hub ignored the range", "Try again")
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > limit:
                break
    return bytes(body)


@contextmanager
def explained(hub: Hub, repo_id: str, where: str = "", *, revision: str | None = None) -> Iterator[None]:
    """Turn the client's errors about a repo into an InputError with `where`, or a HubUnavailable."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise explain(hub, error, repo_id, where, revision) from None


def explain(hub: Hub, error: Exception, repo_id: str, where: str = "", revision: str | None = None) -> MergeError:
    """The client's error about a repo in our words. The order matters: a gated repo is also a missing one."""
    if isinstance(error, HFValidationError):
        return InputError(f"{repo_id[:100]!r} is not the name of a repo", "", "Write owner/name", where)
    if isinstance(error, GatedRepoError):
        return _gated(hub, error, repo_id, where)
    if isinstance(error, RepositoryNotFoundError):
        return _not_found(hub, repo_id, where)
    if isinstance(error, RevisionNotFoundError):
        why = "its history may have been rewritten" if COMMIT.fullmatch(revision or "") else ""
        what = f"{repo_id} has no revision {(revision or '')[:100]!r}"
        return InputError(what, why, "Name a branch, a tag or a commit", where)
    if isinstance(error, LocalEntryNotFoundError):  # the library's word for whatever kept it from asking
        cause = error.__cause__
        return explain(
            hub, cause if isinstance(cause, CLIENT_ERRORS) else httpx2.HTTPError(""), repo_id, where, revision
        )
    if isinstance(error, GaveUp):
        return _gave_up(hub, error)
    if isinstance(error, EntryNotFoundError):
        return InputError(f"A file of {repo_id} is missing", "the Hub has no such file", "Check the repo", where)
    if isinstance(error, DisabledRepoError):
        return InputError(f"{repo_id} is disabled", "the Hub has closed it", "Pick another", where)
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return _refused(hub, error, repo_id, where)
    if isinstance(error, httpx2.HTTPError | OfflineModeIsEnabled | ConnectionError | TimeoutError | HfHubHTTPError):
        return _unreachable(hub, error)
    if isinstance(error, OSError) and type(error).__module__ != "hf_xet":  # whose refusals look like a disk's
        return MergeError(f"{repo_id} could not be read or written", error.strerror or type(error).__name__)
    return HubUnavailable("The Hub gave no answer that can be used", type(error).__name__, "Try again in a minute")


def _gave_up(hub: Hub, error: GaveUp) -> HubUnavailable:
    """The Hub did not mend while there was patience."""
    if error.status == 429:
        minutes = -(-int(error.asked) // 60)
        when = f"in {minutes} minutes" if minutes > 1 else "in a minute"
        return HubUnavailable("The Hub asks to slow down", error.words, f"Try again {when}")
    waited = f", for {error.waited:.0f} s" if error.waited >= 5 else ""
    if not error.status:
        return _unreachable(hub, error, f"{error.words}{waited}")
    return HubUnavailable("The Hub is at fault", f"{error.words}{waited}", "Try again in a minute")


def _unreachable(hub: Hub, error: Exception, how: str = "") -> HubUnavailable:
    """No answer at all. The address stands there: where HF_ENDPOINT names another Hub, it may be the fault."""
    offline = isinstance(error, OfflineModeIsEnabled)
    address = re.sub(r"//[^/@]*@", "//", hub.url)  # nobody's password
    why = "HF_HUB_OFFLINE is set" if offline else f"{address} does not answer ({how or type(error).__name__})"
    other = "" if address == DEFAULT else ", or mend HF_ENDPOINT"
    return HubUnavailable("The Hub cannot be reached", why, "Unset it" if offline else f"Try again in a minute{other}")


def rooted(error: Exception) -> Exception:
    """The error itself, or the one of the Hub that the library has put into another: it does so with uploads."""
    cause = error.__cause__
    return cause if type(error) is RuntimeError and isinstance(cause, CLIENT_ERRORS) else error


def may_pass(error: Exception) -> bool:
    """Whether the same may succeed in a moment, and was not tried for long already (`hub.patience`)."""
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in PASSING
    if isinstance(error, GaveUp | OfflineModeIsEnabled):
        return False
    on_the_way = isinstance(error, httpx2.TransportError | ConnectionError | TimeoutError)
    return on_the_way or type(error) is RuntimeError  # what Xet raises


def expired(error: Exception) -> bool:
    """Whether the Hub does not know the token any more."""
    if not isinstance(error, HfHubHTTPError) or isinstance(error, RepositoryNotFoundError):
        return False
    return error.response is not None and error.response.status_code == 401


def try_again(hub: Hub, trial: Trial, error: Exception, repo_id: str, where: str = "") -> None:
    """Wait before the next try of what failed with this error. Raises HubUnavailable when patience is over."""
    status, words = 0, type(error).__name__
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status, words = error.response.status_code, server_words(error)
    with explained(hub, repo_id, where):
        trial.failed(status, words)


def server_words(error: HfHubHTTPError) -> str:
    """What the Hub itself said, in one bounded line."""
    words = " ".join((error.server_message or "").split())
    return words[:300] or (f"status {error.response.status_code}" if error.response is not None else "no answer")


def scope_in(text: str) -> str:
    """The scope that the Hub's refusal names, "" when it names none."""
    match = re.search(r"missing required scopes?:?\s*([\w-]+)", text)
    return match[1] if match else ""


def _not_found(hub: Hub, repo_id: str, where: str) -> InputError:
    what = f"{repo_id} does not exist, or it is private"
    if not hub.signed_in:
        fix = hub.advice("sign in to use a private model", "for a private model run `hf auth login` or set HF_TOKEN")
        return InputError(what, "nobody is signed in", f"Check the name, or {fix}", where)
    if hub.lacks("read-repos", "write-repos", "manage-repos"):
        return InputError(
            what,
            "this sign-in may not read private repos: the scope read-repos was not granted",
            "Check the name, or sign in again and grant read-repos",
            where,
        )
    return InputError(what, "you have no access to it", "Check the name, or ask its owner for access", where)


def _gated(hub: Hub, error: GatedRepoError, repo_id: str, where: str) -> InputError:
    what, page = f"{repo_id} is gated", f"{hub.url}/{repo_id}"
    if not hub.signed_in:
        fix = hub.advice("Sign in", "Run `hf auth login` or set HF_TOKEN")
        return InputError(what, "nobody is signed in", f"{fix}, and ask for access at {page}", where)
    if scope_in(server_words(error)) or hub.lacks("gated-repos", "read-repos", "write-repos", "manage-repos"):
        fix = hub.advice("Sign in again and grant gated-repos", f"{LOG_IN} to a token that may read gated repos")
        return InputError(what, "the scope gated-repos was not granted", fix, where)
    return InputError(what, "its owner has not let you in", f"Ask for access at {page}", where)


def _refused(hub: Hub, error: HfHubHTTPError, repo_id: str, where: str) -> MergeError:
    status, words = error.response.status_code, server_words(error)
    if status == 401:
        if hub.signed_in:
            what = hub.advice("Your sign-in has run out", "Your token is not valid")
            return SignInNeeded(what, "the Hub refuses it", hub.advice("Sign in again", LOG_IN_AGAIN), where)
        return SignInNeeded("Not signed in", f"{repo_id} is not open to everybody", hub.advice("Sign in"), where)
    if status >= 500:
        return HubUnavailable("The Hub is at fault", words, "Try again in a minute")
    scope = scope_in(words)
    if scope:
        return InputError(
            f"The Hub refused {repo_id}",
            f"the scope {scope} was not granted",
            hub.advice(f"Sign in again and grant {scope}", f"{LOG_IN} to a token that has it"),
            where,
        )
    if status == 403:
        return InputError(f"The Hub refused {repo_id}", words, "Check your rights there", where)
    return MergeError(f"The Hub refused {repo_id}", words)
