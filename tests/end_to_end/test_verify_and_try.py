"""The page of a merged model: it is tried by anybody, and verified by somebody who signs in."""

import re
from typing import Any

import pytest
from huggingface_hub import HfApi
from playwright.sync_api import Page, expect

from tests.end_to_end.test_first_light import published as published
from tests.end_to_end.test_first_light import sign_in
from tests.served import SKILLS

pytestmark = pytest.mark.slow


def test_a_merge_is_tried_by_anybody_and_verified_by_a_person(site: Any, page: Page, published: str) -> None:
    """Each head beside its parent; one click and its badge, for that commit, to whoever may see the repo."""
    address = f"{site.url}/model?id={published}"
    page.goto(address)
    expect(page.locator("#verified")).to_contain_text("Sign in to verify it.")
    expect(page.locator("#verify")).to_be_hidden()
    page.locator("#try-text textarea").fill("one two three")
    page.locator("#try").click()
    expect(page.locator("#tried [role=status]")).to_be_visible()
    tried = page.locator("#tried .mm-tried")
    expect(tried).to_be_visible(timeout=90_000)
    assert tried.locator("h4").all_inner_texts() == list(SKILLS)
    assert tried.locator("h5").all_inner_texts() == [who for model in site.models for who in ("The merge", model)]
    for one, task in zip(tried.locator(".mm-answer").all(), [task for task in SKILLS for _ in range(2)], strict=True):
        assert set(one.locator(".mm-who").all_inner_texts()) == set(SKILLS[task])
    page.locator("#try-text textarea").fill("")
    page.locator("#try").click()
    expect(page.locator("#tried")).to_contain_text("There is no text: the models answer to one. Write a line.")

    sign_in(page, "bea")
    page.goto(address)
    page.locator("#verify").click()
    expect(page.locator("#verified")).to_contain_text("Verified identical on ", timeout=120_000)
    expect(page.locator("#verified")).to_contain_text("bit for bit the same (8 of 8 weight files")
    expect(page.locator("#verify")).to_have_text("Verify again")
    page.context.clear_cookies()
    page.goto(address)
    badge = page.locator("#merged .mm-chip", has_text="Verified")
    expect(badge).to_have_text(re.compile(r"Verified identical on \d{4}-\d\d-\d\d \(commit [0-9a-f]{8}\)$"))

    api = HfApi(endpoint=site.hub.url, token=site.hub.add_token("bea"))
    api.upload_file(repo_id=published, path_or_fileobj=b"1", path_in_repo="more.txt")
    page.wait_for_timeout(3500)  # what the parts of a page ask for is asked once in three seconds
    page.goto(address)
    expect(page.locator("#merged")).to_contain_text("RegMean of 3 models")
    expect(badge).to_have_count(0)
    api.update_repo_settings(published, private=True)
    page.wait_for_timeout(3500)
    page.goto(address)
    expect(page.locator("#merged")).to_contain_text("does not exist, or it is private")
    expect(page.locator("#verified section, #try-it section")).to_have_count(0)
    api.update_repo_settings(published, private=False)
