"""Models that hear and speak: transcribers with encoders of their own, decoders of sound in several codebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.families.encoder_decoder import t5
from steelyard.workload.transformer import Attention, Beside, FeedForward, Layer, Source, Transformer

__all__ = ["canary", "cohere_asr", "csm", "dia", "kyutai", "moonshine", "moonshine_streaming", "moshi", "musicgen"]

#: Seconds of sound each request is read as, as Whisper's.
_SOUND_S = 30


def _nested(f: Fields, name: str, defaults: Mapping[str, Any] | None = None) -> Fields:
    """Fields of a part, with what its config leaves to the class."""
    stated = f.config.get(name)
    return Fields({**(defaults or {}), **(stated if isinstance(stated, Mapping) else {})})


def _finish(f: Fields, part: Fields, name: str) -> None:
    for problem in part.problems:
        f.problem(f"{name}.{problem.field}", problem.message)


def _heard(model: Transformer, tokens: int) -> str:
    return f"each request is {_SOUND_S} s of sound, which the encoder reads first as {tokens} tokens"


def _square(hidden: int, heads: int, **more: Any) -> Attention:
    """Attention whose heads together are as wide as the hidden state."""
    return Attention(heads, heads, max(1, hidden // heads), **more)


def moonshine(config: Mapping[str, Any]) -> Transformer:
    """Moonshine (arXiv:2410.15608): raw sound through three convolutions, 41.7 tokens a second; rotary positions."""
    f = Fields(config)
    hidden, width = f.size("hidden_size"), f.size("intermediate_size")
    heard = _moonshine_attention(f, hidden, "encoder", causal=False)
    spoken = _moonshine_attention(f, hidden, "decoder", causal=True)
    encoding = Layer(
        f.depth("encoder_num_hidden_layers"),
        heard,
        FeedForward(width, gated=False, activation="gelu", up_bias=True, down_bias=True),
    )
    mlp = FeedForward(width, up_bias=True, down_bias=True)
    depth = f.depth("decoder_num_hidden_layers", "num_hidden_layers")
    layer = Layer(depth, spoken, mlp, norms=3, cross=spoken)
    model = decoder(f, [layer], hidden=hidden, tied=f.flag("tie_word_embeddings", True))
    samples = 16_000 * _SOUND_S
    stem = (
        (samples // 64, 127, hidden),
        (samples // 192, 7 * hidden, 2 * hidden),
        (samples // 384, 6 * hidden, hidden),
    )
    return _transcriber(model, replace(model, layers=(encoding,)), samples // 384, stem)


def _moonshine_attention(f: Fields, hidden: int, part: str, *, causal: bool) -> Attention:
    heads = f.size(f"{part}_num_attention_heads", "num_attention_heads")
    groups = f.size(f"{part}_num_key_value_heads", "num_key_value_heads", default=heads)
    f.divides(f"{part}_num_attention_heads", heads, f"{part}_num_key_value_heads", groups)
    bias, width = f.flag("attention_bias", False), max(1, hidden // heads)
    rotary = int(0.9 * width)
    return Attention(heads, groups, width, causal=causal, q_bias=bias, kv_bias=bias, rotary_dim=rotary)


def moonshine_streaming(config: Mapping[str, Any]) -> Transformer:
    """Moonshine streaming: an encoder of short two-sided windows without positions, 50 tokens a second."""
    f = Fields(config)
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    spoken = replace(f.attention(qkv_bias=f.flag("attention_bias", False)), rotary_dim=0)
    mlp = FeedForward(f.size("intermediate_size"), up_bias=True, down_bias=True)
    layer = Layer(f.depth(), spoken, mlp, norms=3, cross=spoken)
    part = _nested(f, "encoder_config", {"hidden_size": hidden, "num_attention_heads": heads})
    wide, depth = part.size("hidden_size"), part.depth()
    heard = replace(part.attention(), causal=False, rotary_dim=0)
    read = FeedForward(part.size("intermediate_size"), gated=False, activation="gelu", up_bias=True, down_bias=True)
    windows = part.config.get("sliding_windows")
    sides = [max(x) for x in windows] if isinstance(windows, list) and all(isinstance(x, list) for x in windows) else []
    sides = sides if len(sides) == depth and all(isinstance(x, int) for x in sides) else [16] * depth
    _finish(f, part, "encoder_config")
    model = decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))
    layers = tuple(Layer(1, replace(heard, window=side), read) for side in sides)
    tokens, frame = 50 * _SOUND_S, 80  # frames of 5 ms, halved twice
    stem = ((4 * tokens, frame, wide), (2 * tokens, 5 * wide, 2 * wide), (tokens, 10 * wide, wide))
    encoder = replace(model, layers=layers, hidden=wide)
    model = _transcriber(model, encoder, tokens, stem)
    rows = f.size("max_position_embeddings", default=4096) * wide  # positions of the source, added before the decoder
    return replace(model, extra_parameters=rows)


def _transcriber(
    model: Transformer, encoder: Transformer, tokens: int, stem: tuple[tuple[int, int, int], ...], *, bias: bool = False
) -> Transformer:
    """The decoder with the encoder it listens to, whose outputs are projected where the widths differ."""
    bare = replace(encoder, head=False, tied=True, source=None, notes=(), positions=0, embedding_norm=False)
    joined = _joined(encoder.hidden, model.hidden, bias=bias)
    bare = replace(bare, layers=(*bare.layers, *joined))
    source = Source(bare, tokens, stem, width=model.hidden if joined else 0)
    return replace(model, source=source, notes=(*model.notes, _heard(model, tokens)))


def _joined(wide: int, hidden: int, *, bias: bool) -> tuple[Layer, ...]:
    """A projection of the encoder's outputs to the decoder's width, where they differ or it is biased."""
    if wide == hidden and not bias:
        return ()
    parts: tuple[Beside, ...] = (Beside("to_decoder", wide, hidden),)
    if bias:
        parts += (Beside("to_decoder_bias", 0, hidden),)
    return (Layer(1, None, None, norms=0, beside=parts),)


def canary(config: Mapping[str, Any]) -> Transformer:
    """Canary 2 (arXiv:2509.14128): a FastConformer encoder and a plain decoder with biases and fixed positions."""
    f = Fields(config)
    part = _nested(f, "decoder_config")
    tied = f.flag("tie_word_embeddings", True)
    return _conformer(f, part, "decoder_config", {"num_hidden_layers": 32, "num_mel_bins": 128}, tied, learned=False)


def cohere_asr(config: Mapping[str, Any]) -> Transformer:
    """Cohere Transcribe: a FastConformer encoder, projected to a plain decoder with learned positions."""
    f = Fields(config)
    defaults = {
        "hidden_size": 1280,
        "num_hidden_layers": 48,
        "intermediate_size": 5120,
        "num_mel_bins": 128,
    }
    return _conformer(f, f, "", defaults, f.flag("tie_word_embeddings", False), learned=True)


#: What configs of a FastConformer leave to the class.
_FAST_CONFORMER: Mapping[str, Any] = {
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "intermediate_size": 4096,
    "conv_kernel_size": 9,
    "subsampling_factor": 8,
    "subsampling_conv_channels": 256,
    "num_mel_bins": 80,
}


def _conformer(
    f: Fields, part: Fields, name: str, defaults: Mapping[str, Any], tied: bool, *, learned: bool
) -> Transformer:
    """A decoder that attends to a FastConformer (arXiv:2305.05084)."""
    hidden, heads = part.size("hidden_size", default=1024), part.size("num_attention_heads", default=8)
    bias = part.flag("attention_bias", True)
    spoken = _square(hidden, heads, q_bias=bias, kv_bias=bias, out_bias=bias)
    width = part.size("intermediate_size", default=4096)
    act = part.activation(default="relu")
    mlp = FeedForward(width, gated=False, activation=act, up_bias=True, down_bias=True)
    layer = Layer(part.depth(), spoken, mlp, norms=3, norm_bias=True, cross=spoken)
    rows = part.size("max_position_embeddings", default=1024)
    vocab = part.size("vocab_size")
    if name:
        _finish(f, part, name)
    read = _nested(f, "encoder_config", {**_FAST_CONFORMER, **defaults})
    layers, wide, stem = _fast_conformer(read)
    _finish(f, read, "encoder_config")
    model = decoder(
        f,
        [layer],
        hidden=hidden,
        vocab=vocab,
        tied=tied,
        positions=rows if learned else 0,
        embedding_norm=True,
        norm_bias=True,
        head_bias=True,
        max_context=rows,
    )
    encoder = replace(model, layers=layers, hidden=wide, final_norm=False)
    return _transcriber(model, encoder, stem[-1][0], stem, bias=learned)


def _fast_conformer(f: Fields) -> tuple[tuple[Layer, ...], int, tuple[tuple[int, int, int], ...]]:
    """Layers, width and the convolutions before them: half a feed-forward, attention, a convolution, another half."""
    hidden, heads, depth = f.size("hidden_size"), f.size("num_attention_heads"), f.depth()
    bias, conv = f.flag("attention_bias", True), f.flag("convolution_bias", True)
    f.divides("hidden_size", hidden, "num_attention_heads", heads)
    attention = _square(hidden, heads, causal=False, q_bias=bias, kv_bias=bias, out_bias=bias)
    half = FeedForward(f.size("intermediate_size"), gated=False, up_bias=bias, down_bias=bias)
    taps, frames = f.size("conv_kernel_size"), 100 * _SOUND_S
    halvings = max(1, f.size("subsampling_factor").bit_length() - 1)
    tokens = -(-frames // 2**halvings)
    beside = (
        Beside("distances", hidden, hidden, uses=2),  # keys of the relative positions, twice as many as tokens
        Beside("distance_scores", hidden, 2 * tokens - 1, stored=False),
        Beside("distance_biases", 0, 2 * hidden),
        Beside("conv_in", hidden, 2 * hidden),
        Beside("conv", hidden, hidden, hidden, taps=taps),
        Beside("conv_vectors", 0, (2 + 4 * conv) * hidden),
        Beside("conv_out", hidden, hidden),
    )
    layers = (
        Layer(depth, None, half, norms=1, norm_bias=True),
        Layer(depth, attention, None, norms=2, norm_bias=True, beside=beside),
        Layer(depth, None, half, norms=2, norm_bias=True),
    )
    channels, bins = f.size("subsampling_conv_channels"), f.size("num_mel_bins")
    stem = []
    for i in range(1, halvings + 1):
        spots = -(-frames // 2**i) * -(-bins // 2**i)
        stem.append((spots, 9, channels))
        if i > 1:
            stem.append((spots, channels, channels))
    stem.append((tokens, channels * (bins // 2**halvings), hidden))
    return layers, hidden, tuple(stem)


def kyutai(config: Mapping[str, Any]) -> Transformer:
    """Kyutai's speech to text: a windowed decoder whose steps add the embeddings of a frame's codebooks."""
    f = Fields(config)
    hidden, books = f.size("hidden_size"), f.size("num_codebooks")
    layer = Layer(f.depth(), _windowed(f), FeedForward(max(1, f.size("ffn_dim") // 2)))
    model = decoder(f, [layer], tied=False)
    rows = books * f.size("codebook_vocab_size", default=2049) + 1
    note = f"every step is a frame of {books} codebooks (80 ms); the codec is not priced"
    return replace(model, extra_parameters=rows * hidden, notes=(*model.notes, note))


def _windowed(f: Fields) -> Attention:
    return replace(f.attention(), window=f.optional("sliding_window"))


def moshi(config: Mapping[str, Any]) -> Transformer:
    """Moshi (arXiv:2410.00037): a decoder over frames; a small one writes the codebooks, each with its own weights."""
    f = Fields(config)
    hidden, vocab = f.size("hidden_size"), f.size("vocab_size")
    books, sounds = f.size("num_codebooks", default=8), f.size("audio_vocab_size", default=2048)
    layer = Layer(f.depth(), _windowed(f), FeedForward(max(1, f.size("ffn_dim") // 2)))
    part = _nested(f, "depth_decoder_config", _MOSHI_DEPTH)
    inner, heads, wide = part.size("hidden_size"), part.size("num_attention_heads"), part.size("ffn_dim")
    groups = part.size("num_key_value_heads", default=heads)
    width, depth = part.head_dim(inner, heads), part.depth()
    _finish(f, part, "depth_decoder_config")

    def each(name: str, reads: int, writes: int) -> Beside:
        return Beside(name, books * reads, books * writes, books)

    products = (
        each("qkv", inner, (heads + 2 * groups) * width),
        each("out", heads * width, inner),
        each("up", inner, wide),
        each("down", wide // 2, inner),
        Beside("norms", 0, 2 * inner, uses=books),
    )
    small = Layer(depth, None, None, norms=0, beside=products)
    ends = Layer(1, None, None, norms=0, beside=(each("depth_in", hidden, inner), each("depth_heads", inner, sounds)))
    model = decoder(f, [layer, small, ends], tied=f.flag("tie_word_embeddings", False))
    rows = 1 + 2 * books * (sounds + 1)
    extra = rows * hidden + (vocab + 1 + (books - 1) * (sounds + 1)) * inner
    note = f"every step is a frame of {books} codebooks (80 ms); the codec is not priced"
    return replace(model, extra_parameters=extra, notes=(*model.notes, note))


#: What configs of Moshi leave to the class of the small decoder.
_MOSHI_DEPTH: Mapping[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "ffn_dim": 5632,
}


def csm(config: Mapping[str, Any]) -> Transformer:
    """Sesame's CSM: Llama over frames, and a small Llama that writes each frame's codebooks one after another."""
    f = Fields(config)
    hidden, vocab = f.size("hidden_size"), f.size("vocab_size")
    books, words = f.size("num_codebooks", default=32), f.size("text_vocab_size", default=128_256)
    bias, wide = f.flag("attention_bias", False), f.flag("mlp_bias", False)
    layer = Layer(f.depth(), f.attention(qkv_bias=bias, out_bias=bias), f.gated_mlp(bias=wide))
    part = _nested(f, "depth_decoder_config")
    inner, heads = part.size("hidden_size", default=1024), part.size("num_attention_heads", default=8)
    groups, depth = part.size("num_key_value_heads", default=2), part.depth("num_hidden_layers")
    width, mlp = part.size("head_dim", default=max(1, inner // heads)), part.size("intermediate_size", default=8192)
    _finish(f, part, "depth_decoder_config")
    uses = books  # the hidden state and all codebooks but the last
    products = (
        Beside("qkv", inner, (heads + 2 * groups) * width, uses=uses),
        Beside("out", heads * width, inner, uses=uses),
        Beside("up", inner, 2 * mlp, uses=uses),
        Beside("down", mlp, inner, uses=uses),
        Beside("norms", 0, 2 * inner, uses=uses),
    )
    small = Layer(depth, None, None, norms=0, beside=products)
    ends = (
        Beside("depth_in", hidden, inner, uses=uses),
        Beside("depth_norm", 0, inner, uses=uses),
        Beside("depth_heads", (books - 1) * inner, (books - 1) * vocab, max(1, books - 1)),
    )
    model = decoder(f, [layer, small, Layer(1, None, None, norms=0, beside=ends)], tied=False, vocab=vocab)
    # tables of text and of all codebooks, of which one is the model's own; the depth decoder shares it where tied
    tables = 1 if f.flag("tie_codebooks_embeddings", True) else 2
    rows = words + (tables * books - 1) * vocab
    note = f"every step is a frame of {books} codebooks (80 ms); the codec is not priced"
    return replace(model, extra_parameters=rows * hidden, notes=(*model.notes, note))


def dia(config: Mapping[str, Any]) -> Transformer:
    """Dia: an encoder of the text's bytes, a decoder that writes a frame of all codebooks in each step."""
    f = Fields(config)
    part, read = _nested(f, "decoder_config"), _nested(f, "encoder_config")
    hidden, books = part.size("hidden_size"), part.size("num_channels", default=9)
    spoken = part.attention()
    cross = Attention(
        part.size("cross_num_attention_heads", default=spoken.heads),
        part.size("cross_num_key_value_heads", default=spoken.heads),
        part.size("cross_head_dim", default=spoken.head_dim),
    )
    layer = Layer(part.depth(), spoken, part.gated_mlp(), norms=3, cross=cross)
    vocab, rows = part.size("vocab_size") * books, read.size("max_position_embeddings", default=1024)
    context = part.optional("max_position_embeddings")
    wide, words = read.size("hidden_size"), read.size("vocab_size")
    encoding = Layer(read.depth(), replace(read.attention(), causal=False), read.gated_mlp())
    _finish(f, part, "decoder_config")
    _finish(f, read, "encoder_config")
    model = decoder(f, [layer], hidden=hidden, vocab=vocab, tied=False, max_context=context)
    encoder = replace(model, layers=(encoding,), hidden=wide, vocab=words, head=False, tied=True, notes=())
    note = f"each request's text is padded to {rows} bytes; every step is a frame of {books} codebooks"
    source = Source(encoder, rows, embedded=True, own_table=True)
    return replace(model, source=source, notes=(*model.notes, note))


def musicgen(config: Mapping[str, Any]) -> Transformer:
    """MusicGen (arXiv:2306.05284): a decoder that writes a frame of all codebooks in each step, and reads a T5's text.

    The melody model has the text and a melody before the first frame instead of attending to them.
    """
    f = Fields(config)
    melody = config.get("model_type") == "musicgen_melody"
    part = _nested(f, "decoder")
    hidden, heads = part.size("hidden_size"), part.size("num_attention_heads")
    f.divides("decoder.hidden_size", hidden, "decoder.num_attention_heads", heads)
    books, own = part.size("num_codebooks", default=4), _square(hidden, heads)
    act = part.activation("activation_function", default="gelu")
    mlp = FeedForward(part.size("ffn_dim"), gated=False, activation=act)
    layer = Layer(part.depth(), own, mlp, norms=3, norm_bias=True, cross=own)
    layer = replace(layer, norms=2, cross=None) if melody else layer
    vocab, context = part.size("vocab_size") * books, part.optional("max_position_embeddings")
    _finish(f, part, "decoder")
    text = _nested(f, "text_encoder", _T5)
    encoder = t5({**text.config, "model_type": "t5"})
    assert encoder.source is not None
    reads = encoder.source.encoder
    model = decoder(f, [layer], hidden=hidden, vocab=vocab, tied=False, norm_bias=True, max_context=context)
    buckets = text.size("relative_attention_num_buckets", default=32) * text.size("num_heads")
    extra = buckets + books * hidden  # and a row for the start of each codebook
    note = f"every step is a frame of {books} codebooks (20 ms); the codec is not priced"
    if melody:
        alone = Transformer("", "", reads.hidden, reads.vocab, reads.layers, tied=True, head=False)
        extra += alone.parameters() + (reads.hidden + 1 + f.size("num_chroma", default=12) + 1) * hidden
        note += ", nor is the encoder of the text, which is held"
        return replace(model, extra_parameters=extra, notes=(*model.notes, note))
    joined = _joined(reads.hidden, hidden, bias=True) if reads.hidden != hidden else ()
    reads = replace(reads, layers=(*reads.layers, *joined))
    source = Source(reads, _WORDS, embedded=True, own_table=True, width=hidden)
    return replace(model, source=source, extra_parameters=extra, notes=(*model.notes, note))


#: What configs of T5 leave to the class.
_T5: Mapping[str, Any] = {"vocab_size": 32128, "d_model": 512, "num_heads": 8, "num_layers": 6, "d_ff": 2048}
#: Tokens a description of music is read as.
_WORDS = 64
