"""Decoders that differ from Llama by options: one row of :data:`DECODERS` per ``model_type``.

A row says what the parts of a layer are; sizes come from the config, whose keys go by several names
(:data:`EXPERTS`, :data:`TOP_K`, ...). A family that needs more than a row has a function of its own in the other
modules of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Attention, FeedForward, Layer, Transformer

__all__ = [
    "DECODERS",
    "Decoder",
    "borrowed_indexers",
    "latent_attention",
    "layer_settings",
    "routed_layers",
    "without_indexer",
]

#: Names of one thing in different families' configs.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
TOP_K = ("num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k", "top_k_experts", "num_experts_per_token")
WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size")
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
SHARED_WIDTH = (
    "shared_expert_intermediate_size",
    "shared_experts_intermediate_size",
    "shared_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "share_expert_dim",
    "share_expert_dims",
)
DENSE_LAYERS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")


@dataclass(frozen=True, slots=True)
class Decoder:
    """A family of decoders: how its layers differ from Llama's. Called with a config it is a model family."""

    latent: bool = False
    """Multi-head latent attention (``kv_lora_rank`` and its sisters)."""
    head_dim: int = 0
    """Head width when the config states none; 0 = hidden width by heads."""
    rotary: float = 1.0
    """Share of a head that is rotated when the config states none."""
    bias: bool = False
    """Biases of the attention projections when ``attention_bias`` is not stated."""
    bias_key: str = "attention_bias"
    out_bias: bool = True
    """Whether that switch holds for the output projection too."""
    qk_norm: str = ""
    """As :attr:`Attention.qk_norm`."""
    qk_norm_key: str = ""
    """Switch of the query-key norm, off unless stated; ``""`` = always there."""
    gate: str = ""
    """Output gate of attention: one per ``head`` or per ``element``."""
    sinks: str = ""
    """Sink logits in ``all`` layers or in those with a ``window``."""
    full_every: int = 1
    """Without ``layer_types``: every n-th layer sees everything, the others a window (1 = all do, 0 = none)."""
    full_first: bool = False
    """That count starts with a full layer instead of ending with one."""
    window: int = 0
    """Window when ``sliding_window`` is not stated; 0 = it must be where a layer has one."""
    last_full: bool = False
    """The last layer sees everything whatever the count says."""
    rotate_full: bool = True
    """Whether full layers have rotary positions in a model with windows."""
    gated: bool = True
    act: str = "silu"
    mlp_bias_key: str = "mlp_bias"
    mlp_bias: bool = False
    dense: tuple[str, ...] = ("intermediate_size",)
    """Key of the dense feed-forward width."""
    inner_norm: bool = False
    moe: bool = False
    width: tuple[str, ...] = WIDTH
    """Key of the expert width."""
    dense_layers: int = 0
    """Leading layers without experts when the config states none."""
    shared: int = 0
    """Shared experts when the config states none."""
    shared_gate: bool = False
    router_bias: bool = False
    router_bias_key: str = ""
    """Switch of the router's bias; ``""`` = as ``router_bias`` says."""
    norms: int = 2
    norm_bias: bool = False
    norm_weight: bool = True
    tied: bool = False
    embedding_norm: bool = False

    def __call__(self, config: Mapping[str, Any]) -> Transformer:
        """The decoder that a config of this family describes."""
        return self.read(Fields(config))

    def read(self, f: Fields) -> Transformer:
        """The same from fields that may hold problems already."""
        depth = f.depth()
        kinds = f.layer_kinds(depth, self._kind(depth), also=("indexed",))
        blocks = self._attentions(f, kinds)
        routed = routed_layers(f, depth, self.dense_layers) if self.moe else [False] * depth
        experts = self._experts(f) if any(routed) else None
        dense = None if all(routed) else self._dense(f)
        layers = [
            Layer(1, block, experts if here else dense, self.norms, self.norm_bias, self.norm_weight)
            for block, here in zip(blocks, routed, strict=True)
        ]
        return decoder(
            f,
            layers,
            tied=f.flag("tie_word_embeddings", self.tied),
            embedding_norm=self.embedding_norm,
            norm_bias=self.norm_bias,
            norm_weight=self.norm_weight,
        )

    def _kind(self, depth: int) -> Callable[[int], str]:
        every, shift = self.full_every, 0 if self.full_first else 1

        def kind(i: int) -> str:
            full = (every and (i + shift) % every == 0) or (self.last_full and i == depth - 1)
            return "full" if full else "window"

        return kind

    def _attentions(self, f: Fields, kinds: Sequence[str]) -> list[Attention]:
        """The attention block of each layer; equal settings are read once."""
        seen: dict[tuple[str, str], Attention] = {}
        blocks = []
        windows = "window" in kinds
        borrowed = borrowed_indexers(f, len(kinds))
        for i, (kind, setting) in enumerate(zip(kinds, layer_settings(f, kinds), strict=True)):
            key = (kind, repr(sorted(setting.items())))
            if key not in seen:
                seen[key] = self._attention(f.under(setting), kind, windows)
            block = seen[key]
            blocks.append(without_indexer(block) if borrowed[i] and block.index_heads else block)
        return blocks

    def _attention(self, f: Fields, kind: str, windows: bool) -> Attention:
        bias = f.flag(self.bias_key, self.bias)
        if self.latent:
            block = latent_attention(f)
        else:
            normed = not self.qk_norm_key or f.flag(self.qk_norm_key, False)
            block = f.attention(
                qkv_bias=bias,
                out_bias=bias and self.out_bias,
                qk_norm=self.qk_norm if normed else "",
                head_dim=self.head_dim,
                rotary=self.rotary,
            )
            value = f.optional("v_head_dim", default=block.head_dim)
            block = replace(block, value_dim=value if value != block.head_dim else 0)
        if kind == "indexed":
            block = replace(
                block,
                index_heads=f.size("index_n_heads"),
                index_dim=f.size("index_head_dim"),
                index_top_k=f.size("index_topk", default=_blocks_read(f)),
            )
        if kind == "window":
            block = replace(block, window=f.size("sliding_window", default=self.window or None))
        elif windows and not self.rotate_full:
            block = replace(block, rotary_dim=0)
        gate = {"per-head": "head", "per-element": "element"}.get(str(f.config.get("gating")), self.gate)
        return replace(
            block,
            head_gate=gate == "head",
            query_gate=gate == "element",
            sinks=self.sinks == "all" or (self.sinks == "window" and kind == "window"),
        )

    def _dense(self, f: Fields) -> FeedForward:
        bias = f.flag(self.mlp_bias_key, self.mlp_bias)
        return FeedForward(
            f.size(*self.dense),
            gated=self.gated,
            activation=f.activation(default=self.act),
            up_bias=bias,
            down_bias=bias,
            inner_norm=self.inner_norm,
        )

    def _experts(self, f: Fields) -> FeedForward:
        bias = f.flag(self.router_bias_key, False) if self.router_bias_key else self.router_bias
        block = f.experts(self.width, count=EXPERTS, top_k=TOP_K, router_bias=bias, shared_gate=self.shared_gate)
        shared = f.optional(*SHARED_WIDTH, default=f.optional(*SHARED, default=self.shared) * block.intermediate)
        return replace(block, shared_intermediate=shared, activation=f.activation(default=self.act))


def _blocks_read(f: Fields) -> int | None:
    """Tokens an indexer picks when it picks blocks of them."""
    return (f.optional("index_topk_blocks") + f.optional("index_local_blocks")) * f.optional("index_block_size") or None


def routed_layers(f: Fields, depth: int, dense_layers: int = 0) -> list[bool]:
    """Which layers have experts, in the words of any family.

    ``mlp_layer_types`` (dense or sparse per layer); a list of layers (``moe_layers_enum``, ``moe_layers``) or of marks
    (``moe_layer_freq``); else all from ``first_k_dense_replace`` on, every ``moe_layer_freq``-th, less those in
    ``mlp_only_layers``.
    """
    kinds = f.config.get("mlp_layer_types")
    if isinstance(kinds, list) and len(kinds) >= depth:
        return [kind != "dense" for kind in kinds[:depth]]
    listed = f.config.get("moe_layers_enum")
    if isinstance(listed, str):
        listed = [int(x) for x in listed.split(",") if x.strip().isdecimal()]
    if isinstance(listed, list) and listed:
        return [i in listed for i in range(depth)]
    marks = f.config.get("moe_layer_freq")
    if isinstance(marks, list) and len(marks) >= depth:
        return [bool(mark) for mark in marks[:depth]]
    first = f.optional(*DENSE_LAYERS, default=dense_layers)
    last = f.config.get("moe_layer_end_index")
    end = last if isinstance(last, int) and last >= 0 else depth - 1
    step = f.size("moe_layer_freq", "moe_layer_interval", "decoder_sparse_step", default=1)
    shift = 0 if f.config.get("moe_layer_freq") else 1
    plain = set(f.whole_list("mlp_only_layers") or ())
    return [first <= i <= end and (i + shift) % step == 0 and i not in plain for i in range(depth)]


def layer_settings(f: Fields, kinds: Sequence[str]) -> list[Mapping[str, Any]]:
    """What single layers state otherwise than the config: ``per_layer_config``, heads per layer, heads of windows."""
    config, depth = f.config, len(kinds)
    settings: list[dict[str, Any]] = [{} for _ in kinds]
    heads = config.get("num_attention_heads_per_layer")
    if isinstance(heads, list) and len(heads) >= depth:
        for setting, value in zip(settings, heads, strict=False):
            setting["num_attention_heads"] = value
    other = config.get("attention_other_setting")  # Step 3.5: what windowed layers have
    windowed: dict[str, Any] = {}
    if isinstance(other, Mapping):
        groups = other.get("num_attention_groups")
        windowed = {"num_attention_heads": other.get("num_attention_heads"), "num_key_value_heads": groups}
    elif config.get("num_sliding_attention_heads") is not None:
        windowed = {"num_attention_heads": config["num_sliding_attention_heads"]}
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim"):
        if config.get(f"swa_{name}") is not None:
            windowed[name] = config[f"swa_{name}"]
    stated = {k: v for k, v in windowed.items() if v is not None}
    for setting, kind in zip(settings, kinds, strict=True):
        if kind == "window":
            setting.update(stated)
    layers = config.get("per_layer_config")
    if isinstance(layers, Mapping):
        for index, own in layers.items():
            if str(index).isdecimal() and int(index) < depth and isinstance(own, Mapping):
                settings[int(index)].update(own)
    return list(settings)


def borrowed_indexers(f: Fields, depth: int) -> list[bool]:
    """Which layers attend to the tokens an earlier layer's indexer picked, and have none of their own.

    ``indexer_types`` (full or shared per layer), ``index_topk_pattern`` (letters F and S), or every
    ``index_topk_freq``-th layer from ``index_skip_topk_offset`` on has its own.
    """
    kinds = f.config.get("indexer_types") or f.config.get("index_topk_pattern")
    if isinstance(kinds, str | list) and len(kinds) >= depth:
        return [kind in ("shared", "S") for kind in kinds[:depth]]
    every = f.optional("index_topk_freq", default=1) or 1
    offset = f.optional("index_skip_topk_offset", default=2)
    return [max(i - offset + 1, 0) % every != 0 for i in range(depth)]


def without_indexer(block: Attention) -> Attention:
    """The same attention over tokens that another layer picked."""
    return replace(block, index_heads=0, index_dim=0)


def latent_attention(f: Fields) -> Attention:
    """Multi-head latent attention from the config's ranks and head widths."""
    heads, nope = f.size("num_attention_heads"), f.size("qk_nope_head_dim")
    rope = f.size("qk_rope_head_dim", minimum=0)
    if f.flag("attention_bias", False):
        f.problem("attention_bias", "latent attention with biases is not known here")
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=rope + nope,
        value_dim=f.size("v_head_dim"),
        rotary_dim=rope,
        q_rank=f.optional("q_lora_rank"),
        kv_rank=f.size("kv_lora_rank"),
        nope_dim=nope,
        rope_dim=rope,
    )


_DEEPSEEK = Decoder(latent=True, moe=True, router_bias=True)
_ROUTED = Decoder(moe=True, router_bias=True, qk_norm="head")

_BAILING = Decoder(moe=True, qk_norm="head", qk_norm_key="use_qk_norm", router_bias_key="moe_router_enable_expert_bias")

#: Every family that is a row, by ``model_type``.
DECODERS: Mapping[str, Decoder] = {
    # dense
    **dict.fromkeys(("apertus", "apertus1p5_text"), Decoder(gated=False, act="xielu", qk_norm="head")),
    "arcee": Decoder(gated=False, act="relu2"),
    "bitnet": Decoder(act="relu2", norms=3, inner_norm=True),
    "chameleon": Decoder(qk_norm="per_head"),
    "cohere_compass_text": Decoder(norms=1, tied=True),
    "cosmos3_edge_text": Decoder(gated=False, act="relu2"),
    "cwm": Decoder(full_every=4, full_first=True, window=8192),
    "diffllama": Decoder(),
    "dots_ocr": Decoder(bias=True, out_bias=False),
    "doge": Decoder(qk_norm="head", gate="head", norms=4),
    "emu3_text_model": Decoder(),
    "glm_ocr_text": Decoder(norms=4),
    "granite_swa": Decoder(full_every=4, full_first=True, sinks="all", tied=True),
    **dict.fromkeys(("granite4_vision_text", "granite_docling_text"), Decoder()),
    "helium": Decoder(head_dim=128),
    "iquestcoder": Decoder(),
    **dict.fromkeys(("aquila", "nanbeige", "skywork", "xverse"), Decoder()),
    "orion": Decoder(norm_bias=True),
    "jais2": Decoder(gated=False, act="relu2", bias=True, mlp_bias=True, norm_bias=True),
    "mimo": Decoder(bias=True, out_bias=False),
    "muse_glimmer_text": Decoder(gate="element", norms=4, full_every=4, last_full=True, rotate_full=False),
    "nanochat": Decoder(gated=False, act="relu2", norm_weight=False),
    "paddleocr_vl_text": Decoder(bias_key="use_bias", mlp_bias_key="use_bias", tied=True),
    "persimmon": Decoder(
        gated=False, act="relu2", bias=True, mlp_bias=True, norm_bias=True, qk_norm="head", rotary=0.5
    ),
    "qwen2_5_omni_text": Decoder(bias=True, bias_key="qkv_bias", out_bias=False),
    "vaultgemma": Decoder(act="gelu_pytorch_tanh", head_dim=256, full_every=2, window=4096, tied=True),
    # mixtures of experts
    "afmoe": replace(_ROUTED, gate="element", norms=4, full_every=4, rotate_full=False, dense_layers=1),
    "aria_text": Decoder(moe=True, width=("intermediate_size",)),
    **dict.fromkeys(("bailing_moe", "bailing_moe_v2"), _BAILING),
    "beam": replace(_ROUTED, gate="element", norms=4, full_every=6, last_full=True, rotate_full=False, dense_layers=3),
    "cohere2_moe": Decoder(
        moe=True,
        width=("intermediate_size",),
        dense=("prefix_dense_intermediate_size",),
        norms=1,
        full_every=4,
        window=4096,
        rotate_full=False,
        tied=True,
    ),
    **dict.fromkeys(("deepseek_ocr2_text", "unlimited_ocr_text"), Decoder(moe=True, dense_layers=1, shared=2)),
    "dots1": _ROUTED,
    "ernie4_5_moe": Decoder(moe=True, router_bias=True, bias_key="use_bias", mlp_bias_key="use_bias", tied=True),
    "exaone_moe": replace(_ROUTED, full_every=4, rotate_full=False, dense_layers=1),
    "flex_olmo": Decoder(moe=True, width=("intermediate_size",), qk_norm="full"),
    "flint": Decoder(moe=True, qk_norm="head", sinks="all"),
    "granitemoe_swa": Decoder(moe=True, width=("intermediate_size",), full_every=4, full_first=True, sinks="all"),
    "hy_v3": replace(_ROUTED, dense_layers=1),
    "kolibri1": replace(_ROUTED, full_every=5, norms=4),
    "laguna": replace(_ROUTED, gate="head", dense_layers=1),
    "mellum": replace(_ROUTED, router_bias=False),
    "qwen3_omni_moe_text": replace(_ROUTED, router_bias=False),
    "sarvam_moe": replace(_ROUTED, qk_norm_key="use_qk_norm", dense_layers=1),
    "solar_open": replace(_ROUTED, qk_norm=""),
    **dict.fromkeys(("step3p5", "step3p7"), replace(_ROUTED, gate="head", dense_layers=3)),
    # latent attention
    "axk1": replace(_DEEPSEEK, dense_layers=1, norms=3),
    "dots3_note_text": replace(_DEEPSEEK, gate="head", dense_layers=1),
    "glm4_moe_lite": replace(_DEEPSEEK, dense_layers=1),
    "minicpm3": Decoder(latent=True, tied=True),
    "mistral4": replace(_DEEPSEEK, router_bias=False),
    "sarvam_mla": replace(_DEEPSEEK, dense_layers=1),
    "youtu": Decoder(latent=True, tied=True),
}
