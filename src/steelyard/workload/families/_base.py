"""The contract of a model family, and what families share in reading a config.

A **family** is a callable ``config -> Transformer`` for one or more values of ``model_type``. It is given the mapping
found in a ``config.json`` (the language part, when the model has others) and returns the normal form
:class:`~steelyard.workload.transformer.Transformer`. It must

* state every stored parameter: biases, query-key norms, sinks, shared-expert gates, norms per layer, tied heads;
* ignore keys it does not know, and never look at a model's name;
* collect every missing key, wrong type and out-of-range value and raise them in one
  :class:`~steelyard.errors.InputError` (:class:`Fields` does that; :func:`decoder` raises before it builds);
* be pure: same mapping, same answer; it opens no files and imports no framework.

It does not set ``name``, ``native_weights`` or ``native_formats``: the door
:func:`~steelyard.workload.families.read_config` does. A package adds one by an entry point named for its
``model_type``::

    [project.entry-points."steelyard.model_families"]
    my_type = "my_package.my_module:my_family"

The smallest family (a Llama without grouped heads)::

    def my_family(config):
        f = Fields(config)
        block = Layer(f.depth(), f.attention(), f.gated_mlp())
        return decoder(f, [block], tied=f.flag("tie_word_embeddings", False))

``steelyard.testing.families.ModelFamilyContract`` checks a family against this page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from steelyard.errors import Problem, raise_all, suggest
from steelyard.workload.transformer import Attention, FeedForward, Layer, Mixer, Transformer

__all__ = ["ACTIVATIONS", "MAX_LAYERS", "MAX_SIZE", "Fields", "decoder", "group_layers", "mixed_layers"]

#: Largest size a config may state (no published model comes within a factor of 100 of it).
MAX_SIZE = 2**31
#: Most layers a config may state.
MAX_LAYERS = 10_000

#: ``hidden_act`` of Hugging Face configs -> elementwise operator.
ACTIVATIONS: Mapping[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "swiglu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "quick_gelu": "gelu",
    "geglu": "gelu",
    "xielu": "silu",
    "relu": "relu",
    "relu2": "relu2",
    "tanh": "tanh",
}

#: Keys for the number of experts: newer releases of transformers save one family's under another's name.
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")

_KINDS: Mapping[str, str] = {
    "full_attention": "full",
    "global": "full",
    "sliding_attention": "window",
    "reference_sliding_attention": "full",  # a window beside all tokens of the prompt
    "local": "window",
    "indexed_attention": "indexed",
    "minimax_m3_sparse": "indexed",
    "chunked_attention": "chunk",
    "attention": "full",
    "linear_attention": "linear",
    "mamba": "linear",
    "conv": "linear",
    "recurrent": "linear",
}


class Fields:
    """Typed access to a config that collects every problem instead of stopping at the first.

    A wrong or missing value is recorded in ``problems`` and a placeholder of 1 is returned, so that reading goes on;
    :meth:`finish` raises them all. Several key names mean "the first one present". JSON ``null`` counts as absent.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def under(self, own: Mapping[str, Any]) -> Fields:
        """The same config where a layer states values of its own; problems are collected in one list."""
        if not own:
            return self
        inner = Fields({**self.config, **own})
        inner.problems, inner.notes = self.problems, self.notes
        return inner

    def problem(self, field: str, message: str) -> None:
        """Record one problem."""
        entry = Problem(field, message)
        if all(str(entry) != str(p) for p in self.problems):
            self.problems.append(entry)

    def finish(self) -> None:
        """Raise one InputError with all problems found so far, if any."""
        raise_all(self.problems)

    def find(self, names: Sequence[str]) -> tuple[str, Any]:
        """The first of ``names`` that is present and not null, with its value; ``(names[0], None)`` otherwise."""
        for name in names:
            if self.config.get(name) is not None:
                return name, self.config[name]
        return names[0], None

    def size(self, *names: str, default: int | None = None, minimum: int = 1, maximum: int = MAX_SIZE) -> int:
        """A whole number; required when there is no ``default``."""
        name, value = self.find(names)
        if value is None:
            if default is None:
                near = [k for k in suggest(names[0], self.config, 1) if self._is_size(self.config[k])]
                hint = f" (is {near[0]!r} meant?)" if near else ""
                self.problem(name, f"required field is missing{hint}")
                return 1
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(name, f"expected a whole number, got {_shown(value)}")
            return 1
        if not minimum <= value <= maximum:
            self.problem(name, f"expected a whole number from {minimum} to {maximum}, got {_shown(value)}")
            return 1
        return value

    def optional(self, *names: str, default: int = 0) -> int:
        """A whole number that may be absent, null or 0."""
        return self.size(*names, default=default, minimum=0)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean (0 and 1 are read as such)."""
        value = self.config.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        self.problem(name, f"expected true or false, got {_shown(value)}")
        return default

    def fraction(self, name: str, default: float) -> float:
        """A number from 0 to 1, also looked for in ``rope_parameters``."""
        value = self.config.get(name)
        rope = self.config.get("rope_parameters")
        if value is None and isinstance(rope, Mapping):
            value = rope.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            self.problem(name, f"expected a number from 0 to 1, got {_shown(value)}")
            return default
        return float(value)

    def activation(self, *names: str, default: str) -> str:
        """The elementwise operator of ``hidden_act``."""
        name, value = self.find(names or ("hidden_act", "hidden_activation"))
        value = default if value is None else value
        if not isinstance(value, str) or value not in ACTIVATIONS:
            near = suggest(str(value), ACTIVATIONS, 1)
            self.problem(name, f"unknown activation {_shown(value)}" + (f"; did you mean {near[0]!r}?" if near else ""))
            return "silu"
        return ACTIVATIONS[value]

    def whole_list(self, name: str) -> list[int] | None:
        """A list of whole numbers, or None when absent."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or any(not isinstance(x, int) for x in value):
            self.problem(name, f"expected a list of whole numbers, got {_shown(value)}")
            return None
        return [int(x) for x in value]

    def depth(self, *names: str) -> int:
        """Number of layers."""
        return self.size(*(names or ("num_hidden_layers",)), maximum=MAX_LAYERS)

    def layer_kinds(self, depth: int, default: Callable[[int], str], *, also: Sequence[str] = ()) -> list[str]:
        """``full`` or ``window`` for each layer: ``layer_types``, else ``default(index)``.

        ``also`` are other kinds the family has (``chunk``, ``linear``, ``indexed``); those it has not are a problem.
        """
        value = self.config.get("layer_types")
        if value is None:
            return [default(i) for i in range(depth)]
        if not isinstance(value, list | tuple):
            self.problem("layer_types", f"expected a list with one entry per layer, got {_shown(value)}")
            return [default(i) for i in range(depth)]
        known = [name for name, kind in _KINDS.items() if kind in ("full", "window", *also)]
        unknown = sorted({str(x) for x in value if not isinstance(x, str) or x not in known})
        if unknown:
            family = self.config.get("model_type")
            message = (
                f"layers of type {_shown(unknown[0])} are not known for {_shown(family)}; known: {', '.join(known)}"
            )
            self.problem("layer_types", message)
        elif len(value) != depth:
            self.problem("layer_types", f"expected {depth} entries, one per layer, got {len(value)}")
        else:
            return [_KINDS[x] for x in value]
        return [default(i) for i in range(depth)]

    def window(self, name: str = "sliding_window") -> int:
        """Sliding window in tokens, 0 = none."""
        return self.optional(name)

    def head_dim(self, hidden: int, heads: int, default: int = 0) -> int:
        """Head width: stated, else ``default``, else ``hidden / heads``."""
        stated = self.optional("head_dim", default=default)
        if stated:
            return stated
        if self._sound("hidden_size", "num_attention_heads") and hidden % heads:
            self.problem("head_dim", f"hidden_size {hidden} does not divide by {heads} attention heads; state head_dim")
            return 1
        return max(1, hidden // heads)

    def attention(
        self,
        *,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm: str = "",
        head_dim: int = 0,
        kv_heads: int = 0,
        rotary: float = 1.0,
    ) -> Attention:
        """Grouped-query attention as most configs state it.

        ``kv_heads`` is the default when ``num_key_value_heads`` is absent (0 = as many as query heads), ``head_dim``
        the default width, ``rotary`` the default share of the head that is rotated.
        """
        heads = self.size("num_attention_heads")
        kv = self.size("num_key_value_heads", "num_attention_groups", default=kv_heads or heads)
        self.divides("num_attention_heads", heads, "num_key_value_heads", kv)
        width = self.head_dim(self.size("hidden_size"), heads, head_dim)
        return Attention(
            heads=heads,
            kv_heads=kv,
            head_dim=width,
            q_bias=qkv_bias,
            kv_bias=qkv_bias,
            out_bias=out_bias,
            qk_norm=qk_norm,
            rotary_dim=int(width * self.fraction("partial_rotary_factor", rotary)),
        )

    def divides(self, name: str, value: int, by_name: str, by: int) -> None:
        """Record a problem unless ``value`` is a multiple of ``by``."""
        if self._sound(name, by_name) and value % by:
            self.problem(name, f"{value} does not divide by {by_name} = {by}")

    def gated_mlp(self, *names: str, bias: bool = False, act: str = "silu") -> FeedForward:
        """Gated feed-forward: ``down(act(gate(x)) * up(x))``."""
        return FeedForward(
            self.size(*(names or ("intermediate_size",))),
            activation=self.activation(default=act),
            up_bias=bias,
            down_bias=bias,
        )

    def experts(
        self,
        width: str | Sequence[str],
        *,
        count: Sequence[str],
        top_k: Sequence[str] = ("num_experts_per_tok",),
        shared: int = 0,
        shared_gate: bool = False,
        router_bias: bool = False,
        bias: bool = False,
    ) -> FeedForward:
        """Gated mixture of experts; ``width`` and ``count`` name the keys of expert width and number."""
        number, chosen = self.size(*count, *_EXPERT_COUNTS), self.size(*top_k)
        if chosen > number:
            self.problem(top_k[0], f"{chosen} experts per token, but there are only {number}")
        return FeedForward(
            self.size(*((width,) if isinstance(width, str) else width)),
            activation=self.activation(default="silu"),
            up_bias=bias,
            down_bias=bias,
            experts=number,
            top_k=chosen,
            shared_intermediate=shared,
            shared_gate=shared_gate,
            router_bias=router_bias,
        )

    def _sound(self, *names: str) -> bool:
        """Whether none of these keys has a problem yet (then its value is no placeholder)."""
        return not any(p.field in names for p in self.problems)

    @staticmethod
    def _is_size(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)


def mixed_layers(
    kinds: Sequence[str], attention: Attention, mixer: Mixer, blocks: Sequence[FeedForward]
) -> list[Layer]:
    """One layer per kind, ``linear`` with the mixer in place of attention, each with its feed-forward block."""
    pairs = zip(kinds, blocks, strict=True)
    return [Layer(1, None, mlp, mixer=mixer) if k == "linear" else Layer(1, attention, mlp) for k, mlp in pairs]


def group_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Equal layers merged into one with a count, in order of first appearance."""
    counts: dict[Layer, int] = {}
    for layer in layers:
        key = replace(layer, count=1)
        counts[key] = counts.get(key, 0) + layer.count
    return tuple(replace(layer, count=count) for layer, count in counts.items())


def decoder(
    f: Fields,
    layers: Iterable[Layer],
    *,
    tied: bool,
    hidden: int = 0,
    vocab: int = 0,
    positions: int = 0,
    embedding_norm: bool = False,
    final_norm: bool = True,
    norm_bias: bool = False,
    norm_weight: bool = True,
    head_bias: bool = False,
    max_context: int = 0,
) -> Transformer:
    """Raise what is wrong with the config, else build the decoder.

    ``hidden``, ``vocab`` and ``max_context`` default to the keys most configs use.
    """
    hidden = hidden or f.size("hidden_size")
    vocab = vocab or f.size("vocab_size")
    max_context = max_context or f.optional("max_position_embeddings")
    extra = f.optional("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers")
    if extra and f.flag("use_mtp", True):
        f.notes.append(f"{extra} multi-token-prediction layer(s) are not counted")
    f.finish()
    return Transformer(
        name="",
        model_type=str(f.config.get("model_type", "")),
        hidden=hidden,
        vocab=vocab,
        layers=group_layers(layers),
        tied=tied,
        positions=positions,
        embedding_norm=embedding_norm,
        final_norm=final_norm,
        norm_bias=norm_bias,
        norm_weight=norm_weight,
        head_bias=head_bias,
        max_context=max_context,
        notes=tuple(f.notes),
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
