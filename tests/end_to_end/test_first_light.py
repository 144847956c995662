"""From a form in the browser to a merged model on the Hub, as a stranger does it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, Page, Route, expect

from merging.recipe import recipe_from_dict
from tests.served import SKILLS, program, run_job
from ui.api import CALLS

pytestmark = pytest.mark.slow
LOAD = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
repo, told = sys.argv[1], {}
for folder in ["", *sys.argv[2:]]:
    model = AutoModelForSequenceClassification.from_pretrained(repo, subfolder=folder, token=False)
    tokenizer = AutoTokenizer.from_pretrained(repo, subfolder=folder, token=False)
    logits = model(**tokenizer("one two three", return_tensors="pt")).logits
    body = {name: float(value.double().sum()) for name, value in model.base_model.named_parameters()}
    told[folder] = {"labels": list(model.config.id2label.values()), "logits": logits.tolist(), "body": body}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def published(site: Any) -> str:
    """The repo id of a RegMean that Bea's program made and published."""
    models = [{"model": model} for model in site.models]
    recipe = {"merge_method": "regmean", "models": models, "output": {"repo_id": "bea/by-program"}}
    run_job(program(site.url, site.hub.add_token("bea")), yaml.safe_dump(recipe))
    return "bea/by-program"


def pick(page: Page, letters: str, model: str) -> None:
    """Type into the search, wait for the list, and click a model."""
    search = page.locator("#search input")
    search.click()
    search.press_sequentially(letters, delay=40)
    page.locator("[role=option]", has_text=model).click()
    expect(page.locator("[id^=model-]", has_text=model)).to_be_visible()


def sign_in(page: Page, user: str) -> None:
    """Through the Hub's own page and back."""
    page.locator("#sign-in").click()
    page.get_by_role("button", name=f"Continue as {user}").click()
    expect(page.locator("#sign-in")).to_contain_text(f"Sign out ({user})")


def loaded(repo_id: str, endpoint: str, home: Path) -> dict[str, Any]:
    """What plain transformers makes of the published repo, in a process that has nothing of ours."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOAD, repo_id, *SKILLS]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_from_the_form_to_a_merged_model(site: Any, page: Page, tmp_path: Path) -> None:
    """Sign in, pick three, RegMean, preview, merge, follow the link, load it, merge again."""
    page.goto(site.url)
    sign_in(page, "bea")
    site.hub.reset_counters()
    for letters, model in zip(("min", "emo", "sub"), site.models, strict=True):
        pick(page, letters, model)
    page.get_by_role("radio", name="RegMean").check()
    preview = page.locator("#preview")
    expect(preview).to_contain_text("Ready to merge")
    expect(preview).to_contain_text("one body with 3 heads")
    expect(preview).to_contain_text("banking/, emotion/, subjectivity/")
    expect(preview).to_contain_text("0 bytes of weights fetched so far")
    assert site.hub.counters()["weight_bytes"] == 0
    for row in (1, 2, 3):
        expect(page.locator(f"#model-{row}")).to_contain_text("33.3% of the merge")
        expect(page.locator(f"#model-{row}")).to_contain_text("Gram found from 64 examples")
    expect(page.locator("#repo-name textarea")).to_have_value("minilm-regmean")

    page.locator("#merge").click()
    expect(page.locator("#job")).to_contain_text("bea/minilm-regmean")
    link = page.locator("#job a.mm-big")
    expect(link).to_be_visible(timeout=150_000)
    address = link.get_attribute("href")
    assert address == f"{site.hub.url}/bea/minilm-regmean"
    page.goto(address)
    expect(page.locator("h1")).to_have_text("bea/minilm-regmean")

    told = loaded("bea/minilm-regmean", site.hub.url, tmp_path)
    assert {folder: told[folder]["labels"] for folder in SKILLS} == {task: list(ls) for task, ls in SKILLS.items()}
    assert told[""] == told["banking"]
    assert told["banking"]["body"] == told["emotion"]["body"] == told["subjectivity"]["body"]

    page.goto(f"{site.url}/model?id=bea/minilm-regmean")
    expect(page.locator("#merged")).to_contain_text("RegMean of 3 models, one body with 3 heads")
    page.get_by_role("link", name="Merge again").click()
    expect(page.locator("#preview")).to_contain_text("Ready to merge")
    expect(page.locator("#repo-name").locator("input, textarea")).to_have_value("minilm-regmean-2")  # the next free one
    page.get_by_role("button", name="Recipe (YAML)").click()
    again = yaml.safe_load(page.locator("#yaml textarea").input_value())
    published = site.hub.url + "/bea/minilm-regmean/resolve/main/recipe.yaml"
    recipe = yaml.safe_load(page.request.get(published).text())
    assert [entry["model"] for entry in again["models"]] == [entry["model"] for entry in recipe["models"]]
    assert [entry["statistics"] for entry in again["models"]] == [entry["statistics"] for entry in recipe["models"]]
    assert (again["merge_method"], again["parameters"]) == (recipe["merge_method"], recipe["parameters"])


def test_a_job_can_be_found_and_run_again(site: Any, page: Page, published: str) -> None:
    """The list of my jobs, one of them with its log, and the form filled with its recipe."""
    page.goto(f"{site.url}/jobs")
    expect(page.locator("#jobs")).to_contain_text("Not signed in")
    sign_in(page, "bea")
    page.locator("#jobs a", has_text=published).first.click()
    expect(page.locator("#job")).to_contain_text("Done")
    expect(page.locator(".mm-log")).to_contain_text("merge")
    page.get_by_role("link", name="Run again").click()
    expect(page.locator("#model-3")).to_contain_text(site.models[2])
    expect(page.locator("#methods input:checked")).to_have_value("regmean")


def test_a_slow_sign_in_outlives_what_the_page_waits_for(site: Any, page: Page) -> None:
    """Clicked while answers are on their way; Gradio would take them for lost and reload after two seconds."""

    def late(route: Route) -> None:
        page.wait_for_timeout(4000)
        route.continue_()

    page.route(re.compile("queue/data|login/huggingface"), late)
    page.goto(site.url)
    page.locator("#sign-in").click()
    expect(page.get_by_role("button", name="Continue as bea")).to_be_visible(timeout=15_000)
    page.unroute_all(behavior="ignoreErrors")


def test_the_form_outlives_the_sign_in(site: Any, page: Page) -> None:
    """Filled before signing in, told to sign in, and still filled afterwards."""
    page.goto(site.url)
    pick(page, "min", site.models[0])
    pick(page, "emo", site.models[1])
    expect(page.locator("#preview")).to_contain_text("This merge will work")
    page.locator("#merge").click()
    expect(page.locator("#note")).to_contain_text(
        "Not signed in: a merge is published under your own name. Sign in at the top of this page."
    )
    sign_in(page, "bea")
    expect(page.locator("#preview")).to_contain_text("Ready to merge")
    expect(page.locator("#model-2")).to_contain_text(site.models[1])
    assert page.locator("#owner input").input_value() == "bea"


def test_a_sign_in_leads_back_to_the_whole_address(site: Any, page: Page) -> None:
    """The Statistics page keeps all that was filled in, not only its first parameter; so does signing out."""
    address = f"{site.url}/statistics?model={site.models[0].replace('/', '%2F')}&collect=fisher&dataset=ana%2Ftexts"
    page.goto(address)
    sign_in(page, "bea")
    expect(page.locator("#dataset textarea")).to_have_value("ana/texts")
    expect(page.get_by_role("checkbox", name="Fisher information")).to_be_checked()
    expect(page).to_have_url(address)
    page.locator("#sign-in").click()
    expect(page.locator("#sign-in")).to_contain_text("Sign in")
    expect(page.locator("#dataset textarea")).to_have_value("ana/texts")


def test_bad_input_stands_beside_its_field(site: Any, page: Page) -> None:
    """A model that is not there in its row, a parameter under its group, a name that is no name beside the name."""
    page.goto(site.url)
    sign_in(page, "bea")
    pick(page, "min", site.models[0])
    search = page.locator("#search input")
    search.fill("ana/is-not-there")
    search.press("Enter")
    expect(page.locator("#model-2")).to_contain_text("ana/is-not-there does not exist, or it is private")
    expect(page.locator("#preview")).to_contain_text("Not yet: 1 thing to mend")
    page.locator("#remove-2").click()
    pick(page, "emo", site.models[1])
    page.get_by_role("radio", name="RegMean").check()
    page.locator("#regmean-alpha input").fill("2")
    expect(page.locator("#parameters-note")).to_contain_text("“Alpha” = 2: it is out of range")
    pick(page, "sub", site.models[2])
    expect(page.locator("#model-3")).to_contain_text("bert text classifier, 2 labels")  # a model has not to wait for it
    page.locator("#remove-3").click()
    page.locator("#regmean-alpha input").fill("0.9")
    expect(page.locator("#parameters-note")).to_be_hidden()
    page.locator("#repo-name textarea").fill("not a name")
    page.locator("#repo-name textarea").press("Tab")
    sentence = "a repo id is owner/name"
    expect(page.locator("#output-note")).to_contain_text(sentence)
    page.locator("#merge").click()
    page.wait_for_timeout(1000)
    expect(page.locator("#output-note")).to_contain_text(sentence)
    expect(page.locator("#preview")).to_contain_text(sentence)
    expect(page.locator("#note")).to_be_hidden()  # the third place would be one too many


def test_an_empty_form_says_what_this_is(site: Any, page: Page) -> None:
    """In a sentence that goes with the first model."""
    page.goto(site.url)
    expect(page.locator("#about")).to_contain_text("Make one model out of several that were fine-tuned")
    pick(page, "min", site.models[0])
    expect(page.locator("#about")).to_be_hidden()


def test_the_list_follows_letters_typed_while_an_answer_is_on_its_way(site: Any, page: Page) -> None:
    """The first letter alone finds nothing; its answer comes after the last letter."""

    def late(route: Route) -> None:
        time.sleep(0.3)
        route.continue_()

    page.route("**/gradio_api/run/predict*", late)
    page.goto(site.url)
    pick(page, "min", site.models[0])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_horizontal_scroll(site: Any, browser: Browser, scheme: Any, published: str) -> None:
    """Every page at 390 px, the form filled."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, is_mobile=True)
    page = context.new_page()
    recipe = {"merge_method": "average", "models": [{"model": model} for model in site.models]}
    addresses = {
        f"/?recipe={recipe_from_dict(recipe).to_link()}": "#model-3 .mm-share",
        "/": "#offers a",
        "/jobs": "#jobs li",
        "/methods": "#regmean",
        f"/statistics?model={site.models[0]}": "#found .mm-statistics",
        f"/model?id={site.models[0]}": "#merged li",
        f"/model?id={published}": "#merged table:visible",
    }
    for address, landmark in addresses.items():
        page.goto(site.url + address)
        expect(page.locator(landmark).first).to_be_visible()
        widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert widths == [390, 390], address
        form = page.locator(".mm-form").first
        assert not form.count() or form.bounding_box()["width"] <= 390, address  # type: ignore[index]
        for box in page.locator(".mm-scroll:visible").all():
            assert box.evaluate("box => box.scrollWidth - box.clientWidth") == 0, address
        box = page.locator("#sign-in").bounding_box()
        nav = page.locator(".mm-header nav").bounding_box()
        assert box
        assert nav
        assert box["y"] >= nav["y"] + nav["height"] or box["x"] >= nav["x"] + nav["width"]
    assert re.search("Merge My Models", page.title())
    context.close()


def test_sign_in_adds_no_public_call(site: Any) -> None:
    """Gradio's own sign-in events are not part of the public API, on any page."""
    for path in ("/", "/jobs"):
        told = httpx.get(site.url + path).text
        listed = json.loads(re.search(r"window\.gradio_api_info = (\{.*?\});</script>", told)[1])  # type: ignore[index]
        assert set(listed["named_endpoints"]) == ({f"/{name}" for name in CALLS} if path == "/" else set())
