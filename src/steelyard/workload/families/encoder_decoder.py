"""Encoder-decoders: T5 and its kin, BART and its kin, Whisper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder, group_layers
from steelyard.workload.transformer import Attention, Beside, FeedForward, Layer, Source, Transformer

__all__ = [
    "bart",
    "blenderbot_small",
    "marian",
    "mbart",
    "nllb_moe",
    "pegasus",
    "pop2piano",
    "pp_formulanet",
    "switch",
    "t5",
    "t5gemma",
    "t5gemma2",
    "umt5",
    "whisper",
]


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


def switch(config: Mapping[str, Any]) -> Transformer:
    """Switch Transformers (arXiv:2101.03961): T5 with experts, one per token, in some layers of both stacks."""
    f = Fields(config)
    model = _t5(f, tables=2)
    assert model.source is not None
    stated = f.under({"router_top_k": f.size("router_top_k", default=1)})
    experts = stated.experts("d_ff", count=("num_experts",), top_k=("router_top_k",))
    dense = model.layers[0].feed_forward
    assert dense is not None
    experts = replace(experts, gated=dense.gated, activation=dense.activation)
    stacks = []
    for name, layer in (("encoder", model.source.encoder.layers[0]), ("decoder", model.layers[0])):
        few = f.optional(f"num_sparse_{name}_layers", default=3)
        step = f.optional(f"{name}_sparse_step", default=max(1, layer.count // few) if few else layer.count)
        stacks.append(_with_experts(layer, experts, step, shift=1))
    f.finish()
    return _restacked(model, *stacks)


def nllb_moe(config: Mapping[str, Any]) -> Transformer:
    """NLLB with experts (arXiv:2207.04672): M2M-100 with two of 128 experts per token in every fourth layer."""
    f = Fields(config)
    model = pegasus({**config, "model_type": "nllb"})
    assert model.source is not None
    act = f.activation("activation_function", default="relu")
    stacks = []
    for name, layer in (("encoder", model.source.encoder.layers[0]), ("decoder", model.layers[0])):
        stated = f.under({"experts_per_token": 2})
        experts = stated.experts(f"{name}_ffn_dim", count=("num_experts",), top_k=("experts_per_token",), bias=True)
        step = f.optional(f"{name}_sparse_step", default=4)
        stacks.append(_with_experts(layer, replace(experts, gated=False, activation=act), step))
    f.finish()
    return _restacked(model, *stacks)


def _with_experts(layer: Layer, experts: FeedForward, every: int, shift: int = 0) -> tuple[Layer, ...]:
    """Equal layers of which every n-th has experts: the last of n, or the second of each."""

    def sparse(i: int) -> bool:
        return every == 1 or (every > 0 and (i % every == 1 if shift else (i + 1) % every == 0))

    made = (
        replace(layer, count=1, feed_forward=experts if sparse(i) else layer.feed_forward) for i in range(layer.count)
    )
    return group_layers(made)


def _restacked(model: Transformer, encoder: tuple[Layer, ...], layers: tuple[Layer, ...]) -> Transformer:
    """The same model with other layers."""
    assert model.source is not None
    source = replace(model.source, encoder=replace(model.source.encoder, layers=encoder))
    return replace(model, layers=layers, source=source)


def pop2piano(config: Mapping[str, Any]) -> Transformer:
    """Pop2Piano (arXiv:2211.00895): T5 whose encoder reads frames of sound (the prompt) after one for the composer."""
    f = Fields(config)
    model = _t5(f, tables=2)
    assert model.source is not None
    composers = f.size("composer_vocab_size", default=21) * model.hidden
    source = replace(model.source, embedded=False)
    return replace(model, source=source, tied=False, extra_parameters=model.extra_parameters + composers)


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


def t5gemma(config: Mapping[str, Any]) -> Transformer:
    """T5Gemma (arXiv:2504.06225): an encoder and a decoder of Gemma 2's layers, which may differ in size."""
    f = Fields(config)
    encoder, decoding = (_gemma_part(f, name, every=2, norm="") for name in ("encoder", "decoder"))
    layers = [replace(x, norms=6, cross=replace(x.attention, window=0)) for x in decoding if x.attention is not None]
    return _t5gemma(f, layers, encoder, merged=False)


def t5gemma2(config: Mapping[str, Any]) -> Transformer:
    """T5Gemma 2 (arXiv:2512.14856): Gemma 3's layers; the decoder reads source and answer with one attention."""
    f = Fields(config)
    inner = config.get("encoder")
    text = inner.get("text_config") if isinstance(inner, Mapping) else None
    if isinstance(text, Mapping):
        f = f.under({"encoder": text})
    encoder, decoding = (_gemma_part(f, name, every=6, norm="head") for name in ("encoder", "decoder"))
    layers = [replace(x, cross=x.attention) for x in decoding]
    return _t5gemma(f, layers, encoder, merged=True)


def _part(f: Fields, name: str) -> Fields:
    """Fields of a part with a config of its own; problems name it."""
    stated = f.config.get(name)
    if not isinstance(stated, Mapping):
        f.problem(name, "expected a table with the config of this part")
    return Fields(stated if isinstance(stated, Mapping) else {})


def _take(f: Fields, part: Fields, name: str) -> None:
    """Problems of a part, under its name."""
    for problem in part.problems:
        f.problem(f"{name}.{problem.field}", problem.message)


def _gemma_part(f: Fields, name: str, *, every: int, norm: str) -> list[Layer]:
    """Layers of an encoder or decoder made like Gemma's: four norms, windows in all but every n-th."""
    part = _part(f, name)
    bias = part.flag("attention_bias", False)
    attention = part.attention(qkv_bias=bias, out_bias=bias, qk_norm=norm, head_dim=256)
    attention = replace(attention, causal=name == "decoder")
    kinds = part.layer_kinds(part.depth(), lambda i: "window" if (i + 1) % every else "full")
    window = part.size("sliding_window", default=4096)
    mlp = part.gated_mlp(act="gelu_pytorch_tanh")
    _take(f, part, name)
    return [Layer(1, replace(attention, window=window if kind == "window" else 0), mlp, norms=4) for kind in kinds]


def _t5gemma(f: Fields, layers: list[Layer], encoder: list[Layer], *, merged: bool) -> Transformer:
    part, read = _part(f, "decoder"), _part(f, "encoder")
    hidden, vocab = part.size("hidden_size"), part.size("vocab_size")
    wide, rows = read.size("hidden_size"), read.size("vocab_size", default=vocab)
    context = part.optional("max_position_embeddings")
    tied = part.flag("tie_word_embeddings", f.flag("tie_word_embeddings", True))
    model = decoder(f, layers, hidden=hidden, vocab=vocab, tied=tied, max_context=context)
    reads = replace(_encoder(model, encoder[0]), layers=group_layers(encoder), hidden=wide, vocab=rows)
    # one table where encoder and decoder are equally wide and merged
    source = Source(reads, embedded=True, own_table=not merged, merged=merged)
    return replace(model, source=source)


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


def blenderbot_small(config: Mapping[str, Any]) -> Transformer:
    """Blenderbot 90M (arXiv:2004.13637): norms after the blocks, learned positions without offset."""
    return _bart(Fields(config), offset=0, embedding_norm=True, final_norm=False)


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


def pp_formulanet(config: Mapping[str, Any]) -> Transformer:
    """PP-FormulaNet (arXiv:2503.18382): mBART's decoder over an image of a formula, which a windowed ViT reads."""
    f = Fields(config)
    text = config.get("text_config")
    inner = Fields({**_FORMULA, **(text if isinstance(text, Mapping) else {})})
    hidden, rows = inner.size("d_model"), inner.size("max_position_embeddings")
    heads, width = inner.size("decoder_attention_heads"), inner.size("decoder_ffn_dim")
    own = Attention(heads, heads, max(1, hidden // heads), q_bias=True, kv_bias=True, out_bias=True)
    mlp = FeedForward(width, gated=False, activation="gelu", up_bias=True, down_bias=True)
    layer = Layer(inner.depth("decoder_layers"), own, mlp, norms=3, norm_bias=True, cross=own)
    vocab = inner.size("vocab_size")
    _take(f, inner, "text_config")
    tied = f.flag("tie_word_embeddings", False)
    model = decoder(
        f,
        [layer],
        hidden=hidden,
        vocab=vocab,
        tied=tied,
        positions=rows + 2,
        embedding_norm=True,
        norm_bias=True,
        max_context=rows,
    )
    return replace(model, source=_formula_tower(f, model))


#: What configs of PP-FormulaNet leave to the class.
_FORMULA: Mapping[str, Any] = {
    "vocab_size": 50000,
    "max_position_embeddings": 2560,
    "decoder_layers": 8,
    "decoder_ffn_dim": 2048,
    "decoder_attention_heads": 16,
    "d_model": 512,
}
_FORMULA_TOWER: Mapping[str, Any] = {
    "hidden_size": 768,
    "output_channels": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
    "window_size": 14,
    "mlp_dim": 3072,
    "post_conv_mid_channels": 512,
    "post_conv_out_channels": 1024,
}


def _formula_tower(f: Fields, model: Transformer) -> Source:
    """The image's tokens through layers of which every third sees all of them, then convolutions to 1/16 as many."""
    stated = f.config.get("vision_config")
    part = Fields({**_FORMULA_TOWER, **(stated if isinstance(stated, Mapping) else {})})
    hidden, heads, depth = part.size("hidden_size"), part.size("num_attention_heads"), part.depth()
    patch, window = part.size("patch_size"), part.size("window_size")
    side = max(1, part.size("image_size") // patch)
    width, out = part.size("mlp_dim"), part.size("output_channels")
    middle, last = part.size("post_conv_mid_channels"), part.size("post_conv_out_channels")
    full = part.whole_list("global_attn_indexes") or [i for i in range(depth) if i % 3 == 2]
    _take(f, part, "vision_config")
    f.finish()
    head = max(1, hidden // heads)
    mlp = FeedForward(width, gated=False, activation="gelu", up_bias=True, down_bias=True)
    layers = []
    for i in range(depth):
        reach = side if i in full else window
        attention = Attention(
            heads,
            heads,
            head,
            causal=False,
            window=0 if i in full else window**2 // 2,  # to each side
            q_bias=True,
            kv_bias=True,
            out_bias=True,
        )
        positions = Beside("relative_positions", 0, 2 * (2 * reach - 1) * head)
        layers.append(Layer(1, attention, mlp, norm_bias=True, beside=(positions,)))
    neck = (
        Beside("neck_in", hidden, out),
        Beside("neck_out", out, out, taps=9),
        Beside("neck_norms", 0, 4 * out),
        Beside("halved", out, middle, taps=9, uses=1 / 4),
        Beside("quartered", middle, last, taps=9, uses=1 / 16),
        Beside("projected", last, last, uses=1 / 16),
        Beside("to_decoder", last, model.hidden, uses=1 / 16),
        Beside("projected_biases", 0, last + model.hidden, uses=1 / 16),
    )
    layers.append(Layer(1, None, None, norms=0, beside=neck))
    encoder = _encoder(model, layers[0], hidden=hidden, positions=side**2, embedding_norm=False, final_norm=False)
    stem = ((side**2, 3 * patch**2, hidden),)
    return Source(replace(encoder, layers=group_layers(layers)), side**2, stem, width=model.hidden)
