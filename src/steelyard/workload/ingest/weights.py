"""The weight files of a model: which there are, which an index names, and what their headers say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from steelyard.documents import is_file, read_text
from steelyard.errors import InputError, printable
from steelyard.workload.ingest.safetensors import MAX_TENSORS, TensorInfo, read_safetensors

__all__ = ["MAX_INDEX", "Held", "Weights", "indexed", "parts_of", "weights_of"]

#: Largest index file read, in bytes: one line per tensor, 9 MB for the 91,991 tensors of DeepSeek-V3.
MAX_INDEX = 128 * 2**20
#: Most weight files read in one folder (the largest published models have a few hundred).
_MOST_FILES = 2000
#: Largest total an index may state, in bytes.
_MOST_BYTES = 2**60


@dataclass(frozen=True)
class Held:
    """What the files that are there say."""

    tensors: tuple[TensorInfo, ...]
    absent: int = 0
    """Files that are not there, or are not opened because they may hold code."""
    inferred: int = 0
    """Tensors of absent files whose shape is that of their like in another layer."""
    unknown: tuple[str, ...] = ()
    """Tensors of absent files that no other is like."""
    short_bytes: int = 0
    """Bytes of tensors beyond the end of the files that are there."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say of files without their data."""
        if not self.short_bytes:
            return ()
        whole = sum(tensor.bytes for tensor in self.tensors)
        there = f"{max(0, whole - self.short_bytes) / 2**30:.2f} of {whole / 2**30:.2f} GiB"
        return (f"{there} of the weight files are there; sizes are those of their headers",)

    @property
    def bytes_by_format(self) -> dict[str, int]:
        """Bytes per format name."""
        total: dict[str, int] = {}
        for tensor in self.tensors:
            total[tensor.format] = total.get(tensor.format, 0) + tensor.bytes
        return total


@dataclass(frozen=True)
class Weights:
    """Weight files by name, and what an index says of them."""

    files: tuple[Path, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> file, where there is an index."""
    total_bytes: int = 0
    """Bytes of all tensors that the index states; 0: none."""

    def read(self) -> Held:
        """The headers of the files that are there. No tensor is read.

        Raises:
            InputError: see :func:`~steelyard.workload.ingest.safetensors.read_safetensors`; too many tensors.
        """
        found: list[TensorInfo] = []
        short = 0
        absent = [file.name for file in self.files if file.suffix != ".safetensors" or not is_file(file)]
        for file in self.files:
            if file.name not in absent:
                header = read_safetensors(file)
                found += header.tensors
                short += header.short_bytes
                if len(found) > MAX_TENSORS:
                    message = f"more than {MAX_TENSORS:,} tensors; at most so many are accepted"
                    raise InputError(message, field=printable(file.name)[:80])
        if not absent:
            return Held(tuple(found), short_bytes=short)
        like = {_like(tensor.name): tensor for tensor in found}
        missed, inferred = [], 0
        for name in (n for n, file in self.names.items() if file in set(absent)):
            tensor = like.get(_like(name))
            if tensor is None:
                missed.append(name)
            else:
                inferred += 1
                found.append(TensorInfo(name, tensor.shape, tensor.format, tensor.bytes))
        return Held(tuple(found), len(absent), inferred, tuple(missed), short)


def _like(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)


def weights_of(folder: Path) -> Weights:
    """The safetensors files of a folder; of pickles, which are not opened, what their index says."""
    single = folder / "model.safetensors"
    whole = sorted(folder.glob("*.safetensors.index.json"))
    for index in (folder / "model.safetensors.index.json", *whole):
        if index.is_file():
            return indexed(index)
    found = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    own = [file for file in found if not file.name.startswith("adapter_")] or found
    pickles = folder / "pytorch_model.bin.index.json"
    if not own and pickles.is_file():
        return indexed(pickles)
    return Weights(tuple(own[:_MOST_FILES]))


def parts_of(path: Path) -> Weights:
    """A file, with the other parts of ``model-00001-of-00004.safetensors`` when it is such a part."""
    match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.safetensors", path.name)
    if match is None:
        return Weights((path,))
    index = path.with_name(f"{match.group(1)}.safetensors.index.json")
    if index.is_file():
        return indexed(index)
    count = min(int(match.group(3)), _MOST_FILES)
    names = (f"{match.group(1)}-{i:05d}-of-{match.group(3)}.safetensors" for i in range(1, count + 1))
    return Weights(tuple(path.parent / name for name in names))


def indexed(index: Path) -> Weights:
    """The files an index names; all stand beside it."""
    text = read_text(index, MAX_INDEX)
    if text.count(":") > 2 * MAX_TENSORS:
        raise InputError(f"more than {MAX_TENSORS:,} tensors; at most so many are accepted", field=index.name)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"malformed JSON: {error}", field=index.name) from error
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, Mapping) or not all(isinstance(v, str) for v in table.values()):
        raise InputError("expected a table of tensor and file names", field=f"{index.name}: weight_map")
    if len(table) > MAX_TENSORS:
        raise InputError(f"{len(table):,} tensors; at most {MAX_TENSORS:,} are accepted", field=index.name)
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{name!r} is not a file beside the index", field=f"{index.name}: weight_map")
    stated = content.get("metadata")
    total = stated.get("total_size") if isinstance(stated, Mapping) else None
    if isinstance(total, float) and total.is_integer():
        total = int(total)
    sound = isinstance(total, int) and not isinstance(total, bool) and 0 < total <= _MOST_BYTES
    return Weights(tuple(index.parent / name for name in names[:_MOST_FILES]), table, int(total) if sound else 0)  # type: ignore[arg-type]
