"""One user's models, jobs and results, and everything that somebody else may ask of the running service."""

import re
from urllib.parse import quote

import httpx
import pytest
from gradio_client.exceptions import AppError
from huggingface_hub import HfApi

from tests.security.conftest import MERGED, MODELS, Guarded, average
from tests.security.strangers import Caller, endpoints
from tests.served import program

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
    """(all that every event of the page answers to a caller who puts a text wherever one can stand, how many there are)."""
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
    assert not any(secret in answers for secret in guarded.planted)


@pytest.mark.parametrize("who", ["bea", "nobody"])
def test_no_event_of_the_page_shows_or_touches_what_is_somebody_elses(guarded: Guarded, who: str) -> None:
    """Every event that the config lists, with the victim's job ids, models and results wherever a text can stand."""
    token = guarded.hub.add_token("bea") if who == "bea" else None
    texts = [guarded.held, MODELS[0], average("bea/stolen")] if who == "bea" else [guarded.done["id"]]
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
    client = program(guarded.url, guarded.hub.add_token("bea"))
    for call in ("/status", "/cancel"):
        with pytest.raises(AppError) as theirs:
            client.predict(guarded.done["id"], api_name=call)
        with pytest.raises(AppError) as none:
            client.predict("m" + "0" * 23, api_name=call)
        assert str(theirs.value).replace(guarded.done["id"], "ID") == str(none.value).replace("m" + "0" * 23, "ID")


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
    for path in ("/monitoring", "/monitoring/summary", "/gradio_api/runs", "/gradio_api/vibe-code", "/svelte/x"):
        assert asker.get(path).status_code == 404, path
    for path in ("process_recording", "component_server", "vibe-edit", "run/submit", "api/submit"):
        assert httpx.post(f"{guarded.url}/gradio_api/{path}", json={"data": []}).status_code == 404, path


@pytest.mark.parametrize("value", ["/etc/passwd", "/proc/self/environ", "../../etc/passwd", "http://127.0.0.1:9/x"])
def test_an_upload_that_was_none_is_not_read(guarded: Guarded, value: str) -> None:
    """A caller who names a file of the server where an upload is expected."""
    caller = Caller(guarded.url, guarded.hub.add_token("bea"))
    upload = {"path": value, "url": value, "orig_name": "a.txt", "meta": {"_type": "gradio.FileData"}}
    tried = 0
    for endpoint in endpoints(guarded.url):
        kinds = [kind for kind, _ in endpoint.inputs]
        if "file" in kinds:
            data = [upload if kind == "file" else one for kind, one in zip(kinds, endpoint.data("ana/x"), strict=True)]
            data = ["upload" if kind == "radio" and "upload" in str(props.get("choices")) else one
                    for (kind, props), one in zip(endpoint.inputs, data, strict=True)]  # fmt: skip
            answer = caller.ask(endpoint, data)
            assert "root:" not in answer
            assert "MERGE_" not in answer
            assert '"success":false' in answer.replace(" ", ""), endpoint.name
            tried += 1
    assert tried
    caller.close()


def test_headers_make_nobody_somebody(guarded: Guarded) -> None:
    """Who somebody is says their token alone."""
    caller = Caller(guarded.url, headers={**IDENTITY_HEADERS, "authorization": "Bearer ana", "cookie": "session=ana"})
    for endpoint in endpoints(guarded.url):
        answer = caller.ask(endpoint, endpoint.data(guarded.done["id"]), {"id": guarded.done["id"]})
        assert not [word for word in guarded.private if word in answer], endpoint.name
    caller.close()


@pytest.mark.parametrize("token", ["hf_" + "x" * 20_000, "hf_ü", "a\r\nx-user: ana", " ", "hf_wrong"])
def test_a_token_that_is_none_gets_one_sentence(guarded: Guarded, token: str) -> None:
    """Too long, in other letters, with a second header in it, or unknown to the Hub."""
    with pytest.raises(AppError) as caught:
        program(guarded.url, token).predict(guarded.done["id"], api_name="/status")
    assert re.search(r"Your (token is not valid|sign-in has run out)", str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_link_of_a_megabyte_is_refused(guarded: Guarded) -> None:
    """Before anything of it is unpacked, and the page is there for the next one."""
    assert httpx.get(f"{guarded.url}/?recipe={'A' * 1_000_000}").status_code in (400, 414, 431)
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    page = next(one for one in endpoints(guarded.url) if one.name == "_open" and len(one.inputs) > 20)
    assert "The recipe link is too long" in Caller(guarded.url).ask(page, page.data(""), {"recipe": "A" * 30_000})
