"""The shapes of a language model: blocks, layers, embedding and head. Plain numbers, from a config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from steelyard.errors import Problem, raise_all

if TYPE_CHECKING:
    from steelyard.workload.op import Op
    from steelyard.workload.step import Step
    from steelyard.workload.tower import Tower

__all__ = [
    "Attention",
    "Beside",
    "BlockChoice",
    "FeedForward",
    "Layer",
    "LayerInputs",
    "Mixer",
    "Shapes",
    "Skip",
    "Source",
    "Sparse",
    "Streams",
]


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """Attention to whole blocks of earlier tokens, picked for each query by the means of their keys (NSA, MoBA)."""

    size: int
    """Tokens of a block."""
    picked: int
    """Blocks a query attends to, its own (as far as it has come) among them."""
    per_head: bool = False
    """Every query head picks for itself; else those of one key-value head do together."""
    pooled: bool = False
    """A branch of its own attends to the means of keys and values of all blocks; else keys have means, to pick by."""
    window: int = 0
    """Tokens of a sliding branch beside the picked blocks; 0 = none."""
    gates: int = 0
    """Gates per query head, which weigh the branches."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """Attention to part of the earlier tokens, in a model that was trained with all of them.

    Put on a layer by techniques (eviction, selection, sparse prefill), never by a config; :mod:`.blocks.sparse` has the
    formulas.
    """

    share: float = 1.0
    """Of the context that a token of an answer attends to."""
    tokens: float = 0.0
    """It attends to so many at most; 0 = no limit."""
    streaming: float = 0.0
    """Share of the heads that attend to ``near`` tokens only, the first ones and the latest, and keep no others."""
    near: float = 0.0
    resident: float = 1.0
    """Share of the cache of a token, of the other heads, that stays on the device."""
    drops: bool = False
    """What a token of an answer does not attend to is not kept."""
    fetched: float = 0.0
    """Share of what it attends to that crosses the link from the host at every step."""
    gathered: bool = False
    """What it attends to is first copied together, read and written once."""
    rank: int = 0
    """Keys of what it attends to are multiplied out of so many ranks at every step; 0 = they are kept whole."""
    peers: int = 0
    """Other instances that hold the rest of a sequence's cache and attend to it for the queries they are sent."""
    peer_rate: float = 0.0
    """B/s to and from them, per device."""
    peer_wait_s: float = 0.0
    """Latency of a round trip, s."""
    index: float = 0.0
    """Read to choose, per cached token, as a share of its cache."""
    indexes: bool = False
    """The index is kept beside the cache; else it is part of it."""
    every: float = 1.0
    """Steps that use one choice."""
    prompt_share: float = 1.0
    """Of the keys before it that a token of a prompt attends to."""
    prompt_tokens: float = 0.0
    """At most so many; 0 = no limit."""
    prompt_streaming: bool = False
    """The heads that attend to near tokens do so in prompts, too."""
    probes: float = 0.0
    """Queries of a prompt that are scored against all its keys first, to choose."""
    probe_share: float = 0.0
    """A share of the queries beside them."""
    search: float = 0.0
    """Keys scored per query and halving of the context, to choose."""


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
    k_bias: bool = True
    """Whether keys have a bias where values have one (Whisper's have not)."""
    out_bias: bool = False
    qk_norm: str = ""
    """``""``, ``"head"`` (one vector per head width), ``"full"`` (over all heads) or ``"per_head"``."""
    rotary_dim: int = 0
    q_rank: int = 0
    """Queries go through a layer of this width; 0 = straight from the hidden state."""
    kv_rank: int = 0
    nope_dim: int = 0
    rope_dim: int = 0
    query_gate: bool = False
    """The query projection also yields an output gate of the same width."""
    head_gate: bool = False
    """A projection of its own yields one output gate per head."""
    shared_kv: bool = False
    """Reads the keys and values an earlier layer cached: no projections of its own for them, no cache."""
    keys_as_values: bool = False
    """One projection serves keys and values (the cache holds both: only keys are rotated)."""
    joint_kv: bool = False
    """Keys and values are one cached vector of ``head_dim`` for all heads."""
    compress: int = 0
    """Beside its window the layer reads a cache of one entry per this many tokens; 0 = none."""
    out_groups: int = 0
    """Groups of heads whose outputs are projected to ``out_rank`` each before the last projection; 0 = none."""
    out_rank: int = 0
    index_heads: int = 0
    """Query heads of a sparse-attention indexer (0 = none); it has one key head, kept in the cache."""
    index_dim: int = 0
    index_top_k: int = 0
    """Tokens the indexer picks for each query."""
    index_block: int = 0
    """Tokens whose keys the indexer scores as one, with heads of equal weight; 0 = each token's own."""
    reads: int = 0
    """Width of what queries, keys and values are projected from; 0 = the hidden width."""
    query_experts: int = 0
    """Experts that make queries and outputs, ``heads / kv_heads`` of them for each token; 0 = none."""
    blocks: BlockChoice | None = None
    """Earlier tokens are attended to in blocks that each query picks."""
    sparse: Sparse | None = None
    """A technique has it attend to part of the earlier tokens."""

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
        return self.kv_elements_on(1)

    def kv_elements_on(self, shards: int) -> int:
        """Cache elements per token and layer on one of the ``shards`` devices that split the heads.

        Heads are replicated when there are fewer than devices; a latent or joint cache is not split.
        """
        if self.shared_kv:
            return 0
        if self.joint_kv:
            more = -(-(self.head_dim + self.index_dim) // self.compress) if self.compress else 0
            return self.head_dim + more
        if self.is_mla:
            return self.kv_rank + self.rope_dim + self.index_dim
        own = max(1, -(-self.kv_heads // shards)) * (self.head_dim + self.values)
        if self.blocks:  # and the means of every block
            means = own if self.blocks.pooled else own * self.head_dim // (self.head_dim + self.values)
            own += -(-means // self.blocks.size)
        return own + self.index_dim


class Mixer(Protocol):
    """What mixes tokens through a state of fixed size, in place of attention or beside it: a frozen dataclass.

    :mod:`steelyard.workload.blocks` has one module per kind.
    """

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """What one sequence keeps per layer whatever its length: ``(elements, bits of each)``."""

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """The ops of ``layer.count`` copies for a step; names begin with ``prefix``."""


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
    idle_experts: int = 0
    """Choices of the router that pass the token on unchanged; ``top_k`` counts them."""
    expert_hidden: int = 0
    """Width the routed experts read and write, with one projection to it and one back for all; 0 = the hidden width."""
    inner_norm: bool = False
    """A norm between the activation and the down projection."""
    router_reads: int = 0
    """Width of what the router reads, made beside it; 0 = the hidden width."""

    @property
    def is_moe(self) -> bool:
        """Whether tokens are routed."""
        return self.experts > 0


@dataclass(frozen=True, slots=True)
class Beside:
    """A small product of every token beside the blocks of a layer: a low-rank gate, an adapter, a convolution."""

    name: str
    inputs: int
    """Width read; 0: ``outputs`` numbers that scale or shift the token."""
    outputs: int
    groups: int = 1
    """Blocks on the diagonal of the weights; inputs and outputs are those of all together."""
    taps: int = 1
    """Taps of a causal convolution."""
    uses: float = 1
    """Times it is computed for each token, with the same weights."""
    heads: int = 0
    """Query heads the outputs belong to, which tensor parallelism splits; 0 = none."""
    stored: bool = True
    """Whether its second factor is a weight; else it was computed."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Tokens that skip the blocks of a layer, put on it by techniques; formulas in :mod:`.blocks.skipped`."""

    attention: float = 0.0
    """Share of the tokens that skip attention."""
    feed_forward: float = 0.0
    union: bool = False
    """A block runs for all tokens of a step while any of them needs it; else for those alone."""
    absent: bool = False
    """A token that skips attention leaves no keys and values there."""
    answers: bool = False
    """Only tokens of answers skip."""


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
    mixer: Mixer | None = None
    """Linear attention, a state space, a recurrence: in place of ``attention``, or side by side with it."""
    cross: Attention | None = None
    """Attention over what the encoder read, after the layer's own."""
    tied: bool = False
    """The weights are those of an earlier equal layer: computed again, stored once."""
    beside: tuple[Beside, ...] = ()
    """Small products beside the blocks."""
    skip: Skip | None = None
    """A technique has tokens skip its blocks."""

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """What one sequence keeps whatever its length, ``(elements, bits of each)``: states, taps of convolutions."""
        taps = sum((part.taps - 1) * part.inputs for part in self.beside)
        own = () if self.mixer is None else self.mixer.state
        return (*own, (taps, 16)) if taps else own


@dataclass(frozen=True)
class Source:
    """What an encoder reads before the first token of the answer."""

    encoder: Shapes
    """Its layers; without head and, where ``embedded`` is false, without a token table."""
    tokens: int = 0
    """Tokens it reads per sequence whatever the prompt (30 s of sound); 0: the prompt."""
    stem: tuple[tuple[int, int, int], ...] = ()
    """Products before its layers: ``(tokens per sequence, inner width, outer width)``."""
    embedded: bool = False
    """Its tokens are looked up in a table: the decoder's, or its own when it has a vocabulary of its own."""
    own_table: bool = False
    width: int = 0
    """Width the encoder's last products hand over; 0 = its hidden width."""
    merged: bool = False
    """The decoder's own attention reads the source with its own projections: cross-attention has none."""


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """An embedding of its own for every layer (Gemma 3n): ``rows`` tokens, ``width`` per layer."""

    rows: int
    width: int


@dataclass(frozen=True, slots=True)
class Streams:
    """Several residual streams: ``altup`` (predicted and corrected) or ``hyper`` (mixed around every block)."""

    count: int
    kind: str
    mixes: int = 0
    """Mixing numbers each block computes from all streams (hyper-connections)."""


@dataclass(frozen=True)
class Shapes:
    """A language model or encoder, by its shapes; what blocks are written from."""

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
    embeds: bool = False
    """A decoder whose last states are the answer (embeddings, scores): one pass, nothing is generated or kept."""
    layer_inputs: LayerInputs | None = None
    streams: Streams | None = None
    laurel_rank: int = 0
    """Width of a low-rank branch beside each layer; 0 = none."""
    max_context: int = 0
    """Longest context the model was made for, in tokens; 0 = unknown."""
    native_weights: str = "bf16"
    """Number format of the published weights."""
    native_formats: tuple[tuple[str, str], ...] = ()
    """Blocks (``Op.block``) whose published weights are in another format than ``native_weights``."""
    native_kv: str = ""
    """Number format of the cache the publisher scaled it for; empty: none stated."""
    extra_parameters: int = 0
    """Parameters of the language model that are loaded and not run, stated by the source."""
    notes: tuple[str, ...] = field(default=())
    source: Source | None = None
    """The encoder of an encoder-decoder."""
    towers: tuple[Tower, ...] = ()
    """Encoders of images and sound that are loaded beside the language model."""
    image_layers: tuple[Layer, ...] = ()
    """Layers that attend to images beside the prompt by ``cross``: loaded, and run where one is shown."""
    image_tokens: int = 0
    """Tokens that they attend to, whose keys and values each sequence keeps."""

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
        return sum(layer.count for layer in (*self.layers, *(self.image_layers if self.image_tokens else ())))

    @property
    def causal(self) -> bool:
        """Whether it generates: tokens attend to earlier ones only, and the next one follows from them."""
        return not self.embeds and any(x.attention is None or x.attention.causal for x in self.layers)

    @property
    def heads(self) -> int:
        """Query heads of the widest attention block."""
        return max((x.attention.heads for x in self.layers if x.attention), default=0)

    @property
    def experts(self) -> int:
        """Routed experts per layer, 0 for a dense model."""
        return max((x.feed_forward.experts for x in self.layers if x.feed_forward), default=0)
