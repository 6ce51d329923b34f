"""Header of a GGUF file: metadata and tensor list, exact bytes per GGML type. No tensor is read.

Layout (little endian): ``GGUF``, version, tensor count, metadata count, the metadata (key, type, value), the tensor
infos (name, dimensions, type, offset), padding, the data. Source: the GGUF specification,
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; block sizes: ``ggml-common.h`` of the same project.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.documents import open_file
from steelyard.errors import InputError
from steelyard.workload.ingest.safetensors import TensorInfo

__all__ = ["GGML_TYPES", "GgufHeader", "Length", "read_gguf"]

#: GGML type id -> (format name, elements per block, bytes per block).
GGML_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("fp32", 1, 4),
    1: ("fp16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 40),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("int8", 1, 1),
    25: ("int16", 1, 2),
    26: ("int32", 1, 4),
    27: ("int64", 1, 8),
    28: ("fp64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
    41: ("q1_0", 128, 18),
}

_SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

# Limits, far above every published file; they bound the time and memory a hostile file can take.
MAX_FILE = 2**60
MAX_HEADER = 64 * 2**20
MAX_METADATA = 65_536
MAX_TENSORS = 1_000_000
MAX_KEY = 65_535
MAX_STRING = 16 * 2**20
MAX_ARRAY = 4_000_000
MAX_NESTING = 3
MAX_DIMENSIONS = 8
#: Numeric arrays up to this length are kept (one number per layer); of longer ones and of text only the length.
KEPT_ARRAY = 4096


class Length(int):
    """The length of an array that was skipped (a vocabulary)."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    missing_bytes: int = 0
    """Bytes of tensors beyond the end of the file: only the header, or a part, was downloaded."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.bytes for t in self.tensors)

    @property
    def bytes_by_format(self) -> dict[str, int]:
        """Bytes per format name."""
        totals: dict[str, int] = {}
        for tensor in self.tensors:
            totals[tensor.format] = totals.get(tensor.format, 0) + tensor.bytes
        return totals


def read_gguf(path: str | Path) -> GgufHeader:
    """Read and check the header of a ``.gguf`` file. The data need not be there: the header has all sizes.

    Raises:
        InputError: not a GGUF file, an unknown version or type, cut inside the header, or above a limit.
    """
    file = Path(path)
    try:
        with open_file(file, MAX_FILE) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size < 24:
                raise InputError(f"truncated: {size} bytes are no GGUF file", field=file.name)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data, file.name).header()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}", field="file") from error


class _Reader:
    """A cursor over the mapped file that never leaves it."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data, self.name, self.at, self.size = data, name, 0, len(data)

    def fail(self, message: str) -> InputError:
        return InputError(message, field=self.name)

    def take(self, count: int) -> int:
        """Move over ``count`` bytes and return where they began."""
        begin = self.at
        if count > self.size - begin:
            raise self.fail(f"truncated: the header goes on past the end of the file ({self.size:,} bytes)")
        self.at = begin + count
        if self.at > MAX_HEADER:
            raise self.fail(f"header of more than {MAX_HEADER / 2**20:.0f} MiB")
        return begin

    def scalar(self, kind: struct.Struct) -> Any:
        return kind.unpack_from(self.data, self.take(kind.size))[0]

    def string(self, limit: int) -> str:
        length = self.scalar(_U64)
        if length > limit:
            raise self.fail(f"text of {length:,} bytes at byte {self.at:,}; at most {limit:,} are accepted")
        begin = self.take(length)
        return self.data[begin : begin + length].decode("utf-8", errors="replace")

    def header(self) -> GgufHeader:
        begin = self.take(4)
        if self.data[begin : begin + 4] != b"GGUF":
            raise self.fail("not a GGUF file (it does not begin with 'GGUF')")
        version = self.scalar(_U32)
        if version not in (2, 3):
            big = " (a big-endian file?)" if version >= 2**24 else ""
            raise self.fail(f"GGUF version {version} is not known; 2 and 3 are{big}")
        tensors, entries = self.scalar(_U64), self.scalar(_U64)
        if tensors > MAX_TENSORS:
            raise self.fail(f"{tensors:,} tensors; at most {MAX_TENSORS:,} are accepted")
        if entries > MAX_METADATA:
            raise self.fail(f"{entries:,} metadata entries; at most {MAX_METADATA:,} are accepted")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self.string(MAX_KEY)
            metadata[key] = self.value(self.scalar(_U32), key, 0)
        infos = [self.tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment > 2**20:
            raise self.fail(f"general.alignment: expected a small whole number, got {alignment!r}")
        start = -(-self.at // alignment) * alignment
        end = max((start + offset + info.bytes for info, offset in infos), default=start)
        if end > MAX_FILE:
            raise self.fail(f"its tensors end at byte {end:,}; files of at most {MAX_FILE:,} bytes are accepted")
        return GgufHeader(version, metadata, tuple(info for info, _ in infos), max(0, end - self.size))

    def value(self, kind: int, key: str, depth: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string(MAX_STRING)
        if kind != _ARRAY:
            raise self.fail(f"{key}: unknown metadata type {kind}")
        if depth >= MAX_NESTING:
            raise self.fail(f"{key}: arrays nested more than {MAX_NESTING} deep")
        inner, length = self.scalar(_U32), self.scalar(_U64)
        if length > MAX_ARRAY:
            raise self.fail(f"{key}: array of {length:,} entries; at most {MAX_ARRAY:,} are accepted")
        if inner in _SCALARS:
            form = _SCALARS[inner]
            begin = self.take(length * form.size)
            if length > KEPT_ARRAY:
                return Length(length)
            return tuple(form.unpack_from(self.data, begin + i * form.size)[0] for i in range(length))
        for _ in range(length):
            if inner == _STRING:
                self.take(self.scalar(_U64))
            else:
                self.value(inner, key, depth + 1)
        return Length(length)

    def tensor(self) -> tuple[TensorInfo, int]:
        name = self.string(MAX_KEY)
        count = self.scalar(_U32)
        if count > MAX_DIMENSIONS:
            raise self.fail(f"tensor {name!r} has {count} dimensions; at most {MAX_DIMENSIONS} are accepted")
        shape = tuple(int(self.scalar(_U64)) for _ in range(count))
        kind, offset = self.scalar(_U32), self.scalar(_U64)
        if kind not in GGML_TYPES:
            raise self.fail(f"tensor {name!r} has the unknown type {kind}")
        label, block, size = GGML_TYPES[kind]
        if shape and shape[0] % block:
            raise self.fail(f"tensor {name!r}: rows of {shape[0]} do not fill blocks of {block} ({label})")
        elements = 1
        for extent in shape:
            elements *= extent
        return TensorInfo(name, shape, label, elements // block * size), offset
