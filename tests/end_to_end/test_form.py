"""The form in the browser, while answers are on their way: what a person does always stands."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from merging.recipe import recipe_from_dict
from tests.end_to_end.test_first_light import pick, sign_in

pytestmark = pytest.mark.slow
HELD = 2.5  # seconds that the Hub keeps an answer to itself


@pytest.fixture
def filled(site: Any, page: Page) -> Iterator[Page]:
    """Bea's form with two models, named by itself."""
    page.goto(site.url)
    sign_in(page, "bea")
    pick(page, "min", site.models[0])
    pick(page, "emo", site.models[1])
    expect(page.locator("#preview")).to_contain_text("Ready to merge")
    expect(name(page)).to_have_value("minilm-average")
    yield page
    site.hub.clear_faults()


def name(page: Page) -> Any:
    """The field of the result's name."""
    return page.locator("#repo-name textarea")


def test_a_name_typed_while_the_form_thinks_of_one_stands(site: Any, filled: Page) -> None:
    """The method changes, the Hub is slow to say whether the form's own name is free, and a person types another."""
    page = filled
    site.hub.set_fault("/api/models/bea/minilm-regmean$", hold=HELD)
    with page.expect_request(re.compile("queue/join")):
        page.get_by_role("radio", name="RegMean").check()
    name(page).fill("of-my-own")
    page.locator("h2#result").click()  # leaves the field
    expect(page.locator("#preview")).to_contain_text("RegMean", timeout=15_000)
    page.wait_for_timeout(HELD * 1000)
    expect(name(page)).to_have_value("of-my-own")
    page.locator("#merge").click()
    expect(page.locator("#job")).to_contain_text("bea/of-my-own")
    page.locator("#cancel").click()


def test_the_form_names_nothing_under_somebodys_cursor(site: Any, filled: Page) -> None:
    """A name that somebody is about to change stays as it is until the field is left; then the form names anew."""
    page = filled
    site.hub.set_fault("/api/models/bea/minilm-regmean$", hold=HELD)
    page.get_by_role("radio", name="RegMean").check()
    name(page).click()
    expect(page.locator("#preview")).to_contain_text("RegMean", timeout=15_000)
    page.wait_for_timeout(500)
    expect(name(page)).to_have_value("minilm-average")
    name(page).press("Tab")
    expect(name(page)).to_have_value("minilm-regmean")


def test_another_head_at_the_root_chosen_while_a_preview_is_on_its_way_stands(site: Any, filled: Page) -> None:
    """The answer to an older form does not choose again."""
    page = filled
    root = page.locator("#root input")
    expect(root).to_have_value("banking")
    site.hub.set_fault("/api/models/bea/", hold=HELD)
    page.get_by_label("Weight of model 1").fill("3")
    root.click()
    page.get_by_role("option", name="emotion").click()
    expect(page.locator("#model-1")).to_contain_text("75.0%", timeout=15_000)
    page.wait_for_timeout(HELD * 1000)
    expect(root).to_have_value("emotion")


def test_a_recipe_pasted_while_a_preview_is_on_its_way_stands(site: Any, filled: Page) -> None:
    """And is what the button loads."""
    page = filled
    page.get_by_role("button", name="Recipe (YAML)").click()
    expect(page.locator("#yaml textarea")).to_have_value(re.compile("average"))
    site.hub.set_fault("/api/models/bea/", hold=HELD)
    page.get_by_label("Weight of model 1").fill("3")
    wish = {
        "merge_method": "average",
        "models": [{"model": model} for model in site.models],
        "output": {"repo_id": "acme/x"},
    }
    pasted = recipe_from_dict(wish).to_yaml()
    page.locator("#yaml textarea").fill(pasted)
    page.locator("h2#result").click()
    expect(page.locator("#model-1")).to_contain_text("75.0%", timeout=15_000)
    page.wait_for_timeout(500)
    expect(page.locator("#yaml textarea")).to_have_value(pasted)
    page.get_by_role("button", name="Load this recipe").click()
    expect(page.locator("#model-3")).to_contain_text(site.models[2])
    expect(name(page)).to_have_value("x")
    expect(page.locator("#owner input")).to_have_value("acme")


def test_a_reload_shows_the_job(site: Any, filled: Page) -> None:
    """From the moment that the button was pressed; the way back shows the form."""
    page = filled
    name(page).fill("reloaded")
    page.locator("#merge").click()
    expect(page.locator("#job")).to_contain_text("bea/reloaded")
    expect(page).to_have_url(re.compile(r"/jobs\?id="))
    page.wait_for_timeout(1000)  # the preview of the field that was left has come too
    page.reload()
    expect(page.locator("#job")).to_contain_text("bea/reloaded")
    page.locator("#cancel").click()
    page.go_back()
    expect(page.locator("#model-2")).to_contain_text(site.models[1])


def test_the_list_of_jobs_follows(site: Any, filled: Page) -> None:
    """After a reload while the job waits or runs: the list and the view beside it end with the same word."""
    page = filled
    name(page).fill("followed")
    page.locator("#merge").click()
    expect(page).to_have_url(re.compile(r"/jobs\?id="))
    page.reload()
    line = page.locator("#jobs a", has_text="bea/followed")
    expect(line).to_contain_text(re.compile("Waiting|Running"))
    expect(page.locator("#job a.mm-big")).to_be_visible(timeout=150_000)
    expect(line).to_contain_text("Done", timeout=10_000)


def test_a_search_that_finds_nothing_says_so(site: Any, filled: Page) -> None:
    """Until letters are typed that do find something."""
    page = filled
    field = page.locator("#search")
    search = field.locator("input")
    search.click()
    search.press_sequentially("qqq", delay=40)
    expect(field).to_contain_text("No model with that name (or you have no access)")
    search.fill("")
    search.press_sequentially("sub", delay=40)
    expect(page.locator("[role=option]", has_text=site.models[2])).to_be_visible()
    expect(field).not_to_contain_text("No model with that name")


def test_a_form_changed_after_its_submission_has_an_address_of_its_own(site: Any, filled: Page) -> None:
    """A reload then shows the changed form."""
    page = filled
    name(page).fill("first")
    page.locator("#merge").click()
    expect(page).to_have_url(re.compile(r"/jobs\?id="))
    page.locator("#cancel").click()
    page.get_by_label("Weight of model 2").fill("3")
    expect(page).to_have_url(re.compile(r"/\?recipe="))
    page.reload()
    expect(page.get_by_label("Weight of model 2")).to_have_value("3")


def test_an_emptied_form_leaves_nothing_behind(site: Any, filled: Page) -> None:
    """Neither in the address nor in the recipe's box, although the answer to a fuller form comes last."""
    page = filled
    site.hub.set_fault("/api/models/bea/minilm-banking", hold=HELD)
    page.get_by_role("button", name="Recipe (YAML)").click()
    expect(page.locator("#yaml textarea")).to_have_value(re.compile("average"))
    expect(page).to_have_url(re.compile(r"/\?recipe="))
    page.get_by_role("button", name="Remove model 2").click()
    expect(page.locator("#row-2")).to_be_hidden()
    page.get_by_role("button", name="Remove model 1").click()
    expect(page.locator("#preview")).to_contain_text("Pick two or more models")
    page.wait_for_timeout(HELD * 1000)
    expect(page.locator("#preview")).to_contain_text("Pick two or more models")
    expect(page).to_have_url(f"{site.url}/")
    expect(page.locator("#yaml textarea")).to_have_value("")
    expect(name(page)).to_have_value("")


def test_a_model_picked_twice_is_said_once_it_is(site: Any, filled: Page) -> None:
    """The last row's too; and one pick, of which Gradio tells twice, is not called two."""
    page = filled
    sentence = f"{site.models[1]} is already in the list"
    expect(page.get_by_text(sentence)).to_have_count(0)
    search = page.locator("#search input")
    search.click()
    search.press_sequentially("emo", delay=40)
    page.locator("[role=option]", has_text=site.models[1]).click()
    expect(page.get_by_text(sentence)).to_be_visible()
    pick(page, "sub", site.models[2])
    page.wait_for_timeout(700)
    expect(page.get_by_text("is already in the list")).to_have_count(0)


def test_fields_and_pages_have_names_of_their_own(site: Any, filled: Page) -> None:
    """For those who hear the page, and for a row of tabs."""
    page = filled
    expect(page.get_by_role("spinbutton", name="Weight of model 1", exact=True)).to_have_count(1)
    expect(page.get_by_role("spinbutton", name="Weight of model 2", exact=True)).to_have_count(1)
    expect(page.get_by_role("button", name="Remove model 2", exact=True)).to_have_count(1)
    titles = {
        "/": "Merge My Models",
        "/jobs": "Jobs · Merge My Models",
        "/methods": "Methods · Merge My Models",
        "/statistics": "Statistics · Merge My Models",
        f"/model?id={site.models[0]}": f"{site.models[0]} · Merge My Models",
    }
    for address, title in titles.items():
        page.goto(site.url + address)
        expect(page).to_have_title(title)
