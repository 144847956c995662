"""The header of a safetensors file and the index of its shards: a stranger's input, checked before anything is read.

A header is as strict here as the safetensors library has it: every byte of the file belongs to one tensor. Its
metadata is not looked at closer than it must be.
"""

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from merging.errors import InputError
from merging.tensors import DTYPES, Header, TensorSpec

HEADER_LIMIT = 25_000_000  # bytes
INDEX_LIMIT = 50_000_000  # bytes
TENSOR_LIMIT = 200_000  # tensors in one file, and of one model
MARK_LIMIT = 15 * TENSOR_LIMIT  # brackets, colons and commas of one header: what it costs once it is parsed
METADATA_LIMIT = 10_000  # entries
DIMENSIONS = 64  # of one tensor, as torch has them at most
NAME_LIMIT = 1000  # characters of a tensor's name
NAME_SHOWN = 100  # of these in an error
WEIGHT_FILE, WEIGHT_INDEX = "model.safetensors", "model.safetensors.index.json"
OTHER_VERSION = "Use the float32, float16 or bfloat16 version of this model"
UNMERGEABLE = (
    (r"F[468](_.*)?", "quantised weights cannot be merged", OTHER_VERSION),
    (r"U(16|32|64)", "whole numbers of this kind are quantised weights, packed", OTHER_VERSION),
    (r"C(64|128)", "complex numbers cannot be merged", "Leave this model out"),
    (r".*", "safetensors knows no such numbers", "Save the model again"),
)  # code of a dtype, why it cannot be merged, what to do


class _Twice(ValueError):
    """A key stands twice in one table."""


def strict_json(text: bytes) -> Any:
    """JSON in UTF-8 in which no key stands twice. Raises ValueError or RecursionError."""
    return json.loads(text.decode(), object_pairs_hook=_table)


def _table(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        raise _Twice(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return table


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
    start = 8 + header_length(head, size, name)
    entries = _entries(head[8:start], name)
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or len(metadata) > METADATA_LIMIT:
        raise _broken(name, "its metadata is not a table")
    specs, places = {}, []
    for tensor, entry in entries.items():
        spec, begin, end = _entry(f"{name}: {_shown(tensor)}", tensor, entry)
        if end - begin != spec.nbytes or start + end > size:
            raise InputError(
                f"{name}: {_shown(tensor)} has wrong offsets",
                f"[{begin}, {end}] for {spec.nbytes} bytes in a file of {size}",
                "The file is damaged or cut off: upload it again",
            )
        specs[tensor] = spec
        places.append((begin, end, tensor))
    places.sort()
    _check_cover(places, size - start, name)
    offsets = {tensor: start + begin for begin, _, tensor in places}
    texts = {str(key): str(value) for key, value in metadata.items()}
    return Header({tensor: specs[tensor] for tensor in offsets}, offsets, texts, start)


def _entries(text: bytes, name: str) -> dict[str, Any]:
    if sum(map(text.count, (b"{", b"[", b":", b","))) > MARK_LIMIT:
        raise _broken(name, "it is not a table of tensors")
    try:
        entries = strict_json(text)
    except _Twice as twice:
        raise _broken(name, f"{_shown(str(twice))} stands in it twice") from None
    except (ValueError, RecursionError):
        raise _broken(name, "it is not JSON") from None
    if not isinstance(entries, dict) or len(entries) > TENSOR_LIMIT:
        raise _broken(name, "it is not a table of tensors")
    return entries


def _broken(name: str, why: str) -> InputError:
    return InputError(f"{name} has a broken header", why, "Save the model again")


def _shown(tensor: str) -> str:
    """A name as an error may show it: not too long, of one line, and in letters that can be printed."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in tensor[:NAME_SHOWN])


def _entry(label: str, tensor: str, entry: Any) -> tuple[TensorSpec, int, int]:
    """(what it is, first byte, byte behind the last), both from the end of the header on."""
    try:
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = (*shape, begin, end)
        tensor.encode()
    except UnicodeEncodeError:
        raise InputError(f"{label} is no name of a tensor", "it is not text", "Save the model again") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{label} has a broken entry", "it lacks a field", "Save the model again") from None
    if len(tensor) > NAME_LIMIT:
        why = f"it has {len(tensor):,} characters, at most {NAME_LIMIT:,} are read"
        raise InputError(f"{label} is no name of a tensor", why, "Save the model again")
    if not isinstance(code, str) or code not in DTYPES:
        code = str(code)[:20]
        why, fix = next((why, fix) for pattern, why, fix in UNMERGEABLE if re.fullmatch(pattern, code, re.DOTALL))
        raise InputError(f"{label} is stored as {code}", why, fix)
    counts = all(type(number) is int and 0 <= number < 2**48 for number in numbers)
    if not counts or len(shape) > DIMENSIONS or prod(shape) >= 2**48:
        raise InputError(f"{label} has impossible sizes", f"{numbers}"[:200], "Save the model again")
    return TensorSpec(tensor, tuple(shape), DTYPES[code]), begin, end


def _check_cover(places: Iterable[tuple[int, int, str]], size: int, name: str) -> None:
    """Every one of the `size` bytes behind the header belongs to one tensor."""
    covered, last = 0, ""
    for begin, end, tensor in places:
        if begin < covered:
            what = f"{name}: {_shown(last)} and {_shown(tensor)} overlap"
            raise InputError(what, "two tensors share bytes", "Save it again")
        if begin > covered:
            raise _unowned(name, begin - covered, f"before {_shown(tensor)}")
        covered, last = end, tensor
    if covered < size:
        raise _unowned(name, size - covered, "at the end")


def _unowned(name: str, count: int, where: str) -> InputError:
    return InputError(f"{name}: {count:,} bytes {where} belong to no tensor", "the file is damaged", "Save it again")


def parse_index(text: bytes, model: str) -> dict[str, str]:
    """Tensor -> shard, as a `model.safetensors.index.json` says; each shard is a plain file name."""
    why = f"{WEIGHT_INDEX} cannot be used"
    try:
        if len(text) > INDEX_LIMIT:
            raise ValueError
        index = strict_json(text)["weight_map"]
        files = set(index.values())
        if not files or not all(Path(name).name == name and name.endswith(".safetensors") for name in files):
            raise ValueError
    except _Twice as twice:
        why = f"{_shown(str(twice))} stands twice in {WEIGHT_INDEX}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    else:
        return dict(index)
    raise InputError(f"{model} has a broken index", why, "Save the model again")


def check_index(index: Mapping[str, str], headers: Mapping[str, Header], model: str) -> None:
    """InputError for a tensor that is not in the shard that the index names."""
    for tensor, file in index.items():
        if tensor in headers[file].specs:
            continue
        other = next((name for name, header in headers.items() if tensor in header.specs), "")
        raise InputError(
            f"{model}: {file} has no tensor {_shown(tensor)}",
            f"its index says so, but {f'it is in {other}' if other else 'no shard has it'}",
            "Save the model again",
        )
