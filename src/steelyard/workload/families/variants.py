"""Decoders that are a row of :mod:`decoders` once their config is put in its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.families.decoders import EXPERTS, TOP_K, Decoder, latent_attention
from steelyard.workload.transformer import Attention, FeedForward, Layer, Streams, Transformer

__all__ = [
    "dbrx",
    "ernie4_5_vl_moe",
    "hy_v4",
    "hyperclovax",
    "inkling",
    "longcat_flash",
    "mimo_v2_flash",
    "minicpmv",
    "minimax_m3",
    "mistral_large4",
    "molmo2",
    "muse_spark",
    "nemotron_nas",
    "openelm",
    "step3",
    "voxtral_realtime",
]


def dbrx(config: Mapping[str, Any]) -> Transformer:
    """DBRX: 16 experts, layer norms without bias; attention and experts state their sizes in tables of their own."""
    f = Fields(config)
    tables = [config.get(k) for k in ("attn_config", "ffn_config")]
    attend, feed = (f.under(x if isinstance(x, Mapping) else {}) for x in tables)
    hidden, heads = f.size("d_model"), f.size("n_heads")
    f.divides("d_model", hidden, "n_heads", heads)
    groups, width = attend.size("kv_n_heads", default=heads), max(1, hidden // heads)
    f.divides("n_heads", heads, "kv_n_heads", groups)
    attention = Attention(heads=heads, kv_heads=groups, head_dim=width, rotary_dim=width)
    experts = feed.experts("ffn_hidden_size", count=("moe_num_experts",), top_k=("moe_top_k",))
    layer = Layer(f.depth("n_layers"), attention, experts)
    tied, context = f.flag("tie_word_embeddings", False), f.optional("max_seq_len")
    return decoder(f, [layer], hidden=hidden, tied=tied, max_context=context)


def ernie4_5_vl_moe(config: Mapping[str, Any]) -> Transformer:
    """ERNIE 4.5 VL: ERNIE 4.5 whose layers also hold as many narrower experts for image tokens."""
    widths = config.get("moe_intermediate_size")
    text, image = (widths[0], widths[-1]) if isinstance(widths, list) and widths else (widths, 0)
    counts = config.get("moe_num_experts")
    chosen = counts[0] if isinstance(counts, list) and counts else counts
    row = Decoder(moe=True, router_bias=True, bias_key="use_bias", mlp_bias_key="use_bias", tied=True, dense_layers=1)
    model = row({**config, "moe_intermediate_size": text, "moe_num_experts": chosen})
    if not image or not isinstance(image, int):
        return model
    routed = [x for x in model.layers if x.feed_forward is not None and x.feed_forward.is_moe]
    extra = sum(x.count * x.feed_forward.experts for x in routed if x.feed_forward)
    size = extra * 3 * model.hidden * image
    note = f"{size / 1e9:.3g} B parameters of experts for image tokens are held, not run"
    return replace(model, extra_parameters=size, notes=(*model.notes, note))


def hy_v4(config: Mapping[str, Any]) -> Transformer:
    """Hunyuan 4: latent attention with sinks and output gates, shared indexers, four residual streams."""
    f = Fields(config)
    row = Decoder(latent=True, moe=True, router_bias=True, gate="element", sinks="all", dense_layers=1)
    streams = f.size("hc_mult", default=4)
    kinds = config.get("layer_types") or ["indexed_attention"] * f.depth()
    model = row.read(f.under({"layer_types": kinds}))
    return replace(model, streams=Streams(streams, "hyper", mixes=2 * streams))


def inkling(config: Mapping[str, Any]) -> Transformer:
    """Inkling, text: windows with more key-value heads, 256 experts beside two shared ones.

    Its short convolutions and relative positions (0.05 % of the weights) are not counted.
    """
    f = Fields(config)
    depth = f.depth()
    local = f.whole_list("local_layer_ids")
    own = {"hybrid": "full_attention", "hybrid_sliding": "sliding_attention"}
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        kinds = [own.get(str(kind), kind) for kind in kinds]
    else:
        inside = {i for i in range(depth) if (i + 1) % 6} if local is None else set(local)
        kinds = ["sliding_attention" if i in inside else "full_attention" for i in range(depth)]
    stated: dict[str, Any] = {"layer_types": kinds, "sliding_window": config.get("sliding_window_size")}
    if config.get("dense_intermediate_size") is not None:
        stated["moe_intermediate_size"] = config.get("intermediate_size")
    if config.get("mlp_layer_types") is None:
        stated["first_k_dense_replace"] = f.optional("dense_mlp_idx")
    row = Decoder(
        moe=True,
        qk_norm="head",
        router_bias=True,
        embedding_norm=True,
        dense=("dense_intermediate_size", "intermediate_size"),
    )
    f.notes.append("short convolutions and relative positions are not counted")
    return row.read(f.under({k: v for k, v in stated.items() if v is not None}))


def hyperclovax(config: Mapping[str, Any]) -> Transformer:
    """HyperCLOVA X: Llama with norms after the blocks too when ``use_post_norm``."""
    return Decoder(norms=4 if Fields(config).flag("use_post_norm", True) else 2)(config)


def minicpmv(config: Mapping[str, Any]) -> Transformer:
    """MiniCPM-V and -o: the language model of the ``version`` (2.6: Qwen 2, 4.5: Qwen 3, else Llama's shapes)."""
    version = str(config.get("version", ""))
    if version.startswith("2.6"):
        return Decoder(bias=True, bias_key="qkv_bias", out_bias=False)(config)
    return Decoder(qk_norm="head" if version.startswith("4.5") else "")(config)


def openelm(config: Mapping[str, Any]) -> Transformer:
    """OpenELM (arXiv:2404.14619): heads and feed-forward widths grow from layer to layer."""
    f = Fields(config)
    hidden, depth, width = f.size("model_dim"), f.depth("num_transformer_layers"), f.size("head_dim")
    step = f.size("ffn_dim_divisor", default=256)
    lists = {name: config.get(name) for name in ("num_query_heads", "num_kv_heads", "ffn_multipliers")}
    for name, values in lists.items():
        if not isinstance(values, list) or len(values) != depth or not all(_positive(x) for x in values):
            f.problem(name, f"expected {depth} numbers, one per layer")
            lists[name] = [1] * depth
    norm = "head" if f.flag("normalize_qk_projections", True) else ""
    layers = []
    for heads, groups, factor in zip(*lists.values(), strict=True):
        f.divides("num_query_heads", int(heads), "num_kv_heads", int(groups))
        attention = Attention(int(heads), int(groups), width, qk_norm=norm, rotary_dim=width)
        layers.append(Layer(1, attention, FeedForward(_rounded(factor * hidden, step))))
    tied, context = f.flag("share_input_output_layers", True), f.optional("max_context_length")
    return decoder(f, layers, hidden=hidden, tied=tied, max_context=context)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6


def _rounded(width: float, step: int) -> int:
    """The nearest multiple, never more than a tenth below the width."""
    near = max(step, int(width + step / 2) // step * step)
    return near + step if near < 0.9 * width else near


def longcat_flash(config: Mapping[str, Any]) -> Transformer:
    """LongCat-Flash (arXiv:2509.01322): a layer is two of attention and dense feed-forward, with experts beside them.

    Some choices of the router pass the token through (``zero_expert_num``).
    """
    f = Fields(config)
    depth, attention = f.depth("num_layers", "num_hidden_layers"), latent_attention(f)
    width = f.size("ffn_hidden_size", "intermediate_size")
    experts = f.experts(("expert_ffn_hidden_size", "moe_intermediate_size"), count=EXPERTS, top_k=TOP_K)
    idle = f.optional("zero_expert_num")
    experts = replace(experts, shared_intermediate=width, router_bias=True, idle_experts=idle)
    layers = [Layer(depth, attention, experts), Layer(depth, attention, FeedForward(width))]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def mimo_v2_flash(config: Mapping[str, Any]) -> Transformer:
    """MiMo-V2-Flash: windows with sinks and twice the key-value heads, values narrower than keys, 256 experts."""
    f = Fields(config)
    stated: dict[str, Any] = {"swa_num_key_value_heads": 2 * f.size("num_key_value_heads")}
    marks = f.whole_list("hybrid_layer_pattern")
    if marks is not None and config.get("layer_types") is None:
        stated["layer_types"] = ["sliding_attention" if mark else "full_attention" for mark in marks]
    if config.get("sliding_window_size") is not None:
        stated["sliding_window"] = f.size("sliding_window_size") + 1
    row = Decoder(moe=True, router_bias=True, sinks="window", full_every=6, window=128, dense_layers=1)
    return row.read(f.under({k: v for k, v in stated.items() if config.get(k) is None}))


def minimax_m3(config: Mapping[str, Any]) -> Transformer:
    """MiniMax M3, text: query-key norm per head, an indexer that picks blocks of tokens, one shared expert."""
    f = Fields(config)
    sparse = config.get("sparse_attention_config")
    sparse = sparse if isinstance(sparse, Mapping) else {}
    names = {
        "index_n_heads": "sparse_num_index_heads",
        "index_head_dim": "sparse_index_dim",
        "index_block_size": "sparse_block_size",
        "index_topk_blocks": "sparse_topk_blocks",
        "index_local_blocks": "sparse_local_block",
    }
    stated: dict[str, Any] = {new: sparse[old] for new, old in names.items() if sparse.get(old) is not None}
    marks = sparse.get("sparse_attention_freq")
    if config.get("layer_types") is None and isinstance(marks, list):
        stated["layer_types"] = ["indexed_attention" if mark else "full_attention" for mark in marks]
    row = Decoder(
        moe=True,
        qk_norm="head",
        router_bias=True,
        width=("moe_intermediate_size", "intermediate_size"),
        dense=("dense_intermediate_size",),
    )
    stated["hidden_act"] = "silu"  # the published files name their own clipped form
    if f.optional("rotary_dim"):
        stated["partial_rotary_factor"] = f.size("rotary_dim") / max(1, f.size("head_dim", default=128))
    return row.read(f.under(stated))


def mistral_large4(config: Mapping[str, Any]) -> Transformer:
    """Mistral Large 4, text: latent attention with an indexer; every fourth layer without positions."""
    f = Fields(config)
    depth = f.depth()
    marks = f.whole_list("no_rope_layers")
    if not marks:
        every = f.size("no_rope_layer_interval", default=4)
        marks = [int((i + 1) % every != 0) for i in range(depth)]
    rope, nope = f.optional("qk_rope_head_dim"), f.size("qk_nope_head_dim")
    bare = {
        str(i): {"qk_rope_head_dim": 0, "qk_nope_head_dim": nope + rope} for i, mark in enumerate(marks) if not mark
    }
    kinds = config.get("layer_types") or ["indexed_attention"] * depth
    row = Decoder(latent=True, moe=True, dense_layers=1)
    return row.read(f.under({"layer_types": kinds, "per_layer_config": bare}))


def molmo2(config: Mapping[str, Any]) -> Transformer:
    """Molmo 2, text: Qwen 3's shapes, or OLMo's query-key norm over all heads."""
    full = config.get("qk_norm_type") == "olmo"
    return Decoder(qk_norm="full" if full else "head", head_dim=128, bias_key="qkv_bias", out_bias=False)(config)


def muse_spark(config: Mapping[str, Any]) -> Transformer:
    """Muse Spark, text: experts that work at ``moe_hidden_size``, output gates, gated residuals."""
    f = Fields(config)
    row = Decoder(moe=True, router_bias=True, gate="element", norms=6, full_every=4, last_full=True, rotate_full=False)
    width = f.size("moe_hidden_size")
    model = row.read(f)
    layers = tuple(
        replace(x, feed_forward=replace(x.feed_forward, expert_hidden=width))
        if x.feed_forward is not None and x.feed_forward.is_moe
        else x
        for x in model.layers
    )
    return replace(model, layers=layers)


def nemotron_nas(config: Mapping[str, Any]) -> Transformer:
    """Llama-Nemotron Super and Ultra (arXiv:2505.00949): layers found by search, some without attention or MLP.

    ``block_configs`` states the query heads per key-value head and the width as a multiple of the hidden width.
    """
    f = Fields(config)
    hidden, heads, depth = f.size("hidden_size"), f.size("num_attention_heads"), f.depth()
    blocks = config.get("block_configs")
    if not isinstance(blocks, list) or len(blocks) != depth or not all(isinstance(b, Mapping) for b in blocks):
        f.problem("block_configs", f"expected a list of {depth} tables, one per layer")
        blocks = []
    width, layers = f.head_dim(hidden, heads), []
    for i, block in enumerate(blocks):
        part, mlp = (block.get(k) if isinstance(block.get(k), Mapping) else {} for k in ("attention", "ffn"))
        if part.get("replace_with_linear") or mlp.get("replace_with_linear"):
            f.problem(f"block_configs[{i}]", "blocks replaced by one product are not known here")
        attention = feed_forward = None
        if not part.get("no_op"):
            group = Fields(part).size("n_heads_in_group", default=1)
            f.divides("num_attention_heads", heads, f"block_configs[{i}].attention.n_heads_in_group", group)
            attention = Attention(heads=heads, kv_heads=max(1, heads // group), head_dim=width, rotary_dim=width)
        if not mlp.get("no_op"):
            feed_forward = FeedForward(_nas_width(f, mlp, hidden, i))
        layers.append(Layer(1, attention, feed_forward, norms=(attention is not None) + (feed_forward is not None)))
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def _nas_width(f: Fields, mlp: Mapping[str, Any], hidden: int, index: int) -> int:
    """Feed-forward width: stated, or two thirds of ``4 * hidden * ffn_mult``'s half, rounded up to 256."""
    if isinstance(mlp.get("intermediate_size"), int):
        return Fields(mlp).size("intermediate_size")
    factor = mlp.get("ffn_mult")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 100:
        f.problem(f"block_configs[{index}].ffn.ffn_mult", "expected a number above 0")
        return 1
    return -(-int(2 * factor * hidden / 3) // 256) * 256


def step3(config: Mapping[str, Any]) -> Transformer:
    """Step-3 (arXiv:2507.19427), text: queries through a narrow layer, one key-value head, experts in most layers."""
    f = Fields(config)
    groups, rank = f.size("num_attention_groups", "num_key_value_heads", default=1), f.optional("share_q_dim")
    model = Decoder(moe=True, dense_layers=4).read(f.under({"num_key_value_heads": groups}))
    layers = tuple(
        replace(x, attention=replace(x.attention, q_rank=rank)) if x.attention is not None else x for x in model.layers
    )
    return replace(model, layers=layers)


def voxtral_realtime(config: Mapping[str, Any]) -> Transformer:
    """Voxtral Realtime, text: Ministral 3 with a narrow branch in each layer that says how far the speech has come."""
    model = Decoder(full_every=0, tied=True)(config)
    return replace(model, laurel_rank=32)
