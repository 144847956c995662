"""Who may ask the page what: origins, hosts, cookies, tokens, and what an error says."""

import logging
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from merging.errors import InputError
from settings import Settings
from ui.security import Access, Guard, spoken

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def client(*, loopback_only: bool = False, host: str = "127.0.0.1:7860") -> TestClient:
    """A service that tells the cookies it sees, behind the guard."""
    app = FastAPI()
    app.add_middleware(
        Guard, loopback_only=loopback_only, origins=frozenset({"https://merge.example"}), site="https://hub.example"
    )

    @app.api_route("/", methods=["GET", "POST"])
    def cookies(request: Request) -> dict[str, str]:
        return dict(request.cookies)

    return TestClient(app, base_url=f"http://{host}", cookies={"session": "secret"})


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999"])
def test_another_origin_is_refused(method: str, origin: str) -> None:
    """Whatever it asks: reading with somebody's cookie is as bad as writing."""
    answer = client().request(method, "/", headers={"Origin": origin})
    assert answer.status_code == 403
    assert answer.text == "Another site's page may not ask this service."
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://127.0.0.1:7860", "https://merge.example"])
def test_the_own_origin_passes_with_its_cookie(origin: str) -> None:
    """The address that was asked, and the public one."""
    assert client().post("/", headers={"Origin": origin}).json() == {"session": "secret"}


def test_without_an_origin_no_cookie_counts() -> None:
    """A program that names no origin acts by the token it brings, or not at all."""
    assert client().post("/").json() == {}
    assert client().get("/").json() == {"session": "secret"}


def test_another_sites_image_is_refused() -> None:
    """A cross-site request that is no navigation, such as an image of /logout."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client().get("/", headers=headers).status_code == 403
    assert client().get("/", headers={**headers, "Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("end", ["%0A", "%0a/", "%0D", "%00", "%7f"])
@pytest.mark.parametrize("path", ["/logout", "/monitoring", "/gradio_api/proxy=http://x", "/gradio_api/upload", "/"])
def test_an_address_with_a_line_break_is_none(path: str, end: str) -> None:
    """Routes end before it, and rules like the guard's after it: it passed all of them."""
    answer = client().get(path + end, headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.text) == (404, "There is nothing here.")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example"])
def test_on_ones_own_machine_a_foreign_host_is_refused(host: str) -> None:
    """A name that somebody points at 127.0.0.1 is not this page."""
    answer = client(loopback_only=True).get("/", headers={"Host": host})
    assert (answer.status_code, answer.text) == (403, "This page answers only as 127.0.0.1 or localhost.")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860"])
def test_on_ones_own_machine_its_own_names_pass(host: str) -> None:
    """Every name of the loopback address."""
    assert client(loopback_only=True).get("/", headers={"Host": host}).status_code == 200


def test_only_the_hub_may_frame_the_page() -> None:
    """And the page may load nothing from elsewhere."""
    policy = client().get("/").headers["content-security-policy"]
    assert "frame-ancestors 'self' https://hub.example" in policy
    assert "connect-src 'self';" in policy


def asked(**headers: str) -> Any:
    """A request as far as `Access` looks at it."""
    return SimpleNamespace(headers=headers)


def test_the_machines_token_serves_our_own_page_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without a token looks as nobody; on a Space nobody is anybody by the machine's token."""
    monkeypatch.setenv("HF_TOKEN", "hf_machine")
    own = Access(None, single_user=True)
    assert own.hub(None, asked(origin="http://127.0.0.1:7860")).token == "hf_machine"
    assert own.hub(None, asked(origin="http://127.0.0.1:7860")).own_machine  # no page to sign in at
    assert own.hub(None, asked()).token is False
    assert Access(None, single_user=False).hub(None, asked(origin="https://merge.example")).token is False


def test_a_callers_own_token_counts_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its scopes where they are known."""
    monkeypatch.setenv("HF_TOKEN", "hf_machine")
    hub = Access(None, single_user=True).hub(gr.OAuthToken("hf_own", "", 0), asked(origin="http://127.0.0.1:7860"))
    assert (hub.token, hub.scopes) == ("hf_own", None)
    hub = Access(None, single_user=False).hub(gr.OAuthToken("hf_own", "openid read-repos", 0), asked())
    assert hub.scopes == {"openid", "read-repos"}


def test_our_own_errors_are_said_as_they_are() -> None:
    """All problems, a line each."""
    with pytest.raises(gr.Error) as caught, spoken():
        raise InputError("A", "b", "C")
    assert caught.value.message == "A: b. C."


def test_the_unexpected_is_one_sentence_with_a_reference(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback stands in the log under the reference that the person was told."""
    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as caught, spoken():
        raise RuntimeError("secret detail")
    assert "secret" not in caught.value.message
    reference = caplog.records[0].args[0]  # type: ignore[index]
    assert f"tell us {reference} if it stays" in caught.value.message
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    ("settings", "on_space", "sign_in", "sentence"),
    [
        ({}, True, True, "MERGE_SECRET_KEY is not set"),
        ({"secret_key": "the-key-of-a-test-0123456789-abcdef"}, True, False, "This Space has no sign-in"),
        ({"host": "0.0.0.0"}, False, False, "MERGE_HOST is 0.0.0.0"),
        pytest.param({"device": "cuda"}, False, False, "MERGE_DEVICE cuda: this machine has none", marks=NO_GPU),
    ],
)
def test_an_unsafe_start_is_refused(settings: dict[str, Any], on_space: bool, sign_in: bool, sentence: str) -> None:
    """No key or no sign-in on a Space; anything but loopback without sign-in; a GPU that is not there."""
    from app import check_start

    with pytest.raises(InputError, match=sentence):
        check_start(Settings(**settings), on_space=on_space, sign_in=sign_in)
