"""Weights in host memory: which of them, and whether the host computes with them or the device fetches them.

``experts`` (the routed experts of every layer), ``experts:36`` (of the first 36 layers), ``layers:20`` (20 layers stay
on the devices, the output head counted as one, the others lie in host memory with their cache), ``cpu:8GB`` (so many
bytes of every device's layers) or ``kv`` (the cache; the host computes attention of answers). ``computed`` (by the
host), ``streamed`` (to the device at every step) or ``either`` (computed, but streamed for large steps, as llama.cpp
does) say what is done with weights there, else the engine does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from steelyard.errors import InputError, show
from steelyard.units import format_quantity, parse_quantity

__all__ = ["EVERY", "USES", "Offload", "parse_offload"]

#: Stands for all layers.
EVERY = 1_000_000
#: What is done with weights in host memory.
USES = ("computed", "streamed", "either")
#: Layers that an override of tensors is tried on, and their tensors of experts.
_LAYERS, _TENSORS = 256, ("gate", "up", "down")
_EXPECTED = (
    "expected experts, experts:LAYERS, layers:LAYERS_ON_THE_DEVICES, cpu:SIZE or kv, and computed, streamed or either"
)


@dataclass(frozen=True, slots=True)
class Offload:
    """What lies in host memory."""

    experts: int = 0
    """Layers, from the first, whose routed experts do."""
    resident: int = EVERY
    """Layers that stay on the devices, the output head counted as one of them."""
    size_bytes: float = 0.0
    """Bytes of every device's layers that do."""
    pattern: str = ""
    """A llama.cpp override of tensors, until :meth:`of` counts what it names."""
    use: str = ""
    """One of :data:`USES`; empty: as the engine does."""
    cache: bool = False
    """The cache lies there, and the host computes attention to it, whatever is done with weights."""

    def __str__(self) -> str:
        parts = []
        if self.resident < EVERY:
            parts.append(f"layers:{self.resident}")
        if self.experts:
            parts.append("experts" if self.experts >= EVERY else f"experts:{self.experts}")
        if self.size_bytes:
            parts.append(f"cpu:{self.size_bytes / 2**30:g}GiB")
        parts += [self.use] if self.use and (parts or self.pattern) else []
        parts += ["kv"] if self.cache else []
        return ",".join([*parts, f"tensors:{self.pattern}"] if self.pattern else parts)

    def of(self, depth: int) -> Offload:
        """The same for a model of so many layers: as many or more are all of them."""
        experts = max(self.experts, _layers_named(self.pattern, depth)) if self.pattern else self.experts
        experts = EVERY if experts >= depth else experts
        return replace(self, experts=experts, pattern="", resident=EVERY if self.resident > depth else self.resident)

    @property
    def places(self) -> bool:
        """Whether layers or experts are placed, not bytes."""
        return bool(self.experts or self.pattern) or self.resident < EVERY

    @property
    def words(self) -> str:
        """What lies there, in words."""
        parts = []
        if self.resident < EVERY:
            parts.append(f"all but {max(0, self.resident - 1)} layers")
        if self.experts:
            parts.append("the experts" + ("" if self.experts >= EVERY else f" of {self.experts} layers"))
        if self.size_bytes:
            parts.append(f"{format_quantity(self.size_bytes, 'B')} of the layers of each device")
        if self.cache:
            parts.append("the cache, with the attention to it")
        return " and ".join(parts)


@lru_cache(maxsize=256)
def parse_offload(text: str) -> Offload:
    """Read the words of :mod:`steelyard.deployment.offload`, separated by commas; later ones of a kind win.

    Raises:
        InputError: a part that cannot be read.
    """
    experts, resident, size, pattern, use, cache = 0, EVERY, 0.0, "", "", False
    for part in (p.strip() for p in _parts(text)):
        kind, colon, value = (x.strip() for x in part.partition(":"))
        word = kind.lower()
        if word in ("experts", "moe") and (not colon or value.lower() in ("all", "every")):
            experts = EVERY
        elif word in ("experts", "moe"):
            experts = _count(value, part)
        elif word == "layers":
            resident = EVERY if value.lower() in ("all", "auto", "-1") else _count(value, part)
        elif word in ("cpu", "host") and colon:
            size = parse_quantity(value if re.search(r"[a-zA-Z]", value) else f"{value}GiB", "B", "offload")
            if not 0 <= size < 1e16:
                raise InputError(f"expected bytes of host memory such as cpu:8GB, got {show(part)}", field="offload")
        elif word in ("kv", "cache") and not colon:
            cache = True
        elif word == "tensors":
            pattern = _checked(value)
        elif word in USES and not colon:
            use = word
        elif word not in ("none", "off") or colon:
            raise InputError(f"{_EXPECTED}; got {show(part)}", field="offload")
    return Offload(experts, resident, size, pattern, use, cache)


def _parts(text: str) -> list[str]:
    """The parts of the words; a regular expression has commas of its own."""
    head, mark, rest = text.partition("tensors:")
    return [p for p in head.split(",") if p.strip()] + ([f"{mark}{rest}"] if mark else [])


def _count(value: str, part: str) -> int:
    if not re.fullmatch(r"\d{1,6}", value):
        raise InputError(f"expected a number of layers, got {show(part)}", field="offload")
    return int(value)


def _checked(text: str) -> str:
    r"""A llama.cpp override that puts experts on the CPU: ``.ffn_.*_exps.=CPU``, ``blk\.(0|1)\.ffn_.*_exps.=CPU``.

    Raises:
        InputError: it names other tensors, or is no plain regular expression.
    """
    for item in _overrides(text):
        pattern, equals, place = item.rpartition("=")
        if place.strip().upper() != "CPU" or not equals:
            raise InputError(f"expected PATTERN=CPU such as .ffn_.*_exps.=CPU, got {show(item)}", field="offload")
        if len(pattern) > 300 or re.search(r"\)[+*{]", pattern) or len(re.findall(r"(?<!\()[+*{?]", pattern)) > 3:
            raise InputError("expected a plain pattern such as .ffn_.*_exps.=CPU", field="offload")
        try:
            regex = re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            raise InputError(f"expected a regular expression before =CPU, got {show(item)}", field="offload") from None
        if not _named(item, _LAYERS) or any(regex.search(f"blk.{k}.attn_q.weight") for k in range(_LAYERS)):
            words = "names other tensors than experts; expected .ffn_.*_exps.=CPU, or use layers:N"
            raise InputError(f"{show(item)} {words}", field="offload")
    return text


def _overrides(text: str) -> list[str]:
    return re.split(r"(?<==CPU),", text, flags=re.IGNORECASE)


def _named(item: str, depth: int) -> set[tuple[int, str]]:
    """Layer and kind of the tensors of experts that an override names, of so many layers."""
    regex = re.compile(item.rpartition("=")[0])
    return {(k, n) for k in range(depth) for n in _TENSORS if regex.search(f"blk.{k}.ffn_{n}_exps.weight")}


def _layers_named(text: str, depth: int) -> int:
    """Layers whose experts a checked override puts on the CPU; a part of a layer's tensors counts as that part."""
    tensors = set().union(*(_named(item, depth) for item in _overrides(text)))
    return max(1, round(len(tensors) / len(_TENSORS))) if tensors else 0
