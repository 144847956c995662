"""Safetensors files made by hand: in another order, with odd headers, and with headers that lie."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from merging.tensors import CODES


def raw_file(entries: object, data: bytes = b"", *, front: bytes = b"", back: bytes = b"") -> bytes:
    """A file with this header (JSON, or bytes as they are) and these bytes behind it."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    text = front + text + back
    return struct.pack("<Q", len(text)) + text + data


def entry(code: object = "F32", shape: Sequence[Any] = (2,), offsets: Sequence[Any] = (0, 8)) -> dict[str, Any]:
    """One tensor of a header."""
    return {"dtype": code, "shape": list(shape), "data_offsets": list(offsets)}


def packed(
    tensors: Mapping[str, Tensor], *, metadata: Any = "none", front: bytes = b"", back: bytes = b"", listed: int = 1
) -> bytes:
    """A file whose bytes lie in the order of the table; its header lists them in that order, or backwards for -1."""
    entries: dict[str, Any] = {} if metadata == "none" else {"__metadata__": metadata}
    data, places = b"", {}
    for name, values in tensors.items():
        body = bytes(values.detach().contiguous().reshape(-1).view(torch.uint8).numpy()) if values.numel() else b""
        places[name] = entry(CODES[values.dtype], values.shape, (len(data), len(data) + len(body)))
        data += body
    return raw_file(entries | {name: places[name] for name in list(places)[::listed]}, data, front=front, back=back)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model folder, whatever its shards are."""
    return {name: values for shard in sorted(folder.glob("*.safetensors")) for name, values in load_file(shard).items()}
