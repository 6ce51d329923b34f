"""The normal form every language model is read into, and the graph it becomes for one step.

A model family reads a config into a :class:`Transformer`; :meth:`Transformer.graph` writes the ops of one engine
step (:class:`Step`): a prefill, a decode, or anything between.

Rank names, shared with the sharding rules of the plan: ``t`` tokens of the step, ``b`` sequences, ``s`` new tokens per
sequence, ``l`` tokens attended to, ``d`` hidden, ``h`` query heads, ``g`` key-value heads, ``q`` query heads per
key-value head, ``c`` head width, ``f`` feed-forward width, ``e`` experts, ``v`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.errors import Problem, raise_all
from steelyard.workload.blocks.attention import attended, attention_ops, mla_ops
from steelyard.workload.blocks.delta_net import delta_net_ops
from steelyard.workload.blocks.embedding import embedding_ops, head_ops
from steelyard.workload.blocks.feed_forward import expert_ops, mlp_ops
from steelyard.workload.blocks.norm import norm_op
from steelyard.workload.graph import Graph
from steelyard.workload.op import Array, Op, Size

__all__ = ["Attention", "DeltaNet", "FeedForward", "Layer", "Step", "Transformer"]


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention block: MHA, MQA, GQA (``kv_heads``) or multi-head latent attention (``kv_rank > 0``)."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int = 0
    """Width of a value head; 0 = ``head_dim``."""
    window: int = 0
    """Sliding window in tokens, 0 = full attention."""
    chunk: int = 0
    """Chunked (block-local) attention in tokens, 0 = none."""
    causal: bool = True
    sinks: bool = False
    """One learned sink logit per head."""
    q_bias: bool = False
    kv_bias: bool = False
    out_bias: bool = False
    qk_norm: str = ""
    """``""``, ``"head"`` (one vector per head width), ``"full"`` (over all heads) or ``"per_head"``."""
    rotary_dim: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    nope_dim: int = 0
    rope_dim: int = 0
    query_gate: bool = False
    """The query projection also yields an output gate of the same width."""
    index_heads: int = 0
    """Query heads of a sparse-attention indexer (0 = none); it has one key head, kept in the cache."""
    index_dim: int = 0
    index_top_k: int = 0
    """Tokens the indexer picks for each query."""

    @property
    def is_mla(self) -> bool:
        """Whether the cache holds one compressed latent per token."""
        return self.kv_rank > 0

    @property
    def values(self) -> int:
        """Width of a value head."""
        return self.value_dim or self.head_dim

    @property
    def kv_elements_per_token(self) -> int:
        """Cache elements per token and layer."""
        if self.is_mla:
            return self.kv_rank + self.rope_dim + self.index_dim
        return self.kv_heads * (self.head_dim + self.values)


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """One gated delta net block (linear attention, arXiv:2412.06464): a state of fixed size instead of a cache."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int = 4
    """Taps of the causal convolution over queries, keys and values."""
    chunk: int = 64
    """Tokens a prefill works on at once between two updates of the state."""

    @property
    def conv_channels(self) -> int:
        """Channels of queries, keys and values together."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def state_elements(self) -> int:
        """Elements one sequence keeps per layer: one matrix per value head, and the last taps of the convolution."""
        return self.value_heads * self.key_dim * self.value_dim + self.conv_channels * (self.conv_kernel - 1)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """One feed-forward block: plain, gated, or a mixture of experts (``experts > 0``)."""

    intermediate: int
    gated: bool = True
    activation: str = "silu"
    up_bias: bool = False
    down_bias: bool = False
    experts: int = 0
    top_k: int = 0
    shared_intermediate: int = 0
    """Width of all shared experts together, 0 = none."""
    shared_gate: bool = False
    router_bias: bool = False

    @property
    def is_moe(self) -> bool:
        """Whether tokens are routed."""
        return self.experts > 0


@dataclass(frozen=True, slots=True)
class Layer:
    """``count`` equal layers."""

    count: int
    attention: Attention | None
    feed_forward: FeedForward | None
    norms: int = 2
    """Normalisation vectors of the hidden width per layer."""
    norm_bias: bool = False
    norm_weight: bool = True
    linear: DeltaNet | None = None
    """Linear attention in place of ``attention``."""


@dataclass(frozen=True, eq=False)
class Step:
    """What one engine step processes, per replica. Every field may be an array over scenarios.

    ``new`` tokens for each of ``batch`` sequences, whose caches then hold ``context`` tokens (new ones included).
    A prefill has ``new == context``; a decode has ``new == 1``. ``expert_tokens`` is how many tokens the experts see
    when other replicas share them (attention data parallelism), default the tokens of the step; ``skew`` is the
    exponent of the power law of expert popularity (0 = balanced).
    """

    batch: Size
    new: Size
    context: Size
    logits: Size | None = None
    expert_tokens: Size | None = None
    skew: float = 0.0

    @property
    def tokens(self) -> Array:
        """New tokens over all sequences."""
        return np.asarray(np.asarray(self.batch, dtype=np.float64) * self.new, dtype=np.float64)

    @property
    def logit_rows(self) -> Array:
        """Tokens whose next-token distribution is computed: one per sequence unless stated."""
        return np.asarray(self.batch if self.logits is None else self.logits, dtype=np.float64)

    @classmethod
    def prefill(cls, batch: Size, isl: Size, **more: Any) -> Step:
        """All prompt tokens of ``batch`` sequences in one step."""
        return cls(batch=batch, new=isl, context=isl, **more)

    @classmethod
    def decode(cls, batch: Size, context: Size, **more: Any) -> Step:
        """One new token for each of ``batch`` sequences; the cache then holds ``context`` tokens each."""
        return cls(batch=batch, new=1, context=context, **more)


@dataclass(frozen=True)
class Transformer:
    """A language model or encoder, by its shapes."""

    name: str
    model_type: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied: bool = False
    """The output head reuses the token embedding."""
    positions: int = 0
    """Rows of a learned position table, 0 = rotary or none."""
    token_types: int = 0
    embedding_dim: int = 0
    """Width of the embedding when it is projected to ``hidden``; 0 = ``hidden``."""
    embedding_norm: bool = False
    final_norm: bool = True
    norm_bias: bool = False
    norm_weight: bool = True
    head: bool = True
    """Whether the model ends in a projection to the vocabulary."""
    head_bias: bool = False
    head_transform: bool = False
    """A dense layer, activation and norm before the projection (masked-language head); biased when ``norm_bias``."""
    pooler: bool = False
    max_context: int = 0
    """Longest context the model was made for, in tokens; 0 = unknown."""
    native_weights: str = "bf16"
    """Number format of the published weights."""
    native_formats: tuple[tuple[str, str], ...] = ()
    """Blocks (``Op.block``) whose published weights are in another format than ``native_weights``."""
    extra_parameters: int = 0
    """Parameters outside the language path that are loaded too (a vision tower), stated by the source."""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        problems = []
        for name in ("hidden", "vocab"):
            if getattr(self, name) < 1:
                problems.append(Problem(name, f"expected a positive size, got {getattr(self, name)}"))
        if not self.layers:
            problems.append(Problem("layers", "expected at least one layer"))
        for i, layer in enumerate(self.layers):
            a = layer.attention
            if a and not a.is_mla and (a.kv_heads < 1 or a.heads % a.kv_heads):
                message = f"{a.heads} query heads do not divide by {a.kv_heads} key-value heads"
                problems.append(Problem(f"layers[{i}].attention", message))
        raise_all(problems)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(layer.count for layer in self.layers)

    @property
    def causal(self) -> bool:
        """Whether tokens attend to earlier ones only (a decoder)."""
        return any(x.linear is not None or (x.attention is not None and x.attention.causal) for x in self.layers)

    @property
    def heads(self) -> int:
        """Query heads of the widest attention block."""
        return max((x.attention.heads for x in self.layers if x.attention), default=0)

    @property
    def experts(self) -> int:
        """Routed experts per layer, 0 for a dense model."""
        return max((x.feed_forward.experts for x in self.layers if x.feed_forward), default=0)

    def kv_elements(self, context: Size) -> Array:
        """Cache elements one sequence of ``context`` tokens holds: windows and chunks keep only their reach."""
        total: Any = 0.0
        for layer in self.layers:
            if layer.attention is not None and layer.attention.causal:
                kept = attended(context, layer.attention.window, layer.attention.chunk)
                total = total + layer.count * layer.attention.kv_elements_per_token * kept
        return np.asarray(total, dtype=np.float64)

    @property
    def kv_elements_per_token(self) -> int:
        """Cache elements one more token adds while it is inside every window."""
        return sum(
            x.count * x.attention.kv_elements_per_token for x in self.layers if x.attention and x.attention.causal
        )

    @property
    def state_elements(self) -> int:
        """Elements of recurrent state one sequence holds whatever its length (linear attention); 0 for most models."""
        return sum(x.count * x.linear.state_elements for x in self.layers if x.linear is not None)

    def parameters(self) -> int:
        """Parameters of the language path, from the graph's weights, plus ``extra_parameters``."""
        return round(float(self.graph(Step.prefill(1, 1)).weight_elements())) + self.extra_parameters

    def active_parameters(self, embedding: bool = True) -> int:
        """Parameters that one token multiplies with: experts count ``top_k`` of them.

        Args:
            embedding: count the embedding tables too (publishers differ); a tied head is counted either way.
        """
        total = 0.0 if embedding or self.tied else -float(self.vocab * (self.embedding_dim or self.hidden))
        for op, name, elements in self.graph(Step.prefill(1, 1)).weights():
            routed = op.block == "moe" and "e" in op.ranks and name.startswith("expert")
            total += float(elements) * (_share(op) if routed else 1.0)
        return round(total)

    def graph(self, step: Step, absorb: bool | None = None) -> Graph:
        """The ops of one step.

        Args:
            step: what is processed.
            absorb: for latent attention, whether projections are folded so that attention reads the latent cache
                directly (decode); default: when one new token per sequence is processed.
        """
        ops = list(embedding_ops(self, step))
        absorbed = bool(np.max(np.asarray(step.new)) <= 1) if absorb is None else absorb
        for i, layer in enumerate(self.layers):
            ops += _layer_ops(self, layer, step, f"layer{i}", absorbed)
        ops += head_ops(self, step)
        facts = {
            "model_type": self.model_type,
            "native_weights": self.native_weights,
            "native_formats": self.native_formats,
        }
        return Graph(self.name, tuple(ops), facts)


def _share(op: Op) -> float:
    """Share of the experts one token visits: routed pairs over tokens times experts."""
    pairs = next(iter(op.domain.values()))
    return float(np.asarray(pairs) / (np.asarray(op.size("t")) * np.asarray(op.size("e"))))


def _layer_ops(model: Transformer, layer: Layer, step: Step, prefix: str, absorb: bool) -> Iterator[Op]:
    attention, feed_forward = layer.attention, layer.feed_forward
    if layer.norms >= 1:
        yield norm_op(model, layer, step, f"{prefix}.norm1", residual=True)
    if attention is not None:
        if attention.is_mla:
            yield from mla_ops(model, layer, step, prefix, absorb)
        else:
            yield from attention_ops(model, layer, step, prefix)
    if layer.linear is not None:
        yield from delta_net_ops(model, layer, step, prefix)
    if layer.norms >= 2:
        yield norm_op(model, layer, step, f"{prefix}.norm2", residual=True)
    for i in range(2, layer.norms):
        yield norm_op(model, layer, step, f"{prefix}.norm{i + 1}", residual=False)
    if feed_forward is not None:
        make = expert_ops if feed_forward.is_moe else mlp_ops
        yield from make(model, layer, step, prefix)
