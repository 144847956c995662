"""The base model in the form: shown where it is needed, filled from the cards, searched, and told what is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi
from playwright.sync_api import Browser, Page, expect

from merging.recipe import recipe_from_dict
from tests.end_to_end.test_first_light import pick, sign_in
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow
CARDS = {"sage-base": "", "sage-one": "leo/sage-base", "sage-two": "leo/sage-base", "thyme": "leo/thyme-base"}


@pytest.fixture(scope="module", autouse=True)
def _models(site: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Leo's language model, two classifiers that were made from it as their cards say, and one from elsewhere."""
    folder = tmp_path_factory.mktemp("leo")
    site.hub.add_user("leo")
    api = HfApi(endpoint=site.hub.url, token=site.hub.add_token("leo"))
    for seed, (name, base) in enumerate(CARDS.items()):
        model = save_tiny(folder / name, seed=seed, labels=("no", "yes") if base else None)
        (model / "README.md").write_text(f"---\nlicense: mit\n{f'base_model: {base}' if base else ''}\n---\n")
        api.create_repo(f"leo/{name}")
        api.upload_folder(repo_id=f"leo/{name}", folder_path=model)


@pytest.fixture
def filled(site: Any, page: Page) -> Page:
    """Bea's form with both of Leo's classifiers and TIES."""
    page.goto(site.url)
    sign_in(page, "bea")
    expect(page.locator("#base")).to_be_hidden()
    pick(page, "sage", "leo/sage-one")
    pick(page, "sage", "leo/sage-two")
    expect(page.locator("#preview")).to_contain_text("Ready to merge")
    expect(page.locator("#model-1")).to_contain_text("50.0% of the merge")
    page.get_by_role("radio", name="TIES", exact=True).check()
    expect(page.locator("#base")).to_be_visible()
    return page


def base(page: Page) -> Any:
    """The field of the base."""
    return page.locator("#base input")


def only_hit(page: Page, model: str) -> Any:
    """The one option that is left, after every letter was answered."""
    left = page.locator("[role=option]:visible")
    expect(left).to_have_count(1)
    expect(left).to_contain_text(model)
    return left


def test_the_field_is_filled_from_the_cards_and_the_merge_is_made_on_it(
    site: Any, filled: Page, tmp_path: Path
) -> None:
    """From the method to a published recipe with the pinned base, and *Merge again* has it too."""
    page = filled
    expect(base(page)).to_have_value("leo/sage-base")
    expect(page.locator("#preview")).to_contain_text("TIES of 2 models and the base leo/sage-base")
    expect(page.locator("#model-1")).to_contain_text("50.0% of the change to the base")
    expect(page.locator("#row-1")).to_contain_text("Density")
    page.locator("#merge").click()
    link = page.locator("#job a.mm-big")
    expect(link).to_be_visible(timeout=150_000)
    published = page.request.get(f"{link.get_attribute('href')}/resolve/main/recipe.yaml").text()
    assert yaml.safe_load(published)["base_model"].startswith("leo/sage-base@")
    page.goto(f"{site.url}/model?id=bea/sage-ties")
    expect(page.locator("#merged")).to_contain_text("the base")
    page.get_by_role("link", name="Merge again").click()
    expect(page.locator("#preview")).to_contain_text("Ready to merge")
    expect(base(page)).to_have_value(yaml.safe_load(published)["base_model"])


def test_a_base_is_searched_picked_and_mended_beside_its_field(site: Any, filled: Page) -> None:
    """Another one from the list, whose letters were typed to the last; one that is not there; none; and its own."""
    page, note = filled, filled.locator("#base-note")
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    expect(base(page)).to_have_value("leo/sage-base")
    base(page).fill("")
    base(page).press_sequentially("sage-o", delay=120)
    only_hit(page, "leo/sage-one").click()
    expect(base(page)).to_have_value("leo/sage-one")
    expect(page.locator("#model-1")).to_contain_text("the base of the merge")
    expect(page.locator("#preview")).to_contain_text("TIES of 1 model and the base leo/sage-one")
    base(page).fill("leo/nothing")
    base(page).press("Enter")
    expect(note).to_contain_text("leo/nothing does not exist, or it is private")
    expect(page.locator("#preview")).to_contain_text("Not yet: 1 thing to mend")
    page.locator("#merge").click()
    page.wait_for_timeout(1000)
    expect(note).to_contain_text("leo/nothing does not exist, or it is private")
    base(page).fill("")
    base(page).press("Tab")
    expect(base(page)).to_have_value("leo/sage-base")  # nobody's own: the cards' again
    expect(note).to_be_hidden()
    page.get_by_role("radio", name="Average").check()
    expect(page.locator("#base")).to_be_hidden()
    expect(page.locator("#row-1")).not_to_contain_text("Density")
    expect(page.locator("#preview")).to_contain_text("Average of 2 models becomes")
    assert not broken


def test_cards_that_name_several_bases_fill_nothing(site: Any, filled: Page) -> None:
    """The form says what is missing; without the stranger the cards agree again."""
    page = filled
    pick(page, "thyme", "leo/thyme")
    expect(page.locator("#base-note")).to_contain_text("TIES needs the model that the others were fine-tuned from")
    expect(base(page)).to_have_value("")
    page.locator("#remove-3").click()
    expect(base(page)).to_have_value("leo/sage-base")
    expect(page.locator("#preview")).to_contain_text("Ready to merge")


def test_one_model_and_its_base_are_enough_for_slerp(site: Any, filled: Page) -> None:
    """With two models the form says so; a link opens what was seen."""
    page = filled
    page.get_by_role("radio", name="SLERP").check()
    expect(page.locator("#preview")).to_contain_text("The recipe has 2 models beside the base: slerp takes exactly 1")
    page.locator("#remove-2").click()
    expect(page.locator("#preview")).to_contain_text("SLERP of 1 model and the base leo/sage-base")
    expect(page.locator("#repo-name textarea")).to_have_value("sage-one-slerp")
    page.reload()
    expect(base(page)).to_have_value("leo/sage-base")
    expect(page.locator("#preview")).to_contain_text("Ready to merge")


def test_the_field_fits_a_phone(site: Any, browser: Browser) -> None:
    """No horizontal scroll at 390 px, and what is wrong stands beside it."""
    wish = {"merge_method": "ties", "models": ["leo/sage-one", "leo/sage-two"], "base_model": "leo/nothing"}
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(f"{site.url}/?recipe={recipe_from_dict(wish).to_link()}")
    expect(page.locator("#base-note")).to_contain_text("leo/nothing does not exist, or it is private")
    base(page).fill("")
    base(page).press_sequentially("sage-b", delay=60)
    only_hit(page, "leo/sage-base").tap()
    expect(base(page)).to_have_value("leo/sage-base")
    expect(page.locator("#preview")).to_contain_text("This merge will work")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()
