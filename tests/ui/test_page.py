"""The app as a process of its own, on one's own machine: named calls, foreign origins and hosts, links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from huggingface_hub import HfApi

from demo.loopback_hub import LoopbackHub
from tests.served import program, publish_skills, run_job, served

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Site:
    """A running app, its Hub, and the token of the person whose machine it is."""

    url: str
    hub: LoopbackHub
    models: tuple[str, ...]
    token: str
    home: Path

    def client(self, token: str | None = None) -> Client:
        """A program that uses the public API."""
        return program(self.url, token)

    def recipe(self, **changes: Any) -> str:
        """A RegMean of the three models."""
        import yaml

        models = [{"model": model} for model in self.models]
        return yaml.safe_dump({"merge_method": "regmean", "models": models, **changes})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One app for all tests of this file."""
    folder = tmp_path_factory.mktemp("site")
    with LoopbackHub(folder / "hub") as hub:
        models = publish_skills(hub, folder / "models")
        token = hub.add_token("ana")
        with served(folder, {"HF_ENDPOINT": hub.url}, token=token) as url:
            yield Site(url, hub, tuple(models), token, folder)


def test_the_named_calls_are_the_whole_public_api(site: Site) -> None:
    """Nothing of the page's insides can be called by name."""
    named = site.client().view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/preview", "/submit", "/status", "/cancel", "/methods"}


def test_the_start_warns_of_nothing(site: Site) -> None:
    """Whoever starts the page reads no warning that asks nothing of him."""
    assert "Warning" not in (site.home / "app.log").read_text()


def test_methods_are_told(site: Site) -> None:
    """With needs and parameters."""
    told = site.client().predict(api_name="/methods")
    assert told["regmean"]["needs"] == ["gram"]
    assert {one["name"] for one in told["regmean"]["parameters"]} == {"weight", "alpha", "ridge"}


def test_anybody_may_preview_without_a_weight_byte(site: Site) -> None:
    """Nobody signed in: the plan is told, and the Hub has served no weights."""
    site.hub.reset_counters()
    told = site.client().predict(site.recipe(), api_name="/preview")
    assert told["possible"], told["problems"]
    assert [output["folder"] for output in told["outputs"]] == ["", "banking", "emotion", "subjectivity"]
    assert site.hub.counters()["weight_bytes"] == 0


def test_bad_input_is_one_sentence(site: Site) -> None:
    """With the nearest name, and no traceback."""
    with pytest.raises(AppError, match="There is no merge method 'regmaen'") as caught:
        site.client().predict(site.recipe(merge_method="regmaen"), api_name="/preview")
    assert 'Did you mean "regmean"?' in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_program_without_a_token_cannot_submit(site: Site) -> None:
    """The machine's own token is not lent to it."""
    with pytest.raises(AppError, match="Not signed in"):
        site.client().predict(site.recipe(output={"repo_id": "ana/not-mine"}), api_name="/submit")


def test_a_program_with_its_own_token_merges(site: Site) -> None:
    """Submit, follow, and the repo stands there; nobody else sees the job."""
    client = site.client(site.token)
    job = run_job(client, site.recipe(output={"repo_id": "ana/by-program"}))
    assert "recipe.yaml" in HfApi(endpoint=site.hub.url, token=site.token).list_repo_files("ana/by-program")
    site.hub.add_user("bea")
    with pytest.raises(AppError, match="There is no such job"):
        site.client(site.hub.add_token("bea")).predict(job["id"], api_name="/status")


def test_a_submitted_job_can_be_cancelled(site: Site) -> None:
    """The answer says so."""
    client = site.client(site.token)
    job = client.predict(site.recipe(seed=1, output={"repo_id": "ana/cancelled"}), api_name="/submit")
    assert client.predict(job["id"], api_name="/cancel")["status"] == "cancelled"


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "http://localhost:1"}]
)
def test_foreign_origins_and_hosts_are_refused(site: Site, headers: dict[str, str]) -> None:
    """For every path that changes or tells something."""
    for path in ("/gradio_api/queue/join", "/gradio_api/call/submit", "/gradio_api/upload"):
        assert httpx.post(site.url + path, headers=headers, json={"data": []}).status_code == 403
    assert httpx.get(site.url, headers=headers).status_code == 403


def test_pages_and_health_answer(site: Site) -> None:
    """All routes, with no address of another site that a browser would load."""
    assert httpx.get(f"{site.url}/health").json()["status"] == "ok"
    found = httpx.get(f"{site.url}/ready").json()
    assert found["ready"] == (found["reasons"] == [])
    assert found["reasons"] in ([], ["No worker is running."])  # it may be starting
    for path in ("/", "/jobs", "/methods", "/model?id=ana/x", "/?recipe=broken", "/?model=ana/x"):
        answer = httpx.get(site.url + path)
        assert answer.status_code == 200
        assert not re.findall(r'(?:src|href)="(https?:[^"]+)"', answer.text)


def test_an_address_without_a_page_says_so_to_people(site: Site) -> None:
    """With the way home; a program gets what it got before."""
    for path in ("/nope", "/no/such/thing"):
        answer = httpx.get(site.url + path, headers={"Accept": "text/html,*/*"})
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
        assert "There is no page here" in answer.text
        assert '<a href="/">' in answer.text
        assert "content-security-policy" in answer.headers
        assert httpx.get(site.url + path, headers={"Accept": "application/json"}).json() == {"detail": "Not Found"}


def test_a_shared_link_has_a_preview_of_its_own(site: Site) -> None:
    """Title and description of the merged model, escaped, and nothing of Gradio's."""
    page = httpx.get(site.url + "/model", params={"id": 'ana/x"><script>'}).text
    assert '<meta property="og:title" content="Merged model · Merge My Models"' in page
    page = httpx.get(f"{site.url}/model?id=ana/merged").text
    assert '<meta property="og:title" content="ana/merged"' in page
    assert 'og:image" content="https://raw' not in page


def test_no_token_stands_in_log_or_page(site: Site) -> None:
    """Neither the machine's nor a caller's."""
    assert site.token not in (site.home / "app.log").read_text(errors="replace")
    assert site.token not in httpx.get(site.url).text
    for file in (site.home / "merge").rglob("*"):
        assert not file.is_file() or site.token.encode() not in file.read_bytes(), file
