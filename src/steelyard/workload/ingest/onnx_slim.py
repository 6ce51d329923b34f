"""An ONNX file without the data of its weights: its wire format walked once, in pieces.

A file may hold gigabytes of weights; what they are shaped like takes kilobytes. Data of tensors above :data:`KEEP`
bytes is left out and the tensor marked as if its data lay in another file, which is never looked for. Nodes are counted
on the way, so a file of a million is refused before anything is built of it.
"""

from __future__ import annotations

from typing import BinaryIO

from steelyard.errors import InputError

__all__ = ["KEEP", "MOST_NODES", "slim"]

#: Data of one tensor that is kept, bytes: sizes and indices that shapes are reckoned from are smaller.
KEEP = 16_384
#: Most nodes, parts of the wire format looked at, bytes beside the weights, and messages in one another.
MOST_NODES, MOST_PARTS, MOST_BYTES, MOST_DEPTH = 200_000, 3_000_000, 64 << 20, 100

#: Messages of onnx.proto by the number of their field, as far as they can hold tensors.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": dict.fromkeys((4, 5, 6, 7, 9, 10, 11), "data"),
}
#: ``data_location: EXTERNAL`` of a tensor.
_ELSEWHERE = b"\x70\x01"


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


class _Walk:
    """Where reading stands, and what was counted."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream, self.size, self.at = stream, size, 0
        self.nodes = self.parts = self.kept = 0

    def number(self, end: int) -> tuple[int, bytes]:
        """A varint and its bytes."""
        value, raw = 0, b""
        while True:
            byte = self.stream.read(1)
            raw += byte
            if not byte or self.at + len(raw) > end or len(raw) > 10:
                raise InputError("it ends within a number")
            value |= (byte[0] & 127) << (7 * len(raw) - 7)
            if byte[0] < 128:
                self.at += len(raw)
                return value, raw

    def copy(self, length: int) -> bytes:
        """The next bytes, which are kept."""
        self.kept += length
        if self.kept > MOST_BYTES:
            raise InputError(f"it has more than {MOST_BYTES >> 20} MiB beside the data of its weights")
        self.at += length
        data = self.stream.read(length)
        if len(data) != length:
            raise InputError("it ends within a field")
        return data

    def skip(self, length: int) -> None:
        """Pass over the next bytes."""
        self.at += length
        self.stream.seek(self.at)

    def message(self, kind: str, end: int, depth: int = 0) -> bytes:
        """A message up to ``end``, with the data of large tensors left out."""
        if depth > MOST_DEPTH:
            raise InputError(f"it is nested more than {MOST_DEPTH} deep")
        out: list[bytes] = []
        fields, left_out = _FIELDS[kind], False
        while self.at < end:
            self.parts += 1
            if self.parts > MOST_PARTS:
                raise InputError(f"it has more than {MOST_PARTS:,} parts")
            tag, raw = self.number(end)
            wire, inner = tag & 7, fields.get(tag >> 3, "")
            if wire != 2:
                if wire == 0:
                    value = self.number(end)[1]
                elif wire in (1, 5) and self.at + (8 if wire == 1 else 4) <= end:
                    value = self.copy(8 if wire == 1 else 4)
                else:
                    raise InputError("it has a field of no known kind")
                out += (raw, value)
                continue
            length, told = self.number(end)
            if length > end - self.at:
                raise InputError("it ends within a field")
            if inner == "node":
                self.nodes += 1
                if self.nodes > MOST_NODES:
                    raise InputError(f"it has more than {MOST_NODES:,} nodes")
            if inner == "training" or (inner == "data" and length > KEEP):
                self.skip(length)
                left_out = left_out or inner == "data"
            elif inner in ("", "data") or (length <= KEEP and inner != "graph"):
                out += (raw, told, self.copy(length))
            else:
                part = self.message(inner, self.at + length, depth + 1)
                out += (raw, _varint(len(part)), part)
        if left_out:
            out.append(_ELSEWHERE)
        return b"".join(out)


def slim(stream: BinaryIO, size: int) -> bytes:
    """The bytes of a model without the data of large tensors.

    Raises:
        InputError: it is no message of protobuf, or beyond the limits.
    """
    return _Walk(stream, size).message("model", size)
