"""Two hundred people with the page open, twenty of them submitting, against a Hub that takes its time.

    python -m benchmarks.load --people 200 --submitting 20

The app with its worker, a loopback Hub on which each call takes 150 ms longer, and people who speak as the browser does
(page, heartbeat, queue, stream) are three processes on this machine. Everybody acts with a token of their own, so no
answer of the Hub is shared. Those who submit search, pick three models, change a weight twice, read the preview each
time, press Merge and watch their job.
"""

import argparse
import asyncio
import json
import os
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_XET"] = "1"  # read at import

import httpx
from huggingface_hub import HfApi

from demo.loopback_hub import HubAdmin
from tests.served import REPO, served
from tests.tiny_models import save_tiny

PATIENCE = 60.0  # seconds after which an event counts as lost
THINK = (0.5, 2.0)  # seconds between two actions of a person
LABELS = ("card lost", "top up", "fee")


@dataclass
class Figures:
    """What was seen by all people."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    submitted: int = 0

    def line(self, name: str) -> str:
        """Number, median, 95th percentile and the longest, in seconds."""
        found = sorted(self.seconds[name])
        if not found:
            return f"{name:22} none"
        late = found[min(len(found) - 1, int(0.95 * len(found)))]
        return (
            f"{name:22} {len(found):5}   p50 {statistics.median(found):6.2f}   p95 {late:6.2f}   max {found[-1]:6.2f}"
        )


class Page:
    """What the page's config says: components by what they are, events by what they do."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.kinds = {one["id"]: one["type"] for one in config["components"]}
        self.values = {one["id"]: one["props"].get("value") for one in config["components"]}
        self.ids = {one["props"]["elem_id"]: one["id"] for one in config["components"] if one["props"].get("elem_id")}
        self.events = {one["id"]: one for one in config["dependencies"]}
        self.labels: dict[str, list[int]] = defaultdict(list)
        for one in config["components"]:
            self.labels[one["props"].get("label")].append(one["id"])

    def named(self, name: str, target: int | None = None) -> dict[str, Any]:
        """The first event whose function has this name, of this component where one is named."""
        for event in self.events.values():
            right = target is None or any(one[0] == target for one in event["targets"])
            if right and re.fullmatch(rf"{name}(_\d+)?", str(event["api_name"])):
                return event
        raise LookupError(name)

    def after(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """The server's event that follows on an event, past those of the browser alone."""
        for one in self.events.values():
            if one["trigger_after"] == event["id"]:
                return one if one["backend_fn"] else self.after(one)
        return None


class Person:
    """One browser: its session, its fields, its streams."""

    def __init__(self, http: httpx.AsyncClient, url: str, name: str, token: str, figures: Figures) -> None:
        self.http, self.url, self.name, self.token, self.figures = http, url, name, token, figures
        self.session = secrets.token_hex(6)
        self.turn = 0
        self.waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.early: dict[str, dict[str, Any]] = {}
        self.reader: asyncio.Task[None] | None = None
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, known: Page | None) -> Page:
        """Load the page, keep its heartbeat, and let its first events run."""
        began = time.perf_counter()
        answer = await self.http.get(self.url)
        self.figures.statuses[answer.status_code] += 1
        self.figures.seconds["page"].append(time.perf_counter() - began)
        if known is None:
            start = answer.text.index("window.gradio_config = ") + len("window.gradio_config = ")
            known = Page(json.JSONDecoder().raw_decode(answer.text[start:])[0])
        self.page, self.values = known, dict(known.values)
        self.tasks.append(asyncio.create_task(self._heartbeat()))
        opened = known.named("_open")
        began = time.perf_counter()
        await self.run(opened, "open")
        await self.preview_after(opened, "first preview")
        self.figures.seconds["usable after"].append(time.perf_counter() - began)
        return known

    async def submit(self, models: Sequence[str]) -> None:
        """Search and pick models, change a weight, press the button, watch the job."""
        search = self.page.ids["search"]
        for model in models:
            for length in (3, 5, 7):
                self.values[search] = None
                typed = model.partition("/")[2][:length]
                await self.run(self.page.named("_search"), "search", data=[typed])
            self.values[search] = model
            await self.pause()
            picked = self.page.named("_pick")
            await self.run(picked, "pick")
            await self.preview_after(picked, "preview, new model")
        weight = self.page.labels["Weight"][0]
        for value in (2, 3):
            await self.pause()
            self.values[weight] = value
            await self.preview(self.page.named("_preview", weight), "preview, new weight")
        await self.pause()
        self.values[self.page.ids["owner"]] = self.name
        self.values[self.page.ids["repo-name"]] = f"merged-{secrets.token_hex(3)}"
        pressed = await self.run(self.page.named("_merge"), "submit")
        submitted = next((value for value in pressed.values() if isinstance(value, dict) and "job" in value), None)
        self.figures.submitted += submitted is not None
        if submitted is None:
            self.figures.errors["a merge was not accepted"] += 1
        while submitted is not None:
            await asyncio.sleep(1.5)
            updates = await self.run(self.page.named("_tick"), "look at the job")
            if any(isinstance(one, dict) and one.get("active") is False for one in updates.values()):
                return

    async def preview_after(self, event: dict[str, Any], name: str) -> None:
        """The preview that the page asks for once `event` has ended."""
        following = self.page.after(event)
        if following is not None:
            await self.preview(following, name)

    async def preview(self, event: dict[str, Any], name: str) -> None:
        """One preview; the form keeps the name that it is offered."""
        self.turn += 1
        self.values[event["inputs"][0]] = self.turn
        updates = await self.run(event, name)
        offers = [one for one in updates.values() if isinstance(one, dict) and isinstance(one.get("name"), dict)]
        if offers:
            self.values[self.page.ids["repo-name"]] = offers[0]["name"]["value"]

    async def run(self, event: dict[str, Any], name: str, data: list[Any] | None = None) -> dict[int, Any]:
        """One event of the page, timed from the click to the answer; what it changed, by component."""
        if data is None:
            stateless = (None if self.page.kinds[one] == "state" else self.values.get(one) for one in event["inputs"])
            data = list(stateless)
        target = event["targets"][0][0] if event["targets"] else None
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session, "event_data": None}
        body |= {"trigger_id": target, "oauth_token": self.token}
        began = time.perf_counter()
        try:
            answer = await asyncio.wait_for(self._ask(event, body), PATIENCE)
        except Exception as error:  # whatever happens to one person is a figure, the others go on
            self.figures.lost.append(f"{name}: {type(error).__name__} {error}")
            return {}
        self.figures.seconds[name].append(time.perf_counter() - began)
        return self._shown(event, answer)

    async def _ask(self, event: dict[str, Any], body: dict[str, Any]) -> list[Any]:
        if not event["queue"]:
            return (await self._post("run/predict", body))["data"]
        id = (await self._post("queue/join", body))["event_id"]
        if id in self.early:
            done = self.early.pop(id)
        else:
            self.waiting[id] = asyncio.get_running_loop().create_future()
            if self.reader is None or self.reader.done():
                self.reader = asyncio.create_task(self._read())
            done = await self.waiting[id]
        if not done["success"]:
            raise RuntimeError(str(done["output"].get("error"))[:200])
        return done["output"]["data"]

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.http.post(f"{self.url}/gradio_api/{path}", json=body)
        self.figures.statuses[answer.status_code] += 1
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code} {answer.text[:200]}")
        found: dict[str, Any] = answer.json()
        return found

    def _shown(self, event: dict[str, Any], data: Sequence[Any]) -> dict[int, Any]:
        changed = dict(zip(event["outputs"], data, strict=True))
        for id, value in changed.items():
            if isinstance(value, dict) and value.get("__type__") == "update":
                if "value" in value:
                    self.values[id] = value["value"]
            else:
                self.values[id] = value
        return changed

    async def _read(self) -> None:
        """The stream of answers, for as long as any is awaited."""
        while self.waiting:
            url = f"{self.url}/gradio_api/queue/data?session_hash={self.session}"
            async with self.http.stream("GET", url) as answer:
                self.figures.statuses[answer.status_code] += 1
                async for line in answer.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        future = self.waiting.pop(message["event_id"], None)
                        if future is None:
                            self.early[message["event_id"]] = message
                        elif not future.done():
                            future.set_result(message)
                    elif message["msg"] == "close_stream":
                        break

    async def _heartbeat(self) -> None:
        async with self.http.stream("GET", f"{self.url}/gradio_api/heartbeat/{self.session}") as answer:
            self.figures.statuses[answer.status_code] += 1
            async for _ in answer.aiter_lines():
                pass

    async def pause(self) -> None:
        """Think."""
        await asyncio.sleep(random.uniform(*THINK))

    def close(self) -> None:
        """Leave the page."""
        for task in [*self.tasks, *([self.reader] if self.reader else [])]:
            task.cancel()


async def everybody(
    url: str, tokens: dict[str, str], models: Sequence[str], submitting: int, opening: float, longest: float
) -> Figures:
    """All people: they come within `opening` seconds, then some submit; at most `longest` seconds are watched."""
    figures = Figures()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as http:
        people = [Person(http, url, name, token, figures) for name, token in tokens.items()]
        page = await people[0].open(None)

        async def come(person: Person, after: float) -> None:
            await asyncio.sleep(after)
            try:
                await person.open(page)
            except Exception as error:
                figures.lost.append(f"open: {type(error).__name__} {error}")

        await asyncio.gather(*(come(one, random.uniform(0, opening)) for one in people[1:]))

        async def merge(person: Person) -> None:
            await asyncio.sleep(random.uniform(0, 5))
            await person.submit(random.sample(list(models), 3))

        busy = [asyncio.create_task(merge(one)) for one in people[:submitting]]
        _, late = await asyncio.wait(busy, timeout=longest)
        for task in [*late]:
            task.cancel()
        for done in busy:
            if done.done() and not done.cancelled() and done.exception():
                figures.errors[repr(done.exception())] += 1
        for person in people:
            person.close()
    return figures


def publish(hub: HubAdmin, folder: Path, count: int) -> list[str]:
    """Tiny classifiers on the Hub, all of one base and with the same labels."""
    hub.add_user("ana")
    api = HfApi(endpoint=hub.url, token=hub.add_token("ana"))
    names = []
    for seed in range(count):
        names.append(f"ana/{secrets.token_hex(2)}-minilm-{seed}")
        api.create_repo(names[-1])
        api.upload_folder(repo_id=names[-1], folder_path=save_tiny(folder / str(seed), seed=seed, labels=LABELS))
    return names


def started_hub(folder: Path) -> tuple[subprocess.Popen[str], HubAdmin]:
    """A loopback Hub in a process of its own."""
    command = [sys.executable, "-m", "demo.loopback_hub", "--root", str(folder), "--with-parent"]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    return process, HubAdmin(said["url"], said["admin_key"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--submitting", type=int, default=20)
    parser.add_argument("--delay", type=float, default=0.15, help="seconds added to each call of the Hub")
    parser.add_argument("--opening", type=float, default=20.0, help="seconds within which all come")
    parser.add_argument("--longest", type=float, default=75.0, help="seconds that are watched after that")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        process, hub = started_hub(Path(name) / "hub")
        try:
            models = publish(hub, Path(name) / "models", 8)
            tokens = {}
            for number in range(options.people):
                hub.add_user(f"person{number:03}")
                tokens[f"person{number:03}"] = hub.add_token(f"person{number:03}")
            hub.set_fault(".", delay=options.delay, times=None)
            with served(Path(name) / "home", {"HF_ENDPOINT": hub.url}) as url:
                hub.reset_counters()
                figures = asyncio.run(
                    everybody(url, tokens, models, options.submitting, options.opening, options.longest)
                )
            calls = hub.counters()["requests"]
            said = (Path(name) / "home" / "app.log").read_text(errors="replace")
        finally:
            process.kill()
            process.wait()
    report(figures, calls, said, options)


def report(figures: Figures, calls: dict[str, int], said: str, options: argparse.Namespace) -> None:
    """Print what was found."""
    print(f"{options.people} people, {options.submitting} submitting, {1000 * options.delay:.0f} ms added to each call")
    for name in figures.seconds:
        print(" ", figures.line(name))
    server = sum(count for status, count in figures.statuses.items() if status >= 500)
    print(f"  submitted {figures.submitted}; answers of the server 5xx {server}; lost events {len(figures.lost)}")
    for reason, count in Counter(figures.lost).most_common(5):
        print(f"    lost: {count} x {reason}")
    for reason, count in figures.errors.items():
        print(f"    {count} x {reason}")
    print(f"  tracebacks in the log: {said.count('Traceback')}")
    print(f"  calls of the Hub: {sum(calls.values())}")
    for route, count in sorted(calls.items(), key=lambda one: -one[1])[:8]:
        print(f"    {count:6} {route}")
    if options.json:
        found = {"seconds": figures.seconds, "lost": figures.lost, "5xx": server, "calls": calls}
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
