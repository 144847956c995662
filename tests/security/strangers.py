"""Everything that the page can be asked, as the app's own config lists it: for tests that ask it as somebody else."""

import base64
import html
import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.security.planted import files_with, found_in

PAGES = ("/", "/jobs", "/statistics", "/methods", "/model", "/health", "/ready", "/config")
SERVER = {"state"}  # kinds of components whose value the server keeps: what a caller sends is not looked at


@dataclass(frozen=True)
class Endpoint:
    """One event of the page: its number, its name, and the kinds and properties of its inputs."""

    index: int
    name: str
    inputs: tuple[tuple[str, Mapping[str, Any]], ...]

    def data(self, text: str) -> list[Any]:
        """A value for each input, `text` wherever a text can be."""
        return [_value(kind, props, text) for kind, props in self.inputs]


def _value(kind: str, props: Mapping[str, Any], text: str) -> Any:
    choices = [choice[1] if isinstance(choice, list | tuple) else choice for choice in props.get("choices") or []]
    values: dict[str, Any] = {
        "state": None,
        "number": 1,
        "checkbox": True,
        "json": {"id": text},
        "radio": choices[0] if choices else text,
        "checkboxgroup": choices[:1],
        "file": None,
        "timer": 1,
    }
    return values.get(kind, text)


def endpoints(url: str) -> list[Endpoint]:
    """Every event that runs something on the server; of those that differ in their trigger alone the first."""
    config = httpx.get(f"{url}/config").json()
    parts = {part["id"]: (part["type"], part["props"]) for part in config["components"]}
    found: dict[Any, Endpoint] = {}
    for event in config["dependencies"]:
        if event["backend_fn"]:
            name = re.sub(r"_\d+$", "", event["api_name"] or str(event["id"]))
            key = (name, tuple(event["inputs"]), tuple(event["outputs"]))
            found.setdefault(key, Endpoint(event["id"], name, tuple(parts[part] for part in event["inputs"])))
    return list(found.values())


class Caller:
    """One session of somebody with a token, with a cookie, or with neither."""

    def __init__(self, url: str, token: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        self._token, self.session = token, secrets.token_hex(8)
        self._client = httpx.Client(base_url=url, timeout=60, headers={"origin": url, **(headers or {})})

    def ask(self, endpoint: Endpoint, data: list[Any], query: Mapping[str, str] | None = None) -> str:
        """All that the server says to one call, as text."""
        body = {"fn_index": endpoint.index, "data": data, "session_hash": self.session, "oauth_token": self._token}
        joined = self._client.post("/gradio_api/queue/join", params=query or {}, json=body)
        if joined.status_code != 200:
            return joined.text
        event = joined.json()["event_id"]
        return "\n".join(self._messages(event))

    def _messages(self, event: str) -> Iterator[str]:
        with self._client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield line
                    message = json.loads(line[5:])
                    if message.get("event_id") == event and message["msg"] == "process_completed":
                        return
                    if message["msg"] in ("close_stream", "unexpected_error", "server_stopped"):
                        return

    def get(self, path: str) -> httpx.Response:
        """A plain request."""
        return self._client.get(path)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()


def sign_in(url: str, user: str) -> tuple[str, str]:
    """(cookie, token) of somebody who goes through the sign-in as a browser does."""
    begun = httpx.get(f"{url}/login/huggingface")
    consent = httpx.get(begun.headers["location"])
    fields = {name: html.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', consent.text)}
    back = httpx.post(str(consent.url.copy_with(query=None)), data={**fields, "user": user}).headers["location"]
    cookie = httpx.get(back, headers={"cookie": f"session={begun.cookies['session']}"}).cookies["session"]
    session = json.loads(base64.b64decode(cookie.split(".")[0] + "=="))
    return cookie, session["oauth_info"]["access_token"]


class Watched:
    """The browser of somebody who is signed in: every answer and, between two of them, every file is searched."""

    def __init__(self, url: str, user: str, folder: Path, planted: Iterable[str]) -> None:
        self.cookie, self.token = sign_in(url, user)
        self._folder, self._planted = folder, (*planted, self.token)
        self._caller = Caller(url, headers={"cookie": f"session={self.cookie}"})
        self._endpoints = endpoints(url)
        self.answers = 0

    def call(self, name: str, text: str) -> dict[str, Any]:
        """What a public call gives."""
        endpoint = next(one for one in self._endpoints if one.name == name)
        output = json.loads(self._clean(self._caller.ask(endpoint, [text])).splitlines()[-1][5:])["output"]
        assert "data" in output, output
        return dict(output["data"][0])

    def follow(self, id: str, until: str) -> dict[str, Any]:
        """A job of theirs once it has such a status or is in such a stage."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            job = self.call("status", id)
            self.search()
            if job["stage"] == until or (job["status"] == until and job["ended"]):
                return job
            time.sleep(0.5)
        raise AssertionError(f"{id} did not come to {until}: {job}")

    def look_around(self, id: str) -> None:
        """Every page as HTML, and what each of them loads, with the job's id."""
        for page in (*PAGES, f"/jobs?id={id}"):
            answer = self._caller.get(page)
            headers = [value for name, value in answer.headers.multi_items() if name != "set-cookie"]
            self._clean("\n".join([answer.text, *headers]))
        for one in self._endpoints:
            if one.name == "_open":
                self._clean(self._caller.ask(one, one.data(id), {"id": id}))

    def search(self) -> int:
        """How many files there are, in none of which a secret stands."""
        hits, looked = files_with(self._folder, self._planted)
        assert not hits, hits
        return looked

    def _clean(self, text: str) -> str:
        self.answers += 1
        assert not found_in(text.encode(), self._planted), text[:200]
        return text
