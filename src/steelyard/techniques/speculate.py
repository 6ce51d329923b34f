"""Speculative decoding: who guesses, what guessing and verifying cost, how many guesses are right, how many to make.

A step guesses ``k`` tokens per sequence and verifies them with the model in one pass of ``k + 1`` tokens (a tree: all
its nodes and the root). Guess ``j`` counts only when all before it were right, each with probability ``a``:

    P(at least j right) = a^j        tokens of a step = right + 1,   expected (1 - a^(k+1)) / (1 - a)

(Leviathan et al., arXiv:2211.17192, equation 1). A tree of width ``w`` offers ``w`` guesses per position; one of them
is right with ``1 - (1 - a) w^-b``, the power law of rejections of Sequoia (arXiv:2402.12374).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from steelyard.cost.memory import kv_bytes, weight_bytes
from steelyard.cost.step import Replica
from steelyard.cost.step_table import TABLES, StepTable, Tables, build_step_table, joined
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError, Problem, UnknownName, raise_all, suggest
from steelyard.machine.cluster import Cluster
from steelyard.simulation.kernel.methods import read_words
from steelyard.workload.catalogue import load_model
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op
from steelyard.workload.protocol import Workload
from steelyard.workload.transformer import FeedForward, Layer, Step, Transformer, transformer_of

__all__ = ["METHODS", "Draft", "Speculation", "draft_of", "parse_speculation", "with_draft"]

#: Width exponent of a tree's rejections (Sequoia's figures fall between 0.4 and 0.7; a guess in the middle).
TREE_EXPONENT = 0.5
#: Guesses per step at most.
MOST_GUESSES = 16
#: Tokens of a tree at most.
MOST_NODES = 256


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a method does when nothing else is said."""

    tokens: int
    accept: float
    source: str


#: Methods and their literature defaults: acceptance depends on the text and the pair of models far more than on the
#: method; measure it (an engine logs it) and give ``accept``.
METHODS: Mapping[str, Defaults] = {
    "draft": Defaults(4, 0.7, "Leviathan et al., arXiv:2211.17192, table 3: 0.5-0.8 for drafts 20-100 times smaller"),
    "ngram": Defaults(3, 0.3, "guess: high where the answer copies the prompt, near 0 in free text"),
    "medusa": Defaults(4, 0.6, "Cai et al., arXiv:2401.10774: first head right about 60 % of the time"),
    "eagle": Defaults(4, 0.75, "Li et al., arXiv:2401.15077, table 2: 0.68-0.80 on MT-bench"),
    "mtp": Defaults(1, 0.85, "DeepSeek-V3, arXiv:2412.19437, section 5.4.3: 85-90 % for the second token"),
    "tree": Defaults(4, 0.75, "as eagle, per node; width from the words"),
}
_KEYS: Mapping[str, float | str] = {
    "k": 4,
    "accept": 0.7,
    "heads": 4,
    "width": 1,
    "depth": 4,
    "nodes": 16,
    "tp": 1,
    "by": "eagle",
    "model": "",
}


@dataclass(frozen=True, slots=True)
class Speculation:
    """How tokens are guessed.

    Args:
        method: a name of :data:`METHODS`; a tree is guessed ``by`` another one.
        tokens: guesses per step along the longest path.
        accept: probability that a guess is right, given that those before it are.
        draft: name of the draft model, for ``draft``.
        draft_tp: devices the draft is split over; 0 = those of the model where its heads allow it, else one.
        width: guesses per position.
        nodes: tokens verified per sequence beside the last known one; 0 = ``width x tokens``.
        adaptive: 0 to ``tokens`` guesses, chosen each step for the most expected tokens per second (SmartSpec,
            arXiv:2406.14066).
        by: who guesses a tree.
        assumed: ``accept`` is the literature's default.
    """

    method: str
    tokens: int
    accept: float
    draft: str = ""
    draft_tp: int = 0
    width: int = 1
    nodes: int = 0
    adaptive: bool = False
    by: str = ""
    assumed: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.method not in METHODS:
            raise UnknownName("speculation method", self.method, METHODS)
        if not 1 <= self.tokens <= MOST_GUESSES:
            problems.append(Problem("speculate", f"expected 1 to {MOST_GUESSES} tokens, got {self.tokens}"))
        if not 0 <= self.accept <= 1:
            problems.append(Problem("speculate", f"expected accept from 0 to 1, got {self.accept:g}"))
        if self.guesser == "draft" and not self.draft:
            problems.append(Problem("speculate", "a draft needs its model: draft:llama-3.2-1b"))
        if self.width < 1 or self.verified > MOST_NODES:
            words = f"expected 1 to {MOST_NODES} tokens in a tree, got {self.verified}"
            problems.append(Problem("speculate", words))
        if self.adaptive and self.width > 1:
            problems.append(Problem("speculate", "a tree has a fixed size: adaptive chooses the length of a chain"))
        raise_all(problems)

    @property
    def guesser(self) -> str:
        """Who guesses: the method, or what a tree is guessed by."""
        return self.by or self.method

    @property
    def verified(self) -> int:
        """Tokens verified beside the last known one."""
        return self.nodes or self.width * self.tokens

    @property
    def right(self) -> float:
        """Probability that one of the guesses of a position is right."""
        return float(1.0 - (1.0 - self.accept) * self.width**-TREE_EXPONENT)

    @property
    def queries(self) -> tuple[int, int]:
        """Fewest (above 1) and most tokens per sequence of a verifying step."""
        most = self.verified + 1
        return (2, most) if self.adaptive else (most, most)

    def expected(self, guesses: int) -> float:
        """Expected tokens of a step with so many guesses."""
        a = self.right
        return guesses + 1.0 if a == 1.0 else (1.0 - a ** (guesses + 1)) / (1.0 - a)

    def record(self, record: Any, tables: bool) -> None:
        """Write it into a record of :data:`~steelyard.simulation.kernel.methods.METHOD`."""
        record["plain"] = 0
        record["guess"] = {"ngram": 3, "medusa": 2}.get(self.guesser, 1)
        record["fewest"] = 0 if self.adaptive else self.tokens
        record["most"] = self.tokens
        record["nodes"] = self.verified if self.width > 1 or self.nodes else 0
        record["draft_row"] = TABLES if tables else 0
        record["reads_prompts"] = int(self.guesser in ("draft", "eagle", "mtp"))
        record["log_accept"] = math.log(self.right) if self.right > 0 else -math.inf


def parse_speculation(text: str) -> Speculation:
    """Read ``draft:llama-3.2-1b,k=4,accept=0.7``, ``ngram:k=3,accept=0.3``, ``medusa:heads=4``, ``eagle:k=4``,
    ``mtp:k=1``, ``tree:width=4,depth=4,by=medusa``; ``adaptive`` as a word of its own makes any of the chains adaptive
    (``eagle:k=6,adaptive``; ``adaptive:draft:llama-3.2-1b`` says the same).

    Raises:
        InputError: every problem at once.
    """
    adaptive = False
    body = text.strip()
    if body.lower().startswith("adaptive"):
        adaptive = True
        body = body[len("adaptive") :].lstrip(":,") or "ngram"
    head, _, rest = body.partition(":")
    parts = [p.strip() for p in rest.split(",") if p.strip()]
    if "adaptive" in parts:
        adaptive = True
        parts.remove("adaptive")
    kind, given = read_words(f"{head}:{','.join(parts)}", "speculate", _KEYS)
    if kind not in METHODS:
        near = suggest(kind, METHODS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(METHODS)}"
        raise InputError(f"unknown method {kind!r}{hint}", field="speculate")
    by = str(given.get("by", "eagle")) if kind == "tree" else ""
    if by and (by not in METHODS or by in ("tree", "ngram")):
        raise InputError(f"a tree is guessed by draft, medusa, eagle or mtp, not {by!r}", field="speculate")
    usual = METHODS[kind]
    named = str(given.get("", given.get("model", "")))
    depth = next((given[k] for k in ("k", "heads", "depth") if k in given), usual.tokens)
    return Speculation(
        kind,
        int(depth),
        float(given.get("accept", METHODS[by].accept if by else usual.accept)),
        draft=named,
        draft_tp=int(given.get("tp", 0)),
        width=int(given.get("width", 2 if kind == "tree" else 1)),
        nodes=int(given.get("nodes", 0)),
        adaptive=adaptive,
        by=by,
        assumed="accept" not in given,
    )


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


def draft_of(speculation: Speculation, workload: Workload, plan: Plan) -> Draft | None:
    """The guesser of a model; None when guesses are free.

    EAGLE: one layer of the model with a dense feed-forward, and a product that joins hidden state and embedding; the
    head is the model's own. MTP: the model's own last layer likewise. Medusa: see :class:`_Heads`.

    Raises:
        InputError: the draft model has another vocabulary size by more than 2 %, or cannot be split so.
    """
    kind = speculation.guesser
    if kind == "ngram":
        return None
    model = transformer_of(workload, f"speculate={kind}")
    if kind == "draft":
        small = transformer_of(load_model(speculation.draft).transformer, "a draft model")
        if abs(small.vocab - model.vocab) > 0.02 * model.vocab:
            words = f"{small.name} has {small.vocab:,} tokens in its vocabulary, {model.name} {model.vocab:,}"
            raise InputError(f"{words}: a draft must share it", field="speculate")
        tp = speculation.draft_tp or (plan.tp if small.heads % plan.tp == 0 else 1)
        if small.heads % tp:
            raise InputError(f"tp={tp} does not divide the {small.heads} heads of {small.name}", field="speculate")
        native = small.native_weights
        own = Plan(tp=tp, kv=plan.kv if plan.kv else "").resolved(native)
        return Draft(
            small,
            own,
            weight_bytes(small, own),
            float(kv_bytes(small, own, 1, 2**20)) / 2**20,
            f"draft {small.name} on {tp} of {plan.tp} devices",
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
        heads = _Heads(layers=(Layer(1, None, None, norms=0),), head=False, heads_count=speculation.tokens, **common)
        return Draft(heads, own, weight_bytes(heads, own), 0.0, f"{speculation.tokens} Medusa heads")
    last = model.layers[-1]
    f = last.feed_forward
    if kind == "eagle" and f is not None and f.is_moe:
        f = FeedForward(f.top_k * f.intermediate + f.shared_intermediate, f.gated, f.activation)
    layer = replace(last, count=1, feed_forward=f)
    guesser = _Guesser(layers=(layer,), joins=2 * model.hidden, final_norm=False, **common)
    graph = guesser.graph(Step.prefill(1, 1))
    shared = {"embedding", "lm_head"}
    alone = replace(guesser, head=False)
    embedding = sum(
        float(op.elements(tensor, visited=False)) * own.format("communication").bits / 8
        for op in graph
        for tensor in op.inputs
        if op.name in shared and tensor.role == "table"
    )
    weights = max(0.0, weight_bytes(alone, own) - embedding / own.tp)
    per_token = float(kv_bytes(guesser, own, 1, 2**20)) / 2**20
    return Draft(guesser, own, weights, per_token, f"{kind}: one layer of {model.name}, its head shared")


def with_draft(
    table: StepTable,
    speculation: Speculation,
    draft: Draft | None,
    cluster: Cluster,
    engine: Engine,
    config: EngineConfig,
    *,
    max_context: int,
) -> Tables:
    """The model's tables with those of its guesser behind them.

    A pass of the guesser inside a step costs no time of the host: it is part of the step's graph (assumed).
    """
    if draft is None:
        return table.tables
    quiet = replace(engine, step_s=0.0, step_s_per_sequence=0.0)
    calm = replace(config, host_s=0.0, host_s_per_sequence=0.0)
    own = build_step_table(Replica(draft.model, draft.plan, cluster, quiet), calm, max_context=max_context)
    return joined(table.tables, own.tables)
