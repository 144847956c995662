"""What keeps a service up: readiness with reasons, pages made once, uploads bounded, requests without secrets."""

import asyncio
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.testclient import TestClient

from hub import patience
from hub.client import Hub
from jobs import ready
from jobs.logs import JsonLines
from jobs.service import JobService
from settings import Settings
from ui import uploads as uploads_module
from ui.bodies import BODY, TOO_MANY, BodyLimit
from ui.bodies import TOO_LARGE as BODY_TOO_LARGE
from ui.desk import Desk
from ui.kept import MOST, KeptPages
from ui.page import AWAY, greeting
from ui.request_log import RequestLog
from ui.security import Access
from ui.shared import SharedLook
from ui.uploads import REFUSAL, REQUEST, TOO_LARGE, UploadLimit, Uploads


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    """The jobs of a home without a worker."""
    running = JobService(Settings(home=tmp_path / "home"))
    yield running
    running.close()


@pytest.mark.slow
def test_a_service_says_why_it_is_not_ready(
    service: JobService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker; a full disk; a job store that somebody else has locked, which keeps nobody waiting for long."""
    assert service.not_ready() == ("No worker is running.",)
    monkeypatch.setattr(service._readiness, "_reserve", 1 << 60)
    assert [sentence[:32] for sentence in service.not_ready()] == [
        "No worker is running.",
        "The disk of this service is full",
    ]
    lock = service._store.executor_lock("other:0")
    assert lock.acquire()
    monkeypatch.setattr(service._readiness, "_reserve", 1)
    assert service.not_ready() == ()
    lock.release()
    monkeypatch.setattr(ready, "PATIENCE", 0.3)
    other = sqlite3.connect(tmp_path / "home" / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    assert service.not_ready() == service.not_ready() == ("The job store does not answer.",)
    assert time.monotonic() - began < 2
    other.execute("ROLLBACK")
    other.close()
    monkeypatch.setattr(ready, "PATIENCE", 20)  # for the look that is under way
    assert service.not_ready() == ("No worker is running.",)


def test_a_page_opens_while_the_hub_is_away(service: JobService) -> None:
    """Its header says that nobody knows who is signed in: no error, no traceback."""
    desk = Desk(service, Access("http://127.0.0.1:9", single_user=True))
    before = patience.be(patience.Patience(trouble=0.0))
    try:
        assert greeting(desk, Hub("http://127.0.0.1:9", "hf_" + "a" * 20)) == AWAY
    finally:
        patience.be(before)
    assert greeting(desk, Hub.anonymous("http://127.0.0.1:9")).startswith("<p>Not signed in")


def test_a_look_is_shared_and_kept() -> None:
    """Fifty who ask at once are one look; its answer is good for a while; a look that failed is made again."""
    looks: list[int] = []

    def look() -> int:
        looks.append(1)
        time.sleep(0.05)
        if len(looks) == 1:
            raise ValueError
        return len(looks)

    async def ask(shared: SharedLook[int]) -> None:
        assert {type(one) for one in await asyncio.gather(shared.get(), return_exceptions=True)} == {ValueError}
        assert set(await asyncio.gather(*(shared.get() for _ in range(50)))) == {2}
        assert await shared.get() == 2

    with ThreadPoolExecutor(1) as pool:  # this thread may have a loop already, of a browser
        pool.submit(asyncio.run, ask(SharedLook(look, 60))).result()
    assert len(looks) == 2


class Framework:
    """An application that counts how often it made a page."""

    def __init__(self) -> None:
        self.made = 0
        self.app = FastAPI()
        self.app.add_middleware(KeptPages)

        @self.app.get("/")
        @self.app.get("/jobs")
        def page(request: Request) -> HTMLResponse:
            self.made += 1
            answer = HTMLResponse(f"page {self.made} at {request.url.netloc}")
            if "cookie-please" in request.headers:
                answer.set_cookie("a", "b")
            return answer

        @self.app.get("/config")
        def config() -> JSONResponse:
            self.made += 1
            return JSONResponse({"made": self.made})


def test_a_page_is_made_once_for_each_address() -> None:
    """Whatever its query; what sets a cookie, other pages by query, and all that is no page are made anew."""
    framework = Framework()
    client = TestClient(framework.app)
    first = client.get("/").text
    assert client.get("/", params={"recipe": "x"}).text == first
    assert framework.made == 1
    assert client.get("/jobs").text != first
    assert client.get("/", headers={"host": "other"}).text == "page 3 at other"
    assert client.get("/", params={"page": "jobs"}).text != first
    assert client.get("/config").json() != client.get("/config").json()
    assert framework.made == 6
    for number in range(MOST):
        client.get("/", headers={"host": f"stranger{number}"})
    assert client.get("/").text != first
    framework = Framework()
    client = TestClient(framework.app)
    asking = {"cookie-please": "1"}
    assert client.get("/", headers=asking).text != client.get("/", headers=asking).text


def test_uploads_are_bounded_and_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full folder refuses the next one in a sentence; what is an hour old goes, whoever left it; nothing else."""
    monkeypatch.setattr(uploads_module, "LOOK_KEPT", 0.0)
    uploads = Uploads(tmp_path / "uploads", most=10_000, hours=1)
    app = FastAPI()
    app.add_middleware(UploadLimit, uploads=uploads)
    taken: list[int] = []

    @app.post("/gradio_api/upload")
    async def upload(request: Request) -> JSONResponse:
        taken.append(len(await request.body()))
        return JSONResponse({})

    client = TestClient(app)
    assert client.post("/gradio_api/upload", content=b"x").status_code == 200
    for content in (b"x" * (REQUEST + 1), iter([b"x"])):  # the latter does not tell its length
        refused = client.post("/gradio_api/upload", content=content)
        assert (refused.status_code, refused.text) == (413, TOO_LARGE)
    in_pieces = {"transfer-encoding": "chunked", "content-length": "1"}  # the server reads all pieces
    refused = client.post("/gradio_api/upload", content=b"x", headers=in_pieces)
    assert (refused.status_code, refused.text) == (413, TOO_LARGE)
    folder = tmp_path / "uploads" / "abc"
    folder.mkdir()
    (folder / "text.csv").write_bytes(b"x")
    assert not uploads.full
    (folder / "empty.csv").touch()
    refused = client.post("/gradio_api/upload", content=b"x")
    assert (refused.status_code, refused.text) == (413, REFUSAL)
    assert taken == [1]
    assert uploads.sweep() == 0
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "uploads" / "link").symlink_to(outside)
    for path in (folder, tmp_path / "uploads" / "link"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert uploads.sweep() == 2
    assert not folder.exists()
    assert outside.is_dir()
    assert client.post("/gradio_api/upload", content=b"x").status_code == 200
    full = Uploads(tmp_path / "uploads", most=10_000, hours=1, reserve=1 << 60)
    assert full.full


def test_a_request_is_one_line_without_query_or_ids(caplog: pytest.LogCaptureFixture) -> None:
    """A recipe in a link, a session's id, a file's name: none of them is written."""
    app = FastAPI()
    app.add_middleware(RequestLog)

    @app.get("/{path:path}")
    def any_path(path: str) -> JSONResponse:
        return JSONResponse({}, 500 if path == "broken" else 200)

    client = TestClient(app)
    caplog.set_level(logging.INFO, "request")
    paths = ("/?recipe=SECRET", "/gradio_api/heartbeat/SECRET", "/gradio_api/file=/tmp/SECRET", "/model?id=SECRET")
    for path in (*paths, "/assets/x.js", "/health", "/broken"):
        client.get(path)
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "request"]
    assert [(line["path"], line["status"], line["level"]) for line in lines] == [
        ("/", 200, "info"),
        ("/gradio_api/heartbeat", 200, "info"),
        ("/gradio_api/file", 200, "info"),
        ("/model", 200, "info"),
        ("/broken", 500, "warning"),
    ]
    assert "SECRET" not in json.dumps(lines)
    assert all(line["method"] == "GET" and line["seconds"] >= 0 for line in lines)


def test_a_body_is_bounded_before_it_is_parsed() -> None:
    """By its length, told or not, and by what stands outside its texts; a long text passes as it is."""
    app, taken = FastAPI(), list[int]()
    app.add_middleware(BodyLimit, besides="/upload")

    @app.post("/{name}")
    async def take(name: str, request: Request) -> JSONResponse:
        taken.append(len(await request.body()))
        return JSONResponse({})

    client = TestClient(app)
    text = json.dumps({"data": ['a, "b" [c] {d}\n\\' * 400_000], "fn_index": 3}).encode()
    for content in (text, iter([text]), b"", b'"' + b"\\" * (BODY - 1)):
        assert client.post("/join", content=content).status_code == 200
    for content in (b"x" * (BODY + 1), iter([b"x" * BODY, b"x"])):
        refused = client.post("/join", content=content)
        assert (refused.status_code, refused.json()) == (413, {"detail": BODY_TOO_LARGE})
    for content in (b"[" + b"[]," * 20_000 + b"1]", b'["' + b'","' * 20_000 + b'"]', b'"' * (BODY - 1)):
        refused = client.post("/join", content=content)
        assert (refused.status_code, refused.json()) == (413, {"detail": TOO_MANY})
        assert client.post("/upload", content=content).status_code == 200
    assert taken[:2] == [len(text)] * 2
