"""What a simulation rests on: sources, guesses and assumptions of every pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steelyard.cost.host_memory import notes
from steelyard.cost.memory import tower_notes
from steelyard.cost.sampling import greedy_note
from steelyard.deployment.anchor import find_anchor, told
from steelyard.deployment.engine_config import engine_config
from steelyard.deployment.engine_host import host_told
from steelyard.estimation.estimate import remarks_on_formats
from steelyard.machine.catalogue import account
from steelyard.provenance import Ledger
from steelyard.traffic.build import ISL, OSL
from steelyard.traffic.trace import LENGTHS
from steelyard.units import format_quantity

if TYPE_CHECKING:
    from steelyard.simulation.prepared import Options, Prepared, Served

__all__ = ["ledger_of"]


def ledger_of(prepared: Prepared) -> Ledger:
    """What a run rests on: sources, guesses, assumptions."""
    ledger = Ledger()
    several = len(prepared.served) > 1
    model = prepared.first.scenario.transformer
    if usual := _defaults(prepared):
        ledger.assume(usual)
    for served in prepared.served:
        _account(served, ledger, prepared.options, f"{served.pool.role}: " if several else "")
    ledger.assume("answers stop at their length in the trace; the lengths are known to no scheduler but 'shortest'")
    for technique in prepared.options.techniques:
        if not (technique.serving or technique.in_kernel):  # those leave notes of their own
            ledger.assume(f"with {technique}: {technique.effect}")
    if not prepared.policy.builtin:
        ledger.assume(f"policy {prepared.policy.name!r} is not one of ours: it sees the whole trace, answers included")
    roles = [s.pool.role for s in prepared.served]
    wire = prepared.wires[roles.index("prefill") if "prefill" in roles else 0, -1]
    if prepared.deployment.disaggregated and float(wire["token_s"]) > 0:
        rate = 1e-9 * float(wire["token_bytes"]) / max(float(wire["token_s"]), 1e-30)
        ledger.assume(
            f"KV caches travel at {rate:,.0f} GB/s from a replica, one at a time, pulled when the receiver has blocks"
        )
    if any(s.pool.role == "encode" for s in prepared.served):
        each = prepared.options.encode_spread
        words = f"up to {each} of them share one" if each > 1 else "one has all of it"
        ledger.assume(f"encoders work on one request at a time, at rated power; {words}")
    for note in (*tower_notes(model, prepared.first.scenario.plan), *model.notes, *prepared.trace.notes):
        ledger.assume(note)
    return ledger


def _defaults(prepared: Prepared) -> str:
    """What has its default and changes the answer most."""
    said, config = prepared.trace.origin, prepared.first.config
    usual: list[str] = []
    if said and not said.get("trace") and not said.get("workflow"):
        usual += [f"{name} {value}" for name, value in zip(LENGTHS, (ISL, OSL), strict=True) if name not in said]
        usual += [f"{len(prepared.trace):,} requests"] if not {"requests", "duration"} & said.keys() else []
    s = prepared.first.scenario
    own = engine_config(s.engine, s.cluster.machine, {}, s.transformer)
    if config.gpu_memory_utilization == own.gpu_memory_utilization and not prepared.first.kv.overridden:
        usual.append(f"{config.gpu_memory_utilization:.0%} of device memory (--gpu-memory-utilization)")
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        usual += [f"{name} {getattr(config, name):,}"] if getattr(config, name) == getattr(own, name) else []
    return f"defaults: {', '.join(usual)}" if usual else ""


def _account(served: Served, ledger: Ledger, options: Options, prefix: str) -> None:
    """Sources, guesses and assumptions of a pool."""
    scenario, config, kv, plan = served.scenario, served.config, served.kv, served.scenario.plan
    account(served.pool.device, ledger)  # of a share of a device, the whole of it
    for other in dict.fromkeys(m.name for m in scenario.cluster.unlike):
        account(next(m for m in scenario.cluster.unlike if m.name == other), ledger)
    for remark in scenario.cluster.remarks:
        ledger.assume(prefix + remark)
    if served.table is None:
        return
    if anchor := find_anchor(options.anchor):
        ledger.assume(prefix + told(anchor, scenario.engine))
    if said := host_told(scenario.engine):
        ledger.assume(prefix + said)
    for name in scenario.engine.guess:
        ledger.guess(f"engine.{scenario.engine.name}.{name}", "not published; a guess until calibrated")
    for name, source in served.table.sources.items():
        ledger.cite(name, source)
    if served.fitted is not None:
        for note in served.fitted.notes:
            ledger.assume(prefix + note)
        for name, reason in served.fitted.guesses.items():
            ledger.guess(prefix + name, reason)
    if config.rules.source:
        ledger.cite(f"scheduler {config.scheduler}", config.rules.source)
    ledger.assume(f"{prefix}engine {scenario.engine.dated}, scheduler: {config.rules.title}")
    ledger.assume(
        f"{prefix}KV cache: {kv.blocks:,} blocks of {kv.block_tokens} tokens per replica"
        + (", as given" if kv.overridden else f" at {config.gpu_memory_utilization:.0%} of memory")
    )
    if kv.slots:
        ledger.assume(prefix + _states(served))
    for remark in (*greedy_note(scenario.engine), *notes(plan, scenario.engine, scenario.cluster)):
        ledger.assume(prefix + remark)
    ledger.assume(f"{prefix}formats: weights {plan.weights}, activations {plan.activations}, KV cache {plan.kv}")
    for remark in remarks_on_formats(scenario):
        ledger.assume(prefix + remark)
    if plan.shares_experts:
        ledger.assume(f"{prefix}data-parallel ranks share experts and step together; the slowest ends the step for all")


def _states(served: Served) -> str:
    """Where recurrent states lie, and how many requests that lets run."""
    kv, config = served.kv, served.config
    where = "beside the blocks" if kv.apart else "in the blocks"
    words = f"recurrent states: {kv.slots:,} of {format_quantity(kv.slot_bytes, 'B')} per device, {where}"
    if config.max_num_seqs == kv.sequences:
        words += f"; max_num_seqs {kv.sequences:,}, as many as there are states for"
    if not config.enable_prefix_caching:
        words += "; prefixes are not shared"
    return words
