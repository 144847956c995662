"""The pictures of the docs, taken from the running product: `python -m docs.screenshots`.

A Hub on this machine with three small classifiers, the app with sign-in, Chromium at two widths. When `make demo`
has run, its real models are shown instead of tiny ones. Writes docs/images/*.png.
"""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.update(HF_HOME=tempfile.mkdtemp(prefix="hf-home-"), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")

from huggingface_hub import HfApi
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from demo.loopback_hub import LoopbackHub
from demo.train import SKILLS as DEMO
from demo.train import read_rows
from merging.recipe import recipe_from_dict
from tests.served import CHROMIUM, SKILLS, SWITCHES, publish_skills, served

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTHS = {1280: 860, 390: 844}  # width -> height in pixels


def main() -> None:
    """Take every picture."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        demo = ROOT / ".demo" / "hub"
        if demo.is_dir():
            shutil.copytree(demo, home / "hub")
        with LoopbackHub(home / "hub") as hub:
            user, models = (
                ("demo", demo_models(hub)) if demo.is_dir() else ("ana", publish_skills(hub, home / "models"))
            )
            sets = publish_sets(hub, user)
            environment = {**hub.oauth_environment(), "MERGE_SECRET_KEY": secrets.token_urlsafe(32)}
            environment |= {"MERGE_EXAMPLES": str(ROOT / "demo" / "examples.yaml")}
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
            with served(home, environment) as url:
                take(browser, url, user, models, sets)
            browser.close()


def demo_models(hub: LoopbackHub) -> Sequence[str]:
    """The three models that the demo has published and fine-tuned itself."""
    api = HfApi(endpoint=hub.url, token=hub.add_token("demo"))
    found = sorted(info.id for info in api.list_models(author="demo", full=True) if "merge" not in (info.tags or []))
    return [model for model in found if not model.endswith("-merge-statistics")][:3]


def publish_sets(hub: LoopbackHub, user: str) -> Sequence[str]:
    """Labelled text on the Hub: the demo's test sets for its models, a few sentences for the tiny ones."""
    hub.add_user(user)
    api = HfApi(endpoint=hub.url, token=hub.add_token(user))
    names = []
    for skill in DEMO if user == "demo" else SKILLS:
        rows = read_rows(skill, "test") if user == "demo" else [(f"about {one}", one) for one in SKILLS[skill] * 20]
        lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        name = f"{user}/{skill}-texts"
        api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_file(repo_id=name, repo_type="dataset", path_or_fileobj=lines.encode(), path_in_repo="test.jsonl")
        names.append(name)
    return names


def take(browser: Browser, url: str, user: str, models: Sequence[str], sets: Sequence[str]) -> None:
    """Sign in, merge twice, and look at every page at every width, light and dark."""
    wish = {"models": [{"model": model} for model in models], "evaluate": evaluate(models, sets)}
    links = {one: recipe_from_dict({"merge_method": one, **wish}).to_link() for one in ("average", "regmean")}
    merged = ""
    for width, height in WIDTHS.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
                is_mobile=width < 500,
            )
            page, phone, end = context.new_page(), width < 500, f"{scheme}-{width}"
            sign_in(page, url, user)
            if user == "demo":
                page.wait_for_selector("#offers a")
            shoot(page, f"empty-{end}")
            if not merged:
                fill(page, f"{url}/?recipe={links['average']}")
                run_job(page, "skills-average", "")
            fill(page, f"{url}/?recipe={links['regmean']}")
            page.get_by_role("button", name="Prove it").click()
            shoot(page, f"merge-{end}", whole=True)
            if not merged:
                merged = run_job(page, "three-skills", "job")
            page.goto(f"{url}/jobs")
            page.wait_for_selector("#jobs a")
            addresses = [link.get_attribute("href") or "" for link in page.locator("#jobs a").all()[:2]]
            page.goto(f"{url}{addresses[0]}&with={addresses[1].partition('=')[2]}")
            page.wait_for_selector("#job-figures .mm-bar")
            shoot(page, f"jobs-{end}", whole=True)
            page.goto(f"{url}/model?id={merged}")
            page.wait_for_selector("#merged .mm-bar")
            shoot(page, f"model-{end}", whole=True)
            page.goto(f"{url}/statistics?model={models[0]}")
            page.wait_for_selector("#found .mm-statistics")
            shoot(page, f"statistics-{end}", whole=phone)
            page.goto(f"{url}/methods")
            page.wait_for_selector("#regmean")
            shoot(page, f"methods-{end}")
            context.close()


def evaluate(models: Sequence[str], sets: Sequence[str]) -> list[dict[str, Any]]:
    """Each model's own set."""
    found = []
    for model in models:
        task = model.rpartition("-")[2]
        found += [
            {"data": f"{one}:test", "name": task, "in_domain": [task], "examples": 100}
            for one in sets
            if f"/{task}-" in one
        ]
    return found


def fill(page: Page, address: str) -> None:
    """Open the form with a recipe, and wait until it is settled."""
    page.goto(address)
    page.wait_for_selector("#preview .mm-facts")
    page.wait_for_selector("#model-3 .mm-share")


def sign_in(page: Page, url: str, user: str) -> None:
    """Through the Hub's own page and back."""
    page.goto(url)
    page.locator("#sign-in").click()
    page.get_by_role("button", name=f"Continue as {user}").click()
    page.get_by_role("button", name=f"Sign out ({user})").wait_for()


def run_job(page: Page, repo: str, name: str) -> str:
    """Press the button; with a `name`, two pictures: under way, and done. Gives the new repo's id."""
    field = page.locator("#repo-name").locator("input, textarea")
    field.fill(repo)
    field.press("Tab")
    page.wait_for_timeout(1500)
    page.locator("#merge").click()
    page.wait_for_selector("#job progress")
    page.wait_for_timeout(2000)
    if name:
        shoot(page, f"{name}-running-1280")
    page.wait_for_selector("#job a.mm-big", timeout=600_000)
    if name:
        shoot(page, f"{name}-done-1280")
    return f"{page.locator('#owner input').input_value()}/{repo}"


def shoot(page: Page, name: str, *, whole: bool = False) -> None:
    """One picture, after everything has settled."""
    page.wait_for_timeout(900)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path, full_page=whole)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
