"""The Statistics page as its users meet it: from a file on their disk to a published repo that a merge finds."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from playwright.sync_api import Page, expect

from merging.statistics import Statistics
from tests.end_to_end.test_first_light import pick, sign_in
from tests.tiny_models import save_tiny, sentences

pytestmark = pytest.mark.slow
SECRET = "three three one two b b a c one three two two a"


@pytest.fixture(scope="module")
def plain(site: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A classifier of ana's without statistics."""
    folder = save_tiny(tmp_path_factory.mktemp("plain"), seed=9, labels=("no", "yes"))
    api = HfApi(endpoint=site.hub.url, token=site.hub.add_token("ana"))
    api.create_repo("ana/minilm-plain")
    api.upload_folder(repo_id="ana/minilm-plain", folder_path=folder)
    return "ana/minilm-plain"


def choose(page: Page, source: str) -> None:
    """Where the text comes from."""
    page.get_by_role("radio", name=source).check()


def test_from_a_file_to_a_merge(site: Any, page: Page, plain: str, tmp_path: Path) -> None:
    """Missing in a merge, collected from an upload, published, looked at, used; the text is nowhere afterwards."""
    page.goto(site.url)
    sign_in(page, "bea")
    pick(page, "min", site.models[0])
    pick(page, "plain", plain)
    page.get_by_role("radio", name="RegMean").check()
    expect(page.locator("#model-2")).to_contain_text("Gram missing")
    page.locator("#model-2").get_by_role("link", name="collect them").click()
    expect(page).to_have_url(re.compile(r"/statistics\?model=ana%2Fminilm-plain%40[0-9a-f]{40}&collect=gram&recipe="))
    expect(page.locator("#for-merge")).to_contain_text(f"RegMean of {site.models[0]}, {plain}.")
    back = page.get_by_role("link", name="Back to the merge").get_attribute("href")
    expect(page.locator("#found")).to_contain_text(f"No statistics of {plain} are published yet.")
    choose(page, "A file of mine")
    rows = tmp_path / "mine.csv"
    rows.write_text("number,text\n" + "".join(f"{n},{line}\n" for n, line in enumerate([*sentences(299), SECRET])))
    page.locator("#upload input[type=file]").set_input_files(rows)
    expect(page.locator("#preview")).to_contain_text("Ready to collect", timeout=15_000)
    expect(page.locator("#preview")).to_contain_text("Gram statistics go to the repo bea/minilm-plain-merge-statistics")
    expect(page.locator("#preview")).to_contain_text("300 examples, from the text that you hand over")
    page.locator("#collect").click()
    expect(page.locator("#job")).to_contain_text("bea/minilm-plain-merge-statistics")
    link = page.locator("#job a.mm-big")
    expect(link).to_be_visible(timeout=150_000)
    assert link.get_attribute("href") == f"{site.hub.url}/bea/minilm-plain-merge-statistics"
    expect(page.locator("#job .mm-statistics")).to_contain_text("fits these weights")
    expect(page.locator("#job .mm-statistics")).to_contain_text("a text that is not published")
    expect(page.locator("#found")).to_contain_text(f"Published statistics of {plain}:")
    api = HfApi(endpoint=site.hub.url, token=False)
    repo = "bea/minilm-plain-merge-statistics"
    path = api.hf_hub_download(repo, "merge-statistics/gram.safetensors", local_dir=tmp_path / "down")
    fact = Statistics(Path(path)).fact
    assert (fact.kind, fact.examples) == ("gram", 300)
    found = subprocess.run(["grep", "-rlaF", SECRET, site.folder], capture_output=True, text=True)
    assert found.stdout == ""

    page.goto(f"{site.url}{back}")
    expect(page.locator("#model-1")).to_contain_text(site.models[0])
    expect(page.locator("#model-2")).to_contain_text("Gram found from 300 examples")
    expect(page.locator("#preview")).to_contain_text("Ready to merge")

    page.goto(f"{site.url}/statistics?model={plain}")
    page.locator("#found").get_by_role("link", name="Use it in a merge").click()
    expect(page.locator("#model-1")).to_contain_text("Gram found from 300 examples")
    pick(page, "emo", site.models[1])
    expect(page.locator("#preview")).to_contain_text("Ready to merge")


def test_a_statistics_job_is_one_of_my_jobs(site: Any, page: Page, plain: str) -> None:
    """With its log, its summary and the way back to the model's statistics."""
    page.goto(f"{site.url}/jobs")
    sign_in(page, "bea")
    line = page.locator("#jobs a", has_text="bea/minilm-plain-merge-statistics").first
    expect(line).to_contain_text("Statistics of 1 model")
    line.click()
    expect(page.locator("#job")).to_contain_text("Done")
    expect(page.locator("#job .mm-statistics")).to_contain_text("Gram matrices (RegMean)")
    page.get_by_role("link", name="Statistics of this model").click()
    expect(page.locator("#found")).to_contain_text(f"Published statistics of {plain}:")


def test_what_is_wrong_stands_beside_its_field(site: Any, page: Page, plain: str, tmp_path: Path) -> None:
    """The model, the text, the place; before anything is queued."""
    page.goto(f"{site.url}/statistics")
    expect(page.locator("#preview")).to_contain_text("Pick a model.")
    search = page.locator("#search input")
    search.fill("ana/is-not-there")
    search.press("Enter")
    expect(page.locator("#model-note")).to_contain_text("ana/is-not-there does not exist, or it is private")
    search.fill(plain)
    search.press("Enter")
    expect(page.locator("#model-note")).to_be_hidden()
    page.locator("#collect").click()
    sentence = "There is no text: statistics are collected from it. Name a dataset."
    expect(page.locator("#data-note")).to_contain_text(sentence)
    choose(page, "Text that I paste")
    page.locator("#paste textarea").fill("one two\nthree")
    page.locator("#paste textarea").press("Tab")
    expect(page.locator("#place-note")).to_contain_text("Not signed in: statistics are published under your own name.")
    sign_in(page, "bea")
    page.goto(f"{site.url}/statistics?model={plain}")
    choose(page, "A file of mine")
    wide = tmp_path / "wide.csv"
    wide.write_text("left,right\none,two\n")
    page.locator("#upload input[type=file]").set_input_files(wide)
    expect(page.locator("#data-note")).to_contain_text(
        "Which column of wide.csv is the text? It has left, right. Name the column of the texts."
    )
    page.get_by_role("button", name="More").click()
    page.get_by_label("Column of the texts").fill("left")
    page.get_by_label("Column of the texts").press("Tab")
    expect(page.locator("#data-note")).to_be_hidden()
    page.get_by_role("radio", name="Next to the model").check()
    expect(page.locator("#place-note")).to_contain_text(
        "You may not write to ana/minilm-plain: you are bea, it is ana's."
    )
    page.get_by_role("radio", name="A pull request").check()
    expect(page.locator("#place-note")).to_contain_text("the scope write-discussions was not granted")


def test_an_untouched_form_says_what_is_missing(site: Any, page: Page) -> None:
    """The model and the text, each beside its field, when *Collect* is pressed."""
    page.goto(f"{site.url}/statistics")
    page.wait_for_timeout(1500)  # the first preview has come
    page.locator("#collect").click()
    expect(page.locator("#model-note")).to_contain_text("There is no model: statistics are of one. Pick it, or paste")
    expect(page.locator("#data-note")).to_contain_text("There is no text: statistics are collected from it.")


def test_collect_pressed_twice_is_one_job_and_the_address_holds_it(site: Any, page: Page, plain: str) -> None:
    """No error stands over the job; a reload shows it, and the way back the form as it was."""
    api = HfApi(endpoint=site.hub.url, token=site.hub.add_token("ana"))
    api.create_repo("ana/twice", repo_type="dataset")
    rows = "text\n" + "".join(f"{line}\n" for line in sentences(20))
    api.upload_file(repo_id="ana/twice", repo_type="dataset", path_or_fileobj=rows.encode(), path_in_repo="train.csv")
    page.goto(f"{site.url}/statistics?model={plain}")
    sign_in(page, "bea")
    page.goto(f"{site.url}/statistics?model={plain}")
    page.locator("#dataset textarea").fill("ana/twice")
    page.get_by_role("checkbox", name="Fisher information").check()
    expect(page.locator("#preview")).to_contain_text("Ready to collect", timeout=15_000)
    expect(page).to_have_url(re.compile(r"dataset=ana%2Ftwice"))
    page.locator("#collect").dblclick()
    expect(page.locator("#job")).to_contain_text("bea/minilm-plain-merge-statistics")
    page.locator("#collect").click()
    expect(page).to_have_url(re.compile(r"/jobs\?id="))
    page.wait_for_timeout(1000)
    expect(page.locator(".mm-problems .mm-error:visible")).to_have_count(0)
    page.locator("#cancel").click()
    expect(page.locator("#job")).to_contain_text("Cancelled")
    page.reload()
    expect(page.locator("#job")).to_contain_text("bea/minilm-plain-merge-statistics")
    page.go_back()
    expect(page.locator("#dataset textarea")).to_have_value("ana/twice")
    expect(page.locator("#search input")).to_have_value(plain)
    expect(page.get_by_role("checkbox", name="Fisher information")).to_be_checked()


def test_a_statistics_repo_can_be_looked_at(site: Any, page: Page) -> None:
    """By anybody, without signing in: what it holds in words."""
    page.goto(f"{site.url}/statistics?model={site.models[0]}")
    card = page.locator("#found .mm-statistics")
    for words in (
        "fits these weights",
        "64, each of at most 16 tokens",
        "tokens for each input",
        "kB",
        "Use it in a merge",
    ):
        expect(card).to_contain_text(words)


def test_the_labels_of_an_empirical_fisher_are_asked_for(site: Any, page: Page, plain: str) -> None:
    """The field is there when it means something, its name reaches the job, and a wrong one is said."""
    api = HfApi(endpoint=site.hub.url, token=site.hub.add_token("ana"))
    api.create_repo("ana/labelled", repo_type="dataset")
    rows = "text,gold\n" + "".join(f"{line},{('no', 'yes')[n % 2]}\n" for n, line in enumerate(sentences(20)))
    api.upload_file(
        repo_id="ana/labelled", repo_type="dataset", path_or_fileobj=rows.encode(), path_in_repo="train.csv"
    )
    page.goto(f"{site.url}/statistics?model={plain}")
    sign_in(page, "bea")
    page.goto(f"{site.url}/statistics?model={plain}")
    page.locator("#dataset textarea").fill("ana/labelled")
    page.get_by_role("button", name="More").click()
    expect(page.get_by_label("Which Fisher")).to_be_hidden()
    page.get_by_role("checkbox", name="Fisher information").check()
    page.get_by_role("checkbox", name="Gram matrices").uncheck()
    page.get_by_label("Which Fisher").click()
    expect(page.get_by_label("Column of the labels")).to_be_hidden()
    page.get_by_role("option", name="Empirical").click()
    sentence = "There are no labels: an empirical Fisher is made of the true answers. Name their column."
    expect(page.locator("#data-note")).to_contain_text(sentence)
    page.get_by_label("Column of the labels").fill("gold")
    page.get_by_label("Column of the labels").press("Tab")
    expect(page.locator("#preview")).to_contain_text("Ready to collect")
    expect(page.get_by_label("Column of the answers")).to_be_hidden()
    page.locator("#collect").click()
    expect(page.locator("#job a.mm-big")).to_be_visible(timeout=150_000)
    expect(page.locator("#job .mm-statistics")).to_contain_text("empirical, of the true answers")
