"""Finding models as a person types, and fine-tunes of the same base."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from huggingface_hub import ModelInfo

from hub.client import Hub, explained

MINIMUM = 2  # characters before anything is asked
KEEP_SECONDS = 60.0
KEEP_ANSWERS = 512
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
        hits = ask()
        with self._lock:
            self._kept[key] = (time.monotonic(), hits)
            self._kept.move_to_end(key)
            while len(self._kept) > KEEP_ANSWERS:
                self._kept.popitem(last=False)
        return hits


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
