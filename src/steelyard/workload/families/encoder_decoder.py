"""Encoder-decoders: T5 and its kin, BART and its kin, Whisper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Attention, FeedForward, Layer, Source, Transformer

__all__ = ["bart", "marian", "mbart", "pegasus", "t5", "umt5", "whisper"]


def _encoder(model: Transformer, layer: Layer, **more: Any) -> Transformer:
    """The encoder that goes with a decoder: its norms and width, another layer, no head."""
    return replace(model, layers=(layer,), head=False, pooler=False, tied=True, source=None, notes=(), **more)


def t5(config: Mapping[str, Any]) -> Transformer:
    """T5, mT5 and Flan-T5 (arXiv:1910.10683): RMS norms, no biases, relative positions in the first layer's scores."""
    return _t5(Fields(config), tables=2)


def umt5(config: Mapping[str, Any]) -> Transformer:
    """UMT5 (arXiv:2304.09151): T5 with relative positions in every layer's scores."""
    f = Fields(config)
    encoder = f.depth("num_layers", "num_hidden_layers")
    return _t5(f, tables=encoder + f.size("num_decoder_layers", default=encoder))


def _t5(f: Fields, tables: int) -> Transformer:
    hidden, heads, width = f.size("d_model"), f.size("num_heads"), f.size("d_kv", default=64)
    depth = f.depth("num_layers", "num_hidden_layers")
    kind = str(f.config.get("feed_forward_proj", "relu"))
    gated = kind.startswith("gated")
    mlp = FeedForward(f.size("d_ff"), gated=gated, activation="gelu" if "gelu" in kind else "relu")
    own = Attention(heads, heads, width)
    layer = Layer(f.size("num_decoder_layers", default=depth), own, mlp, norms=3, cross=own)
    buckets = f.size("relative_attention_num_buckets", default=32)
    model = decoder(f, [layer], hidden=hidden, tied=f.flag("tie_word_embeddings", True))
    encoder = _encoder(model, Layer(depth, replace(own, causal=False), mlp))
    return replace(model, source=Source(encoder, embedded=True), extra_parameters=tables * buckets * heads)


def _layers(f: Fields, hidden: int, depth: int, *, k_bias: bool = True) -> tuple[Layer, Layer]:
    """The decoder's layers, which attend to the source, and the encoder's ``depth`` layers; all biased."""

    def parts(name: str) -> tuple[Attention, FeedForward]:
        heads = f.size(f"{name}_attention_heads")
        f.divides("d_model", hidden, f"{name}_attention_heads", heads)
        attention = Attention(
            heads,
            heads,
            max(1, hidden // heads),
            causal=name == "decoder",
            q_bias=True,
            kv_bias=True,
            k_bias=k_bias,
            out_bias=True,
        )
        act = f.activation("activation_function", default="gelu")
        mlp = FeedForward(f.size(f"{name}_ffn_dim"), gated=False, activation=act, up_bias=True, down_bias=True)
        return attention, mlp

    (own, mlp), (seen, wide) = parts("decoder"), parts("encoder")
    decoding = Layer(f.depth("decoder_layers"), own, mlp, norms=3, norm_bias=True, cross=own)
    return decoding, Layer(depth, seen, wide, norm_bias=True)


def bart(config: Mapping[str, Any]) -> Transformer:
    """BART (arXiv:1910.13461): learned positions with two rows of offset, norms after the blocks, biases everywhere."""
    return _bart(Fields(config), offset=2, embedding_norm=True, final_norm=False)


def mbart(config: Mapping[str, Any]) -> Transformer:
    """mBART: BART with norms before the blocks and one at the end."""
    return _bart(Fields(config), offset=2, embedding_norm=True, final_norm=True)


def pegasus(config: Mapping[str, Any]) -> Transformer:
    """Pegasus, M2M-100, NLLB: fixed positions, a norm at the end of each stack."""
    positions = 0 if config.get("model_type") in ("m2m_100", "nllb") else None
    return _bart(Fields(config), offset=0, embedding_norm=False, final_norm=True, positions=positions)


def marian(config: Mapping[str, Any]) -> Transformer:
    """Marian and OPUS-MT: fixed positions, norms after the blocks."""
    return _bart(Fields(config), offset=0, embedding_norm=False, final_norm=False)


def _bart(
    f: Fields, *, offset: int, embedding_norm: bool, final_norm: bool, positions: int | None = None
) -> Transformer:
    hidden, rows = f.size("d_model"), f.size("max_position_embeddings", default=1024)
    layer, encoding = _layers(f, hidden, f.depth("encoder_layers", "num_hidden_layers"))
    model = decoder(
        f,
        [layer],
        hidden=hidden,
        tied=f.flag("tie_word_embeddings", True),
        positions=rows + offset if positions is None else positions,
        embedding_norm=embedding_norm,
        final_norm=final_norm,
        norm_bias=True,
        max_context=2 * rows,
    )
    return replace(model, source=Source(_encoder(model, encoding), embedded=True))


#: Tokens of the encoder per second of sound: 100 frames, halved by the second convolution.
_TOKENS_PER_S = 50


def whisper(config: Mapping[str, Any]) -> Transformer:
    """Whisper (arXiv:2212.04356): 30 s of sound are 1,500 tokens of the encoder, whatever was said in them."""
    f = Fields(config)
    hidden, rows = f.size("d_model"), f.size("max_target_positions", default=448)
    frames, bins = f.size("max_source_positions", default=1500), f.size("num_mel_bins", default=80)
    layer, encoding = _layers(f, hidden, f.depth("encoder_layers"), k_bias=False)
    tied = f.flag("tie_word_embeddings", True)
    model = decoder(f, [layer], hidden=hidden, tied=tied, positions=rows, norm_bias=True, max_context=rows)
    encoder = _encoder(model, encoding, positions=frames)
    stem = ((2 * frames, 3 * bins, hidden), (frames, 3 * hidden, hidden))
    note = f"each request is {frames / _TOKENS_PER_S:.0f} s of sound, which the encoder reads first"
    return replace(model, source=Source(encoder, frames, stem), notes=(*model.notes, note))
