"""One user's models, jobs and results, and everything that somebody else may ask of the running service."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from urllib.parse import quote

import httpx
import pytest
from huggingface_hub import HfApi
from itsdangerous import TimestampSigner
from playwright.sync_api import Browser, BrowserContext, expect

from tests.security.conftest import MERGED, MODELS, Guarded, average
from tests.security.hostile_page import ATTACKS, hostile_site
from tests.security.planted import ProcessWatch, found_in
from tests.security.strangers import Caller, Watched, endpoints
from tests.served import program
from ui.api import CALLS

pytestmark = pytest.mark.slow
IDENTITY_HEADERS = {
    "x-user": "ana",
    "x-forwarded-user": "ana",
    "remote-user": "ana",
    "x-hf-user": "ana",
    "x-ip-token": "ana",
}


def status(site: Guarded, id: str) -> str:
    """Of a job of ana's, asked with her token."""
    return str(program(site.url, site.token).predict(id, api_name="/status")["status"])


def told(site: Guarded, token: str | None, text: str) -> tuple[str, int]:
    """(what all events of the page answer to a caller who puts a text wherever one can stand, how many there are)."""
    caller, answers = Caller(site.url, token), []
    query = {"id": text, "model": text} if len(text) < 200 else {"id": site.held}
    for endpoint in endpoints(site.url):
        answers.append(f"{endpoint.name}: {caller.ask(endpoint, endpoint.data(text), query)}")
    caller.close()
    return "\n".join(answers), len(answers)


def leaked(site: Guarded, answers: str, text: str) -> list[str]:
    """What stands in the answers although it is ana's alone, and the caller did not say it first."""
    return [word for word in (*site.private, *site.planted) if word in answers.replace(text, "")]


def test_ana_herself_sees_what_is_hers(guarded: Guarded) -> None:
    """Or nothing would be proved by what others do not see."""
    answers, _ = told(guarded, guarded.token, guarded.done["id"])
    assert {MERGED, "held-back"} <= set(leaked(guarded, answers, guarded.done["id"]))
    assert not found_in(answers.encode(), guarded.planted)


@pytest.mark.parametrize("who", ["bea", "nobody"])
def test_no_event_of_the_page_shows_or_touches_what_is_somebody_elses(guarded: Guarded, who: str) -> None:
    """Every event that the config lists, with the victim's job ids, models and results wherever a text can stand."""
    token = guarded.hub.add_token("bea") if who == "bea" else None
    texts = [guarded.held, average("bea/stolen")] if who == "bea" else [guarded.done["id"]]
    for text in texts:
        answers, count = told(guarded, token, text)
        assert not leaked(guarded, answers, text)
        assert "Traceback" not in answers
        assert count > 25
    assert status(guarded, guarded.held) in ("waiting", "running")
    repos = {repo.id for repo in HfApi(endpoint=guarded.hub.url, token=guarded.hub.add_token("bea")).list_models()}
    assert not any(repo.startswith("bea/") for repo in repos)


def test_the_public_calls_say_that_there_is_no_such_job(guarded: Guarded) -> None:
    """The same words as for a job that never was, so that an id tells nothing."""
    bea, none = Caller(guarded.url, guarded.hub.add_token("bea")), "m" + "0" * 23
    for call in [one for one in endpoints(guarded.url) if one.name in ("status", "cancel")]:
        sentences = [_said(bea.ask(call, [id])).replace(id, "ID") for id in (guarded.done["id"], none)]
        assert sentences == ["There is no such job: 'ID' is not one of yours. Look at the list of your jobs."] * 2
    bea.close()


@pytest.mark.parametrize("name", [MERGED, MODELS[0], "ana/gated"])
def test_a_private_result_has_no_page_and_no_picture_for_others(guarded: Guarded, name: str) -> None:
    """Its address shows to a stranger what that of a model shows which is not there."""
    shown = []
    for one in (name, "ana/nothing-here"):
        page = httpx.get(f"{guarded.url}/model", params={"id": one}).text
        picture = httpx.get(f"{guarded.url}/preview.png", params={"id": one})
        shown.append((page.replace(one, "X").replace(quote(one, safe=""), "X"), picture.status_code, picture.content))
    assert shown[0] == shown[1]


def test_no_file_of_the_server_is_served(guarded: Guarded) -> None:
    """Neither the jobs' folder nor the database, and no address of another machine is fetched for whoever asks."""
    home = guarded.folder / "merge"
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.name == "report.json" for path in files)
    asker = Caller(guarded.url)
    for path in (*files, "/etc/passwd", "/proc/self/environ"):
        assert asker.get(f"/gradio_api/file={path}").status_code in (403, 404), path
    for path in (
        f"file={guarded.hub.url}/api/models",
        "proxy=http://x/y",
        "deep_link?session_hash=x",
        "file/etc/passwd",
    ):
        assert asker.get(f"/gradio_api/{path}").status_code == 404, path
    for path in ("/gradio_api/proxy=http://x%0A", "/gradio_api/token%0A", "/gradio_api/dev/reload%0A", "/logout%0A"):
        assert asker.get(path).text == "There is nothing here.", path
    for path in ("/monitoring", "/monitoring/summary", "/gradio_api/runs", "/gradio_api/vibe-code", "/svelte/x"):
        assert asker.get(path).status_code == 404, path
    for path in ("process_recording", "component_server", "vibe-edit", "run/submit", "api/submit"):
        assert httpx.post(f"{guarded.url}/gradio_api/{path}", json={"data": []}).status_code == 404, path


def test_nobody_writes_into_a_page_that_others_get(guarded: Guarded) -> None:
    """Its HTML is made once for everybody: no header of whoever comes first leads the others elsewhere."""
    named = {"host": "first.example", "x-gradio-server": "https://evil.example"}
    for headers in (named, {"host": "first.example"}):
        page = httpx.get(f"{guarded.url}/methods", headers=headers)
        assert page.status_code == 200
        assert "evil.example" not in page.text


def test_a_body_that_would_keep_everybody_waiting_is_refused(guarded: Guarded) -> None:
    """Lists of nothing, and more than any text of ours; the page answers at once afterwards."""
    for path in ("queue/join", "call/preview", "run/predict"):
        for values in (b"[]," * 2_000_000 + b"1", b'"' + b"x" * 13_000_000 + b'"'):
            body = b'{"fn_index": 0, "session_hash": "x", "data": [' + values + b"]}"
            answer = httpx.post(f"{guarded.url}/gradio_api/{path}", content=body, timeout=60)
            assert answer.status_code == 413
            assert answer.json()["detail"].startswith("This request ")
    assert httpx.get(f"{guarded.url}/health", timeout=2).status_code == 200


def test_an_upload_that_was_none_is_not_read(guarded: Guarded) -> None:
    """A caller who names a file of the server, or an address, where an upload or any other value is expected."""
    caller, tried = Caller(guarded.url, guarded.hub.add_token("bea")), 0
    theirs = guarded.folder / "merge" / "theirs.txt"
    theirs.write_text("zebrafish")
    known = set((guarded.folder / "uploads").rglob("*"))
    for endpoint in endpoints(guarded.url):
        kinds = [kind for kind, _ in endpoint.inputs]
        at = next((kinds.index(kind) for kind in ("file", "textbox") if kind in kinds), None)
        if at is None or ("file" not in kinds and endpoint.name not in CALLS):
            continue
        for value in ("/etc/passwd", "/proc/self/environ", str(theirs), "http://127.0.0.1:9/x", "https://[::1]/x"):
            upload = {"path": value, "url": value, "orig_name": "a.txt", "meta": {"_type": "gradio.FileData"}}
            data = [
                "upload" if kind == "radio" and "upload" in str(props["choices"]) else one
                for (kind, props), one in zip(endpoint.inputs, endpoint.data("ana/x"), strict=True)
            ]
            data[at] = upload
            answer = caller.ask(endpoint, data)
            assert not re.search(r"root:|MERGE_|HOME=|zebrafish", answer)
            assert '"success":false' in answer, endpoint.name
            tried += 1
    assert tried >= 20
    assert set((guarded.folder / "uploads").rglob("*")) == known
    caller.close()


def test_headers_make_nobody_somebody(guarded: Guarded) -> None:
    """Who somebody is says their token alone."""
    caller = Caller(guarded.url, headers={**IDENTITY_HEADERS, "authorization": "Bearer ana", "cookie": "session=ana"})
    for endpoint in endpoints(guarded.url):
        if endpoint.name in ("_open", "status", "submit", "cancel"):
            answer = caller.ask(endpoint, endpoint.data(guarded.done["id"]), {"id": guarded.done["id"]})
            assert not leaked(guarded, answer, guarded.done["id"]), endpoint.name
    caller.close()


def test_a_token_that_is_none_gets_one_sentence(guarded: Guarded) -> None:
    """Too long, in other letters, with a second header in it, or unknown to the Hub."""
    call = next(one for one in endpoints(guarded.url) if one.name == "status")
    for token in ("hf_" + "x" * 20_000, "hf_ü", "a\r\nx-user: ana", " ", "hf_wrong"):
        sentence = _said(Caller(guarded.url, token).ask(call, [guarded.done["id"]]))
        assert re.match(r"Your (token is not valid|sign-in has run out)", sentence), sentence
        assert len(sentence) < 300


def _said(answer: str) -> str:
    """The sentence of an error."""
    return str(json.loads(answer.splitlines()[-1][5:])["output"]["error"])


def test_a_link_of_a_megabyte_is_refused(guarded: Guarded) -> None:
    """Before anything of it is unpacked, and the page is there for the next one."""
    connection = HTTPConnection(guarded.url.removeprefix("http://"))
    with suppress(ConnectionError):  # it may be closed before all of it is sent
        connection.request("GET", f"/?recipe={'A' * 1_000_000}")
        assert connection.getresponse().status in (400, 414, 431)
    connection.close()
    assert httpx.get(f"{guarded.url}/health").status_code == 200


def test_no_secret_of_the_running_service_is_found_anywhere(guarded: Guarded) -> None:
    """One job is done, one fails, one is cancelled, in the real stages; docs/security.md says where is searched."""
    guarded.hub.add_user("cia")
    api = HfApi(endpoint=guarded.hub.url, token=guarded.hub.add_token("cia"))
    for seed in (0, 1):
        api.create_repo(f"cia/m{seed}", private=True, exist_ok=True)
        api.upload_folder(repo_id=f"cia/m{seed}", folder_path=guarded.folder.parent / "models" / str(seed))
    models = [{"model": f"cia/m{seed}"} for seed in (0, 1)]
    cia = Watched(guarded.url, "cia", guarded.folder, guarded.planted)
    with ProcessWatch([guarded.token, cia.token], (*guarded.keys, *guarded.signing), guarded.signing) as watch:
        going = cia.call("submit", average("cia/cancelled", models=models))["id"]
        cia.follow(going, "merge")
        cia.call("cancel", going)
        cia.follow(going, "cancelled")
        guarded.hub.set_fault("cia/m0/resolve/.*/tokenizer", method="GET", status=403, message="No.", times=None)
        failing = cia.call("submit", average("cia/failed", models=models))["id"]
        assert cia.follow(failing, "failed")["stage"] == "fetch"
        cia.look_around(failing)
    assert not guarded.watch.hits
    assert not watch.hits
    stages = {word for line in guarded.watch.stages if str(guarded.folder) in line for word in line.split()}
    assert {"jobs.begin", "merging.check"} <= stages
    names = {path.name for path in guarded.folder.rglob("*")}
    assert {"jobs.sqlite", "jobs.sqlite-wal", "log.jsonl", "report.json", "app.log"} <= names
    assert '"logger": "request"' in (guarded.folder / "app.log").read_text()
    assert cia.search() > 40
    assert cia.answers > 20
    published = guarded.folder / "published"
    HfApi(endpoint=guarded.hub.url, token=guarded.token).snapshot_download(MERGED, local_dir=published)
    cia.search()


# In the browser of somebody who is signed in


@pytest.fixture(scope="module")
def ana_browsing(guarded: Guarded, browser: Browser) -> Iterator[BrowserContext]:
    """A browser in which ana is signed in."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(guarded.url)
    page.locator("#sign-in").click()
    page.get_by_role("button", name="Continue as ana").click()
    expect(page.locator("#sign-in")).to_contain_text("Sign out (ana)")
    page.close()
    yield context
    context.close()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_another_sites_page_can_do_nothing(guarded: Guarded, ana_browsing: BrowserContext, name: str) -> None:
    """Of another site, and of another origin of the same site; the cookies are sent along, and do not help."""
    cancel = next(one for one in endpoints(guarded.url) if one.name == "cancel")
    sent: dict[str, bool] = {}
    page = ana_browsing.new_page()
    cookies = lambda request: request.all_headers().get("cookie", "")  # noqa: E731
    page.on("request", lambda request: sent.update({request.url: "session=" in cookies(request)}))
    with hostile_site() as port:
        page.goto(f"http://{name}:{port}/")
        told = page.evaluate(ATTACKS, [guarded.url, guarded.held, cancel.index])
        page.goto(f"http://{name}:{port}/")
        page.evaluate("(url) => { location.href = url + '/logout' }", guarded.url)
        expect(page.locator("body")).to_contain_text("may not sign anybody out")
    page.close()
    assert any(with_cookie for url, with_cookie in sent.items() if url.startswith(guarded.url)), "no cookie was sent"
    harmless = {"call blind": 0, "upload blind": 0, "beacon": True, "form": "sent"}  # what a page is told in any case
    for attack, answer in told.items():
        allowed = answer == harmless.get(attack) or str(answer).startswith("refused") or answer == "seen: closed"
        assert allowed, (attack, answer)
    assert status(guarded, guarded.held) in ("waiting", "running")
    assert not list(guarded.folder.rglob("hostile.txt"))
    own = ana_browsing.new_page()
    own.goto(guarded.url)
    expect(own.locator("#sign-in")).to_contain_text("Sign out (ana)")
    own.close()


def test_a_cookie_that_was_made_or_changed_is_nobodys(guarded: Guarded, ana_browsing: BrowserContext) -> None:
    """With another content, or signed with the secret that an app without one would have."""
    cookie = next(one for one in ana_browsing.cookies() if one["name"] == "session")["value"]
    body, stamp, signature = cookie.split(".")
    read = next(one for one in endpoints(guarded.url) if one.name == "_open" and not one.inputs)
    query = {"id": guarded.done["id"]}
    genuine = Caller(guarded.url, headers={"cookie": f"session={cookie}"})
    assert MERGED in genuine.ask(read, [], query)
    content = json.loads(base64.b64decode(body + "=="))
    other = base64.b64encode(json.dumps(content | {"more": "ana"}).encode()).decode()
    constant = TimestampSigner(hashlib.sha256(b"-v4").hexdigest()).sign(body.encode()).decode()
    for forged in (f"{other}.{stamp}.{signature}", constant, f"{body}.{stamp}.{signature[:-2]}AA", body):
        answer = Caller(guarded.url, headers={"cookie": f"session={forged}"}).ask(read, [], query)
        assert not leaked(guarded, answer, guarded.done["id"])


def test_our_own_button_signs_out(guarded: Guarded, browser: Browser, ana_browsing: BrowserContext) -> None:
    """In a browser of its own, for the other tests go on with hers."""
    context = browser.new_context(storage_state=ana_browsing.storage_state())
    page = context.new_page()
    page.goto(guarded.url)
    expect(page.locator("#sign-in")).to_contain_text("Sign out (ana)")
    page.locator("#sign-in").click()
    expect(page.locator("#sign-in")).to_contain_text("Sign in with")
    context.close()
