"""Everything that the page can be asked, as the app's own config lists it: for tests that ask it as somebody else."""

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

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
