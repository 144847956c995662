"""The pictures of the docs, taken from the running product: `python -m docs.screenshots`.

A Hub on this machine with three small classifiers, the app with sign-in, Chromium at two widths. When `make demo`
has run, its real models are shown instead of tiny ones. Writes docs/images/*.png.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.update(HF_HOME=tempfile.mkdtemp(prefix="hf-home-"), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")

from huggingface_hub import HfApi
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from demo.loopback_hub import LoopbackHub
from merging.recipe import recipe_from_dict
from tests.served import publish_skills, served

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SWITCHES = ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--disable-dev-shm-usage"]
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
            environment = {**hub.oauth_environment(), "MERGE_SECRET_KEY": secrets.token_urlsafe(32)}
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
            with served(home, environment) as url:
                take(browser, url, user, models)
            browser.close()


def demo_models(hub: LoopbackHub) -> Sequence[str]:
    """The three models that the demo has published and fine-tuned itself."""
    api = HfApi(endpoint=hub.url, token=hub.add_token("demo"))
    found = sorted(info.id for info in api.list_models(author="demo", full=True) if "merge" not in (info.tags or []))
    return [model for model in found if not model.endswith("-merge-statistics")][:3]


def take(browser: Browser, url: str, user: str, models: Sequence[str]) -> None:
    """Sign in, merge, and look at every page at every width."""
    recipe = recipe_from_dict({"merge_method": "regmean", "models": [{"model": model} for model in models]})
    form = f"{url}/?recipe={recipe.to_link()}"
    merged = ""
    for width, height in WIDTHS.items():
        for scheme in ("light", "dark") if width == 1280 else ("light",):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
                is_mobile=width < 500,
            )
            page = context.new_page()
            sign_in(page, url, user)
            page.goto(form)
            page.wait_for_selector("#preview .mm-facts")
            page.wait_for_selector("#model-3 .mm-share")
            shoot(page, f"merge-{scheme}-{width}", whole=width < 500)
            if not merged:
                merged = run_job(page)
            page.goto(f"{url}/jobs")
            page.locator("#jobs a").first.click()
            page.wait_for_selector("#job .mm-steps")
            shoot(page, f"jobs-{scheme}-{width}")
            page.goto(f"{url}/model?id={merged}")
            page.wait_for_selector("#merged h3")
            shoot(page, f"model-{scheme}-{width}", whole=width < 500)
            page.goto(f"{url}/methods")
            page.wait_for_selector("#regmean")
            shoot(page, f"methods-{scheme}-{width}")
            context.close()


def sign_in(page: Page, url: str, user: str) -> None:
    """Through the Hub's own page and back."""
    page.goto(url)
    page.locator("#sign-in").click()
    page.get_by_role("button", name=f"Continue as {user}").click()
    page.get_by_role("button", name=f"Sign out ({user})").wait_for()


def run_job(page: Page) -> str:
    """Press the button and take two pictures: under way, and done. Gives the new repo's id."""
    name = page.locator("#repo-name textarea")
    name.fill("three-skills")
    name.press("Tab")
    page.wait_for_timeout(1500)
    page.locator("#merge").click()
    page.wait_for_selector("#job progress")
    page.wait_for_timeout(2000)
    shoot(page, "job-running-1280")
    page.wait_for_selector("#job a.mm-big", timeout=400_000)
    shoot(page, "job-done-1280")
    return f"{page.locator('#owner input').input_value()}/three-skills"


def shoot(page: Page, name: str, *, whole: bool = False) -> None:
    """One picture, after everything has settled."""
    page.wait_for_timeout(900)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path, full_page=whole)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
