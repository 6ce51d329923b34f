"""A program compiled to tables over the totals of a step (design idea 5).

The kernels of a step fall into three classes, told apart by lowering three probes: those that depend on the new tokens
alone (projections, experts, norms, collectives), those that depend on the rows whose logits are wanted (head, sampler),
and those that depend on sequences (attention, recurrent states). Each class is priced once, vectorised, over a grid:

    time = max(token(T) + rows(R) + decode(n, context / n) + prefill(k, new / k, before / k), launches) + overhead

``decode`` takes the mean context of the ``n`` decoding sequences, ``prefill`` the mean length of the ``k`` prompt
chunks and the tokens before them such that the pairs of query and key are conserved. Where decodes verify guessed
tokens, a further table holds their attention with ``m`` queries each; the other kernels see ``n m`` tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.cost import Cost
from steelyard.cost.interval import with_system
from steelyard.cost.price import launched
from steelyard.cost.program import Kernel
from steelyard.cost.step import Replica, verifying
from steelyard.deployment.engine_config import EngineConfig
from steelyard.workload.transformer import Step

__all__ = [
    "OVERLAPS",
    "PROBES",
    "KernelClasses",
    "StepTable",
    "Tables",
    "build_step_table",
    "classify",
    "constant_tables",
    "joined",
    "scaled",
    "staged",
]

Floats = NDArray[np.float64]

#: Tokens and rows up to which every whole number has an entry.
DENSE = 512
#: Above it each tile of so many tokens has an entry for its first and its last: kernels step up where a tile begins.
TILE = 64
#: Where that ends, and the entries per doubling beyond.
TILED, PER_OCTAVE = 16384, 32
#: Decoding sequences up to which every whole number has an entry.
DENSE_BATCH = 128
#: Grid points per doubling: sequences and context of decode attention; sequences, new tokens and context of prefill.
BATCH_OCTAVE, CONTEXT_OCTAVE = 16, 8
CHUNKS_OCTAVE, NEW_OCTAVE, BEFORE_OCTAVE = 1, 8, 4
#: Shortest context of the decode table, and the offset of "tokens before" in the prefill table.
CONTEXT_START, BEFORE_START = 16.0, 256.0


class Tables(NamedTuple):
    """What the kernel evaluates, packed: ``data`` holds table after table, ``layout[table]`` where and how large.

    Tables: time and energy by new tokens; by rows; by decoding tokens and by prompt tokens beyond that (latent
    attention, whose projections differ); logarithm of the time and power of the sequence kernels by ``[sequences,
    context]`` of decodes and by ``[chunks, new, before]`` of prompts; the constants; the same for decodes of several
    tokens by ``[tokens each, sequences, context]``; collectives by new tokens, where they are kept apart. Times in s,
    energies in J and powers in W of one device. A second set of :data:`TABLES` tables may follow (a draft model).
    """

    data: Floats
    layout: NDArray[np.int64]
    """``[9, 4]``: offset, then the extents; extent 0: no such table."""


def pack(*tables: Floats | tuple[Floats, Floats]) -> Tables:
    """Tables in their order, each with its second array (energy or power) behind it."""
    parts: list[Floats] = []
    layout = np.zeros((len(tables), 4), dtype=np.int64)
    offset = 0
    for row, table in enumerate(tables):
        first, second = table if isinstance(table, tuple) else (table, np.zeros(0))
        layout[row, 0] = offset
        layout[row, 1 : 1 + first.ndim] = first.shape
        parts += [first.ravel(), second.ravel()]
        offset += first.size + second.size
    return Tables(np.concatenate(parts), layout)


#: Tables of one model.
TABLES = 9
#: Constants of a step, the seventh table. ``verify_from``: tokens per decode of the first entry of the table of
#: verifications. ``weave``: place in :data:`OVERLAPS`. ``parts``, ``hop_s``, ``hop_token_s``: micro-batches, and the
#: time of their way between attention and feed-forward devices, per layer.
CONSTANTS = (
    "overhead_s",
    "per_row_s",
    "launch_s",
    "graph_tokens",
    "host_s",
    "host_per_row_s",
    "overlap",
    "static_w",
    "cap_w",
    "verify_from",
    "weave",
    "layers",
    "parts",
    "hop_s",
    "hop_token_s",
)
#: Kernels of a step one after another; kernels that need different resources at once (NanoFlow, arXiv:2408.12757);
#: collectives under the other half of the batch (TokenWeave, arXiv:2505.11329); attention and feed-forward on devices
#: of their own (see :mod:`steelyard.techniques.attention_ffn`, which builds the tables of that).
OVERLAPS = ("", "nanoflow", "tokenweave", "split")


@dataclass(frozen=True, eq=False)
class StepTable:
    """Step times of one replica of a model, plan, cluster and engine, and what they were built from."""

    tables: Tables
    max_tokens: int
    max_sequences: int
    max_context: int
    spread: float = 0.0
    """Standard deviation of log(true / predicted) of a decode step in the middle of the grid, the system's included."""
    limit_frac: float = 0.0
    """Physical limit of that step over its time."""
    sources: dict[str, str] = field(default_factory=dict)

    def time_s(
        self,
        tokens: int,
        rows: int,
        decodes: int = 0,
        context: float = 0.0,
        chunks: int = 0,
        new: float = 0.0,
        pairs: float = 0.0,
    ) -> float:
        """Time of one step, s.

        Args:
            tokens: new tokens of the step. rows: requests in it.
            decodes: decoding sequences; context: sum of their contexts, the new token included.
            chunks: prompt chunks; new: their tokens; pairs: sum of ``new * (before + new / 2)``.
        """
        from steelyard.cost.step_eval import table_cost

        return float(table_cost(*self.tables, tokens, rows, decodes, context, chunks, new, pairs)[0])


def grid(largest: int) -> Floats:
    """``0, 1, ..., DENSE``, the first and last of each tile to ``TILED``, then geometric; to ``largest`` at least."""
    tiles = np.arange(DENSE, min(max(largest, DENSE), TILED), TILE, dtype=np.float64)
    edges = np.stack([tiles + 1, tiles + TILE], axis=1).ravel()
    beyond = geometric(TILED, largest, PER_OCTAVE)[1:] if largest > TILED else np.zeros(0)
    return np.concatenate([np.arange(DENSE + 1.0), edges, beyond])


def geometric(start: float, largest: float, octave: int) -> Floats:
    """``start * 2^(j / octave)`` up to at least ``largest``, two points at least."""
    steps = max(1, int(np.ceil(octave * np.log2(max(largest, start) / start))))
    return start * 2.0 ** (np.arange(steps + 1) / octave)


def build_step_table(
    replica: Replica,
    config: EngineConfig,
    *,
    max_context: int,
    queries: tuple[int, int] = (1, 1),
    overlap: str = "",
) -> StepTable:
    """Price every class of kernels over its grid.

    Args:
        replica: what prices a step.
        config: limits of a step.
        max_context: longest prompt and answer of the trace.
        queries: fewest and most tokens that a decode verifies at once; (1, 1): none.
        overlap: a name of :data:`OVERLAPS`.
    """
    engine, weave = replica.engine, OVERLAPS.index(overlap)
    builder = KernelClasses(replica, network_apart=weave > 0)
    most = int(min(max(config.max_num_batched_tokens, 1), max(1, config.max_num_seqs) * max_context))
    tokens = max(most if config.enable_chunked_prefill else max(most, max_context), config.max_num_seqs, 1)
    sequences = max(1, config.max_num_seqs)
    token_grid, row_grid = grid(tokens), grid(sequences * max(queries))
    token, token_j, cost = builder.token(token_grid)
    none = (np.zeros(0), np.zeros(0))
    decode_only = prefill_only = none
    if builder.names is not None:  # latent attention: what both forms have once, the rest by the tokens of each kind
        decode_only = builder.own(token_grid, absorb=True)
        prefill_only = builder.own(token_grid, absorb=False)
    launches = (config.launch_s or replica.launch_s) * builder.launches()
    alone = replica.plan.tp * replica.plan.pp == 1 or not config.api_server_count
    step_s = engine.step_s + (0.0 if alone else engine.served_step_s)
    verified = range(max(2, queries[0]), queries[1] + 1)
    constants = np.array(
        [
            step_s + engine.layer_s * float(replica.model.depth),
            engine.step_s_per_sequence,
            launches,
            float(config.graph_tokens) if engine.graph else -1.0,
            config.host_s,
            config.host_s_per_sequence,
            1.0 if config.async_scheduling else 0.0,
            cost.static_w,
            cost.cap_w,
            float(max(2, queries[0])),
            float(weave),
            float(replica.model.depth),
            1.0,
            0.0,
            0.0,
        ]
    )
    tables = pack(
        (token + _hops(replica, token_grid), token_j),
        builder.rows(row_grid),
        decode_only,
        prefill_only,
        builder.decode(sequences, max_context),
        builder.prefill(sequences, tokens, max_context),
        constants,
        builder.decode(sequences, max_context, verified) if verified else none,
        builder.network(token_grid) if weave else none,
    )
    middle = replica.price(Step.decode(min(32, sequences), max(1, max_context // 2)), absorb=True)
    spread = float(with_system(middle.cost.log_spread())) * engine.moved.step_spread
    limit_frac = float(middle.limit_s / middle.time_s)
    sources = {f"{k.model} model": k.source for k in middle.cost}
    return StepTable(tables, tokens, sequences, max_context, spread, limit_frac, sources)


def staged(table: StepTable, pipeline: Replica) -> StepTable:
    """The table of a pipeline from that of the same plan with one stage: stages have the same kernels and hops between.

    Args:
        table: of the plan with ``pp`` 1.
        pipeline: the replica with its stages.
    """
    if pipeline.plan.pp == 1:
        return table
    data, points = table.tables.data.copy(), grid(table.max_tokens)
    data[: len(points)] += _hops(pipeline, points)
    return replace(table, tables=Tables(data, table.tables.layout))


def _hops(replica: Replica, points: Floats) -> Floats:
    """Time between the stages of a pipeline by new tokens, s."""
    return np.asarray(replica.hop_s(np.maximum(points, 1.0))) * (points > 0)


def constant_tables(step_s: float, per_token_s: float = 0.0, energy_j: float = 0.0) -> Tables:
    """Tables of an imaginary engine whose steps take ``step_s + per_token_s * tokens``: for queueing theory."""
    points = grid(1 << 20)
    nothing, zero = (np.zeros(0), np.zeros(0)), np.zeros(len(points))
    flat, cube = np.full((DENSE_BATCH + 2, 2), NOTHING), np.full((2, 2, 2), NOTHING)
    constants = np.zeros(len(CONSTANTS))
    constants[3] = -1.0
    return pack(
        (np.where(points > 0, step_s + per_token_s * points, 0.0), np.where(points > 0, energy_j, 0.0)),
        (zero, zero),
        nothing,
        nothing,
        (flat, np.zeros(flat.shape)),
        (cube, np.zeros(cube.shape)),
        constants,
        nothing,
        nothing,
    )


def scaled(tables: Tables, factor: float) -> Tables:
    """The same engine with every step taking ``factor`` times as long, its dynamic energy unchanged."""
    data = tables.data.copy()
    for row, (start, *extents) in enumerate(tables.layout.tolist()):
        size = int(np.prod([e for e in extents if e])) if extents[0] else 0
        first, second = slice(start, start + size), slice(start + size, start + 2 * size)
        kind = row % TABLES
        if kind in (0, 1, 2, 3, 8):
            data[first] *= factor
        elif kind in (4, 5, 7):
            data[first] += np.log(factor)
            data[second] /= factor
        else:
            for name in ("overhead_s", "per_row_s", "launch_s", "host_s", "host_per_row_s", "hop_s", "hop_token_s"):
                data[start + CONSTANTS.index(name)] *= factor
    return Tables(data, tables.layout)


def joined(first: Tables, second: Tables) -> Tables:
    """Two sets of tables in one, the second behind the first."""
    layout = second.layout.copy()
    layout[:, 0] += first.data.size
    return Tables(np.concatenate([first.data, second.data]), np.concatenate([first.layout, layout]))


#: Logarithm of the time of no kernel at all.
NOTHING = -200.0
#: Steps that tell the classes of kernels apart: the first; other sequences with the same tokens; other rows.
PROBES = Step(
    np.array([4.0, 2.0, 4.0]), np.array([2.0, 4.0, 2.0]), np.array([64.0, 160.0, 64.0]), np.array([3.0, 3.0, 7.0])
)


class KernelClasses:
    """Prices of the kernels of one class, over arrays of steps.

    Args:
        replica: what prices a step.
        network_apart: collectives have a table of their own.
    """

    def __init__(self, replica: Replica, *, network_apart: bool = False) -> None:
        self.replica, self.apart = replica, network_apart
        self.latent = replica.model.latent
        forms = (True, False) if self.latent else (True,)
        self.probed = {absorb: replica.lower(PROBES, absorb).kernels for absorb in forms}
        self.classes = {absorb: classify(kernels)[0] for absorb, kernels in self.probed.items()}
        self.names = self._names() if self.latent else None
        """Token kernels of both forms of latent attention, of the absorbed one only, of the other only."""

    def priced(
        self,
        step: Step,
        absorb: bool,
        kind: str,
        names: frozenset[str] | None = None,
        network: bool = False,
        queries: int = 1,
    ) -> Cost:
        """The price of the kernels of one class.

        Args:
            step: sizes are arrays over steps.
            absorb: the form of latent attention.
            kind: ``token``, ``rows`` or ``sequence``.
            names: only these kernels; None = all.
            network: of token kernels the collectives, where they are kept apart.
            queries: tokens that each sequence verifies at once.
        """
        program = self.replica.lower(step, absorb)
        if queries > 1:
            program = verifying(program, queries)
        classes = self.classes[absorb or not self.latent]
        chosen = tuple(
            k
            for k in program.kernels
            if classes[k.name] == kind
            and (names is None or k.name in names)
            and (kind != "token" or not self.apart or (k.kind == "collective") == network)
        )
        return self.replica.cost(replace(program, kernels=chosen))

    @staticmethod
    def sums(cost: Cost, like: Any) -> tuple[Floats, Floats]:
        """``(time, energy)`` of the kernels of a cost, no overhead, in the shape of ``like``."""
        zero = np.zeros(np.shape(like))
        time = sum((k.time_s for k in cost.kernels), zero)
        energy = sum((k.energy_j for k in cost.kernels), zero)
        return np.asarray(time, dtype=np.float64), np.asarray(energy, dtype=np.float64)

    def token(self, points: Floats) -> tuple[Floats, Floats, Cost]:
        """Token kernels that decodes and prompts share."""
        return self._over(points, "token", names=None if self.names is None else self.names[0])

    def _over(
        self,
        points: Floats,
        kind: str,
        absorb: bool = True,
        names: frozenset[str] | None = None,
        network: bool = False,
    ) -> tuple[Floats, Floats, Cost]:
        """Time and energy of token or row kernels at these numbers of them, and their whole price."""
        sizes = np.maximum(points, 1.0)
        rounds = self.replica.rounds(sizes) if kind == "token" else np.ones_like(sizes)
        step = Step(sizes / rounds, 1, 1, sizes if kind == "rows" else 1)
        cost = self.priced(step, absorb, kind, names, network)
        time, energy = self.sums(cost, points)
        flowing = rounds * (points > 0)
        return time * flowing * self.replica.pieces_frac(sizes), energy * flowing, cost

    def _names(self) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        forms = [classify(self.probed[absorb]) for absorb in (True, False)]
        tokens = [{name for name, kind in classes.items() if kind == "token"} for classes, _ in forms]
        common = frozenset(n for n in tokens[0] & tokens[1] if forms[0][1][n] == forms[1][1][n])
        return common, frozenset(tokens[0]) - common, frozenset(tokens[1]) - common

    def own(self, points: Floats, absorb: bool) -> tuple[Floats, Floats]:
        """Token kernels of one form only."""
        assert self.names is not None
        return self._over(points, "token", absorb, self.names[1 if absorb else 2])[:2]

    def rows(self, points: Floats) -> tuple[Floats, Floats]:
        """Kernels over rows of logits."""
        return self._over(points, "rows")[:2]

    def network(self, points: Floats) -> tuple[Floats, Floats]:
        """Collectives over new tokens."""
        return self._over(points, "token", network=True)[:2]

    def decode(self, sequences: int, max_context: int, queries: Sequence[int] = (1,)) -> tuple[Floats, Floats]:
        """Sequence kernels of decodes of ``m`` tokens each, ``[m, sequences, context]``; without the first axis for
        one token."""
        batch = np.append(
            np.arange(1.0, DENSE_BATCH), geometric(DENSE_BATCH, max(sequences, 2 * DENSE_BATCH), BATCH_OCTAVE)
        )
        context = geometric(CONTEXT_START, max(max_context, 2 * CONTEXT_START), CONTEXT_OCTAVE)
        n, c = np.meshgrid(batch, context, indexing="ij")
        parts = []
        for m in queries:
            step = Step(n.ravel(), m, np.maximum(c.ravel(), m), 1, guesses=m > 1)
            parts.append(self.sums(self.priced(step, True, "sequence", queries=m), n.ravel()))
        time, energy = (np.stack([part[k] for part in parts]) for k in (0, 1))
        return _logs(time, energy, (len(parts), *n.shape) if len(parts) > 1 or max(queries) > 1 else n.shape)

    def prefill(self, sequences: int, tokens: int, max_context: int) -> tuple[Floats, Floats]:
        chunks = geometric(1.0, max(2.0, min(sequences, tokens)), CHUNKS_OCTAVE)
        new = geometric(1.0, max(2.0, min(tokens, max_context)), NEW_OCTAVE)
        before = geometric(BEFORE_START, BEFORE_START + max_context, BEFORE_OCTAVE) - BEFORE_START
        k, s, b = (x.ravel() for x in np.meshgrid(chunks, new, before, indexing="ij"))
        shape = (len(chunks), len(new), len(before))
        # chunks times new tokens never exceeds the budget by much: corners beyond repeat the edge, scaled
        fewer = np.minimum(k, np.maximum(1.0, 2.0 * tokens / s))
        time, energy = self.sums(self.priced(Step(fewer, s, b + s, 1), False, "sequence"), k)
        return _logs(time * k / fewer, energy * k / fewer, shape)

    def launches(self) -> float:
        """Kernels of a step."""
        return float(np.max(launched(self.probed[not self.latent], self.replica.engine)))


def _logs(time: Floats, energy: Floats, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    safe = np.maximum(time, 1e-30)
    logs = np.where(time > 0, np.log(safe), NOTHING)
    return logs.reshape(shape), np.where(time > 0, energy / safe, 0.0).reshape(shape)


def classify(kernels: Iterable[Kernel]) -> tuple[dict[str, str], dict[str, tuple[Any, ...]]]:
    """What every kernel of a program of :data:`PROBES` depends on, by name.

    Returns:
        ``token`` (the new tokens alone), ``rows`` (rows of logits too) or ``sequence`` (batch and lengths); and the
        facts each kernel is priced by, to tell whether two kernels of one name do the same work.
    """
    classes: dict[str, str] = {}
    facts: dict[str, tuple[Any, ...]] = {}
    for kernel in kernels:
        figures = [kernel.flops, *(kernel.traffic[k] for k in sorted(kernel.traffic))]
        figures += [kernel.features[k] for k in sorted(kernel.features)]
        values = [_probed(x) for x in figures if not isinstance(x, str)]
        facts[kernel.name] = (kernel.kind, *sorted(kernel.traffic), *sorted(kernel.features), *values)
        sequence, rows = any(v[0] != v[1] for v in values), any(v[0] != v[2] for v in values)
        classes[kernel.name] = "sequence" if sequence else "rows" if rows else "token"
    return classes, facts


def _probed(figure: Any) -> tuple[float, float, float]:
    """A figure at the three probes."""
    if isinstance(figure, np.ndarray) and figure.size > 1:
        return float(figure[0]), float(figure[1]), float(figure[2])
    return (float(figure),) * 3
