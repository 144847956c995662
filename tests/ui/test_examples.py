"""Merges to begin with."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from merging.errors import InputError
from merging.recipe import recipe_from_dict
from ui.examples import FILE, Example, Examples, read_examples, shown, suggested

DEMO = FILE.parents[1] / "demo" / "examples.yaml"
LIST = """
- title: Two
  recipe: {merge_method: average, models: [ana/one, ana/two]}
- title: A secret one
  recipe: {merge_method: average, models: [ana/one, ana/secret]}
- title: One that is gone
  recipe: {merge_method: average, models: [ana/one, ana/gone]}
"""


@pytest.mark.parametrize("file", [FILE, DEMO])
def test_the_lists_of_the_product_are_well_formed(file: Path) -> None:
    """Each with a title of its own."""
    titles = [one.title for one in read_examples(file)]
    assert len(titles) == len(set(titles)) == 3


@pytest.mark.slow
def test_only_what_everybody_may_merge_is_offered(hub: LoopbackHub, tmp_path: Path) -> None:
    """What is private or gone is left out, whoever asks; the Hub is asked once; nothing while it is away."""
    hub.add_user("ana")
    token = hub.add_token("ana")
    api = HfApi(endpoint=hub.url, token=token)
    for name in ("one", "two", "secret"):
        api.create_repo(f"ana/{name}", private=name == "secret")
    file = tmp_path / "examples.yaml"
    file.write_text(LIST)
    examples = Examples(file)
    assert [one.title for one in examples.available(Hub(hub.url, token))] == ["Two"]
    hub.reset_counters()
    assert [one.title for one in examples.available(Hub.anonymous(hub.url))] == ["Two"]
    assert hub.counters()["requests"] == {}
    assert Examples(file).available(Hub.anonymous("http://127.0.0.1:9")) == []


@pytest.mark.parametrize("text", ["- title: No recipe", "nonsense", "- title: X\n  recipe: {merge_method: avrage}"])
def test_a_list_that_is_none_is_an_error_with_its_name(tmp_path: Path, text: str) -> None:
    """For the operator, when the service starts."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"The examples in .*mine\.yaml cannot be (read|used)"):
        Examples(file)


def test_an_example_is_a_link_and_a_suggestion_a_button() -> None:
    """Nothing where there is none."""
    one = Example("<b>", recipe_from_dict({"merge_method": "average", "models": ["a/b", "a/c"]}))
    assert shown([one]).count('<a href="/?recipe=') == 1
    assert "&lt;b&gt;" in shown([one])
    assert 'data-choice="a/&lt;d"' in suggested(["a/<d"], "a/base")
    assert shown([]) == suggested([], "a/base") == ""
