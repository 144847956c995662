"""The model card: what it says, and that no name of a stranger can change what it is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from hub.card import merged_license, render_card
from hub.card_text import code, escape
from hub.how_to_load import pipeline_tag
from merging.engine import Report
from merging.parent import Parent
from merging.recipe import Recipe
from merging.tensors import HeaderSource
from tests.hub.helpers import wish

HOSTILE = [
    "`x` <script>alert(1)</script>",
    "a](https://evil.example) [b",
    "---\ntags: [evil]\n---\n# Evil",
    "| a | b |\n|---|---|",
    "![x](https://evil.example/x.png)",
    "<img src=x onerror=alert(1)>",
    "``` \n# Evil\n```",
    "<https://evil.example>",
    "&lt;script&gt;",
    "**bold** _x_ ~~y~~ $z$",
]
SHA = "0123456789abcdef0123456789abcdef01234567"


def parent(name: str, licence: str = "mit", **more: Any) -> Parent:
    """A parent of which a card needs to know."""
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    return Parent(
        **{"model": name, "revision": SHA, "config": config, "source": HeaderSource({}), "license": licence, **more}
    )


def report(**more: Any) -> Report:
    """What the engine says of two tasks merged apart."""
    files = {
        "model-00001-of-00002.safetensors": "a",
        "a/model-00002-of-00002.safetensors": "b",
        "b/model-00002-of-00002.safetensors": "c",
    }
    plain = Report("regmean", "cpu", "Some CPU", "2.13.0", 2, 12.0, 22_000_000, files, {"merge": 10})
    return replace(plain, **more)


def card(recipe: Recipe, *parents: Parent, made: Report | Mapping[str, Any] | None = None, **more: Any) -> str:
    """The card of a merge."""
    return render_card(recipe, parents, made or report(), repo_id="ann/merged", **more)


def head_of(text: str) -> dict[str, Any]:
    """The front matter, which has to be the first thing."""
    assert text.startswith("---\n")
    data: dict[str, Any] = yaml.safe_load(text[4:].split("\n---\n")[0])
    return data


def tokens(text: str) -> list[str]:
    """Kinds of all Markdown elements of a card below its front matter."""
    body = text[4:].split("\n---\n", 1)[1]
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(body):
        found.append(token.type)
        found += [child.type for child in token.children or []]
    return found


RECIPE = wish(f"ann/a@{SHA}", f"bob/b@{SHA}", method="regmean", parameters={"alpha": 0.9})


def test_the_metadata_is_what_the_hub_reads() -> None:
    """Parents once each, relation, tags, task, licence."""
    head = head_of(card(RECIPE, parent("ann/a"), parent("ann/a", "apache-2.0")))
    assert head == {
        "library_name": "transformers",
        "base_model": ["ann/a"],
        "base_model_relation": "merge",
        "tags": ["merge", "merge-my-models", "regmean"],
        "pipeline_tag": "text-classification",
        "license": "apache-2.0",
    }


def test_the_card_says_how_to_load_every_task() -> None:
    """Lines for each that can be pasted by themselves, and the warning about a pipeline that does not work."""
    text = card(RECIPE, parent("ann/a"), parent("bob/b"))
    for task in ("a", "b"):
        assert f'AutoModelForSequenceClassification.from_pretrained("ann/merged", subfolder="{task}")' in text
    assert text.count("from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline") == 2
    assert text.count('pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)') == 2
    assert "Do not write `pipeline(..., subfolder=...)`" in text


def test_one_model_loads_without_a_folder() -> None:
    """Where heads were merged too there is one model at the root."""
    text = card(RECIPE, parent("ann/a"), parent("bob/b"), made=report(files={"model.safetensors": "a"}))
    assert 'from_pretrained("ann/merged")' in text
    assert "subfolder" not in text


def test_the_card_tells_the_whole_story() -> None:
    """Parents with weights and revisions, fallbacks with reasons, recipe, link back."""
    made = report(fallbacks={"x.weight": "no Gram of it for bob/b"}, notes=("a note",))
    text = card(RECIPE, parent("ann/a"), parent("bob/b", ""), made=made, service_url="https://merge.example/")
    assert f"| `ann/a` | `{SHA[:12]}` | 0.5 | `mit` |" in text
    assert "Not every parent names a licence" in text
    assert "- `x.weight`: no Gram of it for bob/b" in text
    assert "22,000,000 parameters, merged in 12 s on `cpu`" in text
    assert "- a note" in text
    assert f"- model: bob/b@{SHA}" in text
    assert "[Merge again](https://merge.example/?model=ann/merged)" in text
    assert RECIPE.method.title in text


def test_a_report_that_was_stored_is_as_good() -> None:
    """The plain data of a report, with what a job added, gives the same card."""
    stored = {**report().as_dict(), "checks": [{"folder": "root"}]}
    parents = (parent("ann/a"), parent("bob/b"))
    assert card(RECIPE, *parents, made=stored) == card(RECIPE, *parents)


def test_a_link_back_is_only_made_to_the_web() -> None:
    """No other kind of address becomes a link."""
    for url in ("", "javascript:alert(1)"):
        assert "](" not in card(RECIPE, parent("ann/a"), parent("bob/b"), service_url=url).split("Made with")[1]


def test_a_folder_is_named_without_its_path() -> None:
    """Where a model lay on somebody's machine is nobody's business."""
    text = card(RECIPE, parent("ann/a"), parent("/home/ann/secret/b", revision=""))
    assert "| `b` | a folder |" in text
    assert "secret" not in text
    assert head_of(text)["base_model"] == ["ann/a"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_stays_text(text: str) -> None:
    """Wherever a stranger's text stands, the card has the same elements as with a harmless one."""

    def made(words: str) -> str:
        strange = parent("bob/b", words, config={"model_type": words, "architectures": [words]})
        strange_report = report(fallbacks={words: words}, notes=(words,), cpu=words, device=words)
        first = parent("ann/a", words, config={"model_type": words, "architectures": [words]})
        return card(RECIPE, first, strange, made=strange_report)

    plain, strange = made("harmless"), made(text)
    assert tokens(strange) == tokens(plain)
    assert head_of(strange).keys() == head_of(plain).keys()
    assert head_of(strange)["tags"] == ["merge", "merge-my-models", "regmean"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_the_recipe_stays_in_its_block(text: str) -> None:
    """The recipe is one fenced block whatever it holds."""
    entry = {"model": "ann/a", "calibration": {"data": text}}
    text = card(wish(entry, "bob/b"), parent("ann/a"), parent("bob/b"))
    assert tokens(text) == tokens(card(RECIPE, parent("ann/a"), parent("bob/b")))


def test_escaped_text_reads_as_it_was() -> None:
    """Escaping shows the same words, on one line, with an end."""
    assert MarkdownIt().render(escape("a *b*\nc <d>")) == "<p>a *b* c &lt;d&gt;</p>\n"
    assert len(escape("x" * 1000)) == 200
    assert code("a`b|c\nd") == "`a'b¦c d`"
    assert code("") == ""


@pytest.mark.parametrize(
    ("licences", "result"),
    [
        (["mit", "mit"], "mit"),
        (["mit", "apache-2.0"], "apache-2.0"),
        (["mit", "llama3"], "llama3"),
        (["cc-by-sa-4.0", "llama3"], "other"),
        (["mit", ""], ""),
        (["MIT", "mit"], "mit"),
    ],
)
def test_the_licence_is_one_that_the_parents_allow(licences: list[str], result: str) -> None:
    """The shared one, the most demanding permissive one, the one restrictive one, or none."""
    assert merged_license(licences) == result


def test_tasks_of_known_classes() -> None:
    """The Hub's task names; nothing for what is not known."""
    assert pipeline_tag("GPT2LMHeadModel") == "text-generation"
    assert pipeline_tag("BertForMaskedLM") == "fill-mask"
    assert pipeline_tag("T5ForConditionalGeneration") == "text2text-generation"
    assert pipeline_tag("ViTForImageClassification") == "image-classification"
    assert pipeline_tag("BertModel") == "feature-extraction"
    assert pipeline_tag("BertForPreTraining") == ""


BASED = wish(f"ann/a@{SHA}", f"bob/b@{SHA}", method="task_arithmetic", base_model=f"org/base@{SHA}")


def test_the_base_stands_in_the_text_and_not_among_the_parents_of_the_metadata() -> None:
    """The Hub's tree is made of what was merged; people read what it was merged on."""
    text = card(BASED, parent("ann/a"), parent("bob/b"), base=parent("org/base"))
    assert head_of(text)["base_model"] == ["ann/a", "bob/b"]
    assert "2 fine-tuned bert models and their base `org/base` merged into one by **Task arithmetic**" in text
    assert f"| `org/base` | `{SHA[:12]}` | the base | `mit` |" in text
    alone = wish(f"ann/a@{SHA}", method="slerp", base_model=f"org/base@{SHA}")
    text = card(alone, parent("ann/a"), base=parent("org/base"), made=report(files={"model.safetensors": "a"}))
    assert "A fine-tuned bert model and its base `org/base` merged into one by **SLERP**" in text
    assert f"| `ann/a` | `{SHA[:12]}` |  | `mit` |" in text  # SLERP has no weights


def test_the_licence_of_the_base_counts() -> None:
    """It is in the result like those of the models."""
    parents = (parent("ann/a"), parent("bob/b"))
    assert head_of(card(BASED, *parents, base=parent("org/base", "llama3")))["license"] == "llama3"
    unnamed = card(BASED, *parents, base=parent("org/base", ""))
    assert "license" not in head_of(unnamed)
    assert "Not every parent names a licence" in unnamed


def test_a_hostile_base_is_only_a_name() -> None:
    """Whatever it is called, the card stays a card."""
    clean = tokens(card(BASED, parent("ann/a"), parent("bob/b"), base=parent("org/base")))
    for name in HOSTILE:
        recipe = BASED.model_copy(update={"base_model": name})
        hostile = card(recipe, parent("ann/a"), parent("bob/b"), base=parent(name, name))
        assert tokens(hostile) == clean
        assert head_of(hostile)["base_model"] == ["ann/a", "bob/b"]
