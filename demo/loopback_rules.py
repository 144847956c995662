"""Who may do what on the loopback Hub: roles in organisations, private and gated repos, scopes of tokens.

A classic token may do all that its user may. A token that came by OAuth carries scopes:

    openid, profile      nothing but the name               read-repos         read own private repos
    gated-repos          read public gated repos that the user was let into
    contribute-repos     create repos; read and write those that this app created, and no others
    write-repos          read and write own repos           manage-repos       the same, create, settings
    write-discussions    open pull requests and comment     read-memberships   see the user's organisations

A missing scope is 403 with the scope named, but a private repo that may not be read looks like none at all.
Not covered: resource groups, tokens tied to single repos, protected Spaces.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from demo.loopback_store import HubError, Repo, Store, repo_not_found

OWN_READ = ("read-repos", "write-repos", "manage-repos")
OWN_WRITE = ("write-repos", "manage-repos")
WRITERS = ("admin", "write")


@dataclass(frozen=True)
class Caller:
    """Who asks, and with what token. Nobody when `user` is None."""

    store: Store
    user: str | None = None
    token: dict[str, Any] = field(default_factory=dict)

    @property
    def client(self) -> str | None:
        """The OAuth app that the token was given to."""
        return self.token.get("client")

    @property
    def scopes(self) -> list[str] | None:
        """None for a classic token, which has them all."""
        return self.token.get("scopes")

    @property
    def orgs(self) -> dict[str, str]:
        """Organisation -> role, as far as the user let this token reach them."""
        if self.user is None:
            return {}
        granted = self.token.get("orgs")
        orgs: dict[str, str] = self.store.users[self.user]["orgs"]
        return {name: role for name, role in orgs.items() if granted is None or name in granted}

    def has(self, *scopes: str) -> bool:
        """Whether the token carries one of these scopes."""
        return self.user is not None and (self.scopes is None or any(scope in self.scopes for scope in scopes))

    def role(self, owner: str) -> str | None:
        """The user's role in a namespace; everybody is the admin of their own."""
        return "admin" if owner == self.user else self.orgs.get(owner)

    def made_here(self, repo: Repo) -> bool:
        """Whether the app that asks created this repo and may still touch it."""
        return self.client is not None and repo.client == self.client and self.has("contribute-repos")

    def sees(self, repo: Repo) -> bool:
        """Whether the repo exists for this caller."""
        if not repo.private:
            return True
        return self.role(repo.owner) is not None and (self.has(*OWN_READ) or self.made_here(repo))

    def reads(self, repo: Repo) -> bool:
        """Whether the files of a repo that the caller sees are open to them."""
        if not repo.gated:
            return True
        if self.role(repo.owner) is not None and (self.has("gated-repos", *OWN_READ) or self.made_here(repo)):
            return True
        return self.user in repo.access and self.has("gated-repos")

    def may_write(self, repo: Repo) -> bool:
        """Whether the caller may commit to the repo."""
        role = self.role(repo.owner)
        allowed = role in WRITERS or (role == "contributor" and repo.author == self.user)
        return allowed and not self._read_only and (self.has(*OWN_WRITE) or self.made_here(repo))

    @property
    def _read_only(self) -> bool:
        return self.token.get("role") == "read"

    # The same as demands

    def need_user(self) -> str:
        """The user's name; nobody is refused."""
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user

    def need_scope(self, *scopes: str) -> None:
        """One of the scopes."""
        self.need_user()
        if self._read_only:
            raise HubError(403, "You need to provide a token with write role")
        if not self.has(*scopes):
            raise HubError(403, f"This token is missing required scope: {' or '.join(scopes)}")

    def need_sight(self, repo: Repo | None) -> Repo:
        """The repo, if it exists for this caller."""
        if repo is None or not self.sees(repo):
            raise repo_not_found(401 if self.user is None else 404)
        return repo

    def need_read(self, repo: Repo) -> None:
        """The files."""
        if self.reads(repo):
            return
        reason = "You must have access to it and be authenticated to access it. Please log in."
        if self.user in repo.access or self.role(repo.owner) is not None:
            reason = "This token is missing required scope: gated-repos"
        elif self.user is not None:
            reason = f"Visit {repo.path} to ask for access."
        status = 401 if self.user is None else 403
        message = f"Access to {repo.kind} {repo.id} is restricted and you are not in the authorized list. {reason}"
        raise HubError(status, message, "GatedRepo")

    def need_write(self, repo: Repo) -> None:
        """Commits."""
        self.need_user()
        if self.may_write(repo):
            return
        if self.role(repo.owner) in WRITERS or repo.author == self.user:
            self.need_scope(*OWN_WRITE, *(["contribute-repos"] if self.client == repo.client else []))
        raise HubError(403, f"You don't have the rights to write to {repo.kind} {repo.id}")

    def need_create(self, owner: str) -> None:
        """A new repo in a namespace."""
        self.need_scope("contribute-repos", "manage-repos")
        if self.role(owner) not in (*WRITERS, "contributor"):
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')

    def need_manage(self, repo: Repo) -> None:
        """Settings, moving, deleting."""
        self.need_scope("manage-repos")
        if self.role(repo.owner) != "admin":
            raise HubError(403, f"You don't have the rights to change the settings of {repo.id}")

    def need_discuss(self, repo: Repo) -> None:
        """Opening pull requests and commenting: anybody who sees the repo and has the scope."""
        self.need_user()
        if not self.may_write(repo):
            self.need_scope("write-discussions")


def caller_of(store: Store, authorization: str | None) -> Caller:
    """Who a request comes from. An unknown or expired token is refused, never taken for nobody."""
    if not authorization:
        return Caller(store)
    token = store.tokens.get(authorization.removeprefix("Bearer ").strip())
    if token is None or (token["expires"] is not None and token["expires"] < time.time()):
        raise HubError(401, "Invalid credentials in Authorization header")
    return Caller(store, token["user"], token)
