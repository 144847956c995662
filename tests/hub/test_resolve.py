"""From a recipe to pinned parents by headers alone, and each bad input in one sentence beside its field."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd

from demo.loopback_hub import LoopbackHub
from hub.client import Hub, HubUnavailable
from hub.repository import open_repo
from hub.resolve import check_output, resolve, result_is_private
from merging.errors import InputError
from merging.plan import make_plan
from tests.hub.helpers import Models, Put, SignIn, changed, fisher_file, gram_file, texts, wish


@pytest.fixture
def two(ann: Hub, put: Put, tiny: Models) -> dict[str, str]:
    """Two public models of ann: name -> commit."""
    return {f"ann/m{seed}": put(ann, f"ann/m{seed}", tiny(seed)) for seed in (0, 1)}


def sentence(hub: Hub, *models: Any, **more: Any) -> str:
    """The only problem of a recipe, which stands beside the second model."""
    (problem,) = resolve(hub, wish("ann/m0", *models, **more)).problems
    assert problem.where == "models.1.model"
    return str(problem)


def test_a_preview_fetches_no_weight_byte(hub: LoopbackHub, ann: Hub, two: dict[str, str]) -> None:
    """A plan comes from headers alone: the Hub counts the weight bytes it served (none), and no cache is used."""
    hub.reset_counters()
    resolved = resolve(ann, wish(*two))
    plan = make_plan(resolved.recipe, resolved.parents)
    counted = hub.counters()
    assert plan.problems == ()
    assert plan.output_bytes > 80_000
    assert (counted["weight_bytes"], counted["weight_requests"]) == (0, 0)
    assert counted["header_bytes"] > 0
    assert counted["authorized_storage_requests"] == 0
    assert not (Path(os.environ["HF_HOME"]) / "hub" / "models--ann--m0").exists()


def test_revisions_are_pinned(ann: Hub, two: dict[str, str], tiny: Models) -> None:
    """Names become commits; a later commit changes nothing, and resolving the pinned recipe is the same again."""
    pinned = resolve(ann, wish(*two)).recipe
    assert [entry.model for entry in pinned.models] == [f"{name}@{sha}" for name, sha in two.items()]
    ann.api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="ann/m0")
    again = resolve(ann, pinned)
    assert again.recipe == pinned
    assert again.problems == ()
    assert again.parents[0].config["model_type"] == "bert"


def test_the_plan_of_headers_is_the_plan_of_files(ann: Hub, two: dict[str, str], tiny: Models) -> None:
    """Shapes, shards and steps are the same from the Hub and from the disk."""
    remote = resolve(ann, wish(*two))
    folders = resolve(ann, wish(str(tiny(0)), str(tiny(1))), folders_allowed=True)
    first, second = make_plan(remote.recipe, remote.parents), make_plan(remote.recipe, folders.parents)
    assert first.shards == second.shards
    assert first.outputs == second.outputs


def test_shards_are_read_as_one_model(ann: Hub, put: Put, tiny: Models) -> None:
    """An index and several files give the same tensors as one file."""
    put(ann, "ann/sharded", tiny(0, shard_size="30KB"))
    put(ann, "ann/m1", tiny(1))
    resolved = resolve(ann, wish("ann/sharded", "ann/m1"))
    sharded, single = resolved.parents
    assert len(sharded.weights) > 1
    assert sharded.source.specs == single.source.specs
    assert all(len(digest) == 64 for digest in sharded.weights.values())


def test_a_missing_model(ann: Hub, two: dict[str, str]) -> None:
    """A repo that is not there."""
    assert sentence(ann, "ann/nothing") == (
        "ann/nothing does not exist, or it is private: you have no access to it. "
        "Check the name, or ask its owner for access."
    )


def test_a_private_model_of_somebody_else(
    ann: Hub, sign_in: SignIn, two: dict[str, str], put: Put, tiny: Models
) -> None:
    """Private looks like missing, for another user and for nobody."""
    put(ann, "ann/private", tiny(1), private=True)
    assert sentence(sign_in("bob"), "ann/private").startswith("ann/private does not exist, or it is private: you have")
    assert sentence(Hub.anonymous(ann.endpoint), "ann/private") == (
        "ann/private does not exist, or it is private: nobody is signed in. "
        "Check the name, or sign in to use a private model."
    )


def test_a_private_model_without_the_scope(
    sign_in: SignIn, ann: Hub, two: dict[str, str], put: Put, tiny: Models
) -> None:
    """The own private model through a sign-in without read-repos: the scope is named."""
    put(ann, "ann/private", tiny(1), private=True)
    limited = sign_in("ann", scopes=["openid", "gated-repos", "contribute-repos"])
    assert sentence(limited, "ann/private") == (
        "ann/private does not exist, or it is private: this sign-in may not read private repos: the scope read-repos "
        "was not granted. Check the name, or sign in again and grant read-repos."
    )


def test_a_gated_model(
    hub: LoopbackHub, ann: Hub, sign_in: SignIn, two: dict[str, str], put: Put, tiny: Models
) -> None:
    """Gated: not signed in, not let in, scope missing, let in."""
    put(ann, "ann/gated", tiny(1))
    ann.api.update_repo_settings("ann/gated", gated="manual")
    bob = sign_in("bob")
    page = f"{hub.url}/ann/gated"
    assert sentence(Hub.anonymous(hub.url), "ann/gated") == (
        f"ann/gated is gated: nobody is signed in. Sign in, and ask for access at {page}."
    )
    assert sentence(bob, "ann/gated") == f"ann/gated is gated: its owner has not let you in. Ask for access at {page}."
    hub.grant_access("ann/gated", "bob")
    assert sentence(sign_in("bob", scopes=["openid", "contribute-repos"]), "ann/gated") == (
        "ann/gated is gated: the scope gated-repos was not granted. Sign in again and grant gated-repos."
    )
    resolved = resolve(bob, wish("ann/m0", "ann/gated"))
    assert resolved.problems == ()
    assert [parent.restricted for parent in resolved.parents] == [False, True]


def test_what_one_user_has_read_is_not_anothers(
    ann: Hub, sign_in: SignIn, two: dict[str, str], put: Put, tiny: Models
) -> None:
    """After ann has resolved her private model at a commit, bob still cannot, although he knows the commit."""
    sha = put(ann, "ann/private", tiny(1), private=True)
    assert resolve(ann, wish("ann/m0", "ann/private")).problems == ()
    assert "does not exist, or it is private" in sentence(sign_in("bob"), f"ann/private@{sha}")


def test_a_missing_revision(ann: Hub, two: dict[str, str]) -> None:
    """A branch that is not there."""
    assert sentence(ann, "ann/m1@nope") == ("ann/m1 has no revision 'nope'. Name a branch, a tag or a commit.")


def test_only_pickles(ann: Hub, two: dict[str, str], put: Put, tmp_path: Path) -> None:
    """Pickles are refused with the way out."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"x" * 100)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    put(ann, "ann/pickled", folder)
    assert sentence(ann, "ann/pickled") == (
        "ann/pickled has no safetensors: it has only pytorch_model.bin, and loading pickles can run code. "
        "Load it once and save it again with transformers, or ask its author for safetensors."
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (None, "ann/odd has no config.json: it says what the tensors are"),
        (b"[1]", "ann/odd has a broken config.json: it is not a JSON object"),
        (b"{", "ann/odd has a broken config.json"),
        (b'{"a": "' + b"x" * 5_000_000 + b'"}', "ann/odd: config.json is too large: 5,000,009 bytes"),
    ],
)
def test_a_bad_config(
    ann: Hub, two: dict[str, str], put: Put, tiny: Models, tmp_path: Path, body: Any, said: str
) -> None:
    """A config that is missing, broken or huge."""
    folder = changed(tiny(1), tmp_path / "odd")
    (folder / "config.json").unlink()
    if body is not None:
        (folder / "config.json").write_bytes(body)
    put(ann, "ann/odd", folder)
    assert sentence(ann, "ann/odd").startswith(said)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"\xff" * 8 + b"x" * 50, "ann/odd: model.safetensors has a header of"),
        (b"\x10\0\0\0\0\0\0\0{not json at all}", "ann/odd: model.safetensors has a broken header: it is not JSON"),
        (b"\xf0\0\0\0\0\0\0\0{}", "ann/odd: model.safetensors is cut off"),
        (b"abc", "ann/odd: model.safetensors is cut off"),
    ],
)
def test_a_hostile_header(
    ann: Hub, two: dict[str, str], put: Put, tiny: Models, tmp_path: Path, head: bytes, said: str
) -> None:
    """Weight files that are not what they say."""
    folder = changed(tiny(1), tmp_path / "odd")
    (folder / "model.safetensors").write_bytes(head)
    put(ann, "ann/odd", folder)
    assert sentence(ann, "ann/odd").startswith(said)


def test_an_index_that_leaves_the_repo(ann: Hub, two: dict[str, str], put: Put, tiny: Models, tmp_path: Path) -> None:
    """Shard names with `..`, and shards that are missing."""
    folder = changed(tiny(1), tmp_path / "odd")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../m0/model.safetensors"}}))
    put(ann, "ann/odd", folder)
    assert sentence(ann, "ann/odd").startswith("ann/odd has a broken index")
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    ann.api.upload_file(path_or_fileobj=index, path_in_repo=index.name, repo_id="ann/odd")
    assert sentence(ann, "ann/odd").startswith("ann/odd: gone.safetensors is missing: its index names it")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("base", "'base' is not the name of a model. Write owner/name[@revision]."),
        ("a/b/c", "'a/b/c' is not the name of a model"),
        ("ann/..", "'ann/..' is not the name of a model"),
        ("ann/m0+ann/lora", "ann/m0+ann/lora is an adapter: adapters cannot be merged"),
        ("/etc", "/etc is a folder: only models of the Hub can be used. Name owner/name."),
        ("~/model", "~/model is a folder"),
    ],
)
def test_names_that_are_none(ann: Hub, two: dict[str, str], model: str, said: str) -> None:
    """What is no owner/name, and folders where none are allowed."""
    assert sentence(ann, model).startswith(said)


def test_local_text_is_refused_where_folders_are(ann: Hub, two: dict[str, str]) -> None:
    """A recipe from a stranger cannot make the server read its own files."""
    entry = {"model": "ann/m1", "calibration": {"data": "/etc/notes.txt"}}
    (problem,) = resolve(ann, wish("ann/m0", entry)).problems
    assert problem.where == "models.1.calibration.data"
    assert str(problem) == "/etc/notes.txt is a file: only datasets of the Hub can be used. Name owner/dataset."


def test_every_problem_is_reported(ann: Hub, two: dict[str, str]) -> None:
    """Two bad models are two problems, and nothing can be planned."""
    resolved = resolve(ann, wish("ann/x", "ann/m0", "ann/y"))
    assert [problem.where for problem in resolved.problems] == ["models.0.model", "models.2.model"]
    assert resolved.parents == ()
    assert resolved.found[1] is not None
    with pytest.raises(InputError, match=r"ann/x does not exist.*\n.*ann/y does not exist"):
        resolved.raise_if_impossible()


@pytest.mark.slow
def test_a_hub_out_of_reach_is_no_input_error() -> None:
    """The user is not blamed for the network."""
    with pytest.raises(HubUnavailable, match="cannot be reached"):
        resolve(Hub("http://127.0.0.1:9", False), wish("ann/a", "ann/b"))


def test_one_model_twice(ann: Hub, two: dict[str, str], put: Put, tiny: Models) -> None:
    """By the same name, by a commit, and by a copy under another name."""
    put(ann, "ann/copy", tiny(0))
    for other in ("ann/m0", f"ann/m0@{two['ann/m0']}", "ann/copy"):
        resolved = resolve(ann, wish("ann/m0", other))
        assert "Models 1 and 2 are the same" in texts(make_plan(resolved.recipe, resolved.parents).problems)[0]


def test_equal_tokenizers_are_not_read(hub: LoopbackHub, ann: Hub, two: dict[str, str]) -> None:
    """Equal blobs mean equal vocabularies: each model costs its config alone."""
    hub.reset_counters()
    parents = resolve(ann, wish(*two)).parents
    assert parents[0].vocabulary == parents[1].vocabulary != ""
    assert hub.counters()["requests"]["GET /{owner}/{name}/resolve/{revision}/{path}"] == 2 * 3


def test_different_vocabularies(ann: Hub, two: dict[str, str], put: Put, tiny: Models, tmp_path: Path) -> None:
    """Another token at an id is a problem; other padding settings are none."""
    folder = changed(tiny(1), tmp_path / "other")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["padding"] = None
    tokenizer["truncation"] = {"max_length": 7, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    put(ann, "ann/padded", folder)
    resolved = resolve(ann, wish("ann/m0", "ann/padded"))
    assert make_plan(resolved.recipe, resolved.parents).problems == ()
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["one"], vocabulary["two"] = vocabulary["two"], vocabulary["one"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    put(ann, "ann/swapped", folder)
    resolved = resolve(ann, wish("ann/m0", "ann/swapped"))
    assert "have different vocabularies" in texts(make_plan(resolved.recipe, resolved.parents).problems)[0]


def test_a_repo_and_a_folder_have_one_vocabulary(ann: Hub, two: dict[str, str], tiny: Models) -> None:
    """The fingerprint of remote files is that of the same files on disk."""
    resolved = resolve(ann, wish("ann/m0", str(tiny(1))), folders_allowed=True)
    assert resolved.problems == ()
    assert make_plan(resolved.recipe, resolved.parents).problems == ()


def test_a_licence_comes_from_the_card(ann: Hub, two: dict[str, str], put: Put, tiny: Models) -> None:
    """The card's licence is known, and one that forbids derived works is a problem."""
    put(ann, "ann/nd", tiny(2), card="---\nlicense: cc-by-nd-4.0\n---\n")
    resolved = resolve(ann, wish("ann/m0", "ann/nd"))
    assert resolved.parents[1].license == "cc-by-nd-4.0"
    assert "it allows no derived works" in texts(make_plan(resolved.recipe, resolved.parents).problems)[0]


# Statistics


def publish_beside(hub: Hub, repo_id: str, file: Path, kind: str = "gram") -> None:
    """Put a statistics file into a repo at the usual place."""
    hub.api.upload_file(path_or_fileobj=file, path_in_repo=f"merge-statistics/{kind}.safetensors", repo_id=repo_id)


def test_statistics_in_the_models_repo_are_found(
    hub: LoopbackHub, ann: Hub, two: dict[str, str], tiny: Models, tmp_path: Path
) -> None:
    """Found, described by their header, and pinned with commit and hash; none of their values is read."""
    for seed in (0, 1):
        publish_beside(ann, f"ann/m{seed}", gram_file(tmp_path / f"{seed}.safetensors", tiny(seed)))
    hub.reset_counters()
    resolved = resolve(ann, wish("ann/m0", "ann/m1", method="regmean"))
    assert hub.counters()["weight_bytes"] == 0
    fact = resolved.parents[0].statistics["gram"]
    ref = resolved.recipe.models[0].statistics["gram"]
    assert fact.weights == resolved.parents[0].weights
    assert ref.source == f"ann/m0@{resolved.parents[0].revision}:merge-statistics/gram.safetensors"
    assert len(ref.sha256) == 64
    again = resolve(ann, resolved.recipe)
    assert (again.recipe, again.problems) == (resolved.recipe, ())


def test_statistics_in_a_repo_of_their_own_are_found(
    ann: Hub, sign_in: SignIn, two: dict[str, str], tiny: Models, tmp_path: Path
) -> None:
    """In the owner's statistics repo for anybody; in one's own for oneself; those of these weights win."""
    bob = sign_in("bob")
    assert resolve(bob, wish("ann/m0", "ann/m1", method="regmean")).parents[1].statistics == {}
    bob.api.create_repo("bob/m1-merge-statistics")
    publish_beside(bob, "bob/m1-merge-statistics", gram_file(tmp_path / "bob.safetensors", tiny(1)))
    fact = resolve(bob, wish("ann/m0", "ann/m1", method="regmean")).parents[1].statistics["gram"]
    assert fact.source.startswith("bob/m1-merge-statistics@")
    assert resolve(ann, wish("ann/m0", "ann/m1", method="regmean")).parents[1].statistics == {}
    ann.api.create_repo("ann/m1-merge-statistics")
    publish_beside(ann, "ann/m1-merge-statistics", gram_file(tmp_path / "old.safetensors", tiny(5)))
    fact = resolve(bob, wish("ann/m0", "ann/m1", method="regmean")).parents[1].statistics["gram"]
    assert fact.source.startswith("bob/")


def test_statistics_of_other_weights(ann: Hub, two: dict[str, str], tiny: Models, tmp_path: Path) -> None:
    """A problem, unless text is named to collect new ones from."""
    publish_beside(ann, "ann/m0", gram_file(tmp_path / "good.safetensors", tiny(0)))
    publish_beside(ann, "ann/m1", gram_file(tmp_path / "old.safetensors", tiny(5)))
    resolved = resolve(ann, wish("ann/m0", "ann/m1", method="regmean"))
    said = texts(make_plan(resolved.recipe, resolved.parents).problems)
    assert any("belong to other weights" in text for text in said)
    entry = {"model": "ann/m1", "calibration": {"data": "ann/texts"}}
    resolved = resolve(ann, wish("ann/m0", entry, method="regmean"))
    assert resolved.parents[1].statistics == {}
    assert resolved.parents[1].calibration


def test_text_that_somebody_names_goes_before_published_statistics(
    ann: Hub, two: dict[str, str], tiny: Models, tmp_path: Path
) -> None:
    """The published file is not used, on the Hub or in a folder, and the plan says so; one that is named goes first."""
    publish_beside(ann, "ann/m0", gram_file(tmp_path / "a.safetensors", tiny(0)))
    publish_beside(ann, "ann/m1", gram_file(tmp_path / "b.safetensors", tiny(1)))
    entry: dict[str, Any] = {"model": "ann/m1", "calibration": {"data": "ann/texts"}}
    resolved = resolve(ann, wish("ann/m0", entry, method="regmean"))
    assert resolved.problems == ()
    assert "gram" not in resolved.recipe.models[1].statistics
    first, second = make_plan(resolved.recipe, resolved.parents).as_dict()["statistics"]
    assert first["source"].startswith("ann/m0@")
    assert second == {"model": "ann/m1", "kind": "gram", "source": "collected from ann/texts"}
    named = entry | {"statistics": {"gram": "ann/m1"}}
    assert resolve(ann, wish("ann/m0", named, method="regmean")).parents[1].statistics["gram"].source.startswith("ann/")


def test_text_on_this_machine_has_to_be_there(ann: Hub, two: dict[str, str], tiny: Models, tmp_path: Path) -> None:
    """Before anything is fetched, and only where the method needs it."""
    entry = {"model": str(tiny(1)), "calibration": {"data": str(tmp_path / "no.txt")}}
    (problem,) = resolve(ann, wish("ann/m0", entry, method="regmean"), folders_allowed=True).problems
    assert problem.where == "models.1.calibration.data"
    assert str(problem) == f"{tmp_path / 'no.txt'} cannot be read: there is no such file. Check the path."
    assert resolve(ann, wish("ann/m0", entry), folders_allowed=True).problems == ()


def test_missing_statistics(ann: Hub, two: dict[str, str]) -> None:
    """The plan says which model lacks which."""
    resolved = resolve(ann, wish(*two, method="fisher"))
    said = texts(make_plan(resolved.recipe, resolved.parents).problems)
    assert said[0].startswith("ann/m0 has no Fisher statistics: Fisher")


def test_named_statistics(ann: Hub, two: dict[str, str], tiny: Models, tmp_path: Path) -> None:
    """Statistics that the recipe names: used, or each fault in one sentence beside the field."""
    file = fisher_file(tmp_path / "fisher.safetensors", tiny(1))
    ann.api.create_repo("ann/elsewhere")
    ann.api.upload_file(path_or_fileobj=file, path_in_repo="x.safetensors", repo_id="ann/elsewhere")

    def second(source: Any) -> tuple[Any, ...]:
        entry = {"model": "ann/m1", "statistics": {"fisher": source}}
        resolved = resolve(ann, wish("ann/m0", entry, method="fisher"))
        for problem in resolved.problems:
            assert problem.where == "models.1.statistics.fisher"
        return resolved.found[1], " ".join(texts(resolved.problems))

    parent, said = second("ann/elsewhere:x.safetensors")
    assert said == ""
    assert parent.statistics["fisher"].kind == "fisher"
    assert second("ann/elsewhere")[1].startswith("ann/elsewhere has no file merge-statistics/fisher.safetensors")
    assert second("ann/none:x")[1].startswith("ann/none does not exist, or it is private")
    assert second("ann/elsewhere:../x")[1].startswith("'ann/elsewhere:../x' names no statistics")
    assert second(str(file))[1].endswith(
        "only statistics of the Hub can be used here. Publish them, and name owner/repo."
    )
    assert second({"source": "ann/elsewhere:x.safetensors", "sha256": "0" * 64})[1].startswith(
        "The statistics at ann/elsewhere:x.safetensors are not those of the recipe: their SHA-256 is"
    )
    ann.api.upload_file(
        path_or_fileobj=tiny(0) / "model.safetensors", path_in_repo="y.safetensors", repo_id="ann/elsewhere"
    )
    assert "is not a statistics file" in second("ann/elsewhere:y.safetensors")[1]
    gram = gram_file(tmp_path / "gram.safetensors", tiny(1))
    ann.api.upload_file(path_or_fileobj=gram, path_in_repo="z.safetensors", repo_id="ann/elsewhere")
    assert "holds gram statistics: fisher is needed" in second("ann/elsewhere:z.safetensors")[1]


def test_statistics_of_this_machine(ann: Hub, two: dict[str, str], tiny: Models, tmp_path: Path) -> None:
    """On one's own machine a file may be named, and one in the model's folder is found."""
    gram_file(tmp_path / "gram.safetensors", tiny(1))
    entry = {"model": "ann/m1", "statistics": {"gram": str(tmp_path / "gram.safetensors")}}
    folder = changed(tiny(0), tmp_path / "m0")
    gram_file(folder / "merge-statistics" / "gram.safetensors", folder)
    resolved = resolve(ann, wish(str(folder), entry, method="regmean"), folders_allowed=True)
    assert resolved.problems == ()
    assert [len(parent.statistics["gram"].sha256) for parent in resolved.parents] == [64, 64]


def test_private_statistics_make_the_result_private(
    ann: Hub, two: dict[str, str], tiny: Models, tmp_path: Path
) -> None:
    """What went into a merge decides who may see it."""
    ann.api.create_repo("ann/m1-merge-statistics", private=True)
    publish_beside(ann, "ann/m1-merge-statistics", gram_file(tmp_path / "g.safetensors", tiny(1)))
    resolved = resolve(ann, wish("ann/m0", "ann/m1", method="regmean"))
    assert [parent.restricted for parent in resolved.parents] == [False, True]
    assert result_is_private(resolved.recipe, resolved.parents)


# Where the result goes


def test_a_private_parent_makes_the_result_private(ann: Hub, two: dict[str, str], put: Put, tiny: Models) -> None:
    """By default; the recipe may say otherwise, with a warning."""
    put(ann, "ann/private", tiny(2), private=True)
    resolved = resolve(ann, wish("ann/m0", "ann/private"))
    assert result_is_private(resolved.recipe, resolved.parents)
    assert not result_is_private(resolved.recipe, resolved.parents[:1])
    public = resolve(ann, wish("ann/m0", "ann/private", output={"private": False}))
    assert not result_is_private(public.recipe, public.parents)
    assert [(p.severity, p.where) for p in public.problems] == [("warning", "output.private")]
    assert texts(public.problems)[0].startswith("The result will be public although ann/private is private or gated")


def test_a_free_name_of_ones_own(sign_in: SignIn) -> None:
    """Nothing to say about a new repo under the own name or in an own organisation."""
    ann = sign_in("ann", orgs=["team"])
    for name in ("ann/new", "team/new"):
        assert check_output(ann, wish("ann/m0", "ann/m1", output={"repo_id": name})) == []


def test_bad_names_for_the_result(hub: LoopbackHub, ann: Hub, two: dict[str, str], sign_in: SignIn) -> None:
    """Not signed in, none, taken, another's, scope not granted: each beside the field."""

    def said(who: Hub, **output: Any) -> str:
        (problem,) = check_output(who, wish("ann/m0", "ann/m1", output=output))
        assert problem.where == "output.repo_id"
        return str(problem)

    assert said(Hub.anonymous(hub.url), repo_id="ann/new").startswith("Not signed in: a merge is published under your")
    assert said(ann) == "The result has no name: a merge becomes a new repo. Name it owner/name."
    assert said(ann, repo_id="ann/m0") == (
        "ann/m0 exists already: nothing of yours is ever overwritten. Pick another name."
    )
    sign_in("bob")
    assert said(ann, repo_id="bob/new") == "You may not write to bob: you are ann. Use your own name, ann."
    limited = sign_in("ann", scopes=["openid"])
    assert said(limited, repo_id="ann/new").startswith("This sign-in may not make repos: the scope contribute-repos")
    hub.expire_token(str(ann.token))
    assert said(ann, repo_id="ann/new").startswith("Your sign-in has run out")


@pytest.mark.parametrize(
    "name", ["new", "ann/", "ann/a b", "ann/a--b", "ann/a..b", "ann/.a", "ann/a.git", "ann/" + "x" * 97]
)
def test_an_invalid_name_for_the_result(name: str) -> None:
    """The recipe itself refuses it, beside the field."""
    with pytest.raises(InputError, match="a repo id is owner/name") as caught:
        wish("ann/m0", "ann/m1", output={"repo_id": name})
    assert caught.value.problem.where == "output.repo_id"


def test_a_gated_repo_of_the_name_is_taken(hub: LoopbackHub, ann: Hub, two: dict[str, str]) -> None:
    """A name is taken also when its repo is gated."""
    ann.api.update_repo_settings("ann/m0", gated="auto")
    assert "exists already" in texts(check_output(ann, wish("ann/m0", "ann/m1", output={"repo_id": "ann/m0"})))[0]


def test_hostile_file_names_are_refused(ann: Hub, two: dict[str, str]) -> None:
    """A repo whose listing would leave a folder is refused whole."""
    hostile = CommitOperationAdd("evil", b"evil")
    hostile.path_in_repo = "../../evil"  # past the client's own check
    ann.api.create_commit("ann/m0", [hostile], commit_message="evil")
    with pytest.raises(InputError, match="ann/m0 has a file name that cannot be used"):
        open_repo(ann, "ann/m0")


def test_a_repo_of_too_many_files_is_refused(ann: Hub, two: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a sentence of its own, however many there are."""
    monkeypatch.setattr("hub.repository.FILES_LIMIT", 2)
    with pytest.raises(InputError, match="ann/m0 has too many files: at most 2 of one repo are looked at"):
        open_repo(ann, "ann/m0")
