"""Who is signed in, and where that person may write. Always from the Hub, never from what a browser claims."""

from dataclasses import dataclass
from typing import Any

from hub.client import LOG_IN, Hub, SignInNeeded, explained
from merging.errors import InputError, Problem

WRITING_ROLES = ("admin", "write", "contributor")
CREATE_SCOPES = ("contribute-repos", "manage-repos")


@dataclass(frozen=True)
class Identity:
    """The owner of a token. `organisations` are those where new repos may be made, as far as the token shows."""

    name: str
    organisations: tuple[str, ...] = ()
    scopes: frozenset[str] | None = None  # None: all that the user may do, or not known
    read_only: bool = False
    by_oauth: bool = False

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Where this person may make repos: the own name first."""
        return (self.name, *self.organisations)

    @property
    def sees_organisations(self) -> bool:
        """False when the sign-in may hide organisations from us, so that none being listed says nothing."""
        return not self.by_oauth or bool(self.organisations) or "read-memberships" in (self.scopes or ())


def require_signed_in(hub: Hub) -> Identity:
    """The owner of the token. Raises SignInNeeded without one, or when it has run out."""
    if not hub.signed_in:
        raise SignInNeeded("Not signed in", "a merge is published under your own name", hub.advice("Sign in first"))
    with explained(hub, "your account"):
        facts = hub.api.whoami(cache=False)
    auth: dict[str, Any] = facts.get("auth") or {}
    organisations = [
        str(org["name"]) for org in facts.get("orgs") or [] if org.get("roleInOrg", "write") in WRITING_ROLES
    ]
    token = auth.get("accessToken") or {}
    return Identity(
        name=str(facts["name"]),
        organisations=tuple(sorted(organisations)),
        scopes=hub.scopes,
        read_only=token.get("role") == "read",
        by_oauth="accessToken" not in auth,
    )


whoami = require_signed_in  # whoever asks who somebody is needs them signed in


def writing_problem(identity: Identity, owner: str, where: str) -> Problem | None:
    """Why this person cannot make a repo under `owner`; None when they can, a warning when it cannot be known."""
    if identity.read_only:
        return Problem("Your token can only read", "publishing makes a repo", f"{LOG_IN} to one that writes", where)
    if identity.scopes is not None and not identity.scopes & set(CREATE_SCOPES):
        return Problem(
            "This sign-in may not make repos",
            "the scope contribute-repos was not granted",
            "Sign in again and grant contribute-repos",
            where,
        )
    if owner in identity.namespaces:
        return None
    if not identity.sees_organisations:
        return Problem(
            f"Whether you may write to {owner} is not known yet",
            "this sign-in does not show your organisations (scope read-memberships)",
            "Publish under your own name if you are not sure",
            where,
            "warning",
        )
    return Problem(
        f"You may not write to {owner}",
        f"you are {identity.name}" + _also(identity.organisations),
        f"Use your own name, {identity.name}",
        where,
    )


def _also(organisations: tuple[str, ...]) -> str:
    return f" and can write to {', '.join(organisations[:5])}" if organisations else ""


def raise_unless_writable(identity: Identity, owner: str, where: str) -> None:
    """InputError when `writing_problem` finds an error."""
    problem = writing_problem(identity, owner, where)
    if problem is not None and problem.severity == "error":
        raise InputError.of([problem])
