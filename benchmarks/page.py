"""How long the page takes, and how many clicks: `python -m benchmarks.page`.

In Chromium, against a running service with sign-in and a Hub on this machine: the time until the shell is painted and
until the form can be used (the server warm, the browser's cache empty and filled), how far things jump meanwhile, and
the clicks and seconds from opening the page as a stranger to a submitted merge, by an example.
"""

import argparse
import os
import secrets
import statistics
import tempfile
import time
from pathlib import Path

os.environ.update(HF_HOME=tempfile.mkdtemp(prefix="hf-home-"), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from demo.loopback_hub import LoopbackHub
from tests.served import CHROMIUM, SWITCHES, publish_skills, served

ALLOWED = {"shell": 1.0, "form": 4.0, "shift": 0.1, "clicks": 6}
WATCH = """
window.seen = {shift: 0}
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.seen.shift += entry.value
}).observe({type: 'layout-shift', buffered: true})
const look = () => {
    if (!window.seen.shell && document.querySelector('.mm-brand')) window.seen.shell = performance.now() / 1000
    const field = document.querySelector('#search input')
    if (field && !field.disabled && document.querySelector('#offers a')) window.seen.form = performance.now() / 1000
    else requestAnimationFrame(look)
}
requestAnimationFrame(look)
"""


def main() -> None:
    """Measure, and print what was found beside what is allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--visits", type=int, default=5, help="with an empty cache, and as many with a filled one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LoopbackHub(Path(folder) / "hub") as hub, sync_playwright() as play:
        home = Path(folder)
        models = publish_skills(hub, home / "models")
        examples = home / "examples.yaml"
        examples.write_text(
            f"- title: Three skills\n  recipe: {{merge_method: regmean, models: [{', '.join(models)}]}}\n"
        )
        environment = {**hub.oauth_environment(), "MERGE_EXAMPLES": str(examples)}
        environment["MERGE_SECRET_KEY"] = secrets.token_urlsafe(32)
        browser = play.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        with served(home, environment) as url:
            visit(browser.new_context(), url)  # warms the server
            for words, fresh in (("empty cache", True), ("filled cache", False)):
                tell(words, visits(browser, url, options.visits, fresh=fresh))
            clicks, seconds = newcomer(browser, url)
            print(f"from opening to a submitted merge: {clicks} clicks (allowed {ALLOWED['clicks']}), {seconds:.1f} s")
        browser.close()


def visits(browser: Browser, url: str, count: int, *, fresh: bool) -> list[dict[str, float]]:
    """What so many visits saw, each of them the first of its browser if `fresh`."""
    kept = browser.new_context()
    visit(kept, url)
    return [visit(browser.new_context() if fresh else kept, url) for _ in range(count)]


def visit(context: BrowserContext, url: str) -> dict[str, float]:
    """Seconds to the shell and to the usable form, and the sum of all layout shifts, of one visit."""
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(url)
    page.wait_for_function("window.seen.form", timeout=60_000)
    page.wait_for_timeout(500)
    seen: dict[str, float] = page.evaluate("window.seen")
    page.close()
    return seen


def tell(words: str, seen: list[dict[str, float]]) -> None:
    """The median and the worst of some visits."""
    for name, unit in (("shell", " s"), ("form", " s"), ("shift", "")):
        values = [one[name] for one in seen]
        median, worst = statistics.median(values), max(values)
        print(
            f"{words:12}  {name:6} median {median:.3f}{unit}, worst {worst:.3f}{unit} (allowed {ALLOWED[name]:g}{unit})"
        )


def newcomer(browser: Browser, url: str) -> tuple[int, float]:
    """Clicks and seconds of a stranger who signs in, takes an example and merges it."""
    page = browser.new_context().new_page()
    clicks = Clicks(page)
    began = time.monotonic()
    page.goto(url)
    clicks.on("#sign-in")
    clicks.on("button:has-text('Continue as ana')")
    clicks.on("#offers a")
    page.wait_for_selector("#preview .mm-yes:has-text('Ready to merge')", timeout=60_000)
    clicks.on("#merge")
    page.wait_for_selector("#job .mm-steps", timeout=60_000)
    return clicks.count, time.monotonic() - began


class Clicks:
    """Counts them."""

    def __init__(self, page: Page) -> None:
        self._page, self.count = page, 0

    def on(self, selector: str) -> None:
        """Click the first of what this selects."""
        self._page.locator(selector).first.click(timeout=60_000)
        self.count += 1


if __name__ == "__main__":
    main()
