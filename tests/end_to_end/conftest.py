"""A browser, and the service with sign-in on a Hub of its own."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from demo.loopback_hub import LoopbackHub
from tests.served import CHROMIUM, SWITCHES, publish_skills, served


@dataclass(frozen=True)
class Site:
    """A running app with OAuth, and its Hub."""

    url: str
    hub: LoopbackHub
    models: tuple[str, ...]
    folder: Path  # with all that the app keeps


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three tiny classifiers with published Gram statistics, and the app that signs people in there."""
    folder = tmp_path_factory.mktemp("site")
    with LoopbackHub(folder / "hub") as hub:
        models = publish_skills(hub, folder / "models")
        hub.add_user("bea", orgs=["acme"])
        examples = folder / "examples.yaml"
        title = "Three skills that three people taught to one model"  # wider than a phone
        examples.write_text(f"- title: {title}\n  recipe: {{merge_method: regmean, models: [{', '.join(models)}]}}\n")
        environment = {
            **hub.oauth_environment(),
            "MERGE_EXAMPLES": str(examples),
            "MERGE_SECRET_KEY": secrets.token_urlsafe(32),
        }
        with served(folder, environment) as url:
            yield Site(url, hub, tuple(models), folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new visitor at a desk, who asks no other machine for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    strangers: list[str] = []
    context.on("request", lambda request: strangers.append(request.url) if _elsewhere(request.url) else None)
    yield context.new_page()
    context.close()
    assert not strangers


def _elsewhere(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))
