"""Who guesses tokens: the models of guessers, their memory, and the tables of their passes behind the model's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from steelyard.cost.memory import kv_bytes, weight_bytes
from steelyard.cost.step import Replica
from steelyard.cost.step_table import StepTable, Tables, build_step_table, joined
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError
from steelyard.machine.cluster import Cluster, parse_cluster
from steelyard.workload.catalogue import load_model
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op
from steelyard.workload.protocol import Workload
from steelyard.workload.transformer import FeedForward, Layer, Step, Transformer, transformer_of

__all__ = ["Draft", "Wanted", "draft_of", "guessing_cluster", "plan_beside", "with_draft"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A guesser as it is asked for."""

    kind: str
    """Name of the method."""
    guesses: int
    model: str = ""
    """Of a draft model."""
    tp: int = 0
    """Devices a draft model is split over; 0: as many as the model where its heads allow, else one."""
    vocab: int = 0
    """Tokens its own head scores; 0: it uses the model's head."""
    layers: int = 1
    """Layers of a head on the model's hidden states."""
    block: int = 1
    """Tokens of a sequence in one pass."""
    on: str = ""
    """The machine of a draft model, where it is another than the model's."""


@dataclass(frozen=True)
class _Guesser(Transformer):
    """A small head on a model's last hidden states: joins them with the embedding of the newest token (EAGLE, MTP)."""

    joins: int = 0
    """Width of what is joined; 0 = nothing."""

    def graph(self, step: Step, absorb: bool | None = None) -> Graph:
        """The ops of one step, the joining product first."""
        graph = super().graph(step, absorb)
        if not self.joins:
            return graph
        join = Op(
            "join",
            "t i, i d -> t d",
            {"t": step.tokens, "i": self.joins, "d": self.hidden},
            operands=("x", "w_join", "y"),
            roles=("activation", "weight", "activation"),
            block="mlp",
        )
        return replace(graph, ops=(join, *graph.ops))


@dataclass(frozen=True)
class _Heads(Transformer):
    """Medusa heads: each a residual product of the hidden width and a projection to the vocabulary, on one row each."""

    heads_count: int = 0

    def graph(self, step: Step, absorb: bool | None = None) -> Graph:
        """Only the heads."""
        return Graph(self.name, tuple(self._ops(step)), {})

    def _ops(self, step: Step) -> Iterator[Op]:
        rows = step.tokens
        yield Op(
            "medusa.residual",
            "t i, i d -> t d",
            {"t": rows, "i": self.hidden, "d": self.hidden},
            operands=("x", "w_medusa", "y"),
            roles=("activation", "weight", "activation"),
            count=self.heads_count,
            block="mlp",
        )
        yield Op(
            "medusa.head",
            "t d, d v -> t v",
            {"t": rows, "d": self.hidden, "v": self.vocab},
            operands=("x", "w_medusa_head", "logits"),
            roles=("activation", "weight", "activation"),
            count=self.heads_count,
            block="head",
        )


@dataclass(frozen=True, eq=False)
class Draft:
    """Who guesses, ready to be priced, and the device memory it takes."""

    model: Transformer
    plan: Plan
    weight_bytes: float
    """On one device of the model."""
    kv_bytes_per_token: float
    note: str
    block: int = 1
    """Tokens of a sequence in one pass."""
    on: str = ""
    """The machine it runs on, where that is another than the model's."""


def guessing_cluster(draft: Draft, cluster: Cluster) -> Cluster:
    """The devices that guess."""
    return replace(read_devices(draft.on), count=draft.plan.tp) if draft.on else cluster


def read_devices(on: str) -> Cluster:
    """One device of the machine a draft runs on. Raises :class:`InputError`."""
    try:
        return parse_cluster(on)
    except InputError as error:
        raise InputError(error.message, field="on") from None


def plan_beside(small: Transformer, plan: Plan, over: int = 0) -> Plan:
    """The plan of a smaller model beside another: as published, over so many devices; 0: all, if its heads allow."""
    devices = over or (plan.tp if small.heads % plan.tp == 0 else 1)
    return Plan(kv=plan.kv).over(devices).resolved(small.native_weights)


def draft_of(wanted: Wanted, workload: Workload, plan: Plan) -> Draft | None:
    """The guesser of a model; None when guesses are free.

    EAGLE: one layer of the model with a dense feed-forward, and a product that joins hidden state and embedding; the
    head is the model's own. EAGLE-3: the same with a small head of its own. DFlash: several such layers, a block of
    tokens at once. MTP: the model's own last layer likewise. Medusa: see :class:`_Heads`.

    Raises:
        InputError: the draft model has another vocabulary size by more than 2 %, or cannot be split so.
    """
    kind = wanted.kind
    if kind == "ngram":
        return None
    model = transformer_of(workload, f"speculate={kind}")
    if kind == "draft":
        small = transformer_of(load_model(wanted.model).transformer, "a draft model")
        if abs(small.vocab - model.vocab) > 0.02 * model.vocab:
            sizes = f"{small.name} has {small.vocab:,} tokens in its vocabulary, {model.name} {model.vocab:,}"
            raise InputError(f"{sizes}: a draft must share it", field="speculate")
        over = wanted.tp or (plan.tp if small.heads % plan.tp == 0 and not wanted.on else 1)
        if small.heads % over:
            raise InputError(f"tp={over} does not divide the {small.heads} heads of {small.name}", field="speculate")
        own = plan_beside(small, plan, over)
        if wanted.on:  # its memory is not that of the model's devices
            return Draft(small, own, 0.0, 0.0, f"draft {small.name} on {wanted.on}", wanted.block, wanted.on)
        return Draft(
            small,
            own,
            weight_bytes(small, own),
            float(kv_bytes(small, own, 1, 2**20)) / 2**20,
            f"draft {small.name} on {over} of {plan.tp} devices",
            wanted.block,
        )
    own = replace(plan, pp=1, dp=1, ep=1, cp=1)
    common: dict[str, Any] = {
        "name": f"{kind} of {model.name}",
        "model_type": model.model_type,
        "hidden": model.hidden,
        "vocab": model.vocab,
        "native_weights": model.native_weights,
    }
    if kind == "medusa":
        heads = _Heads(layers=(Layer(1, None, None, norms=0),), head=False, heads_count=wanted.guesses, **common)
        return Draft(heads, own, weight_bytes(heads, own), 0.0, f"{wanted.guesses} Medusa heads")
    last = model.layers[-1]
    f = last.feed_forward
    if kind != "mtp" and f is not None and f.is_moe:
        f = FeedForward(f.top_k * f.intermediate + f.shared_intermediate, f.gated, f.activation)
    layer = replace(last, count=wanted.layers, feed_forward=f)
    common["vocab"] = min(wanted.vocab or model.vocab, model.vocab)
    joins = max(2, wanted.layers) * model.hidden
    guesser = _Guesser(layers=(layer,), joins=joins, final_norm=False, **common)
    graph = guesser.graph(Step.prefill(1, 1))
    shared = {"embedding", "lm_head"}
    alone = guesser if wanted.vocab else replace(guesser, head=False)  # without the head that is the model's own
    embedding = sum(
        float(op.elements(tensor, visited=False)) * own.format("communication").bits / 8
        for op in graph
        for tensor in op.inputs
        if op.name in shared and tensor.role == "table"
    )
    weights = max(0.0, weight_bytes(alone, own) - embedding / own.tp)
    per_token = float(kv_bytes(guesser, own, 1, 2**20)) / 2**20
    many = "one layer" if wanted.layers == 1 else f"{wanted.layers} layers"
    head = f"a head of its own for {common['vocab']:,} tokens" if wanted.vocab else "its head shared"
    note = f"{kind}: {many} of {model.name}, {head}"
    return Draft(guesser, own, weights, per_token, note, wanted.block)


def with_draft(
    table: StepTable,
    draft: Draft | None,
    cluster: Cluster,
    engine: Engine,
    config: EngineConfig,
    *,
    max_context: int,
) -> Tables:
    """The model's tables with those of its guesser behind them.

    A pass costs :attr:`~steelyard.deployment.engine.Engine.guess_s` beside its kernels.
    """
    if draft is None:
        return table.tables
    quiet = replace(engine, step_s=engine.guess_s, step_s_per_sequence=0.0)
    calm = replace(config, host_s=0.0, host_s_per_sequence=0.0)
    passes = Replica(draft.model, draft.plan, guessing_cluster(draft, cluster), quiet)
    own = build_step_table(passes, calm, max_context=max_context, queries=(draft.block, draft.block))
    return joined(table.tables, own.tables)
