"""One person's view of the Hub: explicit tokens, bounded reads, errors in words."""

import pytest
from huggingface_hub.errors import HfHubHTTPError

from demo.loopback_hub import LoopbackHub
from hub.client import Hub, HubUnavailable, SignInNeeded, explained, read_bytes, safe_path, scope_in
from merging.errors import InputError
from tests.hub.helpers import Models, Put, SignIn


def test_a_token_never_shows() -> None:
    """The token is in no text that a log could get."""
    assert "hf_secret" not in repr(Hub("http://127.0.0.1:1", "hf_secret"))


@pytest.mark.parametrize("token", ["", None])
def test_the_library_cannot_pick_a_token(token: str | None) -> None:
    """None and "" would make the client use the server's own token: they are refused."""
    with pytest.raises(ValueError, match="False or a text"):
        Hub(None, token)  # type: ignore[arg-type]


def test_nobody_sends_no_token(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An anonymous Hub stays anonymous although the machine has a token."""
    hub.add_user("ann")
    monkeypatch.setenv("HF_TOKEN", hub.add_token("ann"))
    hub.reset_counters()
    with pytest.raises(ValueError, match="requires authentication"):
        Hub.anonymous(hub.url).api.whoami()
    assert "authorization" not in Hub.anonymous(hub.url).api._build_hf_headers()


@pytest.mark.parametrize("path", ["a.json", "a/b c.txt", "x/..y"])
def test_plain_paths_are_safe(path: str) -> None:
    """Names with plain components may become files."""
    assert safe_path(path)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", "a\0b", "a\\b", "a\nb", ".."])
def test_hostile_paths_are_not(path: str) -> None:
    """Names that could leave a folder are refused."""
    assert not safe_path(path)


def test_bytes_are_read_exactly_and_with_a_bound(ann: Hub, put: Put, tiny: Models) -> None:
    """A range is that range; a whole file has a limit."""
    sha = put(ann, "ann/a", tiny())
    body = (tiny() / "model.safetensors").read_bytes()
    assert read_bytes(ann, "ann/a", "model.safetensors", sha, start=3, stop=50) == body[3:50]
    with pytest.raises(InputError, match=r"config.json is too large: more than 10 bytes"):
        read_bytes(ann, "ann/a", "config.json", sha, limit=10)


def test_a_busy_hub_is_asked_again(hub: LoopbackHub, ann: Hub, put: Put, tiny: Models) -> None:
    """One 503 does not end a read."""
    sha = put(ann, "ann/a", tiny())
    hub.set_fault("resolve", status=503, times=1)
    assert read_bytes(ann, "ann/a", "config.json", sha, limit=10_000).startswith(b"{")


@pytest.mark.slow
def test_a_hub_that_is_not_there_is_named() -> None:
    """A connection that cannot be made is a HubUnavailable with the address, without a password in it."""
    nowhere = Hub("http://me:secret@127.0.0.1:9", False)
    with pytest.raises(HubUnavailable) as caught, explained(nowhere, "ann/a"):
        nowhere.api.model_info("ann/a")
    assert str(caught.value) == (
        "The Hub cannot be reached: http://127.0.0.1:9 does not answer (ConnectError). "
        "Try again in a minute, or mend HF_ENDPOINT."
    )


@pytest.mark.slow
def test_a_hub_at_fault_is_named(hub: LoopbackHub, ann: Hub) -> None:
    """A 500 is the Hub's fault, and says so."""
    hub.set_fault("/api/models", status=500, message="the disk is on fire", times=None)
    with pytest.raises(HubUnavailable, match="The Hub is at fault: the disk is on fire"), explained(ann, "ann/a"):
        ann.api.model_info("ann/a")


def test_an_expired_sign_in_is_named(hub: LoopbackHub, sign_in: SignIn) -> None:
    """A token that has run out asks to sign in again."""
    ann = sign_in("ann")
    hub.expire_token(str(ann.token))
    with pytest.raises(SignInNeeded, match="Your sign-in has run out"), explained(ann, "ann/a"):
        ann.api.model_info("ann/a")


def test_other_errors_pass(ann: Hub) -> None:
    """Only the client's errors are translated."""
    with pytest.raises(KeyError), explained(ann, "ann/a"):
        raise KeyError("ours")


def test_a_refusal_names_the_scope(hub: LoopbackHub, sign_in: SignIn) -> None:
    """The scope that the Hub asks for stands in the sentence."""
    limited = sign_in("ann", scopes=["openid"])
    with pytest.raises(InputError, match="the scope contribute-repos was not granted"), explained(limited, "ann/a"):
        limited.api.create_repo("ann/a")
    assert scope_in("nothing of the kind") == ""
    assert issubclass(
        HfHubHTTPError, OSError
    )  # `explain` must look at the kind before it takes an OSError for a disk's
