"""A look at statistics: of a model wherever they are published, of a statistics repo, of a file."""

from pathlib import Path

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from hub.publish_statistics import publish_statistics
from hub.statistics_look import look
from merging.errors import InputError
from tests.hub.helpers import Models, Put, SignIn, fisher_file, gram_file

pytestmark = pytest.mark.slow  # a Hub of its own for each test


def test_all_statistics_of_a_model_are_shown(sign_in: SignIn, ann: Hub, put: Put, tiny: Models, tmp_path: Path) -> None:
    """Those in its own repo, its owner's and the asking person's, each compared with its weights."""
    put(ann, "ann/a", tiny(0))
    publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0), name="ann/a")}, private=False)
    publish_statistics(ann, "ann/a", {"fisher": fisher_file(tmp_path / "f", tiny(0))}, private=False, place="model")
    bob = sign_in("bob")
    publish_statistics(bob, "ann/a", {"gram": gram_file(tmp_path / "o", tiny(1), tokens=20)}, private=False)
    found = look(bob, "ann/a")
    assert found.model == "ann/a"
    assert [(one.kind, one.source.partition("@")[0], one.belongs) for one in found.summaries] == [
        ("gram", "ann/a-merge-statistics", True),
        ("gram", "bob/a-merge-statistics", False),
        ("fisher", "ann/a", True),
    ]
    good, bad, _ = found.summaries
    assert good.facts()["Collected from"] == "ann/texts"
    assert good.facts()["Fullness"] == "16 tokens for each input of the layer with the fewest"
    assert good.warnings() == ()
    assert bad.warnings() == (
        "These statistics were collected from other weights: a merge refuses them.",
        "One layer has fewer tokens than inputs: the solve leans on the ridge there, and the file says more about "
        "single examples than you may want. More examples mend both.",
    )


def test_a_statistics_repo_and_a_file_of_it_are_shown(
    ann: Hub, put: Put, tiny: Models, tmp_path: Path, hub: LoopbackHub
) -> None:
    """Compared with the model that they name; no byte of their values is read."""
    put(ann, "ann/a", tiny(0))
    done = publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0), name="ann/a")}, private=True)
    hub.reset_counters()
    for name in (done.repo_id, f"{done.repo_id}@{done.commit}:merge-statistics/gram.safetensors"):
        found = look(ann, name)
        assert (found.model, found.restricted, [one.belongs for one in found.summaries]) == ("ann/a", True, [True])
    assert hub.counters()["weight_bytes"] - hub.counters()["spilled_bytes"] == 0


def test_a_broken_file_is_a_warning_beside_the_others(ann: Hub, put: Put, tiny: Models, tmp_path: Path) -> None:
    """What can be read is shown all the same."""
    put(ann, "ann/a", tiny(0))
    publish_statistics(ann, "ann/a", {"gram": gram_file(tmp_path / "g", tiny(0))}, private=False)
    ann.api.upload_file(
        repo_id="ann/a",
        path_or_fileobj=tiny(0) / "model.safetensors",
        path_in_repo="merge-statistics/gram.safetensors",
    )
    found = look(ann, "ann/a")
    assert len(found.summaries) == 1
    assert [(problem.severity, "is not a statistics file" in problem.what) for problem in found.problems] == [
        ("warning", True)
    ]


def test_a_file_and_a_folder_of_this_machine_are_for_the_command_line(
    hub: LoopbackHub, tiny: Models, tmp_path: Path
) -> None:
    """And are files of some machine on the page."""
    path, nobody = gram_file(tmp_path / "g.safetensors", tiny(0)), Hub.anonymous(hub.url)
    (shown,) = look(nobody, str(path), files_allowed=True).summaries
    assert (shown.kind, shown.belongs, shown.source) == ("gram", None, str(path))
    assert shown.lines()[0] == f"Gram matrices (RegMean): {path}"
    assert look(nobody, str(tiny(0)), files_allowed=True).summaries == ()
    with pytest.raises(InputError, match="is a file of some machine"):
        look(nobody, str(path))


@pytest.mark.parametrize(("kind", "reads"), [("bert", "text"), ("t5", "pairs"), ("vit", "images")])
def test_what_a_model_reads_is_told_by_its_config(ann: Hub, put: Put, tiny: Models, kind: str, reads: str) -> None:
    """The page asks for the columns that such a model needs."""
    put(ann, "ann/a", tiny(0, kind=kind, labels=None if kind == "t5" else ("no", "yes")))
    assert look(ann, "ann/a").reads == reads


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nonsense", "'nonsense' names no model. Write owner/name or owner/name@revision."),
        ("ann/none", "ann/none does not exist, or it is private"),
        ("ann/empty", "ann/empty is no model: it has neither config.json nor statistics. Pick another."),
        ("ann/empty:x.safetensors", "ann/empty has no file x.safetensors. Check the path."),
    ],
)
def test_what_is_nothing_is_refused(ann: Hub, name: str, sentence: str) -> None:
    """With the field at fault."""
    ann.api.create_repo("ann/empty")
    with pytest.raises(InputError) as error:
        look(ann, name)
    assert str(error.value).startswith(sentence)
    assert error.value.problem.where == "model"
