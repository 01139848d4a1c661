"""Pieces of history as the store keeps them, and the spans of time that they cover."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np

from forecaster.domain import FloatArray

CHUNK_SECONDS = 6 * 3_600
CHUNK_VERSION = 1

Span = tuple[int, int]  # (after, until] in Unix seconds


class ChunkHead(msgspec.Struct, frozen=True):
    """What a chunk says of itself, before its values."""

    version: int
    resolution: str  # "fine" | "coarse"
    slot: int  # Unix seconds: the six hours that begin here
    after: int  # time before the first column
    step: int
    keys: tuple[str, ...]  # row keys
    entries: tuple[str, ...]  # identity of the configuration entry, one per row
    labels: tuple[tuple[str, ...], ...]  # of the template, one per row
    read: tuple[Span, ...]  # the part that Prometheus was asked for, one per row; (0, 0): none
    columns: int


@dataclass(frozen=True, slots=True, eq=False)
class HistoryChunk:
    """Six hours of one resolution, as the store keeps them. Identity: resolution and slot."""

    head: ChunkHead
    values: FloatArray  # (row, time) float32

    @property
    def id(self) -> str:
        return f"{self.head.resolution}/{self.head.slot}"

    @property
    def until(self) -> int:
        """Unix seconds of its last column."""
        return self.head.after + self.head.columns * self.head.step

    def to_bytes(self) -> bytes:
        """Checksum, length of the head, head (JSON), values (float32, little-endian)."""
        head = msgspec.json.encode(self.head)
        body = len(head).to_bytes(4, "little") + head + np.ascontiguousarray(self.values, dtype="<f4").tobytes()
        return zlib.crc32(body).to_bytes(4, "little") + body

    @classmethod
    def from_bytes(cls, data: bytes) -> HistoryChunk:
        """Raises ValueError where the bytes are not a whole chunk of a version that is known here."""
        if len(data) < 8 or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
            raise ValueError("the checksum is wrong")
        size = int.from_bytes(data[4:8], "little")
        try:
            head = msgspec.json.decode(data[8 : 8 + size], type=ChunkHead)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error
        rows = len(head.keys)
        values = np.frombuffer(data, dtype="<f4", offset=8 + size)
        if head.version != CHUNK_VERSION or not rows == len(head.entries) == len(head.labels) == len(head.read):
            raise ValueError("another version, or its lists differ in length")
        if len(values) != rows * head.columns:
            raise ValueError("its values do not have the shape that it states")
        return cls(head, values.reshape(rows, head.columns))


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time as few spans, ascending."""
    out: list[Span] = []
    for after, until in sorted(span for span in spans if span[0] < span[1]):
        if out and after <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], until))
        else:
            out.append((after, until))
    return out


def without(spans: Iterable[Span], cut: Span) -> list[Span]:
    """Spans less one."""
    out: list[Span] = []
    for after, until in spans:
        out += [(after, min(until, cut[0])), (max(after, cut[1]), until)]
    return merged(out)
