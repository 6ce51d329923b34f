"""What the devices of a pool hold before any cache: weights, and the working set of a step."""

from __future__ import annotations

from steelyard.cost.encode import Encoder
from steelyard.cost.memory import activation_bytes, towers_loaded, weight_bytes
from steelyard.simulation.prepared import Options, Served

__all__ = ["held_bytes"]


def held_bytes(served: Served, options: Options) -> dict[str, float] | None:
    """Bytes of the fullest device of a pool: ``weights``, ``working``, ``before_cache`` (both), ``kv_cache``.

    An encoder has the towers it reads with and works on its share of one request; other pools have the working set of
    the largest step, and where they read what requests show that of one request, if it is larger. None: a technique has
    pools of another kind, or nobody says what the encoders are.
    """
    if any(technique.plays for technique in options.techniques):
        return None
    s, config = served.scenario, served.config
    model, plan, engine = s.transformer, s.plan, s.engine
    reads = served.pool.role == "encode" or bool(model.towers)
    working = 0.0
    if reads and options.seen:
        tiles = sum(x.read.tiles * x.shown.count for x in options.seen)
        parts = max(1.0, min(options.encode_spread, tiles)) if served.pool.role == "encode" else 1.0
        share = -(-tiles // parts) / max(tiles, 1.0)
        working = float(Encoder(options.seen, plan, s.cluster, engine).activation_bytes(share))
    if served.pool.role == "encode":
        towers = {x.tower.name: x.tower for x in options.seen} or {t.name: t for t in towers_loaded(model, plan)}
        if not towers:
            return None
        weights = sum(t.bytes_on(plan.tp) for t in towers.values())
    else:
        weights = weight_bytes(model, plan, s.exact_weight_bytes, engine.multiples(s.cluster.machine))
        rows = min(config.max_num_seqs, config.max_num_batched_tokens)
        tokens = min(config.max_num_batched_tokens, model.max_context or config.max_num_batched_tokens)
        step = activation_bytes(model, plan, tokens, rows, engine.logit_bytes, engine.partial_sums)
        working = max(working, float(step))
        weights += served.fitted.device_bytes if served.fitted is not None else 0.0
    cache = served.kv.blocks * served.kv.block_bytes
    return {"weights": weights, "working": working, "before_cache": weights + working, "kv_cache": float(cache)}
