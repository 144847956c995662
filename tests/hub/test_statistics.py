"""Publishing statistics, so that others can merge without data."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from demo.loopback_hub import LoopbackHub
from hub.client import Hub, SignInNeeded
from hub.publish_statistics import publish_statistics
from hub.resolve import resolve
from hub.statistics import statistics_repo
from merging.checkpoint import sha256_of
from merging.errors import InputError
from merging.plan import make_plan
from tests.hub.helpers import Models, Put, SignIn, fisher_file, gram_file, texts, wish

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test


def test_published_statistics_are_found(ann: Hub, put: Put, tiny: Models, tmp_path: Path) -> None:
    """An owner publishes once; whoever merges the model then finds them."""
    put(ann, "ann/a", tiny(0))
    put(ann, "ann/b", tiny(1))
    where = publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0))}, private=False)
    assert (where.repo_id, where.commit) == ("ann/a-merge-statistics", ann.api.model_info("ann/a-merge-statistics").sha)
    assert where.url == f"{ann.url}/ann/a-merge-statistics"
    assert len(ann.api.list_repo_commits("ann/a-merge-statistics")) == 2
    found = resolve(Hub.anonymous(ann.endpoint), wish("ann/a", "ann/b", method="regmean")).found[0]
    assert found is not None
    assert found.statistics["gram"].source == f"{where.repo_id}@{where.commit}:merge-statistics/gram.safetensors"


def test_another_kind_is_added_and_the_same_again_is_nothing(ann: Hub, tiny: Models, tmp_path: Path) -> None:
    """A second kind joins the first; publishing what is there makes no commit."""
    gram, fisher = gram_file(tmp_path / "g", tiny(0)), fisher_file(tmp_path / "f", tiny(0))
    publish_statistics(ann, "ann/a", {"gram": gram}, private=True)
    second = publish_statistics(ann, "ann/a", {"fisher": fisher}, private=True)
    info = ann.api.model_info("ann/a-merge-statistics")
    names = {sibling.rfilename for sibling in info.siblings or []}
    assert {"merge-statistics/gram.safetensors", "merge-statistics/fisher.safetensors"} <= names
    assert info.private
    assert publish_statistics(ann, "ann/a", {"gram": gram, "fisher": fisher}, private=True) == second


def test_statistics_of_somebody_elses_model_go_under_the_own_name(
    sign_in: SignIn, tiny: Models, tmp_path: Path
) -> None:
    """No right to the model's repo is needed, and the narrow scopes are enough."""
    bob = sign_in("bob", scopes=["openid", "gated-repos", "contribute-repos"])
    where = publish_statistics(bob, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0))}, private=False)
    assert where.repo_id == "bob/a-merge-statistics"


def test_a_repo_that_is_something_else_is_not_touched(ann: Hub, put: Put, tiny: Models, tmp_path: Path) -> None:
    """A model that happens to have the name is refused, unchanged."""
    sha = put(ann, "ann/a-merge-statistics", tiny(1))
    with pytest.raises(InputError, match="ann/a-merge-statistics exists and is no statistics repo: nothing is overwr"):
        publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0))}, private=False)
    assert ann.api.model_info("ann/a-merge-statistics").sha == sha


def test_only_statistics_are_published(hub: LoopbackHub, ann: Hub, tiny: Models, tmp_path: Path) -> None:
    """A file of another kind, no statistics at all, nobody: refused before a repo is made."""
    with pytest.raises(InputError, match="holds gram statistics: fisher is needed"):
        publish_statistics(ann, "ann/a", {"fisher": gram_file(tmp_path / "g", tiny(0))}, private=False)
    with pytest.raises(InputError, match="is not a statistics file"):
        publish_statistics(ann, "ann/a", {"gram": tiny(0) / "model.safetensors"}, private=False)
    with pytest.raises(SignInNeeded, match="Not signed in"):
        publish_statistics(Hub.anonymous(hub.url), "ann/a", {"gram": tmp_path / "g"}, private=False)
    assert not ann.api.repo_exists("ann/a-merge-statistics")


def test_the_card_is_a_card_whatever_the_file_says(ann: Hub, tiny: Models, tmp_path: Path) -> None:
    """Provenance stands in the card as text."""
    hostile = "x` | y\n---\n# Evil <script>"
    publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0), dataset=hostile)}, private=False)
    path = ann.api.hf_hub_download("ann/a-merge-statistics", "README.md", local_dir=tmp_path)
    card = ModelCard.load(path)
    assert card.data.to_dict() == {"tags": ["merge-statistics"], "base_model": ["ann/a"]}
    assert "# Merge statistics of `ann/a`" in card.text
    assert "`x' ¦ y --- # Evil ‹script›`" in card.text
    assert "<script>" not in card.text


def test_long_names_fit() -> None:
    """The Hub allows 96 characters."""
    assert len(statistics_repo("ann", "bob/" + "x" * 96)) == len("ann/") + 96


def test_private_statistics_never_go_into_a_public_repo(ann: Hub, tiny: Models, tmp_path: Path) -> None:
    """The statistics repo is public already: refused, unchanged."""
    gram, fisher = gram_file(tmp_path / "g", tiny(0)), fisher_file(tmp_path / "f", tiny(0))
    first = publish_statistics(ann, "ann/a", {"gram": gram}, private=False)
    with pytest.raises(InputError, match="ann/a-merge-statistics is public: these statistics are to be private"):
        publish_statistics(ann, "ann/a", {"fisher": fisher}, private=True)
    assert first.commit == ann.api.model_info("ann/a-merge-statistics").sha


def test_statistics_of_earlier_weights_are_found_in_the_history(
    ann: Hub, put: Put, tiny: Models, tmp_path: Path
) -> None:
    """A model was trained on and its statistics replaced: who merges the old revision gets the old statistics."""
    before = put(ann, "ann/a", tiny(0))
    old = publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "old", tiny(0))}, private=False)
    ann.api.upload_folder(repo_id="ann/a", folder_path=tiny(1))
    new = publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "new", tiny(1))}, private=False)
    put(ann, "ann/b", tiny(2))
    for model, published in ((f"ann/a@{before}", old), ("ann/a", new)):
        resolved = resolve(Hub.anonymous(ann.endpoint), wish(model, "ann/b", method="regmean"))
        ref = resolved.recipe.models[0].statistics["gram"]
        assert ref.source == f"ann/a-merge-statistics@{published.commit}:merge-statistics/gram.safetensors"
        assert ref.sha256 == sha256_of(tmp_path / ("old" if published is old else "new"))


def test_statistics_added_to_the_model_after_the_pinned_revision_are_found(
    ann: Hub, put: Put, tiny: Models, tmp_path: Path
) -> None:
    """They are of the same weights, one commit later."""
    before = put(ann, "ann/a", tiny(0))
    put(ann, "ann/b", tiny(1))
    added = publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0))}, private=False, place="model")
    resolved = resolve(ann, wish(f"ann/a@{before}", "ann/b", method="regmean"))
    assert resolved.recipe.models[0].statistics["gram"].source.startswith(f"ann/a@{added.commit}:")


def test_statistics_in_the_own_repo_are_pinned_and_those_of_other_weights_refused(
    sign_in: SignIn, ann: Hub, put: Put, tiny: Models, tmp_path: Path
) -> None:
    """Bob's own statistics of Ann's model are found by Bob alone; statistics of other weights stop the plan."""
    put(ann, "ann/a", tiny(0))
    put(ann, "ann/b", tiny(1))
    bob = sign_in("bob")
    own = publish_statistics(bob, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0))}, private=False)
    recipe = wish("ann/a", "ann/b", method="regmean")
    ref = resolve(bob, recipe).recipe.models[0].statistics["gram"]
    assert ref.source == f"bob/a-merge-statistics@{own.commit}:merge-statistics/gram.safetensors"
    assert ref.sha256 == sha256_of(tmp_path / "g")
    assert not resolve(ann, recipe).recipe.models[0].statistics
    publish_statistics(ann, "ann/b", {"gram": gram_file(tmp_path / "h", tiny(2))}, private=False)
    resolved = resolve(bob, recipe)
    plan = make_plan(resolved.recipe, resolved.parents)
    told = texts(plan.problems)
    assert any("statistics" in one and "other weights" in one for one in told), told
