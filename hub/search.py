"""Finding models as a person types, and fine-tunes of the same base."""

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from huggingface_hub import ModelInfo

from hub.client import Hub, HubUnavailable, explained

MINIMUM = 2  # characters before anything is asked
KEEP_SECONDS = 60.0
KEEP_ANSWERS = 512
WINDOW = 300.0  # seconds over which the Hub counts calls
MOST_ASKED = 300  # questions of one person in that time: of 1,000 calls that a free account has, 500 without one
FIELDS = ["pipeline_tag", "config", "cardData", "downloads", "private"]


@dataclass(frozen=True)
class Hit:
    """One model found. All text is from strangers: escape it."""

    repo_id: str
    task: str = ""  # pipeline tag
    model_type: str = ""
    base_model: str = ""  # the first base that its card names
    downloads: int = 0
    private: bool = False


class _Pace:
    """How often each person has asked lately. People who are not signed in share one address, and so one count."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, hub: Hub) -> None:
        """One more question. Raises HubUnavailable when there were too many."""
        who = hashlib.sha256(f"{hub.url}\0{hub.token}".encode()).hexdigest()
        now = time.monotonic()
        with self._lock:
            times = self._asked.setdefault(who, deque())
            self._asked.move_to_end(who)
            while times and now - times[0] > WINDOW:
                times.popleft()
            if len(times) >= MOST_ASKED:
                why = f"{MOST_ASKED} in five minutes, and the Hub counts them"
                raise HubUnavailable("Too many searches", why, "Wait a minute, or paste owner/name")
            times.append(now)
            while len(self._asked) > KEEP_ANSWERS:
                self._asked.popitem(last=False)


class _Answers:
    """Recent answers, each kept for the one that asked: the key holds a hash of the token, never the token."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, list[Hit]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, hub: Hub, question: str, ask: Callable[[], list[Hit]]) -> list[Hit]:
        key = hashlib.sha256(f"{hub.url}\0{hub.token}\0{question}".encode()).hexdigest()
        with self._lock:
            when, hits = self._kept.get(key, (0.0, []))
        if time.monotonic() - when < KEEP_SECONDS and when:
            return hits
        _pace.take(hub)
        hits = ask()
        with self._lock:
            self._kept[key] = (time.monotonic(), hits)
            self._kept.move_to_end(key)
            while len(self._kept) > KEEP_ANSWERS:
                self._kept.popitem(last=False)
        return hits


_pace = _Pace()
_answers = _Answers()


def search_models(hub: Hub, query: str, limit: int = 12) -> list[Hit]:
    """Models with safetensors whose name holds `query` (`owner/na` looks at that owner), most used first.

    Fewer than 2 characters find nothing and ask nobody. Raises HubUnavailable or InputError.
    """
    query = " ".join(query.split())[:100]
    if len(query) < MINIMUM:
        return []
    owner, slash, name = query.partition("/")

    def ask() -> list[Hit]:
        with explained(hub, "the search"):
            found = hub.api.list_models(
                search=(name or None) if slash else query,
                author=owner if slash else None,
                filter="safetensors",
                sort="downloads",
                limit=limit,
                expand=FIELDS,  # type: ignore[arg-type]
            )
            return _hits(found)

    return _answers.get(hub, f"search\0{query.lower()}\0{limit}", ask)


def fine_tunes_of(hub: Hub, base: str, limit: int = 12) -> list[Hit]:
    """Models that name `base` (owner/name) as the model they were fine-tuned from, most used first."""
    if "/" not in base:
        return []

    def ask() -> list[Hit]:
        with explained(hub, base):
            found = hub.api.list_models(
                filter=[f"base_model:finetune:{base}", "safetensors"],
                sort="downloads",
                limit=limit,
                expand=FIELDS,  # type: ignore[arg-type]
            )
            return _hits(found)

    return _answers.get(hub, f"tunes\0{base}\0{limit}", ask)


def _hits(found: Iterable[ModelInfo]) -> list[Hit]:
    return [
        Hit(
            repo_id=info.id,
            task=info.pipeline_tag or "",
            model_type=str((info.config or {}).get("model_type") or ""),
            base_model=_base_of(info),
            downloads=info.downloads or 0,
            private=bool(info.private),
        )
        for info in found
    ]


def _base_of(info: ModelInfo) -> str:
    named = info.card_data.get("base_model") if info.card_data else None
    if isinstance(named, list):
        named = named[0] if named else None
    return named if isinstance(named, str) else ""
