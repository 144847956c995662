"""Answers that may be shared are asked for once; what belongs to one person is never another's."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.service import JobService
from merging.errors import InputError
from merging.recipe import Recipe, RecipeError, recipe_from_dict
from settings import Settings
from tests.tiny_models import save_tiny
from ui.desk import Desk, Turns
from ui.security import Access

CALLS_PER_MODEL = 2  # of the API: may it be read, and what is in it
FILES_PER_MODEL = 7  # config, tokenizer's small files, length and header of the weights


@pytest.fixture
def desk(hub: LoopbackHub, tmp_path: Path) -> Iterator[Desk]:
    """A desk over a Hub with two models of ana's, one of them private."""
    hub.add_user("ana")
    api = HfApi(endpoint=hub.url, token=hub.add_token("ana"))
    for seed, name in enumerate(("one", "two")):
        api.create_repo(f"ana/{name}", private=name == "two")
        api.upload_folder(repo_id=f"ana/{name}", folder_path=save_tiny(tmp_path / name, seed=seed))
    service = JobService(Settings(home=tmp_path / "home"))
    yield Desk(service, Access(hub.url, single_user=True))
    service.close()


def a_recipe(weight: float = 1.0, **output: str) -> Recipe:
    """The average of both models."""
    models = [{"model": "ana/one", "parameters": {"weight": weight}}, {"model": "ana/two"}]
    return recipe_from_dict({"merge_method": "average", "models": models, "output": output})


def test_a_changed_weight_asks_the_hub_nothing_new(hub: LoopbackHub, desk: Desk) -> None:
    """As somebody types weights, only the arithmetic is done again."""
    ana = Hub(hub.url, hub.add_token("ana"))
    first = desk.preview(a_recipe(repo_id="ana/merged"), ana)
    assert not first.errors
    before = sum(hub.counters()["requests"].values())
    second = desk.preview(a_recipe(3.0, repo_id="ana/merged"), ana)
    assert sum(hub.counters()["requests"].values()) == before + 1  # whether the name is still free
    assert second.weights == (0.75, 0.25)
    assert second.recipe.models[0].parameters == {"weight": 3.0}
    assert second.recipe.models[0].model == first.recipe.models[0].model


def test_what_one_person_may_see_another_may_not(hub: LoopbackHub, desk: Desk) -> None:
    """A private model that ana has just previewed stays unknown to everybody else."""
    assert not desk.preview(a_recipe(repo_id="ana/merged"), Hub(hub.url, hub.add_token("ana"))).errors
    hub.add_user("bea")
    for other in (Hub.anonymous(hub.url), Hub(hub.url, hub.add_token("bea"))):
        found = desk.preview(a_recipe(repo_id="bea/merged"), other)
        assert "ana/two does not exist, or it is private" in str(found.errors[0])
        assert found.found[1] is None


def test_nobodys_preview_says_nothing_of_the_output(hub: LoopbackHub, desk: Desk) -> None:
    """Signing in comes later, at the button."""
    found = desk.preview(a_recipe(repo_id="ana/one"), Hub.anonymous(hub.url))
    assert all(not problem.where.startswith("output") for problem in found.problems)


def test_a_fault_of_the_form_hides_none_of_a_model(hub: LoopbackHub, desk: Desk) -> None:
    """A value out of its range and a model that nobody may see are told together; the models of a sound form are not
    looked up for it.
    """
    wish = {"merge_method": "regmean", "models": ["ana/one", "ana/two"], "parameters": {"alpha": 2}}
    with pytest.raises(InputError) as caught:
        desk.recipe(partial(recipe_from_dict, wish), Hub.anonymous(hub.url))
    assert [problem.where for problem in caught.value.problems] == ["parameters.alpha", "models.1.model"]
    assert isinstance(caught.value, RecipeError)
    assert caught.value.rest is not None  # so that the form shows what is known of its models
    assert [entry.model for entry in caught.value.rest.models] == ["ana/one", "ana/two"]
    before = sum(hub.counters()["requests"].values())
    assert desk.recipe(a_recipe, Hub.anonymous(hub.url)) == a_recipe()
    assert sum(hub.counters()["requests"].values()) == before


def test_only_the_newest_question_of_a_session_is_answered() -> None:
    """Sessions do not outdate each other; one that is long forgotten is answered."""
    turns = Turns(most=2)
    for session, turn in (("a", 2), ("b", 1), ("a", 1)):
        turns.take(session, turn)
    assert not turns.newest("a", 1)
    assert turns.newest("a", 2)
    assert turns.newest("b", 1)
    turns.take("c", 1)
    assert turns.newest("b", 1)


def test_another_base_is_another_question(hub: LoopbackHub, desk: Desk, tmp_path: Path) -> None:
    """What was found of one base is not said of the next; the same one is not looked up again."""
    ana = Hub(hub.url, hub.add_token("ana"))
    ana.api.create_repo("ana/base")
    ana.api.upload_folder(repo_id="ana/base", folder_path=save_tiny(tmp_path / "base", seed=5, labels=None))

    def on(base: str) -> Recipe:
        return a_recipe().model_copy(update={"merge_method": "task_arithmetic", "base_model": base})

    assert "ana/none does not exist" in str(desk.preview(on("ana/none"), ana).errors[0])
    found = desk.preview(on("ana/base"), ana)
    assert [problem.where for problem in found.errors] == ["output.repo_id"]  # no name yet
    assert found.base is not None
    before = sum(hub.counters()["requests"].values())
    desk.preview(on("ana/base"), ana)
    assert sum(hub.counters()["requests"].values()) == before


def test_a_preview_costs_a_bounded_number_of_calls(hub: LoopbackHub, desk: Desk) -> None:
    """For each model two calls of the API and a few small files, however often its weights are changed afterwards."""
    ana = Hub(hub.url, hub.add_token("ana"))
    hub.reset_counters()
    desk.preview(a_recipe(repo_id="ana/merged"), ana)
    requests = hub.counters()["requests"]
    of_models = sum(count for route, count in requests.items() if route.startswith("GET /api/models/{owner}"))
    files = sum(count for route, count in requests.items() if "/resolve/" in route)
    assert of_models <= 2 * CALLS_PER_MODEL + 1  # and whether the name is free
    assert files <= 2 * FILES_PER_MODEL
    assert sum(requests.values()) <= 2 * (CALLS_PER_MODEL + 2 * FILES_PER_MODEL) + 2  # a redirect each; who asks
    for weight in range(20):
        desk.preview(a_recipe(weight, repo_id="ana/merged"), ana)
    assert sum(hub.counters()["requests"].values()) <= sum(requests.values()) + 20
