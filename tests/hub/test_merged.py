"""A published merge is read back from its recipe, which is hostile until it is parsed."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from huggingface_hub import HfApi

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.how_to_load import Loadable
from hub.merged import read_merged
from merging.errors import InputError

RECIPE = """
merge_method: average
models: [{model: ana/m-one@abc}, {model: ana/m-two@def}]
output: {repo_id: ana/merged, private: true}
"""


@dataclass(frozen=True)
class Place:
    """A Hub, and ana's hand on it."""

    hub: LoopbackHub
    api: HfApi

    def put(self, name: str, *, private: bool = False, **files: str | bytes) -> None:
        """A repo of ana's with these files; `one__config_json` is one/config.json."""
        self.api.create_repo(f"ana/{name}", private=private)
        for key, content in files.items():
            path = key.replace("__", "/").replace("_", ".")
            data = content.encode() if isinstance(content, str) else content
            self.api.upload_file(repo_id=f"ana/{name}", path_or_fileobj=data, path_in_repo=path)


@pytest.fixture
def place(hub: LoopbackHub) -> Iterator[Place]:
    """With ana as its only user."""
    hub.add_user("ana")
    return Place(hub, HfApi(endpoint=hub.url, token=hub.add_token("ana")))


def test_anybody_reads_a_public_merge(place: Place) -> None:
    """The recipe without its output, the heads that load by themselves, the licence."""
    config = '{"architectures": ["BertForSequenceClassification"]}'
    card = "---\nlicense: mit\n---\n"
    place.put("merged", recipe_yaml=RECIPE, config_json=config, one__config_json="{}", README_md=card)
    found = read_merged(Hub.anonymous(place.hub.url), "ana/merged")
    assert found.recipe.output.repo_id is None
    assert [entry.model for entry in found.recipe.models] == ["ana/m-one@abc", "ana/m-two@def"]
    assert (found.folders, found.license) == (("one",), "mit")
    assert found.url == f"{place.hub.url}/ana/merged"


def test_each_model_is_loaded_by_what_stands_in_its_folder(place: Place) -> None:
    """Its own class, or its own library; a broken config is a model of no known class."""
    bert = '{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}'
    place.put("merged", recipe_yaml=RECIPE.replace("m-one", "mood").replace("m-two", "embed"), config_json=bert)
    for path, body in {
        "mood/config.json": "[",
        "embed/config.json": bert.replace("ForSequenceClassification", "Model"),
        "embed/modules.json": "[{}]",
        "embed/config_sentence_transformers.json": '{"model_type": "SparseEncoder"}',
    }.items():
        place.api.upload_file(repo_id="ana/merged", path_or_fileobj=body.encode(), path_in_repo=path)
    found = read_merged(Hub.anonymous(place.hub.url), "ana/merged")
    assert found.models == (Loadable("mood", ""), Loadable("embed", "feature-extraction", "SparseEncoder"))
    place.put("whole", recipe_yaml=RECIPE, config_json=bert)
    whole = read_merged(Hub.anonymous(place.hub.url), "ana/whole")
    assert whole.models == (Loadable("", "text-classification"),)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe", "ana/merged has a broken recipe.yaml: it is not text."),
        (b"merge_method: [", "ana/merged has a recipe.yaml that cannot be used: The recipe is not valid YAML"),
        (
            b"merge_method: average\nmodels: []\nrun: rm",
            "ana/merged has a recipe.yaml that cannot be used: Unknown key",
        ),
    ],
)
def test_a_broken_recipe_is_one_sentence(place: Place, content: bytes, sentence: str) -> None:
    """Whatever the file holds."""
    place.put("merged", recipe_yaml=content)
    with pytest.raises(InputError) as caught:
        read_merged(Hub.anonymous(place.hub.url), "ana/merged")
    assert str(caught.value).startswith(sentence)


def test_what_was_not_merged_here_says_so(place: Place) -> None:
    """No recipe, no such repo, no name."""
    place.put("other", config_json="{}")
    for repo_id, sentence in {
        "ana/other": "ana/other was not merged by Merge My Models: it has no recipe.yaml. Name a model that was.",
        "ana/none": "ana/none does not exist, or it is private",
        "../etc": "'../etc' is not the name of a model. Write owner/name.",
    }.items():
        with pytest.raises(InputError) as caught:
            read_merged(Hub.anonymous(place.hub.url), repo_id)
        assert str(caught.value).startswith(sentence)


def test_a_private_merge_is_its_owners_alone(place: Place) -> None:
    """With their own token."""
    place.put("merged", private=True, recipe_yaml=RECIPE)
    assert read_merged(Hub(place.hub.url, place.hub.add_token("ana")), "ana/merged").private
    with pytest.raises(InputError, match="does not exist, or it is private"):
        read_merged(Hub.anonymous(place.hub.url), "ana/merged")
