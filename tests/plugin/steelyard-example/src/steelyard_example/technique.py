"""A technique: the cache in eight-bit integers and a bounded batch, in fields that the verbs understand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques import Citation, Technique
from steelyard.units import Quantity


@dataclass(frozen=True)
class SmallCache(Technique):
    """An 8-bit cache, and how many requests share a step."""

    name: ClassVar[str] = "example-small-cache"
    layer: ClassVar[str] = "kvcache"
    paper: ClassVar[Citation] = Citation("An example", "tests/plugin of steelyard")
    effect: ClassVar[str] = "half the cache, a bounded batch"
    first: ClassVar[str] = "batch"

    batch: Annotated[int, Quantity("1", "requests of a step at most", ge=1)] = 16

    def applies(self, scenario: Any) -> list[Problem]:
        """Refuse a model without a cache."""
        return [] if scenario.transformer.causal else [Problem(self.name, "the model keeps no cache")]

    def words(self, verb: str) -> Mapping[str, Any]:
        """The format of the cache; while requests run, the limit of the engine too."""
        return {"kv": "int8", "flags": {"max_num_seqs": self.batch}} if verb == "simulate" else {"kv": "int8"}
