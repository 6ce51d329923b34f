"""What a config says beside the shapes of the tensors, whatever its keys are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from steelyard.workload.families._base import ACTIVATIONS, Fields
from steelyard.workload.families.decoders import layer_settings

__all__ = ["DEPTH", "HEADS", "HEAD_DIM", "HIDDEN", "KV_HEADS", "LENGTH", "Keys"]

HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads", "num_query_heads")
KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "n_kv_heads",
    "n_head_kv",
    "num_query_groups",
    "num_attention_groups",
)
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels", "head_size", "d_kv")
HIDDEN = ("hidden_size", "d_model", "n_embd", "dim", "model_dim", "hidden_dim", "embed_dim")
DEPTH = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
LENGTH = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "model_max_length", "n_ctx")
_WINDOW = ("sliding_window", "sliding_window_size", "window_size", "attention_window_size", "local_attention_window")
#: Kinds of layers in ``layer_types`` that see only the last tokens.
_WINDOWED = re.compile(r"(?<!reference_)slid|local|swa|window")
_LINEAR = re.compile(r"linear|lightning")


def _names_kinds(depth: int, value: Any) -> bool:
    """Whether a value is a list that says of each layer whether it has a window."""
    if not isinstance(value, list | tuple) or len(value) != depth or not all(isinstance(x, str) for x in value):
        return False
    return any(_WINDOWED.search(x.lower()[:80]) for x in value)


class Keys:
    """Typed access to the keys of one layer; a list is one value per layer. Absent: 0."""

    def __init__(self, config: Mapping[str, Any], layer: int = -1, fields: Fields | None = None) -> None:
        self.fields = fields or Fields(config)
        self.config, self.layer = config, layer

    def of_layer(self, layer: int, own: Mapping[str, Any]) -> Keys:
        """The same for one layer, which may state values of its own."""
        return Keys({**self.config, **own}, layer, self.fields)

    def number(self, *names: str) -> int:
        """A whole number above 0, or 0 where none of the names has one."""
        for name in names:
            value = self.config.get(name)
            if isinstance(value, list | tuple) and 0 <= self.layer < len(value):
                value = value[self.layer]
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
                return value
        return 0

    @property
    def listed(self) -> tuple[tuple[str, int], ...]:
        """What lists of one number per layer say of this one."""
        lists = ((k, v) for k, v in self.config.items() if isinstance(v, list | tuple) and 0 <= self.layer < len(v))
        return tuple((k, v[self.layer]) for k, v in lists if isinstance(v[self.layer], int))

    def flag(self, name: str) -> bool | None:
        """True or false where it is stated."""
        value = self.config.get(name)
        return value if isinstance(value, bool) else None

    @property
    def activation(self) -> str:
        """The elementwise operator; SiLU where it is not stated."""
        for name in ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "activation"):
            value = self.config.get(name)
            if isinstance(value, str) and value in ACTIVATIONS:
                return ACTIVATIONS[value]
        return "silu"

    def rotary(self, width: int) -> int:
        """Rotated elements of a head."""
        rope = self.config.get("rope_parameters")
        tables = (self.config, rope if isinstance(rope, Mapping) else {})
        found = (table.get(name) for table in tables for name in ("partial_rotary_factor", "rotary_pct"))
        share = next((x for x in found if isinstance(x, int | float) and not isinstance(x, bool) and 0 < x <= 1), 1.0)
        return int(width * share)

    def kinds(self, depth: int) -> list[str]:
        """``full``, ``window`` or ``linear`` for each layer."""
        stated = self.config.get("layer_types") or next(
            filter(partial(_names_kinds, depth), self.config.values()), None
        )
        if isinstance(stated, list | tuple) and len(stated) >= depth:
            words = [str(x).lower()[:80] for x in stated[:depth]]
            return ["window" if _WINDOWED.search(x) else "linear" if _LINEAR.search(x) else "full" for x in words]
        marks = self.config.get("attn_type_list")
        if isinstance(marks, list | tuple) and len(marks) >= depth:
            return ["full" if mark else "linear" for mark in marks[:depth]]
        if not self.window or self.flag("use_sliding_window") is False:
            return ["full"] * depth
        every = self.number("sliding_window_pattern", "global_attn_every_n_layers", "full_attention_interval")
        if not every:
            said = f"a window of {self.window:,} tokens is stated and not which layers have it"
            said = f"NOTE: {said}: all are taken to see everything"
            self.fields.notes.append(said)
        return ["window" if every and (i + 1) % every else "full" for i in range(depth)]

    @property
    def window(self) -> int:
        """Tokens that windowed layers reach back; 0: not stated."""
        return self.number(*_WINDOW)

    def settings(self, kinds: Sequence[str]) -> list[Mapping[str, Any]]:
        """What single layers state otherwise."""
        return layer_settings(Fields(self.config), kinds)
