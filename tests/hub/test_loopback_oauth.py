"""Sign-in with the loopback Hub: the flow as a browser and an app go through it, and as Gradio does."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from huggingface_hub import HfApi
from joserfc import jwt
from joserfc.jwk import KeySet

from demo.loopback_hub import LoopbackHub

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test

BACK = "http://127.0.0.1:7860/login/callback"


@pytest.fixture
def environment(hub: LoopbackHub) -> dict[str, str]:
    """An app's environment, with a user in two organisations."""
    hub.add_user("demo", orgs=["team", "other"])
    return hub.oauth_environment()


def consent_page(hub: LoopbackHub, environment: dict[str, str], **changes: str) -> httpx.Response:
    """The page that the app sends the browser to."""
    query = {
        "response_type": "code",
        "client_id": environment["OAUTH_CLIENT_ID"],
        "redirect_uri": BACK,
        "scope": environment["OAUTH_SCOPES"],
        "state": "some state",
        "nonce": "some nonce",
        **changes,
    }
    return httpx.get(f"{hub.url}/oauth/authorize?{urlencode(query)}")


def click(hub: LoopbackHub, page: httpx.Response, user: str, orgs: list[str]) -> dict[str, list[str]]:
    """Press "Continue as", with some organisations ticked; answers the query that goes back to the app."""
    assert f"Continue as {user}" in page.text
    found = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text)
    fields: dict[str, str | list[str]] = {name: html.unescape(value) for name, value in found}
    answer = httpx.post(f"{hub.url}/oauth/authorize", data={**fields, "user": user, "org": orgs})
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith(BACK)
    return parse_qs(urlsplit(answer.headers["Location"]).query)


def exchange(hub: LoopbackHub, environment: dict[str, str], code: str) -> httpx.Response:
    """Code for token, with the app's credentials."""
    credentials = (environment["OAUTH_CLIENT_ID"], environment["OAUTH_CLIENT_SECRET"])
    data = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK}
    return httpx.post(f"{hub.url}/oauth/token", data=data, auth=credentials)


def test_a_sign_in_gives_a_token_with_the_scopes_asked_for(hub: LoopbackHub, environment: dict[str, str]) -> None:
    """Page, click, code, token, signed id token, and the repo it creates belongs to the app."""
    page = consent_page(hub, environment)
    assert "<code>contribute-repos</code>" in page.text
    back = click(hub, page, "demo", ["team"])
    assert back["state"] == ["some state"]
    token = exchange(hub, environment, back["code"][0]).json()
    assert (token["scope"], token["token_type"]) == (environment["OAUTH_SCOPES"], "bearer")
    keys = KeySet.import_key_set(httpx.get(f"{hub.url}/oauth/jwks").json())
    claims = jwt.decode(token["id_token"], keys, algorithms=["RS256"]).claims
    assert claims["aud"] == environment["OAUTH_CLIENT_ID"]
    assert (claims["iss"], claims["nonce"], claims["preferred_username"]) == (hub.url, "some nonce", "demo")
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    profile = httpx.get(f"{hub.url}/oauth/userinfo", headers=headers).json()
    assert (profile["sub"], [org["name"] for org in profile["orgs"]]) == (claims["sub"], ["team"])
    api = HfApi(endpoint=hub.url, token=token["access_token"])
    api.create_repo("team/made")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="team/made")


def test_organisations_not_ticked_are_out_of_reach(hub: LoopbackHub, environment: dict[str, str]) -> None:
    """The token creates repos only where the user let it."""
    back = click(hub, consent_page(hub, environment), "demo", ["team"])
    token = exchange(hub, environment, back["code"][0]).json()["access_token"]
    with pytest.raises(Exception, match="403"):
        HfApi(endpoint=hub.url, token=token).create_repo("other/made")


def test_codes_work_once_and_for_their_app_only(hub: LoopbackHub, environment: dict[str, str]) -> None:
    """A used code and another app's secret are refused."""
    back = click(hub, consent_page(hub, environment), "demo", [])
    wrong = {**environment, "OAUTH_CLIENT_SECRET": "guess"}
    assert exchange(hub, wrong, back["code"][0]).status_code == 401
    assert exchange(hub, environment, back["code"][0]).status_code == 200
    assert exchange(hub, environment, back["code"][0]).status_code == 400


def test_strange_requests_are_refused(hub: LoopbackHub, environment: dict[str, str]) -> None:
    """An unknown app, a way back off this machine, a scope that was not registered."""
    assert consent_page(hub, environment, client_id="unknown").status_code == 400
    assert consent_page(hub, environment, redirect_uri="https://example.org/").status_code == 400
    assert consent_page(hub, environment, scope="openid jobs").status_code == 400


GRADIO = """
import httpx, re, sys, html
import gradio as gr

def who(profile: gr.OAuthProfile | None, token: gr.OAuthToken | None) -> str:
    return f"{profile.username} {token.scope}" if profile and token else "nobody"

with gr.Blocks() as page:
    gr.LoginButton()
    text = gr.Textbox()
    page.load(who, None, text, api_name="who")
app, url, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1")
jar = {}

def get(client, method, address, **options):
    answer = client.request(method, address, cookies=jar, **options)
    jar.update(answer.cookies)
    return answer

with httpx.Client(timeout=30) as browser:
    first = get(browser, "GET", url + "login/huggingface")
    consent = get(browser, "GET", first.headers["location"])
    fields = {k: html.unescape(v) for k, v in re.findall(r'type="hidden" name="(\\w+)" value="([^"]*)"', consent.text)}
    back = get(browser, "POST", sys.argv[1] + "/oauth/authorize", data={**fields, "user": "demo"})
    get(browser, "GET", back.headers["location"])
    call = get(browser, "POST", url + "gradio_api/call/who", json={"data": []})
    answer = get(browser, "GET", url + "gradio_api/call/who/" + call.json()["event_id"])
    print(answer.text.strip().splitlines()[-1])
page.close()
"""


def test_gradio_signs_users_in(hub: LoopbackHub, environment: dict[str, str], tmp_path: Path) -> None:
    """A Gradio app with this environment goes through the flow and sees profile and token."""
    settings = {**os.environ, **environment, "HF_HOME": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "False"}
    settings.pop("SPACE_HOST", None)
    command = [sys.executable, "-c", GRADIO, hub.url]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=90, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f'data: ["demo {environment["OAUTH_SCOPES"]}"]' in done.stdout.splitlines()
