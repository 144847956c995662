"""A folder of safetensors as a `TensorSource`, read by position, and the writer of output shards.

A header is untrusted input: its size, its shapes and its offsets are checked before anything is read.
"""

import hashlib
import json
import os
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.errors import InputError
from merging.modules import MODULES_FILE, Module, module_weights, modules_of, parse_side, side_names
from merging.parent import Parent
from merging.tensors import CODES, DTYPES, TensorSpec

HEADER_LIMIT = 25_000_000  # bytes
INDEX_LIMIT = 50_000_000
TENSOR_LIMIT = 200_000  # tensors in one file
WEIGHT_FILE, WEIGHT_INDEX = "model.safetensors", "model.safetensors.index.json"
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
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


@dataclass(frozen=True)
class Header:
    """The first bytes of a safetensors file, checked."""

    specs: Mapping[str, TensorSpec]
    offsets: Mapping[str, int]  # absolute, in bytes from the start of the file
    metadata: Mapping[str, str]
    start: int  # where the tensors begin


def header_length(head: bytes, size: int, name: str) -> int:
    """Length in bytes of the JSON header of a file of `size` bytes, from its first 8 bytes."""
    if size < 8 or len(head) < 8:
        raise InputError(f"{name} is cut off", f"it has {size} bytes", "Upload the whole file again")
    length = int(struct.unpack("<Q", head[:8])[0])
    if length > HEADER_LIMIT:
        raise InputError(
            f"{name} has a header of {length:,} bytes", f"at most {HEADER_LIMIT:,} are read", "Save it again"
        )
    if 8 + length > size:
        raise InputError(f"{name} is cut off", "its header is longer than the file", "Upload the whole file again")
    return length


def parse_header(head: bytes, size: int, name: str = "file") -> Header:
    """The header in the first bytes of a safetensors file of `size` bytes.

    Raises InputError when it is cut off, not JSON, names a dtype that cannot be merged, or lies about offsets.
    """
    length = header_length(head, size, name)
    try:
        entries = json.loads(head[8 : 8 + length])
    except (ValueError, RecursionError):
        raise InputError(f"{name} has a broken header", "it is not JSON", "Save the model again") from None
    if not isinstance(entries, dict) or len(entries) > TENSOR_LIMIT:
        raise InputError(f"{name} has a broken header", "it is not a table of tensors", "Save the model again")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise InputError(f"{name} has a broken header", "its metadata is not a table", "Save the model again")
    start = 8 + length
    specs, places = {}, []
    for tensor, entry in entries.items():
        spec, begin, end = _entry(name, tensor, entry)
        if end - begin != spec.nbytes or begin < 0 or start + end > size:
            raise InputError(
                f"{name}: {tensor} has wrong offsets",
                f"[{begin}, {end}] for {spec.nbytes} bytes in a file of {size}",
                "The file is damaged or cut off: upload it again",
            )
        specs[tensor] = spec
        places.append((begin, end, tensor))
    places.sort()
    for (_, before, first), (begin, _, second) in pairwise(places):
        if begin < before:
            raise InputError(f"{name}: {first} and {second} overlap", "two tensors share bytes", "Save it again")
    offsets = {tensor: start + begin for begin, _, tensor in places}
    return Header(specs, offsets, {str(key): str(value) for key, value in metadata.items()}, start)


def _entry(file: str, tensor: str, entry: Any) -> tuple[TensorSpec, int, int]:
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{file}: {tensor} has a broken entry", "it lacks a field", "Save the model again") from None
    if code not in DTYPES:
        raise InputError(
            f"{file}: {tensor} is stored as {str(code)[:20]}",
            "quantised weights cannot be merged",
            "Use the float32, float16 or bfloat16 version of this model",
        )
    if not all(isinstance(number, int) and 0 <= number < 2**48 for number in numbers) or prod(shape) >= 2**48:
        raise InputError(f"{file}: {tensor} has impossible sizes", f"{numbers}", "Save the model again")
    return TensorSpec(tensor, shape, DTYPES[code]), begin, end


class SafetensorsFile:
    """One safetensors file, read by position (no mmap, no copy of the file in memory)."""

    def __init__(self, path: Path, label: str = "") -> None:
        self.path, label = path, label or path.name  # the label is how errors call the file
        self._descriptor = os.open(path, os.O_RDONLY)
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
        os.close(self._descriptor)


class Checkpoint:
    """The weights of one model in a folder: one file, or shards with an index, and those of its modules.

    A tensor of a module of sentence-transformers is called by its folder too: `2_Dense/linear.weight`.
    """

    def __init__(self, folder: Path, model: str = "") -> None:
        self.folder, model = folder, model or folder.name  # errors call the model so
        self.files = weight_files(folder)
        self._shards = [SafetensorsFile(folder / name, f"{model}: {name}") for name in self.files]
        self._where: dict[str, SafetensorsFile] = {}
        self.specs: Mapping[str, TensorSpec] = specs_of(
            {file: shard.header for file, shard in zip(self.files, self._shards, strict=True)}, model
        )
        for file, shard in zip(self.files, self._shards, strict=True):
            self._where |= dict.fromkeys(_addressed(file, shard.header), shard)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """See `TensorSource.read`."""
        return self._where[name].read(name.rpartition("/")[2], start, stop)

    def fill(self, name: str, start: int, out: Tensor) -> None:
        """See `TensorSource.fill`."""
        self._where[name].fill(name.rpartition("/")[2], start, out)

    def close(self) -> None:
        """Give the descriptors back."""
        for shard in self._shards:
            shard.close()


def _addressed(file: str, header: Header) -> dict[str, TensorSpec]:
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
        own = _addressed(file, header)
        if twice := specs.keys() & own.keys():
            raise InputError(f"{model}: {min(twice)} stands in two shards", file, "Save the model again")
        specs.update(own)
    return specs


def weight_files(folder: Path) -> tuple[str, ...]:
    """The weight files of a model folder in their order, then those of its modules (`2_Dense/model.safetensors`).

    Raises InputError when there are no safetensors.
    """
    return (*_root_files(folder), *module_weights(_modules(folder), _paths(folder), folder.name))


def _modules(folder: Path) -> tuple[Module, ...]:
    path = folder / MODULES_FILE
    return modules_of(parse_side(MODULES_FILE, path.read_bytes(), folder.name), folder.name) if path.is_file() else ()


def _paths(folder: Path) -> tuple[str, ...]:
    """Every file below a folder."""
    return tuple(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())


def _root_files(folder: Path) -> tuple[str, ...]:
    if (folder / WEIGHT_FILE).is_file():
        return (WEIGHT_FILE,)
    if (folder / WEIGHT_INDEX).is_file():
        text = (folder / WEIGHT_INDEX).read_bytes()[: INDEX_LIMIT + 1]
        files = index_files(text, folder.name)
        for name in files:
            if not (folder / name).is_file():
                raise InputError(f"{folder.name}: {name} is missing", "its index names it", "Download it again")
        return files
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES) if folder.is_dir() else []
    raise no_safetensors(str(folder), pickles)


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


def index_files(text: bytes, model: str) -> tuple[str, ...]:
    """The shards that a `model.safetensors.index.json` names, sorted; each a plain file name."""
    try:
        if len(text) > INDEX_LIMIT:
            raise ValueError
        files = sorted(set(json.loads(text)["weight_map"].values()))
        if not files or not all(Path(name).name == name and name.endswith(".safetensors") for name in files):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{model} has a broken index", f"{WEIGHT_INDEX} cannot be used", "Save the model again"
        ) from None
    return tuple(files)


def open_parent(model: str, folder: Path, *, revision: str = "", calibration: bool = False) -> Parent:
    """The parent in a local folder. `model` is how the recipe names it. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{model} is not a folder", "nothing is there", "Check the path")
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise InputError(f"{model} has no readable config.json", "it says what the tensors are", "Add it") from None
    config = checked_config(config, model)
    source = Checkpoint(folder, model)
    files = {name: (folder / name).stat().st_size for name in _paths(folder)}
    return Parent(
        model=model,
        revision=revision,
        config=config,
        source=source,
        files=files,
        weights={name: sha256_of(folder / name) for name in source.files},
        vocabulary=vocabulary_of({name: (folder / name).read_bytes() for name in TOKENIZER_FILES if name in files}),
        calibration=calibration,
        side={
            name: parse_side(name, (folder / name).read_bytes(), model) for name in side_names(files, _modules(folder))
        },
    )


def vocabulary_of(files: Mapping[str, bytes]) -> str:
    """Fingerprint of a tokenizer's token -> id table from its files; "" when there are none.

    `ids:...` when the table can be read, the same whatever file it stands in; else `bytes:...` of the files.
    Fingerprints of different kinds cannot be compared.
    """
    if not files:
        return ""
    try:
        table = _token_ids(files)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
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
    if labels is not None and not (isinstance(labels, dict) and all(str(key).isdecimal() for key in labels)):
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
        os.ftruncate(self._descriptor, self.size)
        os.posix_fallocate(self._descriptor, 0, self.size)
        os.pwrite(self._descriptor, header, 0)
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
        os.fsync(self._descriptor)
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
