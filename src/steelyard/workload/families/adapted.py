"""Decoders with small products beside their blocks: gates of norms, convolutions on keys, adapters, deep routers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import MAX_LAYERS, Fields, decoder
from steelyard.workload.families.decoders import Decoder, routed_layers
from steelyard.workload.families.gemma_n import gemma4
from steelyard.workload.transformer import Attention, Beside, Layer, Transformer

__all__ = [
    "axk2",
    "evolla",
    "gemma4_assistant",
    "idefics",
    "inkling2",
    "inkling2_loop",
    "jetmoe",
    "mllama",
    "zaya",
]


def axk2(config: Mapping[str, Any]) -> Transformer:
    """A.X K2: latent attention with an indexer; queries and gates from two latents, gates of low rank on norms."""
    f = Fields(config)
    depth, hidden, heads = f.depth(), f.size("hidden_size"), f.size("num_attention_heads")
    rank, value = f.size("q_lora_rank"), f.size("v_head_dim")
    query = f.size("qk_nope_head_dim") + f.size("qk_rope_head_dim", minimum=0)
    narrow = f.size("gated_norm_rank", default=16)
    routed = routed_layers(f, depth, 1)
    kinds = config.get("layer_types") or ["indexed_attention"] * depth
    model = Decoder(latent=True, moe=True, router_bias=True, dense_layers=1).read(f.under({"layer_types": kinds}))
    always = (
        Beside("query_residual", rank, heads * query, heads=heads),
        Beside("gate", 2 * rank, heads * value, heads=heads),
        Beside("norm_gate_down", hidden, narrow),
        Beside("norm_gate_up", narrow, hidden),
    )
    second = (Beside("mlp_norm_gate_down", hidden, narrow), Beside("mlp_norm_gate_up", narrow, hidden))
    sparse = [x for x in model.layers if x.feed_forward is not None and x.feed_forward.is_moe]
    assert not any(routed) or sparse
    layers = [replace(x, beside=always + (second if x in sparse else ())) for x in model.layers]
    return replace(model, layers=tuple(layers))


def jetmoe(config: Mapping[str, Any]) -> Transformer:
    """JetMoE (arXiv:2404.07413): experts for queries and outputs of attention as well as for the feed-forward."""
    f = Fields(config)
    hidden, groups, width = f.size("hidden_size"), f.size("num_key_value_heads"), f.size("kv_channels", "head_dim")
    count, chosen = f.size("num_local_experts"), f.size("num_experts_per_tok")
    if chosen > count:
        f.problem("num_experts_per_tok", f"{chosen} experts per token, but there are only {count}")
    attention = Attention(groups * chosen, groups, width, rotary_dim=width, query_experts=count, out_bias=True)
    mlp = f.experts("intermediate_size", count=("num_local_experts",))
    mlp = replace(mlp, activation=f.activation("activation_function", default="silu"))
    layer = Layer(f.depth(), attention, mlp, beside=(Beside("experts_bias", 0, hidden),))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", True))


def zaya(config: Mapping[str, Any]) -> Transformer:
    """Zaya 1: convolutions over queries and keys, values half from the token before, a router of three layers."""
    f = Fields(config)
    hidden, depth = f.size("hidden_size"), f.depth()
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=bias, head_dim=128, kv_heads=2, rotary=0.5)
    heads = attention.heads + attention.kv_heads
    channels = heads * attention.head_dim
    inner = f.size("router_hidden_size", default=256)
    experts = f.experts("moe_intermediate_size", count=("num_experts",))
    experts = replace(experts, router_reads=inner)
    beside = (
        Beside("conv_channels", channels, channels, channels, taps=f.size("cca_time0", default=2)),
        Beside("conv_heads", channels, channels, heads, taps=f.size("cca_time1", default=2)),
        Beside("conv_biases", 0, 2 * channels + attention.kv_heads),
        Beside("residual_scales", 0, 8 * hidden),
        Beside("router_down", hidden, inner),
        Beside("router_first", inner, inner),
        Beside("router_second", inner, inner),
        Beside("router_vectors", 0, 5 * inner),
        Beside("router_skips", inner, 1),  # a choice of no expert, which its bias disfavours
    )
    kinds = config.get("layer_types")
    kinds = kinds if isinstance(kinds, list) and len(kinds) == depth else ["hybrid"] * depth
    window = f.optional("sliding_window")
    layers = [
        Layer(1, replace(attention, window=window if kind == "hybrid_sliding" else 0), experts, beside=beside)
        for kind in kinds
    ]
    tied, biased = f.flag("tie_word_embeddings", True), f.flag("lm_head_bias", False)
    model = decoder(f, layers, tied=tied, head_bias=biased)
    return replace(model, extra_parameters=2 * hidden)


def inkling2(config: Mapping[str, Any]) -> Transformer:
    """Inkling 2, text: convolutions on keys, values and blocks, relative positions, sinks of each token, gates."""
    return _inkling2(Fields(config), looped=False)


def inkling2_loop(config: Mapping[str, Any]) -> Transformer:
    """Inkling 2 Loop, text: layers in the middle that run several times, each pass with caches of its own."""
    return _inkling2(Fields(config), looped=True)


def _inkling2(f: Fields, *, looped: bool) -> Transformer:
    """Attention over earlier blocks' outputs is not priced: its queries are counted."""
    hidden, depth = f.size("hidden_size"), f.depth()
    kinds = f.config.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != depth:
        kinds = ["hybrid" if (i + 1) % 6 == 0 else "hybrid_sliding" for i in range(depth)]
    window = f.size("sliding_window_size", "sliding_window", default=1024)
    experts = f.experts("moe_intermediate_size", count=("n_routed_experts",), router_bias=True)
    rank, extent = f.size("d_rel", default=16), f.size("rel_extent", default=1024)
    taps = f.size("conv_kernel_size", default=4)
    parts = {
        "hybrid": (f.attention(head_dim=128), extent),
        "hybrid_sliding": (
            f.under({k[4:]: f.config[k] for k in _SLIDING if f.config.get(k) is not None}).attention(head_dim=128),
            window,
        ),
    }
    layers = []
    for i, kind in enumerate(kinds):
        attention, reach = parts["hybrid_sliding" if kind == "hybrid_sliding" else "hybrid"]
        full = kind != "hybrid_sliding"
        attention = replace(attention, query_gate=True, rotary_dim=0, window=0 if full else window)
        heads, keys = attention.heads, attention.kv_heads * attention.head_dim
        vectors = heads * (attention.head_dim + rank) + hidden * ((3 if full else 1) * bool(i) + 1)
        beside = [
            Beside("sinks", hidden, heads, heads=heads),
            Beside("positions", hidden, heads * rank, heads=heads),
            Beside("position_scores", rank, reach, uses=heads),
            Beside("block_convs", 2 * hidden, 2 * hidden, 2 * hidden, taps=taps),
            Beside("key_value_convs", 2 * keys, 2 * keys, 2 * keys, taps=taps),
            Beside("scales", 0, vectors),
        ]
        if full:
            beside.append(Beside("conv_weights", hidden, 2 * attention.kv_heads * taps))
        layers.append(Layer(1, attention, experts, norms=4 if full else 2, beside=tuple(beside)))
    f.notes.append("attention over the outputs of earlier blocks is not priced")
    embedded = f.size("vocab_size")
    vocab = f.size("unpadded_vocab_size", default=embedded)
    extra = (embedded - vocab + 1) * hidden
    if looped:
        layers, more = _loops(f, layers, hidden)
        extra += more
    model = decoder(f, layers, tied=False, vocab=vocab, embedding_norm=True)
    return replace(model, extra_parameters=max(0, extra))


_SLIDING = ("swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim")


def _loops(f: Fields, layers: list[Layer], hidden: int) -> tuple[list[Layer], int]:
    """The layers with those of the loop repeated, and parameters of the messages between passes."""
    stated = f.config.get("loop_config")
    loop = f.under(stated if isinstance(stated, Mapping) else {})
    first = loop.optional("core_start", "loop_layer_index_start", default=6)
    last = loop.optional("core_end", "loop_layer_index_end", default=18)
    passes = loop.size("num_passes", "loop_num_passes", default=3, maximum=1000)
    rank = loop.size("gate_rank", "loop_gate_rank", default=64)
    first, last = min(first, len(layers)), min(last, len(layers))
    gates = (
        Beside("message_gates_down", 8 * hidden, 4 * rank, 4),
        Beside("message_gates_up", 4 * rank, 8 * hidden, 4),
    )
    looped = layers[first:last]
    if len(looped) * passes > MAX_LAYERS:
        f.problem("loop_num_passes", f"{passes} passes of {len(looped)} layers are more than {MAX_LAYERS:,} layers")
        return layers, 0
    # gates and queries of the messages belong to the passes after the first, which store them once
    again = [replace(x, tied=True) for x in looped]
    messages = [Layer(len(looped), None, None, norms=0, beside=gates)] if looped and passes > 1 else []
    more = [replace(m, tied=True, count=m.count * (passes - 2)) for m in messages if passes > 2]
    made = [*layers[:last], *again * (passes - 1), *messages, *more, *layers[last:]]
    return made, len(looped) * 4 * hidden


def mllama(config: Mapping[str, Any]) -> Transformer:
    """Llama 3.2 Vision, text: Llama with layers that attend to an image, which text alone skips."""
    f = Fields(config)
    depth, hidden = f.depth(), f.size("hidden_size")
    places = f.whole_list("cross_attention_layers")
    places = [3, 8, 13, 18, 23, 28, 33, 38] if places is None else places
    crossing = len([i for i in set(places) if i < depth])
    attention, mlp = f.attention(), f.gated_mlp()
    if crossing >= depth:
        f.problem("cross_attention_layers", f"all {depth} layers attend to an image; some must attend to the text")
    gates = Beside("image_gates", 0, 2 + 2 * attention.head_dim)  # and norms of queries and keys
    seeing = Layer(crossing, None, mlp, cross=replace(attention, causal=False), beside=(gates,))
    layer = Layer(max(1, depth - crossing), attention, mlp)
    model = decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))
    note = f"{crossing} layers attend to images: loaded, and run where one is shown"
    layers = (seeing,) if crossing else ()
    return replace(model, image_layers=layers, extra_parameters=8 * hidden, notes=(*model.notes, note))


def idefics(config: Mapping[str, Any]) -> Transformer:
    """IDEFICS (arXiv:2306.16527): Llama with a gated block before every n-th layer that attends to the images."""
    f = Fields(config)
    depth, hidden, every = f.depth(), f.size("hidden_size"), f.size("cross_layer_interval", default=1)
    attention, mlp = f.attention(), f.gated_mlp()
    tower = f.config.get("vision_config")
    seen = Fields(tower if isinstance(tower, Mapping) else {}).size("embed_dim", "hidden_size", default=768)
    norms = f.flag("qk_layer_norms", False)
    adapters, plain = depth // every, Layer(depth, attention, mlp)
    inner = attention.heads * attention.head_dim
    products = (
        Beside("image_q", hidden, inner, heads=attention.heads),
        Beside("image_out", inner, hidden),
        Beside("image_gates", 0, 2 + 2 * attention.head_dim * norms),
    )
    layers = [plain, Layer(adapters, None, mlp, beside=products)] if adapters else [plain]
    model = decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
    more = f.optional("additional_vocab_size") * hidden * (1 if model.tied else 2)
    return _over_others(model, adapters * 2 * seen * inner + more, "images")


def evolla(config: Mapping[str, Any]) -> Transformer:
    """Evolla (bioRxiv 2025.01.05.630192): Llama with adapters in some layers that attend to a protein's summary."""
    f = Fields(config)
    depth, hidden = f.depth(), f.size("hidden_size")
    bias, wide = f.flag("attention_bias", False), f.flag("mlp_bias", False)
    attention, mlp = f.attention(qkv_bias=bias, out_bias=bias), f.gated_mlp(bias=wide)
    added = f.size("aligner_num_add_layers", default=8)
    inner, every = f.size("aligner_ffn_mult", default=4) * hidden, max(depth // added, 1)
    biased = f.flag("aligner_enable_bias", True)
    products = (
        Beside("protein_q", hidden, hidden, heads=attention.heads),
        Beside("protein_out", hidden, hidden),
        Beside("protein_up", hidden, inner),
        Beside("protein_down", inner, hidden),
        Beside("protein_vectors", 0, hidden * (4 + biased) + 2),
    )
    layers = [Layer(1, attention, mlp, beside=() if (i + 1) % every else products) for i in range(depth)]
    model = decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
    count = depth // every
    return _over_others(model, count * 2 * (hidden * hidden + hidden), "a protein")


def _over_others(model: Transformer, keys: int, what: str) -> Transformer:
    """With the projections of what adapters attend to: loaded, run once per request and not priced."""
    note = f"the adapters' own keys and values of {what} and the scores over them are not priced"
    return replace(model, extra_parameters=keys, notes=(*model.notes, note))


def gemma4_assistant(config: Mapping[str, Any]) -> Transformer:
    """Gemma 4's drafter: a few layers that read the caches of the model they draft for."""
    f = Fields(config)
    wide = f.size("backbone_hidden_size", default=3840 if "unified" in str(config.get("model_type")) else 1536)
    text = config.get("text_config")
    f.finish()
    inner = {**text} if isinstance(text, Mapping) else {}
    model = gemma4({"tie_word_embeddings": True, **inner, "hidden_size_per_layer_input": 0})
    layers = [
        replace(x, attention=replace(x.attention, shared_kv=True)) if x.attention is not None else x
        for x in model.layers
    ]
    ends = (Beside("from_model", 2 * wide, model.hidden), Beside("to_model", model.hidden, wide))
    first = replace(layers[0], count=1, beside=ends)
    rest = [replace(layers[0], count=layers[0].count - 1)] if layers[0].count > 1 else []
    centroids = 0
    if f.flag("use_ordered_embeddings", False):
        centroids = f.size("num_centroids", default=2048) * model.hidden
    note = "a drafter: it reads the caches of the model it drafts for and has none of its own"
    return replace(
        model,
        layers=(first, *rest, *layers[1:]),
        extra_parameters=centroids,
        model_type=str(config.get("model_type", "")),
        notes=(*model.notes, note),
    )
