"""Finding models while somebody types."""

import pytest

from demo.loopback_hub import LoopbackHub
from hub import search
from hub.client import Hub, HubUnavailable
from hub.search import fine_tunes_of, search_models
from tests.hub.helpers import Models, Put, SignIn

SEARCH = "GET /api/{kinds}"


def test_a_hit_says_what_the_model_is(ann: Hub, put: Put, tiny: Models) -> None:
    """Task, type and base come with the name."""
    put(ann, "ann/spam-filter", tiny(), card="---\nbase_model: ann/base\n---\n")
    (hit,) = search_models(ann, "spam")
    assert (hit.repo_id, hit.task, hit.model_type, hit.base_model, hit.private) == (
        "ann/spam-filter",
        "text-classification",
        "bert",
        "ann/base",
        False,
    )


def test_one_letter_asks_nobody(hub: LoopbackHub, ann: Hub) -> None:
    """Too short a query finds nothing and costs nothing."""
    hub.reset_counters()
    assert search_models(ann, " a ") == []
    assert hub.counters()["requests"] == {}


def test_an_owner_can_be_looked_through(ann: Hub, sign_in: SignIn, put: Put, tiny: Models) -> None:
    """`owner/na` finds that owner's models alone."""
    put(ann, "ann/filter", tiny())
    put(sign_in("bob"), "bob/filter", tiny())
    assert [hit.repo_id for hit in search_models(ann, "bob/fil")] == ["bob/filter"]
    assert {hit.repo_id for hit in search_models(ann, "filter")} == {"ann/filter", "bob/filter"}


def test_answers_are_kept_but_never_for_another(
    hub: LoopbackHub, ann: Hub, sign_in: SignIn, put: Put, tiny: Models
) -> None:
    """The same question is asked once a user; a private model of one is not found by another."""
    put(ann, "ann/secret-filter", tiny(), private=True)
    hub.reset_counters()
    assert len(search_models(ann, "secret")) == len(search_models(ann, "SECRET")) == 1
    assert sum(count for route, count in hub.counters()["requests"].items() if route.startswith("GET")) == 1
    assert search_models(sign_in("bob"), "secret") == []
    assert search_models(Hub.anonymous(hub.url), "secret") == []


def test_fine_tunes_of_a_base_are_found(ann: Hub, put: Put, tiny: Models) -> None:
    """Models that name the base are suggested, others are not."""
    put(ann, "ann/one", tiny(), card="---\nbase_model: ann/base\n---\n")
    put(ann, "ann/other", tiny())
    assert [hit.repo_id for hit in fine_tunes_of(ann, "ann/base")] == ["ann/one"]
    assert fine_tunes_of(ann, "no-owner") == []


def test_nobody_uses_up_what_the_hub_allows(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many searches of one person in five minutes, kept answers not counted; others are not held up."""
    monkeypatch.setattr(search, "MOST_ASKED", 3)
    hub.add_user("ann")
    ann, other = Hub(hub.url, hub.add_token("ann")), Hub(hub.url, hub.add_token("ann"))
    for letters in ("aa", "ab", "ac", "aa"):
        search_models(ann, letters)
    hub.reset_counters()
    with pytest.raises(HubUnavailable, match="Too many searches: 3 in five minutes"):
        search_models(ann, "ad")
    assert hub.counters()["requests"] == {}
    search_models(ann, "ab")
    search_models(other, "ad")
