"""What the loopback Hub tells of a repo: the card's metadata, config, tags, files, parameter counts.

Covered: YAML front matter, the tags that the product searches by (base_model included), the task inferred
from the architecture, safetensors totals, `expand`, the search of models and datasets.
Not covered: full-text search, popularity (always 0), evaluation results, GGUF.
"""

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import yaml

from demo.loopback_store import Commit, Entry, HubError, Repo, Store, lfs_pointer

TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "ForImageClassification": "image-classification",
    "Model": "feature-extraction",
}
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?\n|)---\s*(\n|\Z)", re.DOTALL)
UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def card_data(text: str) -> dict[str, Any]:
    """The YAML front matter of a README; what is not a mapping is refused as the Hub does."""
    match = FRONT_MATTER.match(text)
    if match is None:
        return {}
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise HubError(400, "Invalid YAML in README.md", errors=[{"message": str(error)}]) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise HubError(400, "Invalid YAML in README.md", errors=[{"message": "metadata is not a mapping"}])
    wrong = [key for key in ("base_model", "tags", "datasets") if not _is_names(data.get(key))]
    if wrong:
        errors = [{"message": f'"{key}" must be a string or a list of strings'} for key in wrong]
        raise HubError(400, "Invalid metadata in README.md", errors=errors)
    return {str(key): value for key, value in json.loads(json.dumps(data, default=str)).items()}


def card_body(text: str) -> str:
    """A README without its front matter."""
    return FRONT_MATTER.sub("", text, count=1)


def _is_names(value: Any) -> bool:
    return value is None or isinstance(value, str) or all(isinstance(item, str) for item in value)


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file; empty for what is none."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= 100_000_000:
            return {}
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return {}
    return header if isinstance(header, dict) else {}


def header_size(path: Path, name: str) -> int:
    """The bytes of a weight file that are no weights: a safetensors file's length field and header."""
    if not name.endswith(".safetensors"):
        return 0
    with path.open("rb") as file:
        start = file.read(8)
    return min(8 + struct.unpack("<Q", start)[0], path.stat().st_size) if len(start) == 8 else len(start)


def pointer_size(entry: Entry) -> int:
    """The length of the text that stands in git for an LFS file."""
    return len(lfs_pointer(entry.sha256, entry.size))


def file_facts(path: str, entry: Entry) -> dict[str, Any]:
    """A file as `tree` and `paths-info` list it."""
    facts: dict[str, Any] = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
    if entry.lfs:
        facts["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer_size(entry)}
    return facts


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"rfilename": path}
    if blobs:
        facts.update(size=entry.size, blobId=entry.oid)
        if entry.lfs:
            facts["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": pointer_size(entry)}
    return facts


class Catalogue:
    """Describes repos. What depends on a commit alone is worked out once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, dict[str, Any]] = {}  # by commit

    def describe(self, repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
        """The full answer to `model_info` and its sisters."""
        head = self._store.resolve(repo, "main")
        return {
            "_id": repo.refs["refs/heads/main"][:24],
            "id": repo.id,
            "author": repo.owner,
            "sha": commit.id,
            "createdAt": repo.created,
            "lastModified": head.date,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": 0,
            "downloadsAllTime": 0,
            "likes": 0,
            "trendingScore": 0,
            "usedStorage": sum(entry.size for entry in commit.files.values()),
            "siblings": [_sibling(path, entry, blobs) for path, entry in commit.files.items()],
            **self._facts(repo, commit),
        }

    def _facts(self, repo: Repo, commit: Commit) -> dict[str, Any]:
        """What depends on the kind of repo."""
        facts = self._of_files(repo, commit)
        if repo.kind == "space":
            return {**facts, "sdk": repo.space.get("sdk") or facts["sdk"]}
        if repo.kind == "model":
            return {**facts, "modelId": repo.id, "childrenModelCount": self._children(repo)}
        return facts

    def _of_files(self, repo: Repo, commit: Commit) -> dict[str, Any]:
        """What the files alone say."""
        if commit.id not in self._known:
            card = card_data(self._store.read_text(commit, "README.md") or "")
            extra = {"model": self._model, "dataset": self._dataset, "space": self._space}[repo.kind]
            self._known[commit.id] = {"cardData": card, **extra(commit, card)}
        return self._known[commit.id]

    def _children(self, parent: Repo) -> int:
        """How many models name this one as their base."""
        models = [repo for repo in self._store.repos.values() if repo.kind == "model"]
        bases = [self._of_files(repo, self._store.resolve(repo, "main"))["baseModels"] for repo in models]
        return sum({"id": parent.id} in base["models"] for base in bases)

    def _model(self, commit: Commit, card: dict[str, Any]) -> dict[str, Any]:
        config = self._json(commit, "config.json")
        safetensors = self._parameters(commit)
        library = card.get("library_name") or ("transformers" if "model_type" in config else None)
        task = card.get("pipeline_tag") or self._task(config)
        parents = _names(card.get("base_model"))
        relation = card.get("base_model_relation") or self._relation(commit, parents)
        tags = [*filter(None, [library]), *(["safetensors"] if safetensors else [])]
        tags += [*filter(None, [config.get("model_type"), task]), *_names(card.get("tags"))]
        tags += [f"base_model:{parent}" for parent in parents]
        tags += [f"base_model:{relation}:{parent}" for parent in parents]
        facts: dict[str, Any] = {
            "tags": self._tags(tags, card),
            "library_name": library,
            "pipeline_tag": task,
            "baseModels": {"relation": relation, "models": [{"id": parent} for parent in parents]},
            "config": {key: config[key] for key in ("architectures", "model_type") if key in config},
        }
        if safetensors:
            facts["safetensors"] = safetensors
        if library == "transformers":
            facts["transformersInfo"] = {"auto_model": "AutoModel", "pipeline_tag": task}
        return facts

    def _dataset(self, commit: Commit, card: dict[str, Any]) -> dict[str, Any]:
        tags = [f"task_categories:{name}" for name in _names(card.get("task_categories"))]
        return {"tags": self._tags([*tags, *_names(card.get("tags"))], card), "description": ""}

    def _space(self, commit: Commit, card: dict[str, Any]) -> dict[str, Any]:
        return {"tags": self._tags(_names(card.get("tags")), card), "sdk": card.get("sdk")}

    @staticmethod
    def _tags(tags: list[str], card: dict[str, Any]) -> list[str]:
        tags = tags + [f"license:{name}" for name in _names(card.get("license"))]
        tags += [f"dataset:{name}" for name in _names(card.get("datasets"))] + _names(card.get("language"))
        return list(dict.fromkeys([*tags, "region:us"]))

    @staticmethod
    def _relation(commit: Commit, parents: list[str]) -> str:
        if "adapter_config.json" in commit.files:
            return "adapter"
        return "merge" if len(parents) > 1 else "finetune"

    @staticmethod
    def _task(config: dict[str, Any]) -> str | None:
        architecture = str((config.get("architectures") or [""])[0])
        return next((task for ending, task in TASKS.items() if architecture.endswith(ending)), None)

    def _json(self, commit: Commit, path: str) -> dict[str, Any]:
        try:
            data = json.loads(self._store.read_text(commit, path) or "{}")
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    def _parameters(self, commit: Commit) -> dict[str, Any] | None:
        counts: dict[str, int] = {}
        for path, entry in commit.files.items():
            blob = self._store.blob(entry.sha256)
            if "/" in path or not path.endswith(".safetensors") or not blob.exists():
                continue
            header = safetensors_header(blob)
            for tensor in (facts for name, facts in header.items() if name != "__metadata__"):
                try:
                    size = math.prod(map(int, tensor["shape"]))
                except (TypeError, KeyError, ValueError, OverflowError):
                    continue  # the Hub takes any file
                counts[str(tensor.get("dtype"))] = counts.get(str(tensor.get("dtype")), 0) + size
        return {"parameters": counts, "total": sum(counts.values())} if counts else None


def matches(facts: dict[str, Any], query: dict[str, Any]) -> bool:
    """Whether a described repo answers a search."""
    words = str(query.get("search") or "").lower().split()
    wanted = [tag for part in query.get("filter") or [] for tag in part.split(",") if tag]
    gated = query.get("gated")
    return (
        all(word in facts["id"].lower() for word in words)
        and query.get("author") in (None, "", facts["author"])
        and all(tag in facts["tags"] for tag in wanted)
        and query.get("pipeline_tag") in (None, "", facts.get("pipeline_tag"))
        and (gated is None or (gated.lower() == "true") == bool(facts["gated"]))
        and _in_size(facts, query.get("num_parameters"))
    )


def _in_size(facts: dict[str, Any], wanted: str | None) -> bool:
    """`num_parameters=min:6B,max:128B`."""
    total = (facts.get("safetensors") or {}).get("total")
    for bound in filter(None, (wanted or "").split(",")):
        side, _, text = bound.partition(":")
        limit = float(text.rstrip("KMBT")) * UNITS.get(text[-1:], 1)
        if total is None or (total < limit if side == "min" else total > limit):
            return False
    return True


def trimmed(facts: dict[str, Any], expand: list[str]) -> dict[str, Any]:
    """Only the properties asked for; a property that the repo lacks is left out."""
    if not expand:
        return facts
    return {key: facts[key] for key in ("_id", "id", *expand) if key in facts}
