"""Feed-forward blocks and experts from the shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steelyard.workload.families.decoders import EXPERTS, SHARED, TOP_K
from steelyard.workload.shapes import FeedForward
from steelyard.workload.structure.keys import Keys
from steelyard.workload.structure.pieces import Piece

__all__ = ["Roles", "read_feed_forward"]

#: The pieces of a layer by block and role.
Roles = Mapping[tuple[str, str], Sequence[Piece]]

_CHOSEN = (
    *TOP_K,
    "num_selected_experts",
    "num_experts_per_token",
    "moe_router_topk",
    "router_topk",
    "top_k",
    "topk",
    "expert_used_count",
)


def read_feed_forward(roles: Roles, hidden: int, keys: Keys) -> tuple[FeedForward | None, dict[str, list[Piece]]]:
    """The feed-forward block of a layer, and the pieces it explains by part.

    Args:
        roles: the layer's pieces.
        hidden: width between layers.
        keys: of the layer.
    """
    dense, placed = _plain(roles, "mlp", hidden)
    parts = {"MLP": placed} if dense else {}
    routed, explained = _experts(roles, hidden, keys)
    if routed is None:
        return (_with(dense, roles, keys, placed) if dense else None), parts
    shared, own = _plain(roles, "shared", hidden)
    parts = {"experts": explained["experts"], "router": explained["router"]}
    own += placed  # a dense block beside the experts is one that every token visits
    gate = [p for p in roles.get(("shared", "gate"), ()) if p.elements == hidden]
    if own:
        parts["shared experts"] = own + gate
    width = (shared[0] if shared else 0) + (dense[0] if dense else 0)
    block = FeedForward(
        routed.intermediate,
        gated=routed.gated,
        activation=keys.activation,
        up_bias=routed.up_bias,
        down_bias=routed.down_bias,
        experts=routed.experts,
        top_k=routed.top_k,
        shared_intermediate=width,
        shared_gate=bool(own and gate),
        router_bias=routed.router_bias,
        idle_experts=routed.idle_experts,
        expert_hidden=routed.expert_hidden,
    )
    return block, parts


def _matrices(pieces: Sequence[Piece]) -> list[Piece]:
    return [p for p in pieces if len(p.shape) >= 2 and not p.path.endswith("_bias") and p.ending != "bias"]


def _plain(roles: Roles, group: str, hidden: int) -> tuple[tuple[int, bool] | None, list[Piece]]:
    """``(inner width, whether it is gated)`` of a plain block, and its matrices."""
    down = _matrices(roles.get((group, "down"), ()))
    up = _matrices(roles.get((group, "up"), ()))
    if len(down) > 1:  # names that mean one thing here and another there: by which way round they are
        both, down = down, [p for p in down if p.shape[0] == hidden]
        up += [p for p in both if p not in down]
    inside, outside = sum(p.elements for p in up), sum(p.elements for p in down)
    width, rest = divmod(outside, hidden)
    if not down or not up or rest or not width or inside % outside or inside // outside not in (1, 2):
        return None, []
    return (width, inside == 2 * outside), up + down


def _with(found: tuple[int, bool], roles: Roles, keys: Keys, placed: list[Piece]) -> FeedForward:
    width, gated = found
    biases = {role: [p for p in roles.get(("mlp", role), ()) if p.ending == "bias"] for role in ("up", "down")}
    norm = [p for p in roles.get(("mlp", "norm"), ()) if p.elements == width]
    placed += [*biases["up"], *biases["down"], *norm]
    return FeedForward(
        width,
        gated=gated,
        activation=keys.activation,
        up_bias=bool(biases["up"]),
        down_bias=bool(biases["down"]),
        inner_norm=bool(norm),
    )


def _experts(roles: Roles, hidden: int, keys: Keys) -> tuple[FeedForward | None, dict[str, list[Piece]]]:
    """Routed experts, stacked in one tensor or one by one."""
    down = _matrices(roles.get(("expert", "down"), ()))
    up = _matrices(roles.get(("expert", "up"), ()))
    if not down or not up:
        return None, {}
    gates = [p for p in _matrices(roles.get(("router", "router"), ())) if not p.elements % hidden]
    count = _count(down[0], gates, hidden, keys)
    inside, outside = sum(p.elements for p in up), sum(p.elements for p in down)
    if not count or not outside or outside % count or inside % outside or inside // outside not in (1, 2):
        return None, {}
    latent = _matrices(roles.get(("expert", "latent"), ()))
    width = hidden
    if hidden not in down[0].shape and latent:
        width = latent[0].elements // hidden
    inner, rest = divmod(outside // count, width)
    if rest or not inner:
        return None, {}
    choices = max((p.elements // hidden for p in gates), default=count)
    own = [p for p in roles.get(("router", "bias"), ()) if p.elements == choices]
    own += [p for p in roles.get(("router", "router"), ()) if p.ending == "bias" and p.elements == choices]
    chosen = keys.number(*_CHOSEN)
    if not chosen:
        message = f"the files hold {count} experts in a layer and the config does not say how many a token visits"
        keys.fields.problem("num_experts_per_tok", f"{message}; state it in a config.json beside them")
    elif chosen > count:
        keys.fields.problem("num_experts_per_tok", f"{chosen} experts per token, but the files hold {count} in a layer")
    biases = {
        role: [p for p in roles.get(("expert", role), ()) if p.ending == "bias" or p.path.endswith("_bias")]
        for role in ("up", "down")
    }
    idle = choices - count if choices > count and choices - count != keys.number(*SHARED) else 0
    block = FeedForward(
        inner,
        gated=inside == 2 * outside,
        up_bias=bool(biases["up"]),
        down_bias=bool(biases["down"]),
        experts=count,
        top_k=max(1, min(chosen, count)),
        router_bias=bool(own),
        idle_experts=idle,
        expert_hidden=width if width != hidden else 0,
    )
    experts = [*up, *down, *biases["up"], *biases["down"], *(latent if width != hidden else [])]
    return block, {"experts": experts, "router": [*gates[:1], *own[:1]]}


def _count(down: Piece, gates: Sequence[Piece], hidden: int, keys: Keys) -> int:
    """How many experts there are: numbered, stacked, or as the config or the router says."""
    if down.copies > 1:
        return down.copies
    if len(down.shape) == 3:
        return down.shape[0]
    stated = keys.number(*EXPERTS)
    return stated or (gates[0].elements // hidden if gates else 0)
