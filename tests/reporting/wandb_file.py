"""Reads what wandb wrote offline: a file of protobuf records in LevelDB's log format."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The module picks its content by the installed version of protobuf, which a type checker cannot follow.
from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

_BLOCK = 32_768
_FILE_HEADER = 7
_CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _LAST = 1, 4  # 2 and 3 are the first and the middle parts of a payload


def read_records(path: Path) -> list[Any]:
    """All records of the file, as protobuf messages."""
    records = []
    for data in _payloads(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        records.append(record)
    return records


def _payloads(content: bytes) -> Iterator[bytes]:
    assert content[:4] == b":W&B"
    place, payload = _FILE_HEADER, b""
    while place + _CHUNK_HEADER.size <= len(content):
        left_in_block = _BLOCK - place % _BLOCK
        if left_in_block < _CHUNK_HEADER.size:
            place += left_in_block  # too small for a chunk: padding
            continue
        _, length, kind = _CHUNK_HEADER.unpack_from(content, place)
        place += _CHUNK_HEADER.size
        if place + length > len(content):
            return  # still being written
        payload += content[place : place + length]
        place += length
        if kind in (_FULL, _LAST):
            yield payload
            payload = b""
