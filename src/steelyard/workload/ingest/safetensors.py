"""Header of a safetensors file: exact bytes of every tensor without reading one.

Layout: 8 bytes little-endian header length, that many bytes of JSON
``{name: {"dtype", "shape", "data_offsets": [begin, end]}}``, then the data.
Source: https://huggingface.co/docs/safetensors (format page).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.documents import open_file
from steelyard.errors import InputError, Problem, raise_all

__all__ = [
    "DTYPES",
    "MAX_HEADER",
    "MAX_TENSORS",
    "SafetensorsHeader",
    "TensorInfo",
    "elements_note",
    "read_safetensors",
]

#: Longest header accepted, in bytes (the limit of the reference implementation).
MAX_HEADER = 100_000_000
#: Most tensors of one model (the largest published ones have some 200,000).
MAX_TENSORS = 500_000
#: Where a tensor may end at most, in bytes after the header.
_MOST_BYTES = 2**50
#: Stored elements may differ from the counted parameters by this share (rotary tables, scales) without a remark.
_TOLERANCE = 0.005
#: Most problems listed for one file.
_MOST_PROBLEMS = 10

#: dtype -> (bits per element, format name).
DTYPES: Mapping[str, tuple[int, str]] = {
    "BOOL": (8, "bool"),
    "F4": (4, "fp4"),
    "F6_E2M3": (6, "fp6"),
    "F6_E3M2": (6, "fp6"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "F8_E5M2": (8, "fp8"),
    "F8_E4M3": (8, "fp8"),
    "F8_E8M0": (8, "e8m0"),
    "I16": (16, "int16"),
    "U16": (16, "uint16"),
    "F16": (16, "fp16"),
    "BF16": (16, "bf16"),
    "I32": (32, "int32"),
    "U32": (32, "uint32"),
    "F32": (32, "fp32"),
    "C64": (64, "complex64"),
    "F64": (64, "fp64"),
    "I64": (64, "int64"),
    "U64": (64, "uint64"),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor: shape, format name and bytes."""

    name: str
    shape: tuple[int, ...]
    format: str
    bytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        total = 1
        for extent in self.shape:
            total *= extent
        return total


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a safetensors file says about itself."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]
    short_bytes: int = 0
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


def read_safetensors(path: str | Path) -> SafetensorsHeader:
    """Read and check the header of a ``.safetensors`` file. The data need not be there: the header has all sizes.

    Raises:
        InputError: not such a file, cut inside the header, header above :data:`MAX_HEADER`, unknown dtype, offsets that
            cannot be or do not match the shape.
    """
    file = Path(path)
    try:
        with open_file(file, 2**60) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
            if len(start) < 8:
                raise InputError(f"truncated: {size} bytes are no safetensors file", field=file.name)
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER:
                raise InputError(f"header of {length:,} bytes; at most {MAX_HEADER:,} are accepted", field=file.name)
            if length + 8 > size:
                raise InputError(f"truncated: header of {length:,} bytes in a file of {size:,} bytes", field=file.name)
            text = stream.read(length)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}", field="file") from error
    if text.count(b"{") > MAX_TENSORS + 2:  # each is a table
        raise InputError(f"more than {MAX_TENSORS:,} tensors; at most so many are accepted", field=file.name)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"malformed header: {error}", field=file.name) from error
    if not isinstance(header, dict):
        raise InputError(f"malformed header: expected a table, got {type(header).__name__}", field=file.name)
    metadata = header.pop("__metadata__", {})
    tensors, problems, last = [], [], 0
    for name, entry in header.items():
        tensor = _tensor(name, entry)
        if isinstance(tensor, Problem):
            problems.append(Problem(f"{file.name}: {tensor.field}", tensor.message))
            if len(problems) >= _MOST_PROBLEMS:
                break
        else:
            tensors.append(tensor)
            last = max(last, entry["data_offsets"][1])
    raise_all(problems)
    known = {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}
    return SafetensorsHeader(tuple(tensors), known, max(0, last - (size - 8 - length)))


def elements_note(counted: int, stored: int) -> tuple[str, ...]:
    """A remark when a file holds clearly more or fewer elements than the graph counts."""
    if abs(stored - counted) <= _TOLERANCE * counted:
        return ()
    return (f"the files hold {stored:,} elements, the model has {counted:,}",)


def _tensor(name: str, entry: Any) -> TensorInfo | Problem:
    if not isinstance(entry, dict):
        return Problem(name, "expected a table with dtype, shape and data_offsets")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if dtype not in DTYPES if isinstance(dtype, str) else True:
        return Problem(f"{name}.dtype", f"unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not _whole(shape):
        return Problem(f"{name}.shape", f"expected a list of sizes, got {str(shape)[:40]}")
    if not isinstance(offsets, list) or not _whole(offsets) or len(offsets) != 2:
        return Problem(f"{name}.data_offsets", "expected [begin, end]")
    begin, end = offsets
    if not begin <= end <= _MOST_BYTES:
        return Problem(f"{name}.data_offsets", f"expected [begin, end] up to {_MOST_BYTES:,}, got {str(offsets)[:40]}")
    bits, label = DTYPES[str(dtype)]
    info = TensorInfo(name, tuple(shape), label, end - begin)
    if (info.elements * bits + 7) // 8 != info.bytes:
        return Problem(name, f"shape {shape} of {dtype} does not fill {info.bytes:,} bytes")
    return info


def _whole(value: list[Any]) -> bool:
    return all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in value)
