"""The weights of a model's files, module by module: packed forms unfolded, experts counted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from steelyard.workload.ingest.safetensors import TensorInfo
from steelyard.workload.structure.names import Place, place_of

__all__ = ["Group", "Piece", "Table", "gather"]

#: Number formats whose elements are whole weights.
_WHOLE = frozenset(("fp64", "fp32", "fp16", "bf16", "fp8", "int8", "bool"))
#: Tables of numbers that follow from the config.
_TABLES = re.compile(r"rope_freqs|inv_freq|rotary_emb|masked_bias|num_batches_tracked|tid2eid")
#: Bits of a packed weight where neither its scales nor the config tell.
_USUAL_BITS = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """One parameter of a module: its shape as PyTorch has it (outputs first), and how many experts have such a one."""

    path: str
    ending: str
    shape: tuple[int, ...]
    copies: int = 1

    @property
    def each(self) -> int:
        """Elements of one."""
        return math.prod(self.shape)

    @property
    def elements(self) -> int:
        """Elements of all."""
        return self.copies * self.each

    @property
    def name(self) -> str:
        """Its name inside the layer."""
        return f"{self.path}.{self.ending}" if self.ending else self.path


@dataclass(slots=True)
class Group:
    """The parameters of one layer, or of one place outside the layers, with the bytes each takes."""

    pieces: dict[tuple[str, str], Piece] = field(default_factory=dict)
    bytes: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, path: str, ending: str, shape: tuple[int, ...], size: int) -> None:
        """One more tensor: experts of one shape are one piece."""
        key = (path, ending)
        found = self.pieces.get(key)
        self.bytes[key] = self.bytes.get(key, 0) + size
        if found is None:
            self.pieces[key] = Piece(path, ending, shape)
        elif found.shape == shape:
            self.pieces[key] = Piece(path, ending, shape, found.copies + 1)
        else:  # two things of one name: kept apart
            self.add(f"{path}~", ending, shape, size)
            self.bytes[key] -= size

    @property
    def elements(self) -> int:
        """Elements of all pieces."""
        return sum(piece.elements for piece in self.pieces.values())


@dataclass(slots=True)
class Table:
    """All tensors of a model's files."""

    stacks: dict[str, dict[int, Group]] = field(default_factory=dict)
    outside: Group = field(default_factory=Group)
    tower: Group = field(default_factory=Group)
    ahead: Group = field(default_factory=Group)
    tensors: int = 0


def gather(tensors: Iterable[TensorInfo], quantisation: Mapping[str, object] | None = None) -> Table:
    """The weights of each module.

    Args:
        tensors: of all files, shapes as PyTorch has them.
        quantisation: what the config says of packed weights: ``bits``, ``group_size``.
    """
    stated = quantisation or {}
    kept = (tensor for tensor in tensors if not _TABLES.search(tensor.name) and not _is_mask(tensor))
    table, found = Table(), [(place_of(tensor.name), tensor) for tensor in kept]
    beside: dict[tuple[str, int, int, str], dict[str, TensorInfo]] = {}
    for place, tensor in found:
        if place.ending == "scale":
            beside.setdefault(_module(place), {})[tensor.name.rpartition(".")[2]] = tensor
    placed: set[tuple[str, int, int, str]] = set()
    for place, tensor in found:
        if place.ending == "scale":
            continue
        scales: Mapping[str, TensorInfo] = {}
        if place.ending != "bias" and _module(place) not in placed:
            placed.add(_module(place))
            scales = beside.get(_module(place), {})
        size = tensor.bytes + sum(scale.bytes for scale in scales.values())
        group = _group(table, place)
        within = place.path if place.kind in ("layer", "outside") else f"{place.stack}.{place.path}"
        group.add(within, place.ending, _shape(tensor, scales, stated), size)
    table.tensors = len(found)
    return table


def _is_mask(tensor: TensorInfo) -> bool:
    return len(tensor.shape) == 4 and tensor.name.endswith(("attn.bias", "attention.bias", "masked_bias"))


def _module(place: Place) -> tuple[str, int, int, str]:
    return place.stack, place.layer, place.expert, place.path


def _group(table: Table, place: Place) -> Group:
    if place.kind == "layer":
        return table.stacks.setdefault(place.stack, {}).setdefault(place.layer, Group())
    return {"outside": table.outside, "tower": table.tower}.get(place.kind, table.ahead)


def _shape(tensor: TensorInfo, scales: Mapping[str, TensorInfo], stated: Mapping[str, object]) -> tuple[int, ...]:
    """The shape of the weights a tensor holds, where several are packed in one element."""
    shape = tensor.shape
    name = tensor.name.rpartition(".")[2]
    if name.endswith("_blocks") and len(shape) == 4:  # MXFP4: 32 weights in 16 bytes
        return (shape[0], shape[1], shape[2] * shape[3] * 2)
    if tensor.format in _WHOLE or tensor.format not in ("uint8", "int32", "uint32", "int64") or not shape:
        return shape
    width = {"uint8": 8, "int64": 64}.get(tensor.format, 32)
    bits = _number(stated, "bits", "w_bit", "num_bits") or _USUAL_BITS
    if len(shape) == 2 and shape[1] == 1:  # one column: bitsandbytes
        return (shape[0] * width // bits, 1)
    grid = next((s.shape for key, s in scales.items() if "scale" in key and len(s.shape) >= 2), ())
    if name == "qweight" and len(shape) == 2:
        if grid and grid[-1] == shape[1]:  # GPTQ packs inputs
            order = next((s.shape[0] for key, s in scales.items() if key == "g_idx" and len(s.shape) == 1), 0)
            return (shape[1], order or shape[0] * width // bits)
        outputs = grid[-1] if grid else shape[1] * width // bits  # AWQ packs outputs
        return (outputs, shape[0])
    if grid and "biases" in scales:  # MLX: one scale and offset per group
        return (*shape[:-1], grid[-1] * (_number(stated, "group_size") or 64))
    return (*shape[:-1], shape[-1] * width // bits)


def _number(stated: Mapping[str, object], *names: str) -> int:
    for name in names:
        value = stated.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 4096:
            return value
    return 0
