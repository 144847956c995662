"""The most expensive inputs that we know of, made small on the wire: name -> (how it is made, who reads it)."""

import base64
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from merging.header import parse_header
from merging.modules import parse_side
from merging.recipe import recipe_from_link, recipe_from_yaml

SIZE = 24_900_000  # bytes: a header that is just read
TENSOR = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _filled(head: bytes, unit: bytes, tail: bytes) -> bytes:
    return _header((head + unit * ((SIZE - len(head) - len(tail)) // len(unit)))[:-1] + tail)


def _tensors(count: int) -> bytes:
    return _header(b"{" + b",".join(TENSOR % number for number in range(count))[:SIZE] + b"}")


def _read(body: bytes) -> object:
    return parse_header(body, len(body), "f")


def _bomb() -> str:
    return base64.urlsafe_b64encode(zlib.compress(b"a" * 50_000_000, 9)[:14_000]).decode()


CASES: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "a header of 100 MB": (lambda: struct.pack("<Q", 100_000_000), lambda body: parse_header(body, 10**9, "f")),
    "a header of empty lists": (lambda: _filled(b'{"a":[', b"[],", b"]}"), _read),
    "a header of short names": (lambda: _filled(b'{"a":0,', b'"1":0,', b"}"), _read),
    "a million tensors": (lambda: _tensors(420_000), _read),
    "200,000 tensors": (lambda: _tensors(200_000), _read),
    "a header of metadata": (lambda: _filled(b'{"__metadata__":{', b'"1":"",', b"}}"), _read),
    "YAML of brackets": (lambda: "[" * 200_000, recipe_from_yaml),
    "YAML of one number": (lambda: "1" * 199_990, recipe_from_yaml),
    "YAML of ones": (lambda: "[" + "1," * 99_990 + "]", recipe_from_yaml),
    "a link that unpacks to 50 MB": (_bomb, recipe_from_link),
    "JSON of 100,000 levels": (
        lambda: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        lambda raw: parse_side("tokenizer_config.json", raw, "ana/odd"),
    ),
}
