"""What runs, as everything after ``workload/`` sees it: the contract of a workload.

A workload is a frozen dataclass that says what a step of it computes (:meth:`Workload.graph`) and what it keeps
between steps. A :class:`~steelyard.workload.transformer.Transformer` is one;
:class:`~steelyard.workload.fixed.FixedGraph` is the smallest, and where to start for a network of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from steelyard.workload.graph import Graph
from steelyard.workload.op import Array, Size
from steelyard.workload.step import Step
from steelyard.workload.tower import Tower

__all__ = ["Workload", "beyond_context", "encoder_type", "ends_hard", "not_served", "restated", "within_positions"]


class Workload(Protocol):
    """A model of any kind. Sizes may be arrays over scenarios."""

    @property
    def name(self) -> str:
        """What results call it."""

    @property
    def model_type(self) -> str:
        """The family it was read by."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks of whoever read it, shown among the assumptions."""

    @property
    def native_weights(self) -> str:
        """Number format of the published weights."""

    @property
    def native_formats(self) -> tuple[tuple[str, str], ...]:
        """Blocks (``Op.block``) whose published weights are in another format."""

    @property
    def native_kv(self) -> str:
        """Number format of the cache that was published with the weights; empty: none was."""

    @property
    def extra_parameters(self) -> int:
        """Parameters that are loaded but not part of the graph."""

    @property
    def towers(self) -> tuple[Tower, ...]:
        """Encoders of images and sound that are loaded beside it."""

    @property
    def depth(self) -> int:
        """Layers: what pipeline stages share, and what an engine's time per layer counts."""

    @property
    def hidden(self) -> int:
        """Elements per token between two layers: what a pipeline stage hands on."""

    @property
    def vocab(self) -> int:
        """Outputs a token is chosen from; 0: it chooses none."""

    @property
    def head(self) -> bool:
        """Whether it ends in scores over the vocabulary."""

    @property
    def causal(self) -> bool:
        """Whether it generates token after token (a decoder); otherwise one step is the whole answer."""

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads a source before the first token, as in translation and speech."""

    @property
    def latent(self) -> bool:
        """Whether its graph has two forms (``absorb``), as with a compressed cache."""

    @property
    def max_context(self) -> int:
        """Longest context in tokens; 0: unknown."""

    @property
    def experts(self) -> int:
        """Routed experts per layer; 0: none."""

    @property
    def head_groups(self) -> tuple[tuple[int, int], ...]:
        """``(query heads, key-value heads)`` tensor parallelism must divide; 0 key-value heads: one latent for all."""

    @property
    def window(self) -> int:
        """The longest reach of layers with a limited one in tokens; 0: no layer has a limit."""

    @property
    def state_bytes(self) -> float:
        """Bytes a sequence keeps whatever its length."""

    def kv_elements(self, context: Size, shards: int = 1) -> Array:
        """Elements a sequence of ``context`` tokens keeps on one of ``shards`` devices that share the heads."""

    def widest_elements(self, shards: int = 1) -> float:
        """Elements per token of the widest tensor inside a layer, on one of ``shards`` devices."""

    def parameters(self) -> int:
        """Parameters stored, without towers."""

    def active_parameters(self, embedding: bool = True) -> int:
        """Parameters one token multiplies with, with or without embedding tables."""

    def graph(self, step: Step, absorb: bool | None = None) -> Graph:
        """The ops of one step of one replica.

        Args:
            step: what is processed.
            absorb: of a latent cache, whether it is read as it is; default: in a decode.
        """


W = TypeVar("W", bound=Workload)


def restated(workload: W, **changes: Any) -> W:
    """The same workload with some of its stated facts replaced: its name, published formats, notes."""
    changed: W = replace(workload, **changes)  # type: ignore[type-var]
    return changed


def ends_hard(model: Workload) -> bool:
    """Whether nothing can be computed beyond its context: positions are looked up in a table of so many rows."""
    return bool(model.max_context and getattr(model, "positions", 0))


def within_positions(model: Workload, lengths: Sequence[int], given: Sequence[bool]) -> Sequence[int]:
    """Lengths of prompt and answer as a table of positions has room for, where they were not ``given``."""
    prompt, answer = lengths
    room = model.max_context if ends_hard(model) else 0
    if not room or prompt + answer * model.causal <= room or all(given):
        return lengths
    if not model.causal:
        return (prompt if given[0] else room), answer
    if not any(given):
        answer = room // 4
    found = (prompt, room - prompt) if given[0] else (room - answer, answer)
    return found if min(found) > 0 else lengths


def beyond_context(model: Workload, tokens: int) -> str:
    """What to say of a length that a model was not made for; empty within its context, or where that is not known."""
    if not model.max_context or tokens <= model.max_context:
        return ""
    return (
        f"{tokens:,} tokens are beyond the {model.max_context:,} of {model.name}: priced as they are, answers may be "
        "worthless; llama.cpp runs them, vLLM starts with VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 or a rope scaling of the "
        "model's, SGLang with SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1"
    )


def encoder_type(model: Workload) -> str:
    """The type of a model whose layers attend to what an encoder read; empty: it is of another kind."""
    crossing = model.encodes or bool(getattr(model, "image_layers", ()))
    return model.model_type.removesuffix("_text_model") if crossing else ""


def not_served(model: Workload) -> str:
    """Why requests to a model cannot be simulated token by token; empty: they can."""
    if not model.causal:
        return f"{model.name} does not generate: nothing to serve token by token"
    if model.encodes:
        return (
            f"{model.name} has an encoder that reads the whole source first; serving it is not modelled, ask estimate"
        )
    if not model.state_bytes and not float(model.kv_elements(1).max()):
        return f"{model.name} keeps nothing of a sequence: it drafts for another model and is not served alone"
    return ""
