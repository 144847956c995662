"""The service with sign-in, one of its users with private things, and secrets planted beforehand."""

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi

from demo.loopback_hub import DEFAULT_SCOPES, LoopbackHub
from jobs.tokens import _fernet_key
from merging.checkpoint import sha256_of
from tests.end_to_end.conftest import browser as browser
from tests.jobs.conftest import service as service
from tests.jobs.conftest import workers as workers
from tests.security.planted import ProcessWatch
from tests.served import program, run_job, served
from tests.tiny_models import save_tiny, sentences

LABELS = ("zebrafish", "yakitori", "quokka")
MODELS = ("ana/secret-one", "ana/secret-two")
MERGED = "ana/hidden-result"


@dataclass(frozen=True)
class Guarded:
    """A running app, its Hub, what ana has there, and what nobody else may ever see."""

    url: str
    hub: LoopbackHub
    folder: Path
    token: str  # ana's
    done: dict[str, Any]  # ana's job that has published
    held: str  # the id of ana's job that runs as long as the Hub holds back the weights, whosever they are
    keys: tuple[str, ...]  # of the job store: as it was set, and as it is used
    signing: tuple[str, ...]  # the secret of the sign-in, and that of the cookies, which is made of it
    watch: ProcessWatch  # of all processes, while ana's first job ran
    private: tuple[str, ...]  # words that stand in ana's models, jobs and results alone

    @property
    def planted(self) -> tuple[str, ...]:
        """All that is secret."""
        return (self.token, *self.keys, *self.signing)


def average(repo_id: str, **changes: Any) -> str:
    """A recipe of ana's private models."""
    models = [{"model": model} for model in MODELS]
    return yaml.safe_dump({"merge_method": "average", "models": models, "output": {"repo_id": repo_id}, **changes})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One of ana's jobs has ended and one is running when the tests begin."""
    folder = tmp_path_factory.mktemp("guarded")
    with LoopbackHub(folder / "hub") as hub:
        hub.add_user("ana")
        hub.add_user("bea")
        token = hub.add_token("ana")
        api = HfApi(endpoint=hub.url, token=token)
        shas, bodies = [], []
        for seed, model in enumerate(MODELS):
            api.create_repo(model, private=True)
            place = save_tiny(folder / "models" / str(seed), seed=seed, labels=LABELS, hidden_size=64)
            shas.append(api.upload_folder(repo_id=model, folder_path=place).oid)
            bodies.append(sha256_of(place / "model.safetensors"))
        api.create_repo("ana/gated")
        api.upload_folder(repo_id="ana/gated", folder_path=folder / "models" / "0")
        api.update_repo_settings("ana/gated", gated="manual")
        api.create_repo("ana/texts", private=True, repo_type="dataset")
        rows = "text,label\n" + "".join(f"{text},{LABELS[at % 3]}\n" for at, text in enumerate(sentences(9)))
        api.upload_file(repo_id="ana/texts", repo_type="dataset", path_or_fileobj=rows.encode(), path_in_repo="t.csv")
        key, environment = secrets.token_urlsafe(32), hub.oauth_environment(f"{DEFAULT_SCOPES} read-repos")
        client_secret = environment["OAUTH_CLIENT_SECRET"]
        keys = (key, _fernet_key(key).decode())
        signing = (client_secret, hashlib.sha256(f"{client_secret}-v4".encode()).hexdigest())
        home = folder / "served"
        (home / "tmp").mkdir(parents=True)
        environment |= {"TMPDIR": str(home / "tmp"), "MERGE_SECRET_KEY": key}
        environment |= {"MERGE_LOG": "json", "MERGE_JOB_SLOTS": "2"}
        with served(home, environment) as url:
            client = program(url, token)
            with ProcessWatch([token], (*keys, *signing), signing) as watch:
                done = run_job(client, average(MERGED, evaluate=[{"data": "ana/texts"}]))
            held = client.predict(average("ana/held-back", seed=1), api_name="/submit")["id"]
            hub.set_fault(f"^/_storage/({'|'.join(bodies)})/", whole=True, speed=600, times=None)  # for minutes
            private = (*LABELS, *shas, MERGED, "held-back", done["commit"])
            yield Guarded(url, hub, home, token, done, held, keys, signing, watch, private)
            hub.clear_faults()
