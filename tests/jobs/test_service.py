"""What the page and the command line ask of the jobs, on a real Hub; one whole job with a sign-in that runs out."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.loopback_hub import LoopbackHub
from hub.client import Hub
from jobs.job import JobFolder
from jobs.service import JobService
from merging.errors import InputError
from merging.recipe import Recipe, recipe_from_dict
from tests.jobs.processes import TOKEN, Workers, ended, queue, trace, wait_for
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow  # real processes or a Hub of its own for each test

SignIn = Callable[[str], Hub]


@pytest.fixture
def sign_in(hub: LoopbackHub) -> SignIn:
    """`sign_in("ann")`: the Hub as that user sees it."""

    def make(name: str) -> Hub:
        hub.add_user(name)
        return Hub(hub.url, hub.add_token(name))

    return make


@pytest.fixture
def ann(sign_in: SignIn, tmp_path: Path) -> Hub:
    """The Hub as ann sees it, who has two models there."""
    made = sign_in("ann")
    for index in (0, 1):
        made.api.create_repo(f"ann/m{index}")
        folder = save_tiny(tmp_path / f"m{index}", seed=index)
        made.api.upload_folder(repo_id=f"ann/m{index}", folder_path=folder)
    return made


def average(**changes: Any) -> Recipe:
    """The average of both models."""
    recipe = {
        "merge_method": "average",
        "models": [{"model": "ann/m0"}, {"model": "ann/m1"}],
        "output": {"repo_id": "ann/merged"},
    }
    return recipe_from_dict(recipe | changes)


def test_a_submission_is_one_job_however_often_it_arrives(service: JobService, ann: Hub) -> None:
    """The same user, recipe and nonce; another job for a repo that one is making already is refused."""
    first = service.submit(average(), ann, nonce="click")
    assert service.submit(average(), ann, nonce="click").id == first.id
    with pytest.raises(InputError, match=r"A job of yours is making ann/merged already: job .* is waiting"):
        service.submit(average(), ann, nonce="again")
    assert [job.id for job in service.list("ann")] == [first.id]
    assert (first.status, first.repo_id, first.models) == ("waiting", "ann/merged", ("ann/m0", "ann/m1"))
    assert [stage.status for stage in first.stages] == ["waiting"] * 7


def test_a_click_that_comes_twice_at_once_is_one_job(service: JobService, ann: Hub) -> None:
    """Both are checked at the same time, and both get the job."""
    with ThreadPoolExecutor(4) as clicks:
        found = list(clicks.map(lambda _: service.submit(average(), ann, nonce="click").id, range(4)))
    assert len(set(found)) == 1
    assert [job.id for job in service.list("ann")] == found[:1]


def test_a_preview_is_cheap_and_complete(service: JobService, ann: Hub, hub: LoopbackHub) -> None:
    """Pinned revisions, a plan, the shares; no byte of weights."""
    hub.reset_counters()
    preview = service.preview(average(), ann)
    assert preview.errors == ()
    assert preview.weights == (0.5, 0.5)
    assert all(len(entry.revision or "") == 40 for entry in preview.recipe.models)
    assert len(preview.plan.steps) > 30
    counted = hub.counters()
    assert counted["weight_bytes"] - counted["spilled_bytes"] == 0


def test_all_that_is_wrong_is_said_at_once(service: JobService, ann: Hub) -> None:
    """Before anything is queued."""
    wish = average(models=[{"model": "ann/none"}, {"model": "ann/m1"}], output={"repo_id": "ann/m0"})
    with pytest.raises(InputError) as caught:
        service.submit(wish, ann)
    wheres = {problem.where for problem in caught.value.problems}
    assert wheres == {"models.0.model", "output.repo_id"}
    assert service.list("ann") == []
    assert service._store.tokens.refs() == []


def test_nobody_in_particular_cannot_submit(service: JobService, hub: LoopbackHub) -> None:
    """A merge is published under a name."""
    with pytest.raises(InputError, match="Not signed in"):
        service.submit(average(), Hub.anonymous(hub.url))


def test_a_user_has_a_limit_of_jobs(workers: Workers, ann: Hub) -> None:
    """Waiting and running ones count, ended ones do not."""
    service = JobService(workers.settings.model_copy(update={"jobs_per_user": 2}))
    wishes = [average(output={"repo_id": f"ann/{name}"}) for name in "abc"]
    first, _ = service.submit(wishes[0], ann), service.submit(wishes[1], ann)
    with pytest.raises(InputError, match="You have 2 jobs waiting or running: each user may have 2"):
        service.submit(wishes[2], ann)
    service.cancel(first.id, "ann")
    assert service.submit(wishes[2], ann).status == "waiting"
    service.close()


def test_a_foreign_job_answers_like_an_unknown_one(service: JobService, sign_in: SignIn) -> None:
    """Every call that takes an id."""
    queue(service, "job1", user="ann")
    bob = sign_in("bob")
    calls: list[Callable[[str], Any]] = [
        lambda id: service.get(id, "bob"),
        lambda id: service.log(id, "bob"),
        lambda id: service.report(id, "bob"),
        lambda id: service.cancel(id, "bob"),
        lambda id: service.go_on(id, bob),
    ]
    for call in calls:
        said = []
        for id in ("job1", "job2"):
            with pytest.raises(InputError) as caught:
                call(id)
            said.append(str(caught.value).replace(id, "ID"))
        assert said[0] == said[1]
        assert said[0].startswith("There is no such job")
    assert service.list("bob") == []
    assert service.get("job1", "ann").status == "waiting"
    with pytest.raises(InputError, match="There is no such job"):
        service.get("../../etc", "ann")


def test_ended_jobs_expire_with_their_files(workers: Workers, service: JobService) -> None:
    """After keep_days, not before, and not what still waits."""
    workers.start()
    done = ended(service, queue(service, "job1"))
    folder = JobFolder(workers.home, done.id)
    assert service.clean_expired(time.time() + 6 * 86400) == 0
    assert folder.log.exists()
    assert service.clean_expired(time.time() + 8 * 86400) == 1
    assert not folder.path.exists()
    assert service.list("ann") == []


def test_one_user_runs_one_job_at_a_time_and_all_run(workers: Workers, service: JobService) -> None:
    """Jobs of one user wait for each other; history is newest first and each ran once."""
    ids = [queue(service, f"job{number}") for number in range(3)]
    workers.start()
    for id in ids:
        assert ended(service, id).status == "done"
        assert trace(workers.home, id) == ["pin", "fetch", "calibrate", "merge", "check", "publish"]
    assert {job.id for job in service.list("ann")} == set(ids)


@pytest.mark.slow
def test_a_sign_in_that_ran_out_keeps_the_result(
    workers: Workers, service: JobService, ann: Hub, hub: LoopbackHub, sign_in: SignIn
) -> None:
    """The job says so and keeps what was done; after a new sign-in it goes on from there, and is published once."""
    assert isinstance(ann.token, str)
    workers.start(fake=False)
    hub.set_fault(r"/resolve/.*/tokenizer.json", delay=1.0, times=None)
    id = service.submit(average(), ann).id
    wait_for(lambda: service.get(id, "ann").stage == "fetch", 90)
    hub.expire_token(ann.token)
    job = ended(service, id, seconds=90)
    assert (job.status, job.resumable, job.publishable, job.stage) == ("failed", True, False, "fetch")
    hub.clear_faults()
    second = Hub(hub.url, hub.add_token("ann"))
    assert service.go_on(id, second).status in ("waiting", "running")
    wait_for(lambda: service.get(id, "ann").stage == "check", 90, 0.1)
    hub.expire_token(str(second.token))
    job = ended(service, id, seconds=90)
    assert (job.status, job.publishable, job.url) == ("failed", True, "")
    assert job.error.startswith("Your sign-in has run out")
    again = Hub(hub.url, hub.add_token("ann"))
    assert service.go_on(id, again).status in ("waiting", "running")
    job = ended(service, id, seconds=90)
    assert (job.status, job.url) == ("done", f"{hub.url}/ann/merged")
    starts = [line["stage"] for line in service.log(id, "ann") if "started on" in line["message"]]
    assert starts == ["pin", "fetch", "fetch", "merge", "check", "publish", "publish", "clean"]
    assert len(again.api.list_repo_commits("ann/merged")) == 2
    files = [path for path in workers.home.rglob("*") if path.is_file()]
    secrets = [token.encode() for token in (ann.token, str(second.token), str(again.token), TOKEN)]
    assert [path for path in files if any(secret in path.read_bytes() for secret in secrets)] == []
    with pytest.raises(InputError, match="This job has no result to publish"):
        service.go_on(id, again)
