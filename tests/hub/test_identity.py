"""Who somebody is and where they may write."""

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub, SignInNeeded
from hub.identity import require_signed_in, whoami, writing_problem
from tests.hub.helpers import SignIn


def test_the_hub_says_who_somebody_is(hub: LoopbackHub, sign_in: SignIn) -> None:
    """Name and organisations come from the Hub; one where the user only reads does not count."""
    ann = sign_in("ann", orgs=["team"])
    hub.add_user("ann", orgs=["library"], role="read")
    identity = whoami(ann)
    assert identity.name == "ann"
    assert identity.namespaces == ("ann", "team")
    assert identity.scopes is None


def test_nobody_is_asked_to_sign_in(hub: LoopbackHub) -> None:
    """Without a token the sentence says what to do."""
    with pytest.raises(SignInNeeded, match=r"Not signed in: a merge is published under your own name. Sign in first."):
        require_signed_in(Hub.anonymous(hub.url))


def test_an_expired_token_is_nobody(hub: LoopbackHub, ann: Hub) -> None:
    """A token that ran out does not count as signed in."""
    hub.expire_token(str(ann.token))
    with pytest.raises(SignInNeeded, match=r"Your sign-in has run out: the Hub refuses it. Sign in again."):
        whoami(ann)


def test_own_namespaces_are_writable(sign_in: SignIn) -> None:
    """Under the own name and organisations there is no problem."""
    identity = whoami(sign_in("ann", orgs=["team"]))
    assert writing_problem(identity, "ann", "x") is None
    assert writing_problem(identity, "team", "x") is None


def test_a_strange_organisation_is_a_problem(sign_in: SignIn) -> None:
    """Where the user may not write, the sentence offers the places where they may."""
    problem = writing_problem(whoami(sign_in("ann", orgs=["team"])), "others", "output.repo_id")
    assert str(problem) == "You may not write to others: you are ann and can write to team. Use your own name, ann."
    assert problem is not None
    assert problem.where == "output.repo_id"


def test_a_reading_token_is_a_problem(sign_in: SignIn) -> None:
    """A token with the role read cannot publish."""
    problem = writing_problem(whoami(sign_in("ann", role="read")), "ann", "x")
    assert str(problem).startswith("Your token can only read: publishing makes a repo.")


def test_a_sign_in_without_the_scope_is_a_problem(sign_in: SignIn) -> None:
    """The scope that publishing needs is named."""
    problem = writing_problem(whoami(sign_in("ann", scopes=["openid", "gated-repos"])), "ann", "x")
    assert str(problem) == (
        "This sign-in may not make repos: the scope contribute-repos was not granted. "
        "Sign in again and grant contribute-repos."
    )


def test_hidden_organisations_are_a_warning(sign_in: SignIn) -> None:
    """A sign-in that does not show organisations cannot tell: a warning, with the scope that would."""
    identity = whoami(sign_in("ann", scopes=["openid", "contribute-repos"], orgs=["team"]))
    problem = writing_problem(identity, "team", "x")
    assert problem is not None
    assert problem.severity == "warning"
    assert "scope read-memberships" in str(problem)
