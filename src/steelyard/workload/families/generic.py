"""A decoder of a type nobody described, read by the usual names of its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from steelyard.workload.families._base import Fields
from steelyard.workload.families.decoders import DENSE_LAYERS, EXPERTS, SHARED, SHARED_WIDTH, TOP_K, WIDTH, Decoder
from steelyard.workload.transformer import Transformer

__all__ = ["read_generic"]

#: Keys that say the model has parts other than Llama's.
_STRUCTURE = re.compile(
    r"expert|moe|router|lora_rank|mamba|ssm|wkv|shortconv|kda|indexer|state_|conv|linear|recurr|rwkv|time_mix|gated_delta|lru|altup|laurel"
    r"|per_layer|shared_kv|shared_layers|share_layer|cross_attention|encoder|hybrid|block_types|block_configs|layers_block"
    r"|attn_type|attention_type|index_|sparse|compress|hc_|mtp|nextn|latent|loop|cycles|ngram|memory"
)
#: Of those, keys that change how weights are used or trained, not what is stored or cached.
_HARMLESS = re.compile(
    r"aux|loss|jitter|norm_topk|scaling|scale|score|scoring|func|group|router_dtype|logits|method|bias_update|noise"
    r"|is_encoder_decoder|add_cross_attention|encoder_no_repeat|z_coef|capacity|dropout|precision|fp32|backend|impl"
    r"|token_drop|use_cache|tie_|renorm|normalize|temperature|eps$|dtype|rope"
)
#: What :class:`Decoder` reads.
_READ = {
    *EXPERTS,
    *TOP_K,
    *WIDTH,
    *SHARED,
    *SHARED_WIDTH,
    *DENSE_LAYERS,
    "moe_layer_freq",
    "moe_layer_interval",
    "moe_layer_end_index",
    "moe_layers_enum",
    "mlp_only_layers",
    "decoder_sparse_step",
    "mlp_layer_types",
    "kv_lora_rank",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "per_layer_config",
    "num_attention_heads_per_layer",
    "num_sliding_attention_heads",
    "num_nextn_predict_layers",
    "num_mtp_modules",
    "mtp_num_hidden_layers",
}


def read_generic(config: Mapping[str, Any]) -> Transformer:
    """Llama's layers, with experts, latent attention and windows where the usual keys state them.

    Raises:
        InputError: keys are missing, or some say that the model has parts this reading would drop.
    """
    f = Fields(config)
    dropped = [name for name, value in config.items() if isinstance(name, str) and _tells(name, value)]
    if dropped:
        others = f" (as do {', '.join(dropped[1:4])})" if dropped[1:] else ""
        f.problem(dropped[0], f"says the model has parts that a generic reading would leave out{others}")
    routed = any(f.optional(name) > 1 for name in EXPERTS)
    if routed and all(config.get(name) is None for name in WIDTH):
        f.notes.append("the width of an expert is taken from intermediate_size")
    latent = f.optional("kv_lora_rank") > 0
    row = Decoder(latent=latent, moe=routed, width=(*WIDTH, "intermediate_size"))
    return row.read(f)


def _tells(name: str, value: Any) -> bool:
    """Whether a key says the model has a part that is not read here."""
    if name in _READ or isinstance(value, float) or value in (None, False, 0, "", [], {}):
        return False
    key = name.lower()
    return _STRUCTURE.search(key) is not None and _HARMLESS.search(key) is None
