"""The page of a merged model: it is verified by somebody who signs in, and tried by anybody."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi
from playwright.sync_api import Page, expect

from tests.end_to_end.test_first_light import sign_in
from tests.served import SKILLS, program, run_job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(site: Any) -> str:
    """The repo id of an average that Bea's program made and published."""
    models = [{"model": model} for model in site.models[1:]]
    recipe = {"merge_method": "average", "models": models, "output": {"repo_id": "bea/to-try"}}
    run_job(program(site.url, site.hub.add_token("bea")), yaml.safe_dump(recipe))
    return "bea/to-try"


def test_a_visitor_tries_it_and_a_person_verifies_it(site: Any, page: Page, published: str) -> None:
    """Each head beside its parent; after signing in one click, the result, and its badge for everybody."""
    address = f"{site.url}/model?id={published}"
    page.goto(address)
    expect(page.locator("#verified")).to_contain_text("Sign in to verify it.")
    expect(page.locator("#verify")).to_be_hidden()
    page.locator("#try-text textarea").fill("one two three")
    page.locator("#try").click()
    expect(page.locator("#tried [role=status]")).to_be_visible()
    tried = page.locator("#tried .mm-tried")
    expect(tried).to_be_visible(timeout=90_000)
    assert tried.locator("h4").all_inner_texts() == ["emotion", "subjectivity"]
    assert tried.locator("h5").all_inner_texts() == ["The merge", site.models[1], "The merge", site.models[2]]
    labels = [[bar.inner_text() for bar in one.locator(".mm-who").all()] for one in tried.locator(".mm-answer").all()]
    assert [set(one) for one in labels] == [set(SKILLS[task]) for task in ("emotion", "emotion", *["subjectivity"] * 2)]
    page.locator("#try-text textarea").fill("")
    page.locator("#try").click()
    expect(page.locator("#tried")).to_contain_text("There is no text: the models answer to one. Write a line.")

    sign_in(page, "bea")
    page.goto(address)
    page.locator("#verify").click()
    expect(page.locator("#verified")).to_contain_text("Verified identical on ", timeout=120_000)
    expect(page.locator("#verified")).to_contain_text("tensors came out bit for bit the same (6 of 6 weight files")
    expect(page.locator("#verify")).to_have_text("Verify again")
    page.context.clear_cookies()
    page.goto(address)
    badge = page.locator("#merged .mm-chip", has_text="Verified identical")
    expect(badge).to_have_text(re.compile(r"Verified identical on \d{4}-\d\d-\d\d \(commit [0-9a-f]{8}\)$"))


def test_the_badge_is_of_one_commit_and_never_of_others_private_models(
    site: Any, page: Page, published: str, tmp_path: Path
) -> None:
    """A new commit has none; who may not see the repo is told nothing of it."""
    api = HfApi(endpoint=site.hub.url, token=site.hub.add_token("bea"))
    api.upload_file(repo_id=published, path_or_fileobj=b"1", path_in_repo="more.txt")
    page.goto(f"{site.url}/model?id={published}")
    expect(page.locator("#merged")).to_contain_text("Average of 2 models")
    expect(page.locator("#merged .mm-chip", has_text="Verified")).to_have_count(0)
    api.update_repo_settings(published, private=True)
    page.wait_for_timeout(3500)  # what several parts of a page ask for is asked once in three seconds
    page.goto(f"{site.url}/model?id={published}")
    expect(page.locator("#merged")).to_contain_text("does not exist, or it is private")
    expect(page.locator("#verified")).to_be_empty()
    expect(page.locator("#try-text")).to_be_hidden()
    sign_in(page, "bea")
    page.goto(f"{site.url}/model?id={published}")
    expect(page.locator("#verify")).to_be_visible()
    expect(page.locator("#try-text")).to_be_hidden()
