"""Whatever strangers write, the page stays the page."""

import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hub.how_to_load import Loadable
from hub.merged import MergedModel
from hub.search import Hit
from jobs.job import STAGES, Job, StageState
from merging.checkpoint import open_parent
from merging.errors import Problem
from merging.method import METHODS
from merging.parent import Parent
from merging.plan import make_plan
from merging.progress import Progress
from merging.recipe import recipe_from_dict
from merging.tensors import HeaderSource
from tests.tiny_models import save_tiny
from tests.ui.reports import evaluation
from ui import job_words, methods_page, render
from ui.model_page import merged_html

HOSTILE = "<img src=x onerror=alert(1)>\"'`&"


class Tags(HTMLParser):
    """Every tag, attribute and word of a fragment."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(fragment)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An opening tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        self.words += data


def safe(fragment: str) -> Tags:
    """The fragment's tags, none of which can run or load anything."""
    seen = Tags(fragment)
    for tag, attributes in seen.tags:
        assert tag not in ("script", "img", "iframe", "style", "object", "form")
        assert not any(name.startswith("on") for name in attributes)
        assert not str(attributes.get("href", "/")).lower().startswith(("javascript:", "data:text/html"))
    return seen


def a_job(**changes: object) -> Job:
    """A running job."""
    stages = tuple(
        StageState(name, status)  # type: ignore[arg-type]
        for name, status in zip(STAGES, ["done", "running", *["waiting"] * 5], strict=True)
    )
    values = {
        "id": "m1",
        "user": "ana",
        "status": "running",
        "stage": "fetch",
        "stages": stages,
        "progress": Progress("fetch", 50_000_000, 200_000_000, "bytes", "ana/one"),
        "created": 0.0,
        "updated": 1.0,
        "recipe_yaml": "merge_method: average\nmodels: [{model: a/b}]\n",
        "method": "average",
        "models": ("a/b", "a/c"),
        "repo_id": "ana/merged",
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def test_hostile_names_are_only_text() -> None:
    """Model ids, licences, labels, errors and logs from strangers never become markup."""
    parent = Parent(HOSTILE, HOSTILE, {"model_type": HOSTILE}, HeaderSource({}), license=HOSTILE)
    problem = Problem(HOSTILE, HOSTILE, HOSTILE)
    job = a_job(repo_id=HOSTILE, models=(HOSTILE,), method=HOSTILE, status="failed", error=HOSTILE)
    for fragment in (
        render.model_row(HOSTILE, parent, "50.0% of the merge", ("gram",), [problem], "https://hub.example"),
        render.problems([problem]),
        render.notice(HOSTILE),
        job_words.job(job),
        job_words.jobs([job]),
        job_words.log([{"stage": HOSTILE, "message": HOSTILE}]),
    ):
        assert "<img" not in fragment
        assert HOSTILE in safe(fragment).words


def test_a_model_that_was_not_found_out_about_is_not_waited_for() -> None:
    """While the Hub is away, or the form says no models: only a row that was just made is still looked up."""
    row = partial(render.model_row, "ana/one", None, "", (), (), "https://hub.example")
    assert "looking it up …" in safe(row(looked=False)).words
    assert "not looked up" in safe(row()).words
    assert "look" not in safe(render.model_row("ana/one", None, "", (), [Problem("gone")], "https://h.example")).words


def test_a_method_for_one_number_of_models_says_it() -> None:
    """No lower and upper end that are the same; values as a recipe writes them."""
    words = safe(methods_page.method_table()).words
    assert "exactly 1 model" in words
    assert "at least 2 models" in words
    assert "at most 1 models" not in words
    assert "True" not in words


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", "/\\evil.example"])
def test_an_address_that_is_no_address_is_no_link(url: str) -> None:
    """Only http(s) and our own paths are links."""
    assert "<a" not in render.link(url, "words")


def test_a_merged_models_page_is_safe_and_says_how_to_load_it() -> None:
    """A hostile repo shows as text; each task has its own lines, and the trap of `pipeline(subfolder=)` is named."""
    recipe = recipe_from_dict({"merge_method": "average", "models": [{"model": f"a/{HOSTILE}"}, {"model": "a/two"}]})
    models = tuple(Loadable(task, "text-classification") for task in recipe.tasks)
    merged = MergedModel("ana/merged", "0" * 40, recipe, recipe.tasks, models, HOSTILE, False, "https://h/ana/m")
    words = safe(merged_html(merged, "https://hub.example")).words
    assert HOSTILE in words
    assert "Do not write pipeline(..., subfolder=...): transformers ignores it" in words
    for task in recipe.tasks:
        assert f'AutoModelForSequenceClassification.from_pretrained("ana/merged", subfolder="{task}")' in words
    assert words.count("from transformers import") == 2


def test_an_embedding_models_page_names_its_own_library() -> None:
    """No class of transformers is shown that would give it no pooling."""
    recipe = recipe_from_dict({"merge_method": "average", "models": ["a/one", "a/two"]})
    models = (Loadable("", "sentence-similarity", "SentenceTransformer"),)
    merged = MergedModel("ana/merged", "0" * 40, recipe, (), models, "mit", False, "https://h/ana/m")
    words = safe(merged_html(merged, "https://hub.example")).words
    assert 'model = SentenceTransformer("ana/merged")' in words
    assert "AutoModel" not in words


def test_the_preview_says_what_will_be_written(tmp_path: Path) -> None:
    """One body, a head for each task by its folder, sizes, and that nothing was fetched."""
    models = [
        save_tiny(tmp_path / name, seed=seed, labels=labels)
        for seed, (name, labels) in enumerate({"m-banking": ("a", "b"), "m-mood": ("c", "d", "e")}.items())
    ]
    parents = [open_parent(str(folder), folder) for folder in models]
    recipe = recipe_from_dict({"merge_method": "average", "models": [{"model": str(folder)} for folder in models]})
    plan = make_plan(recipe, parents)
    words = safe(render.preview(plan, parents, plan.problems, private=True, signed_in=True)).words
    assert "Ready to merge" in words
    assert "one body with 2 heads" in words
    assert "banking/, mood/" in words
    assert "private repo" in words
    assert "0 bytes of weights fetched so far" in words


def test_a_preview_with_errors_says_how_many_and_all_of_them() -> None:
    """Every sentence stands there whole, errors before warnings."""
    found = [Problem("W", severity="warning"), Problem("A", "b", "C", "models.0.model"), Problem("D", "e")]
    words = safe(render.impossible(found)).words
    assert "Not yet: 2 things to mend" in words
    assert words.index("A: b. C.") < words.index("W.")


def test_a_running_job_shows_stages_bar_and_bytes() -> None:
    """The stepper, the progress in words, and that the page may be closed."""
    seen = safe(job_words.job(a_job()))
    assert "Download: ana/one (50 MB of 200 MB)" in seen.words
    assert "You may close this page" in seen.words
    assert ("progress", "0.2500") in [(tag, attributes.get("value")) for tag, attributes in seen.tags]
    assert [attributes["class"] for tag, attributes in seen.tags if "aria-current" in attributes] == ["mm-running"]


def test_a_running_job_shows_its_speed_and_the_time_left() -> None:
    """As far as they can be said."""
    progress = Progress("fetch", 50_000_000, 200_000_000, message="ana/one", speed=5e6, left=30.0)
    words = safe(job_words.job(a_job(progress=progress))).words
    assert "Download: ana/one (50 MB of 200 MB, 5.0 MB/s, about 30 s left)." in words
    words = safe(job_words.job(a_job(progress=Progress("publish", 0, 0, message="to ana/merged")))).words
    assert "Publish: to ana/merged. You may close this page" in words


def test_a_job_names_commits_by_eight_digits() -> None:
    """Of each model, when it is pinned; a branch keeps its name."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    words = safe(job_words.job(a_job(models=(f"a/b@{commit}", "a/c@main")))).words
    assert "Average of a/b@01234567, a/c@main" in words
    assert commit not in words


def test_a_job_that_is_done_ends_in_one_absolute_link() -> None:
    """To the repo on the Hub, and to its page here."""
    seen = safe(job_words.job(a_job(status="done", url="https://hub.example/ana/merged"), base_url="https://here"))
    links = [attributes["href"] for tag, attributes in seen.tags if tag == "a"]
    assert links == ["https://hub.example/ana/merged", "https://here/model?id=ana%2Fmerged"]


def test_a_failed_job_says_why_with_its_id() -> None:
    """One sentence, the job's id, and the way out when its result is kept."""
    words = safe(job_words.job(a_job(status="failed", error="Your sign-in has run out.", publishable=True))).words
    assert "Your sign-in has run out. The result is kept: sign in again and publish it. (job m1)" in words
    words = safe(job_words.job(a_job(status="failed", error="The Hub is at fault.", resumable=True))).words
    assert "The Hub is at fault. What was done is kept: sign in again and go on. (job m1)" in words


@pytest.mark.parametrize(("ahead", "words"), [(0, "it is next"), (1, "1 job before it"), (3, "3 jobs before it")])
def test_a_waiting_job_knows_its_place(ahead: int, words: str) -> None:
    """In the queue."""
    assert words in safe(job_words.job(a_job(status="waiting", ahead=ahead))).words


def test_a_merge_is_compared_with_another_of_mine() -> None:
    """Its own figures, both side by side, and the ways to others; nothing for a job without figures."""
    first, second = a_job(id="m1"), a_job(id="m2", repo_id="ana/second")
    report = {"evaluation": evaluation()}
    seen = safe(job_words.figures(first, report, [first, second], (second, report)))
    assert "Two merges side by side" in seen.words
    assert "+0.0 points" in seen.words
    assert "/jobs?id=m1&with=m2" in [attributes.get("href") for _, attributes in seen.tags]
    assert job_words.figures(first, {}, [first, second], None) == ""


def test_tracebacks_are_not_shown() -> None:
    """The log's details are for the operator alone."""
    lines = [{"message": "merge started"}, {"message": "Traceback (most recent call last):", "level": "detail"}]
    assert "Traceback" not in job_words.log(lines)
    assert "merge started" in job_words.log(lines)


def test_run_again_opens_the_form_with_the_recipe() -> None:
    """The link holds the recipe and no output; the download is the recipe as submitted."""
    recipe = recipe_from_dict(
        {"merge_method": "average", "models": [{"model": "a/b"}], "output": {"repo_id": "ana/secret"}}
    )
    seen = safe(job_words.job_links(a_job(), recipe))
    again, saved = (attributes for tag, attributes in seen.tags if tag == "a")
    assert re.fullmatch(r"/\?recipe=[\w%-]+", str(again["href"]))
    assert saved["download"] == "recipe.yaml"
    assert "secret" not in str(again)


def test_a_docstrings_list_is_a_list() -> None:
    """Lines with an asterisk become items, with their continuation; words before them a paragraph."""
    shown = methods_page.prose("Where:\n* one `a`\n  goes on\n* two <b>")
    assert shown == (
        "<p class=mm-doc>Where:</p><ul class=mm-doc><li>one <code>a</code>\n  goes on</li><li>two &lt;b&gt;</li></ul>"
    )


def test_the_method_page_names_no_file_of_the_repo() -> None:
    """Who reads it on the web has none, and no list is left as asterisks."""
    words = safe(methods_page.method_table()).words
    assert not re.search(r"\.md\b|\.py\b|merging\.|^\s*\* ", words, re.MULTILINE)


def test_the_method_page_is_made_of_the_declarations() -> None:
    """Every method, every parameter and every range of the registry."""
    words = safe(methods_page.method_table()).words
    for method in METHODS.values():
        assert method.title in words
        assert method.summary in words
        for parameter in method.parameters:
            assert parameter.option.help in words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "just now"), (60, "1 minute ago"), (3500, "58 minutes ago"), (7300, "2 hours ago"), (90_000, "1 day ago")],
)
def test_times_are_words(seconds: float, words: str) -> None:
    """As people say them."""
    assert render.ago(1000.0, 1000.0 + seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (91_000_000, "91 MB"), (2.5e9, "2.5 GB")]
)
def test_sizes_are_words(count: float, words: str) -> None:
    """As disks are sold."""
    assert render.size(count) == words


def test_a_search_result_is_one_line() -> None:
    """Id, task, type."""
    assert render.hit(Hit("a/b", "text-classification", "bert")) == "a/b  ·  text-classification · bert"
