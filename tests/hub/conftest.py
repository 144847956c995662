"""Users and models on the loopback Hub, for the tests of `hub/`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.loopback_hub import LoopbackHub
from hub import search
from hub.client import Hub
from tests.hub.helpers import Models, Put, SignIn
from tests.tiny_models import save_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """`tiny(seed, **what)`: the folder of a tiny model, made once; do not write into it."""
    root, made = tmp_path_factory.mktemp("tiny"), {}

    def make(seed: int = 0, **what: Any) -> Path:
        key = f"{seed}-{sorted(what.items())}"
        if key not in made:
            made[key] = save_tiny(root / str(len(made)), seed=seed, **what)
        return made[key]

    return make


@pytest.fixture(autouse=True)
def _forget_searches() -> Iterator[None]:
    """Answers kept from another test's Hub would be of no use."""
    search._answers.__init__()  # type: ignore[misc]
    return


@pytest.fixture
def sign_in(hub: LoopbackHub) -> SignIn:
    """`sign_in("ann", scopes=[...], orgs=[...])`: the Hub as that user sees it."""

    def make(name: str, scopes: Sequence[str] | None = None, orgs: Sequence[str] = (), **token: Any) -> Hub:
        hub.add_user(name, orgs=orgs)
        known = None if scopes is None else frozenset(scopes)
        return Hub(hub.url, hub.add_token(name, scopes, **token), known)

    return make


@pytest.fixture
def ann(sign_in: SignIn) -> Hub:
    """The Hub as ann sees it, with a classic token."""
    return sign_in("ann")


@pytest.fixture
def put(tiny: Models) -> Put:
    """`put(hub, "ann/a", folder, private=..., card=...)`: a model repo; its commit."""

    def make(owner: Hub, repo_id: str, folder: Path, *, private: bool = False, card: str = "") -> str:
        owner.api.create_repo(repo_id, private=private)
        if card:
            owner.api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo_id)
        return str(owner.api.upload_folder(repo_id=repo_id, folder_path=folder).oid)

    return make
