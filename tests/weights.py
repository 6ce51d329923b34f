"""Files of weights whose data is a hole: what readers of headers need."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_safetensors"]

#: Bytes of an element.
BYTES = {"F32": 4, "I32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1}


def write_safetensors(
    path: Path, tensors: Iterable[tuple[str, tuple[int, ...], str]], metadata: Mapping[str, str] | None = None
) -> int:
    """A safetensors file of ``(name, shape, dtype)``; returns the bytes of its data."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape, dtype in tensors:
        size = math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return at
