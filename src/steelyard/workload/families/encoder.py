"""Encoders: BERT, RoBERTa, XLM-RoBERTa, DistilBERT, ModernBERT, Nomic's. No cache; every token sees both sides.

What sits on top follows ``architectures``: a ``...ForMaskedLM`` model has the masked-language head, a
``...ForPreTraining`` that and the next-sentence one, every other the pooler of its family. Without ``architectures``
the bare encoder (with its pooler) is counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.errors import show
from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.protocol import Workload
from steelyard.workload.transformer import Attention, FeedForward, Layer, Transformer

__all__ = ["bert", "distilbert", "embedder", "modernbert", "modernbert_decoder", "nomic_bert", "roberta"]


def _tasks(config: Mapping[str, Any]) -> tuple[bool, bool]:
    """``(masked-language head, pre-training heads)`` from ``architectures``."""
    named = config.get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else ""
    pretraining = first.endswith("ForPreTraining")
    return pretraining or first.endswith("ForMaskedLM"), pretraining


def _topped(model: Transformer, config: Mapping[str, Any], *, pooler: bool) -> Transformer:
    """The encoder with the head its ``architectures`` name."""
    masked, pretraining = _tasks(config)
    return replace(
        model,
        head=masked,
        head_transform=masked,
        head_bias=masked,
        tied=masked and bool(config.get("tie_word_embeddings", True)),
        pooler=pooler and (pretraining or not masked),
        extra_parameters=2 * model.hidden + 2 if pretraining else 0,
        notes=(
            *model.notes,
            "counted with the masked-language head" if masked else "counted without a masked-language head",
        ),
    )


#: Decoders whose last states are the answer: they have no head, or one that scores.
_EMBEDDERS = re.compile(
    r"(Llama|Mistral|Qwen2|Qwen3|Gemma2?|Gemma3Text|Phi3)(Bidirectional)?Model"
    r"|.*For(SequenceClassification|TokenClassification|Embedding|RewardModel)"
)


def embedder(model: Workload, config: Mapping[str, Any]) -> Workload:
    """A decoder that embeds or scores, where its config says so; any other model as it is.

    ``architectures`` names the model without its head (``MistralModel``) or a classifier; with ``is_causal`` false or
    ``use_bidirectional_attention`` every token attends to all others.
    """
    if not isinstance(model, Transformer) or not model.causal or model.source is not None:
        return model
    named = config.get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else ""
    both = config.get("is_causal") is False or config.get("use_bidirectional_attention") in (True, "all")
    if not both and not _EMBEDDERS.fullmatch(first):
        return model
    layers = model.layers
    if both:
        layers = tuple(
            x if x.attention is None else replace(x, attention=replace(x.attention, causal=False)) for x in layers
        )
    note = "it embeds or scores in one pass: no head, nothing is generated or kept"
    return replace(model, layers=layers, embeds=True, head=False, tied=False, notes=(*model.notes, note))


def bert(config: Mapping[str, Any]) -> Transformer:
    """BERT (arXiv:1810.04805): learned positions, segment embedding, norm after each block, biases everywhere.

    With ``position_embedding_type`` ``rotary`` queries and keys are rotated and there is no table (Jina v3).
    """
    f = Fields(config)
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    f.divides("hidden_size", hidden, "num_attention_heads", heads)
    kind = config.get("position_embedding_type") or "absolute"
    if kind not in ("absolute", "rotary"):
        f.problem("position_embedding_type", f"only 'absolute' and 'rotary' are known, got {show(kind)}")
    rows = f.size("max_position_embeddings", default=512)
    model = _encoder(
        f,
        hidden=hidden,
        heads=heads,
        depth=f.depth(),
        width=f.size("intermediate_size"),
        act=f.activation(default="gelu"),
        rows=rows,
        context=rows - f.optional("_reserved_positions"),
        rotary=kind == "rotary",
    )
    return _topped(replace(model, token_types=f.optional("type_vocab_size", default=2)), config, pooler=True)


def roberta(config: Mapping[str, Any]) -> Transformer:
    """RoBERTa and XLM-RoBERTa (arXiv:1907.11692, 1911.02116): BERT whose first two position rows are padding."""
    return bert({"type_vocab_size": 1, "_reserved_positions": 2, **config})


def distilbert(config: Mapping[str, Any]) -> Transformer:
    """DistilBERT (arXiv:1910.01108): BERT without segment embedding and pooler."""
    f = Fields(config)
    hidden, heads = f.size("dim", "hidden_size"), f.size("n_heads", "num_attention_heads")
    f.divides("dim", hidden, "n_heads", heads)
    rows = f.size("max_position_embeddings", default=512)
    model = _encoder(
        f,
        hidden=hidden,
        heads=heads,
        depth=f.depth("n_layers", "num_hidden_layers"),
        width=f.size("hidden_dim", "intermediate_size"),
        act=f.activation("activation", default="gelu"),
        rows=rows,
        context=rows,
    )
    return _topped(model, config, pooler=False)


def _encoder(
    f: Fields,
    *,
    hidden: int,
    heads: int,
    depth: int,
    width: int,
    act: str,
    rows: int,
    context: int,
    rotary: bool = False,
) -> Transformer:
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=max(1, hidden // heads),
        causal=False,
        q_bias=True,
        kv_bias=True,
        out_bias=True,
        rotary_dim=hidden // heads if rotary else 0,
    )
    mlp = FeedForward(width, gated=False, activation=act, up_bias=True, down_bias=True)
    return decoder(
        f,
        [Layer(depth, attention, mlp, norm_bias=True)],
        hidden=hidden,
        tied=True,
        positions=0 if rotary else rows,
        embedding_norm=True,
        final_norm=False,
        norm_bias=True,
        max_context=context,
    )


def modernbert(config: Mapping[str, Any]) -> Transformer:
    """ModernBERT (arXiv:2412.13663): rotary, gated MLP, a full layer every third, the rest see 64 tokens each side.

    The first layer has no norm before its attention (the embedding is normed).
    """
    f = Fields(config)
    depth = f.depth()
    bias, norm_bias = f.flag("attention_bias", False), f.flag("norm_bias", False)
    attention = replace(f.attention(qkv_bias=bias, out_bias=bias), causal=False)
    reach = f.size("local_attention", default=128) // 2
    every = f.size("global_attn_every_n_layers", default=3)
    kinds = f.layer_kinds(depth, lambda i: "window" if i % every else "full")
    mlp = f.gated_mlp(bias=f.flag("mlp_bias", False), act="gelu")
    layers = [
        Layer(
            1,
            replace(attention, window=reach if kind == "window" else 0),
            mlp,
            norms=1 if i == 0 else 2,
            norm_bias=norm_bias,
        )
        for i, kind in enumerate(kinds)
    ]
    model = decoder(f, layers, tied=True, embedding_norm=True, norm_bias=norm_bias)
    topped = _topped(model, config, pooler=False)
    return replace(topped, head_bias=topped.head and f.flag("decoder_bias", True))


def modernbert_decoder(config: Mapping[str, Any]) -> Transformer:
    """Ettin decoders: ModernBERT that looks back only."""
    f = Fields(config)
    reach = f.size("local_attention", default=128) // 2
    f.finish()
    model = modernbert({**config, "architectures": ["ModernBertForMaskedLM"]})
    layers = tuple(
        replace(x, attention=replace(x.attention, causal=True, window=reach if x.attention.window else 0))
        for x in model.layers
        if x.attention is not None
    )
    return replace(model, layers=layers)


def nomic_bert(config: Mapping[str, Any]) -> Transformer:
    """Nomic's BERT (arXiv:2402.01613): rotary, gated MLP, norms after the blocks, hardly a bias."""
    f = Fields(config)
    hidden, heads = f.size("hidden_size", "n_embd"), f.size("num_attention_heads", "n_head")
    f.divides("hidden_size", hidden, "num_attention_heads", heads)
    if f.optional("moe_every_n_layers", "num_experts"):
        f.problem("num_experts", "experts are not known for this family")
    bias = f.flag("qkv_proj_bias", False)
    width = max(1, hidden // heads)
    attention = Attention(heads, heads, width, causal=False, q_bias=bias, kv_bias=bias, out_bias=bias, rotary_dim=width)
    inner = f.flag("mlp_fc1_bias", False)
    mlp = FeedForward(f.size("intermediate_size", "n_inner"), up_bias=inner, down_bias=f.flag("mlp_fc2_bias", inner))
    model = decoder(
        f,
        [Layer(f.depth("num_hidden_layers", "n_layer"), attention, mlp, norm_bias=True)],
        hidden=hidden,
        tied=True,
        embedding_norm=True,
        final_norm=False,
        norm_bias=True,
        max_context=f.optional("max_position_embeddings", "n_positions"),
    )
    return _topped(replace(model, token_types=f.optional("type_vocab_size", default=2)), config, pooler=False)
