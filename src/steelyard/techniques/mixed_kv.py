"""A KV cache in few bits, salient tokens in more: bytes of the elements and of their scales.

    bits = r high + (1 - r) low + scale_bits / group

A share ``salient`` r of the tokens is kept in ``high`` bits, the others in ``low`` (ZipCache, arXiv:2405.14256); block
floating point is ``low`` = mantissa with sign, ``scale_bits`` the shared exponent of a ``group``. Attention unpacks the
elements as it reads them, at the rate at which the engine's kernel converts an 8-bit cache. Which tokens are salient is
found by scoring a share ``probes`` of the queries of a prompt against all its keys; 1: all of them, in a pass beside
the fused kernel. What the bits cost in accuracy is not predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import no_cache
from steelyard.techniques.sparsity import no_full_attention, with_sparse
from steelyard.units import Quantity

__all__ = ["MixedKv"]

#: Bits up to which the kernels of a 4-bit format are meant; above those of an 8-bit one.
FOUR_BITS = 4.5


@dataclass(frozen=True)
class MixedKv(Technique):
    """See the module's text."""

    name: ClassVar[str] = "mixed-kv"
    layer: ClassVar[str] = "kvcache"
    costs: ClassVar[str] = "accuracy at few bits of the cache"
    paper: ClassVar[Citation] = Citation(
        "ZipCache: accurate and efficient KV cache quantization with salient token identification", "arXiv:2405.14256"
    )
    effect: ClassVar[str] = "the cache in few bits, part of it in more: more requests at once, shorter decode steps"
    first: ClassVar[str] = "low"

    low: Annotated[float, Quantity("1", "bits of most elements", ge=0.5, le=16)] = 4.0
    high: Annotated[float, Quantity("1", "bits of the salient tokens", ge=0.5, le=16)] = 8.0
    salient: Annotated[float, Quantity("1", "share of the tokens that are salient", ge=0, le=1)] = 0.0
    group: Annotated[int, Quantity("1", "elements that share one set of scales", ge=1, le=1e9)] = 128
    scale_bits: Annotated[float, Quantity("1", "bits of scales and zero points of a group", ge=0, le=1024)] = 32.0
    probes: Annotated[float, Quantity("1", "share of a prompt's queries scored to find salient tokens", ge=0, le=1)] = (
        0.0
    )

    @property
    def bits(self) -> float:
        """Bits per element in memory, scales included."""
        mean = self.salient * self.high + (1 - self.salient) * self.low
        return mean + self.scale_bits / self.group

    def problems(self) -> list[Problem]:
        """More bits than can be stated."""
        if self.bits <= 64:
            return []
        return [Problem(self.name, f"expected at most 64 bits per element with scales, got {self.bits:.4g}")]

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without a cache; without full attention where queries are scored."""
        model = scenario.transformer
        return no_cache(self.name, model) or (no_full_attention(self.name, model) if self.probes else [])

    def words(self, verb: str) -> Mapping[str, Any]:
        """The format of the cache, with its stated width."""
        return {"kv": f"{'int4' if self.bits <= FOUR_BITS else 'int8'}@{self.bits:.4g}"}

    def scenario(self, scenario: Any) -> Any:
        """The model with the queries that are scored."""
        if not self.probes:
            return scenario
        note = f"mixed-kv: {self.probes:.3g} of the queries of a prompt are scored against all keys"
        return with_sparse(scenario, {"probe_share": self.probes}, 0.0, note)
