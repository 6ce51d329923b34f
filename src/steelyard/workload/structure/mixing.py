"""Attention, latent attention, state spaces and their kin from the shapes of their tensors.

Products are compared by their number of elements over the hidden width, so that it does not matter which way round a
matrix is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from steelyard.workload.blocks.delta_net import DeltaNet
from steelyard.workload.blocks.linear_attention import LinearAttention
from steelyard.workload.blocks.mamba import Mamba, Mamba2
from steelyard.workload.blocks.recurrent import GatedRecurrence, ShortConvolution
from steelyard.workload.shapes import Attention
from steelyard.workload.structure.joint import read_joint
from steelyard.workload.structure.keys import HEAD_DIM, HEADS, KV_HEADS, Keys
from steelyard.workload.structure.module import Group, Mixing, Module
from steelyard.workload.structure.pieces import Piece

__all__ = ["read_mixing"]

#: Width of a head where nothing tells and a reading was asked for all the same.
_USUAL_WIDTH = 128


def read_mixing(group: Group, hidden: int, keys: Keys, kind: str, *, asked: bool) -> Mixing | None:
    """What the pieces of one module of a layer are; None where they are nothing that is known.

    Args:
        group: pieces by role.
        hidden: width between layers.
        keys: of the layer.
        kind: ``full``, ``window`` or ``linear``, as the config says.
        asked: take the usual width of a head where nothing tells it.
    """
    m = Module(group, hidden, keys)
    readers: tuple[Callable[[Module], Mixing | None], ...]
    if m.has("x") and m.has("A"):
        readers = (_mamba,)
    elif m.has("A") and m.has("D") and m.has("in"):
        readers = (_mamba2,)
    elif m.has("A"):
        readers = (_delta,)
    elif m.has("lru_gates"):
        readers = (_recurrence,)
    elif m.has("igate"):
        readers = (_matrix_memory,)
    elif m.has("conv") and m.has("in") and not m.has("q"):
        readers = (_short,)
    elif m.has("kv_a"):
        readers = (lambda x: _latent(x, kind),)
    elif m.has("q_a") and m.has("kv"):
        readers = (read_joint,)
    else:
        readers = (lambda x: _lightning(x, kind), lambda x: _grouped(x, kind, asked))
    return next((found for found in (reader(m) for reader in readers) if found is not None), None)


def _head(m: Module, queries: int, keys: int, asked: bool) -> tuple[int, str]:
    """``(width of a head, kind of query-key norm)``; width 0: unknown."""
    norms = m.pieces("q_norm", "k_norm", biases=False)
    width, norm = 0, ""
    if norms:
        first = norms[0]
        if len(first.shape) == 2 and first.shape[0] > 1:
            width, norm = first.shape[-1], "per_head"
        elif first.elements == queries:
            norm = "full"
        else:
            width, norm = first.elements, "head"
    stated, heads = m.keys.number(*HEAD_DIM), m.keys.number(*HEADS)
    for candidate in (width, stated, queries // heads if heads and queries % heads == 0 else 0):
        if candidate and queries % candidate == 0 and keys % candidate == 0:
            return candidate, norm
    if asked and not heads and queries % _USUAL_WIDTH == 0:
        m.keys.fields.notes.append(
            f"heads of {_USUAL_WIDTH} are taken: neither the files nor the config tell their width"
        )
        return _USUAL_WIDTH, norm
    if not heads:
        message = f"attention has {queries:,} columns of queries and nothing tells how many heads they are"
        m.keys.fields.problem("num_attention_heads", f"{message}; state it in a config.json beside the files")
    return 0, norm


def _grouped(m: Module, kind: str, asked: bool) -> Mixing | None:
    """Attention with queries, keys and values in matrices of their own or fused."""
    out, queries, keys, values = m.rows("o"), m.rows("q"), m.rows("k"), m.rows("v")
    fused = m.rows("qkv")
    if m.has("kv") and not keys:
        both = m.rows("kv")
        keys = values = both // 2
    if not out or not (queries or fused):
        return None
    gated = bool(queries) and queries == 2 * out and (values in (0, keys))
    asks = out if gated or not queries else queries
    width, norm = _head(m, asks, keys, asked)
    if not width:
        return None
    heads = asks // width
    if fused:
        stated = m.keys.number(*KV_HEADS)
        gated = bool(stated) and fused == (2 * heads + 2 * stated) * width
        keys = values = (fused - (2 if gated else 1) * out) // 2
    groups = keys // width
    shared = not keys
    if shared:
        groups = m.keys.number(*KV_HEADS) or heads
    if not groups or heads % groups or keys % width:
        return None
    value = values // groups if values and not shared else out // heads
    if value * heads != out:
        return None
    gates = m.rows("gate")
    used = m.pieces("q", "k", "v", "qkv", "kv", "o", "sinks", "q_norm", "k_norm")
    if gates in (heads, out):
        used += m.pieces("gate")
    attention = Attention(
        heads=heads,
        kv_heads=groups,
        head_dim=width,
        value_dim=value if value != width else 0,
        window=m.keys.window if kind == "window" else 0,
        sinks=m.has("sinks"),
        q_bias=m.biased("q", "qkv"),
        kv_bias=m.biased("k", "v", "qkv", "kv"),
        k_bias=m.biased("k", "qkv", "kv") or not m.biased("v"),
        out_bias=m.biased("o"),
        qk_norm=norm,
        rotary_dim=m.keys.rotary(width),
        query_gate=gated or (gates == out and gates != heads),
        head_gate=gates == heads and gates > 0,
        shared_kv=shared,
        keys_as_values=bool(keys) and not values,
    )
    if gates == out and gated:  # two gates of one width: only one is priced
        used = [p for p in used if p not in m.pieces("gate")]
    return _indexed(m, attention, "attention", used)


def _indexed(m: Module, attention: Attention, part: str, used: list[Piece]) -> Mixing:
    """With the indexer of sparse attention, where there is one."""
    heads = m.rows("index_w")
    width = m.rows("index_k")
    reads = attention.q_rank or m.hidden
    if heads and width and m.elements("index_q") == heads * width * reads:
        chosen = m.keys.number("index_topk", "index_top_k", "topk_tokens") or 2048
        attention = replace(attention, index_heads=heads, index_dim=width, index_top_k=chosen)
        used = [*used, *m.pieces("index_q", "index_k", "index_w", "index_norm")]
    return attention, part, used


def _latent(m: Module, kind: str) -> Mixing | None:
    """Multi-head latent attention: heads and widths follow from the shapes of its products alone."""
    norm = m.elements("kv_a_norm") or m.keys.number("kv_lora_rank")
    down, out = m.rows("kv_a"), m.rows("o")
    rank = norm or (m.pieces("kv_b")[0].shape[-1] if m.has("kv_b") else 0)
    if not down or not out or not 0 < rank <= down:
        return None
    rope = down - rank
    query_rank = m.rows("q_a")
    queries = m.rows("q_b", width=query_rank) if query_rank else m.rows("q")
    split = m.pieces("k_b", "v_b", biases=False)
    up = m.rows("kv_b", width=rank) or sum(p.elements for p in split) // rank
    if not queries or not up:
        return None
    heads = m.keys.number(*HEADS)
    if rope and (queries - up + out) % rope == 0:
        heads = (queries - up + out) // rope
    if heads < 1 or queries % heads or out % heads or up % heads:
        return None
    nope, value = queries // heads - rope, out // heads
    if nope < 1 or up != heads * (nope + value):
        return None
    gates = m.rows("gate")
    used = m.pieces("q_a", "q_b", "q", "kv_a", "kv_b", "k_b", "v_b", "o", "q_a_norm", "kv_a_norm")
    if query_rank and not m.has("q_a_norm"):
        used += [p for p in m.pieces("q_norm") if p.elements == query_rank]
    if gates in (heads, out):
        used += m.pieces("gate")
    used += m.pieces("sinks")
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=nope + rope,
        value_dim=value,
        window=m.keys.window if kind == "window" else 0,
        sinks=m.has("sinks"),
        rotary_dim=rope,
        q_rank=query_rank,
        kv_rank=rank,
        nope_dim=nope,
        rope_dim=rope,
        head_gate=gates == heads and gates > 0,
        query_gate=gates == out and gates != heads,
    )
    return _indexed(m, attention, "latent attention", [p for p in used if p.ending != "bias"])


def _convolution(m: Module) -> tuple[int, int]:
    """``(channels, taps)`` of the convolutions together."""
    pieces = m.pieces("conv", biases=False)
    channels = sum(max(p.shape) if len(p.shape) == 2 else p.shape[0] for p in pieces if p.shape)
    taps, rest = divmod(sum(p.elements for p in pieces), channels) if channels else (0, 1)
    return (0, 0) if rest else (channels, taps)


def _mamba(m: Module) -> Mixing | None:
    """Mamba 1."""
    channels = m.rows("o")
    if not channels:
        return None
    states, rest = divmod(m.elements("A"), channels)
    rank, other = divmod(m.elements("dt"), channels)
    wide, taps = _convolution(m)
    if rest or other or not states or wide != channels or m.rows("in") != 2 * channels:
        return None
    if m.elements("x") != channels * (rank + 2 * states):
        return None
    norms = m.pieces("dt_norm", "B_norm", "C_norm")
    mixer = Mamba(
        channels,
        states,
        rank,
        conv_kernel=taps,
        conv_bias=m.biased("conv"),
        bias=m.biased("in"),
        inner_norms=bool(norms),
        state_bits=32,
    )
    return mixer, "state space", [*m.pieces("in", "conv", "x", "dt", "A", "D", "o"), *norms]


def _mamba2(m: Module) -> Mixing | None:
    """Mamba 2."""
    inner, heads = m.rows("o"), m.elements("A")
    channels, taps = _convolution(m)
    if not inner or not heads or inner % heads or (channels - inner) % 2 or channels <= inner:
        return None
    shared = (channels - inner) // 2
    if m.rows("in") != inner + channels + heads:
        return None
    states = m.keys.number("ssm_state_size", "mamba_d_state", "state_size", "d_state")
    if not states or shared % states:
        states = 128 if shared % 128 == 0 else shared
    bits = {"float32": 32, "bfloat16": 16, "float16": 16}
    dtype = str(m.keys.config.get("mamba_ssm_cache_dtype") or m.keys.config.get("mamba_ssm_dtype"))
    mixer = Mamba2(
        heads,
        inner // heads,
        states,
        groups=shared // states,
        conv_kernel=taps,
        conv_bias=m.biased("conv"),
        bias=m.biased("in"),
        norm=m.has("norm"),
        chunk=m.keys.number("chunk_size", "mamba_chunk_size") or 256,
        state_bits=bits.get(dtype, 16),
    )
    return mixer, "state space", m.pieces("in", "conv", "A", "D", "dt", "dt_bias", "norm", "o")


def _delta(m: Module) -> Mixing | None:
    """A gated delta net, with decays per head or per channel."""
    values, heads = m.rows("o"), m.elements("A")
    channels, taps = _convolution(m)
    if not values or not heads or values % heads or (channels - values) % 2 or channels <= values:
        return None
    width, asks = values // heads, (channels - values) // 2
    stated = m.keys.number("linear_key_head_dim", "linear_head_dim")
    key_width = stated if stated and asks % stated == 0 else width
    if asks % key_width:
        if asks % heads:
            return None
        key_width = asks // heads
    down = m.pieces("f_a", "g_a", biases=False)
    rank = down[0].elements // m.hidden if down else 0
    per_channel = m.has("f_b", "f_a") or sum(p.elements for p in m.pieces("dt_bias")) > heads
    mixer = DeltaNet(
        asks // key_width,
        heads,
        key_width,
        width,
        taps,
        channel_decay=per_channel,
        gate_rank=rank,
        state_bits=32 if per_channel else 16,
    )
    products = m.elements("qkvz", "qkv", "q", "k", "v", "z", "gate", "in", "ba", "b", "a", "f_a", "f_b", "g_a", "g_b")
    gates = 2 * rank * (m.hidden + values) if rank else m.hidden * values * (2 if per_channel else 1)
    expected = m.hidden * (2 * asks + values + (1 if per_channel else 2) * heads) + gates
    if products != expected:
        return None
    roles = ("qkvz", "qkv", "q", "k", "v", "z", "gate", "in", "ba", "b", "a", "f_a", "f_b", "g_a", "g_b")
    return mixer, "delta net", m.pieces(*roles, "conv", "A", "dt", "dt_bias", "norm", "o")


def _short(m: Module) -> Mixing | None:
    """A gated convolution of a few taps."""
    channels, taps = _convolution(m)
    if not channels or m.rows("in") != 3 * channels or m.rows("o") != channels:
        return None
    mixer = ShortConvolution(channels, taps, m.biased("in", "o", "conv"))
    return mixer, "short convolution", m.pieces("in", "conv", "o")


def _recurrence(m: Module) -> Mixing | None:
    """Griffin's gated linear recurrence of one number per channel."""
    width = m.rows("o")
    channels, taps = _convolution(m)
    blocks, rest = divmod(2 * width * width, m.elements("lru_gates"))
    if not width or rest or m.rows("branch") != 2 * width or channels != width or width % blocks:
        return None
    used = m.pieces("o", "branch", "conv", "lru_gates", "lru_bias", "lru_decay")
    return GatedRecurrence(width, blocks, taps), "recurrence", used


def _matrix_memory(m: Module) -> Mixing | None:
    """xLSTM's matrix memory with two scalar gates per head."""
    heads, values, asks = m.rows("igate"), m.rows("v"), m.rows("q")
    if not heads or values != m.rows("o") or asks != m.rows("k") or not asks or asks % heads or values % heads:
        return None
    if m.rows("fgate") != heads or m.rows("gate") not in (0, values) or m.elements("norm") != values:
        return None
    chunk = m.keys.number("chunk_size") or 64
    mixer = LinearAttention(heads, asks // heads, values // heads, gate=m.has("gate"), gates=2, chunk=chunk)
    return mixer, "linear attention", m.pieces("q", "k", "v", "gate", "igate", "fgate", "norm", "o")


def _lightning(m: Module, kind: str) -> Mixing | None:
    """Linear attention whose output is normed over all heads and gated."""
    out, fused = m.rows("o"), m.rows("qkv") or m.rows("q", "k", "v")
    norm = m.pieces("norm", biases=False)
    if kind != "linear" or not out or fused != 3 * out or not norm or norm[0].elements != out:
        return None
    heads = m.keys.number(*HEADS)
    if not heads or out % heads or m.rows("gate") not in (0, out):
        return None
    width = out // heads
    mixer = LinearAttention(
        heads, width, width, gate=m.has("gate"), chunk=m.keys.number("block_size", "chunk_size") or 256
    )
    return mixer, "linear attention", m.pieces("qkv", "q", "k", "v", "gate", "norm", "o")
