"""The pages as somebody meets them: from an example to figures, for all eyes and hands."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi
from playwright.sync_api import Browser, Page, expect

from merging.recipe import recipe_from_dict
from tests.end_to_end.test_first_light import pick, sign_in
from tests.served import SKILLS
from ui.previews import PICTURE

pytestmark = pytest.mark.slow
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
LATE = 30_000  # milliseconds that the first look at a dataset may take: its library is loaded then
RUN = "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"
SHIFTS = """
window.shifted = 0
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value
}).observe({type: 'layout-shift', buffered: true})
"""


@pytest.fixture(scope="module")
def prepared(site: Any) -> Any:
    """The models name their base, and there is labelled text of two of them."""
    api = HfApi(endpoint=site.hub.url, token=site.hub.add_token("ana"))
    for model in site.models:
        card = f"---\nlicense: apache-2.0\nbase_model: ana/minilm-base\n---\n# {model}\n"
        api.upload_file(repo_id=model, path_or_fileobj=card.encode(), path_in_repo="README.md")
    rows = [{"text": f"words about {label}", "intent": label} for label in SKILLS["banking"] * 10]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    api.create_repo("ana/banking-texts", repo_type="dataset")
    api.upload_file(repo_id="ana/banking-texts", repo_type="dataset", path_or_fileobj=lines, path_in_repo="test.jsonl")
    return site


@pytest.fixture(scope="module")
def visitors(prepared: Any, browser: Browser) -> Iterator[Any]:
    """Signed-in people at desks and phones: (width, scheme) -> a page."""
    contexts = []

    def visitor(width: int, scheme: Any) -> Page:
        size: Any = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme, is_mobile=width < 500)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(SHIFTS)
        page.goto(prepared.url)
        sign_in(page, "bea")
        return page

    yield visitor
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def merged(prepared: Any, visitors: Any) -> str:
    """What Bea made from an example, with a set to evaluate it on: the job's id."""
    page = visitors(1280, "light")
    page.get_by_role("link", name="Three skills").click()
    expect(page.locator("#preview")).to_contain_text("Ready to merge")
    page.get_by_role("button", name="Prove it").click()
    page.locator("#evaluation-data").locator("input, textarea").fill("ana/banking-texts:test")
    page.locator("#evaluation-data").locator("input, textarea").press("Enter")
    expect(page.locator("#evaluation-look")).to_contain_text(
        "All 4 labels are called as ana/minilm-banking", timeout=30_000
    )
    page.locator("#evaluation-add").click()
    expect(page.locator("#evaluation-sets")).to_contain_text("own domain of ana/minilm-banking")
    page.get_by_role("radio", name="RegMean").check()
    page.locator("#sweep-parameter input").click()
    page.get_by_role("option", name="Alpha").click()
    expect(page.locator("#preview")).to_contain_text("alpha = 0.0, 0.25, 0.5, 0.75, 1.0: a merge each")
    values = page.locator("#sweep-values").locator("input, textarea")
    values.fill("0, 2")
    values.press("Tab")
    expect(page.locator("#evaluation-note")).to_contain_text("alpha = 2: it is out of range.")
    values.fill("0, 0.5")
    values.press("Tab")
    expect(page.locator("#preview")).to_contain_text("alpha = 0, 0.5: a merge each, one at a time")
    page.locator("#repo-name").locator("input, textarea").fill("proven")
    page.locator("#repo-name").locator("input, textarea").press("Tab")
    page.locator("#merge").click()
    expect(page.locator("#job")).to_contain_text("bea/proven")
    expect(page.locator("#job a.mm-big")).to_be_visible(timeout=150_000)
    return re.search(r"id=(\w+)", page.url)[1]  # type: ignore[index]


def test_a_set_stands_in_the_address_and_can_be_removed(prepared: Any, visitors: Any) -> None:
    """A reload keeps it; a label that the model does not have is said at once."""
    page = visitors(1280, "light")
    pick(page, "emo", "ana/minilm-emotion")
    pick(page, "sub", "ana/minilm-subjectivity")
    page.get_by_role("button", name="Prove it").click()
    data = page.locator("#evaluation-data").locator("input, textarea")
    data.fill("ana/banking-texts:test")
    data.press("Enter")
    expect(page.locator("#evaluation-look")).to_contain_text(
        "Labels: card lost, exchange rate, fee, top up", timeout=30_000
    )
    before = page.url
    page.locator("#evaluation-add").click()
    expect(page.locator("#evaluation-sets")).to_contain_text("new to all models")
    expect(page).not_to_have_url(before)
    page.reload()
    page.get_by_role("button", name="Prove it").click()
    expect(page.locator("#evaluation-sets")).to_contain_text("ana/banking-texts:test")
    page.get_by_role("button", name="Remove").last.click()
    expect(page.locator("#evaluation-sets")).to_contain_text("No set yet")


def test_a_further_fine_tune_is_one_click_away(prepared: Any, visitors: Any) -> None:
    """After the first model; those that are picked are not offered."""
    page = visitors(1280, "light")
    pick(page, "ban", "ana/minilm-banking")
    offers = page.locator("#offers")
    expect(offers).to_contain_text("Also made from ana/minilm-base")
    page.get_by_role("button", name="Add ana/minilm-emotion").click()
    expect(page.locator("#model-2")).to_contain_text("ana/minilm-emotion")
    expect(offers.get_by_role("button")).to_have_count(1)


def test_figures_stand_on_the_jobs_and_on_the_models_page(prepared: Any, visitors: Any, merged: str) -> None:
    """As pictures with their finding in words, and as a table one click away; a link is shown with a picture."""
    page = visitors(1280, "light")
    for address, place in ((f"/jobs?id={merged}", "#job-figures"), ("/model?id=bea/proven", "#merged")):
        page.goto(prepared.url + address)
        picture = page.locator(place).get_by_role("img", name=re.compile("On .*banking.* the merge has"))
        expect(picture).to_be_visible()
        line = page.locator(place).get_by_role("img", name=re.compile("accuracy on .* by alpha: .* at 0, .* at 1"))
        expect(line).to_be_visible()
        table = page.locator(f"{place} details", has_text="The numbers as a table").first
        expect(table.locator("table")).to_be_hidden()
        table.locator("summary").click()
        expect(table.locator("table")).to_be_visible()
    head = httpx.get(f"{prepared.url}/model?id=bea/proven").text
    address = re.search(r'og:image" content="([^"]+)"', head)[1]  # type: ignore[index]
    assert address == f"{prepared.url}{PICTURE}?id=bea%2Fproven"
    answer = httpx.get(address, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})
    assert answer.headers["content-type"] == "image/png"
    assert httpx.get(f"{prepared.url}{PICTURE}?id=ana/none").status_code == 404


def test_a_phone_shows_the_job_that_was_tapped(prepared: Any, visitors: Any, merged: str) -> None:
    """In place of the list, without scrolling; trying and verifying a model are one tap away from its name."""
    page = visitors(390, "light")
    page.goto(f"{prepared.url}/jobs")
    page.locator("#jobs a", has_text="bea/proven").first.click()
    expect(page.locator("#job a.mm-big")).to_be_in_viewport()
    expect(page.locator("#jobs a").first).to_be_hidden()
    page.goto(f"{prepared.url}/model?id=bea/proven")
    expect(page.locator("#verified")).to_contain_text("Is it what its recipe makes?")
    for link, place in (("Try it", "#try-it h3"), ("Verify", "#verified h3")):
        expect(page.locator(place)).to_be_visible()
        expect(page.locator(place)).not_to_be_in_viewport()
        page.get_by_role("link", name=link, exact=True).click()
        expect(page.locator(place)).to_be_in_viewport()
        page.evaluate("scrollTo(0, 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_has_a_serious_fault(prepared: Any, visitors: Any, merged: str, width: int, scheme: str) -> None:
    """As axe-core sees it: names, roles, contrast, order. Nothing jumps while a page is opened, nothing is cut off."""
    page = visitors(width, scheme)
    recipe = recipe_from_dict({"merge_method": "regmean", "models": list(prepared.models)}).to_link()
    addresses = {
        "/": "#offers a",
        f"/?recipe={recipe}": "#preview .mm-facts",
        f"/jobs?id={merged}": "#job-figures .mm-bar",
        f"/statistics?model={prepared.models[0]}": "#found .mm-statistics",
        "/methods": "#regmean",
        "/model?id=bea/proven": "#merged .mm-bar",
    }
    faults, jumps = [], {}
    for address, landmark in addresses.items():
        page.goto(prepared.url + address)
        expect(page.locator(landmark).first).to_be_visible()
        page.wait_for_timeout(500)
        jumps[address] = page.evaluate("window.shifted")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        for closed in page.locator("#evaluate button.label-wrap, .mm-details summary").all():
            closed.click()
        page.evaluate(AXE)
        found = [one for one in page.evaluate(RUN) if one["impact"] in ("serious", "critical")]
        faults += [
            (address, one["id"], node["target"], node["failureSummary"]) for one in found for node in one["nodes"]
        ]
    assert max(jumps.values()) < 0.1, jumps
    assert not faults, "\n".join(map(str, faults))
