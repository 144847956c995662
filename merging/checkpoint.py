"""A folder of safetensors as a `TensorSource`, read by position, and the writer of output shards.

A header is untrusted input: see `merging.header`.
"""

import hashlib
import json
import os
import re
import struct
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.errors import InputError, MergeError
from merging.header import (
    INDEX_LIMIT,
    WEIGHT_FILE,
    WEIGHT_INDEX,
    check_index,
    header_length,
    parse_header,
    parse_index,
)
from merging.json_text import plain_json
from merging.modules import MODULES_FILE, Module, module_weights, modules_of, parse_side, side_names
from merging.parent import Parent
from merging.tensors import CODES, Header, TensorSpec

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
    "bpe.codes",
    "source.spm",
    "target.spm",
    "tekken.json",
)
LABEL_INDEX = re.compile(r"[0-9]{1,9}")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


class SafetensorsFile:
    """One safetensors file, read by position (no mmap, no copy of the file in memory)."""

    def __init__(self, path: Path, label: str = "") -> None:
        self.path, label = path, label or path.name  # the label is how errors call the file
        self._descriptor = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._descriptor)  # also when nobody does
        size = os.fstat(self._descriptor).st_size
        head = os.pread(self._descriptor, 8, 0)
        self.header = parse_header(os.pread(self._descriptor, 8 + header_length(head, size, label), 0), size, label)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """See `TensorSource.read`."""
        spec = self.header.specs[name]
        stop = spec.numel if stop is None else min(stop, spec.numel)
        tensor = torch.empty(max(0, stop - start), dtype=spec.dtype)
        self.fill(name, start, tensor)
        return tensor

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """See `TensorSource.fill`."""
        if not out.numel():
            return
        offset = self.header.offsets[name] + start * out.dtype.itemsize
        view = memoryview(out.view(torch.uint8).numpy())  # type: ignore[arg-type]
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise OSError(f"{self.path.name} ended while it was read")
            view, offset = view[count:], offset + count

    def close(self) -> None:
        """Give the descriptor back."""
        self._close()


class Checkpoint:
    """The weights of one model in a folder: one file, or shards with an index, and those of its modules.

    A tensor of a module of sentence-transformers is called by its folder too: `2_Dense/linear.weight`. With `headers`
    (weight file -> what is planned of it) a file need not be there before one of its tensors is read; it must then be
    the one that was planned.
    """

    def __init__(self, folder: Path, model: str = "", headers: Mapping[str, Header] | None = None) -> None:
        self.folder, self._model = folder, model or folder.name  # errors call the model so
        self.files = tuple(headers) if headers else weight_files(folder, self._model)
        self._open: dict[str, SafetensorsFile] = {}
        self._lock = threading.Lock()
        self.headers: Mapping[str, Header] = headers or {}
        self.headers = headers or {name: self._file(name).header for name in self.files}
        self.specs: Mapping[str, TensorSpec] = specs_of(self.headers, self._model)
        if not headers:
            check_index(_index(folder, self._model), self.headers, self._model)
        self._where = {name: file for file, header in self.headers.items() for name in addressed(file, header)}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """See `TensorSource.read`."""
        return self._file(self._where[name]).read(name.rpartition("/")[2], start, stop)

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """See `TensorSource.fill`."""
        self._file(self._where[name]).fill(name.rpartition("/")[2], start, out)

    def drop(self, file: str) -> None:
        """Give the descriptor of one file back, so that its bytes can be given back too. Nobody may be reading it."""
        with self._lock:
            if shard := self._open.pop(file, None):
                shard.close()

    def close(self) -> None:
        """Give all descriptors back."""
        for file in self.files:
            self.drop(file)

    def _file(self, name: str) -> SafetensorsFile:
        if (found := self._open.get(name)) is not None:
            return found
        with self._lock:
            if name not in self._open:
                shard = SafetensorsFile(self.folder / name, f"{self._model}: {name}")
                planned = self.headers.get(name, shard.header)
                if (shard.header.specs, shard.header.offsets) != (planned.specs, planned.offsets):
                    shard.close()
                    raise MergeError(f"{self._model}: {name} is not the file that was planned", "", "Merge again")
                self._open[name] = shard
            return self._open[name]


def addressed(file: str, header: Header) -> dict[str, TensorSpec]:
    """The tensors of one file by the name that a plan has for them."""
    folder = file.rpartition("/")[0]
    if not folder:
        return dict(header.specs)
    return {f"{folder}/{name}": replace(spec, name=f"{folder}/{name}") for name, spec in header.specs.items()}


def specs_of(headers: Mapping[str, Header], model: str) -> dict[str, TensorSpec]:
    """Every tensor of a model from the headers of its files. Raises InputError for one that stands in two."""
    specs: dict[str, TensorSpec] = {}
    for file, header in headers.items():
        strange = next((name for name in header.specs if "/" in name), None)
        if strange is not None:
            raise InputError(f"{model}: {strange[:100]} is no name of a tensor", f"in {file}", "Save the model again")
        own = addressed(file, header)
        if twice := specs.keys() & own.keys():
            raise InputError(f"{model}: {min(twice)} stands in two shards", file, "Save the model again")
        specs.update(own)
    return specs


def weight_files(folder: Path, model: str = "") -> tuple[str, ...]:
    """The weight files of a model folder in their order, then those of its modules (`2_Dense/model.safetensors`).

    Raises InputError when there are no safetensors; it calls the model by the name of its folder, or `model`.
    """
    return (*_root_files(folder, model or folder.name), *module_weights(_modules(folder), _paths(folder), folder.name))


def _modules(folder: Path) -> tuple[Module, ...]:
    path = folder / MODULES_FILE
    return modules_of(parse_side(MODULES_FILE, path.read_bytes(), folder.name), folder.name) if path.is_file() else ()


def _paths(folder: Path) -> tuple[str, ...]:
    """Every file below a folder."""
    return tuple(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())


def _root_files(folder: Path, model: str) -> tuple[str, ...]:
    if (folder / WEIGHT_FILE).is_file():
        return (WEIGHT_FILE,)
    if index := _index(folder, model):
        files = tuple(sorted(set(index.values())))
        for name in files:
            if not (folder / name).is_file():
                raise missing_shard(model, name)
        return files
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES) if folder.is_dir() else []
    raise no_safetensors(str(folder), pickles)


def _index(folder: Path, model: str) -> dict[str, str]:
    """Tensor -> shard of a model that has shards, as its index says."""
    if (folder / WEIGHT_FILE).is_file() or not (folder / WEIGHT_INDEX).is_file():
        return {}
    with (folder / WEIGHT_INDEX).open("rb") as file:
        return parse_index(file.read(INDEX_LIMIT + 1), model)


def missing_shard(model: str, name: str, where: str = "") -> InputError:
    """The error of a shard that the index names and nobody has."""
    fix = "Download it again, or ask its owner"
    return InputError(f"{model}: {name} is missing", "its index names it", fix, where)


def no_safetensors(model: str, pickles: Iterable[str], where: str = "") -> InputError:
    """The error of a model without safetensors, with the way out."""
    found = ", ".join(list(pickles)[:3])
    if found:
        return InputError(
            f"{model} has no safetensors",
            f"it has only {found}, and loading pickles can run code",
            "Load it once and save it again with transformers, or ask its author for safetensors",
            where,
        )
    return InputError(f"{model} has no weights", "no model.safetensors was found", "Check the name", where)


class Digests(Mapping[str, str]):
    """SHA-256 in hex of some files of a folder, computed when it is asked for, and kept."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, tuple(names)
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own would read the file

    def __getitem__(self, name: str) -> str:
        if name not in self._names:
            raise KeyError(name)
        with self._lock:
            if name not in self._known:
                self._known[name] = sha256_of(self._folder / name)
            return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_parent(
    model: str, folder: Path, *, revision: str = "", calibration: bool = False, remote: Parent | None = None
) -> Parent:
    """The parent in a local folder. `model` is how the recipe names it. Raises InputError.

    `remote` is the same model as the Hub shows it, of which small files are here: weight files may come later, their
    hashes are known. Those of a folder alone are computed when they are asked for.
    """
    if not folder.is_dir():
        raise InputError(f"{model} is not a folder", "nothing is there", "Check the path")
    try:
        config = plain_json((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise InputError(f"{model} has no readable config.json", "it says what the tensors are", "Add it") from None
    config = checked_config(config, model)
    source = Checkpoint(folder, model, remote.headers if remote else None)
    files = {name: (folder / name).stat().st_size for name in _paths(folder)}
    return Parent(
        model=model,
        revision=revision,
        config=config,
        source=source,
        files=remote.files if remote else files,
        weights=remote.weights if remote else Digests(folder, source.files),
        headers=source.headers,
        stamp=() if remote else _stamp(folder, source.files),
        vocabulary=vocabulary_of({name: (folder / name).read_bytes() for name in TOKENIZER_FILES if name in files}),
        calibration=calibration,
        side={
            name: parse_side(name, (folder / name).read_bytes(), model) for name in side_names(files, _modules(folder))
        },
    )


def _stamp(folder: Path, files: Sequence[str]) -> tuple[tuple[str, int, int, int, int], ...]:
    """Name, device, inode, size in bytes and time of change in ns of each file."""
    found = [(name, (folder / name).stat()) for name in files]
    return tuple((name, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def vocabulary_of(files: Mapping[str, bytes]) -> str:
    """Fingerprint of a tokenizer's token -> id table from its files; "" when there are none.

    `ids:...` when the table can be read, the same whatever file it stands in; else `bytes:...` of the files.
    Fingerprints of different kinds cannot be compared.
    """
    if not files:
        return ""
    try:
        table = _token_ids(files)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        table = {}
    if table:
        return "ids:" + hashlib.sha256(json.dumps(sorted(table.items())).encode()).hexdigest()
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name] + b"\0")
    return "bytes:" + digest.hexdigest()


def _token_ids(files: Mapping[str, bytes]) -> dict[str, int]:
    if "tokenizer.json" in files:
        data = json.loads(files["tokenizer.json"])
        vocabulary = data["model"]["vocab"]
        if isinstance(vocabulary, list):  # unigram: [piece, score] in the order of ids
            vocabulary = {piece[0]: index for index, piece in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in data.get("added_tokens") or []}
        return {str(token): int(index) for token, index in {**vocabulary, **added}.items()}
    if "vocab.json" in files:
        return {str(token): int(index) for token, index in json.loads(files["vocab.json"]).items()}
    lines = files["vocab.txt"].decode().splitlines() if "vocab.txt" in files else []
    return {token: index for index, token in enumerate(lines)}


def checked_config(data: Any, model: str) -> dict[str, Any]:
    """A config.json whose fields that are looked at have the right form. Raises InputError that names the field."""

    def wrong(field: str, why: str) -> InputError:
        return InputError(f"{model} has a broken config.json", f"{field} {why}", "Save the model again")

    if not isinstance(data, dict):
        raise wrong("it", "is not a table")
    classes = data.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise wrong("architectures", "is not a list of class names")
    labels = data.get("id2label")
    if labels is not None and not (isinstance(labels, dict) and all(LABEL_INDEX.fullmatch(str(key)) for key in labels)):
        raise wrong("id2label", "is not a table from 0, 1, ... to names")
    return data


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardWriter:
    """One output shard whose layout is known beforehand, written in any order, by any thread.

    It has the name `<file>.partial` until `finish`, which syncs it and gives it its own.
    """

    def __init__(self, path: Path, specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        header, self._offsets, self.size = layout(specs, metadata)
        self._specs = {spec.name: spec for spec in specs}
        self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)  # old pages are used again
        try:
            os.ftruncate(self._descriptor, self.size)
            if hasattr(os, "posix_fallocate"):  # not on macOS: a full disk is found while writing there
                os.posix_fallocate(self._descriptor, 0, self.size)
            os.pwrite(self._descriptor, header, 0)
        except OSError:
            self.abandon()
            raise
        self._lock = threading.Lock()
        self._left = sum(spec.nbytes for spec in self._specs.values())

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Store contiguous `values` (in the shard's dtype) from element `start` of the flattened tensor on."""
        spec = self._specs[name]
        assert values.dtype == spec.dtype
        if values.numel() == 0:
            return
        view = memoryview(values.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        offset = self._offsets[name] + start * spec.dtype.itemsize
        with self._lock:
            self._left -= len(view)
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            view, offset = view[count:], offset + count

    def forget(self, nbytes: int) -> None:
        """Bytes that will be written once more."""
        with self._lock:
            self._left += nbytes

    def finish(self) -> None:
        """Sync and rename; raises when a byte was never written or written twice."""
        if self._left:
            raise RuntimeError(f"{self.path.name}: {self._left} bytes are missing")
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
        os.rename(self._partial, self.path)

    def abandon(self) -> None:
        """Close without finishing; the partial file is written anew the next time."""
        os.close(self._descriptor)


def layout(specs: Iterable[TensorSpec], metadata: Mapping[str, str] | None = None) -> tuple[bytes, dict[str, int], int]:
    """Header bytes, absolute offset of each tensor, and size in bytes of a shard with these tensors in order."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    position, relative = 0, {}
    for spec in specs:
        entries[spec.name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [position, position + spec.nbytes],
        }
        relative[spec.name] = position
        position += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return struct.pack("<Q", len(text)) + text, {name: start + at for name, at in relative.items()}, start + position
