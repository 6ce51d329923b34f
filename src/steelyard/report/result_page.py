"""A result as one self-contained page: what it is about, the verdict, facts, tables, pictures, where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.report.figures import figures_of
from steelyard.report.html import Table, rendered, write_html
from steelyard.report.paper import spare_text, spread, words_of

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate
    from steelyard.estimation.llama_bench import LlamaBench
    from steelyard.estimation.network import NetEstimate
    from steelyard.estimation.space import SpaceEstimate
    from steelyard.exploration.allocation import Allocation
    from steelyard.exploration.codesign import Codesign
    from steelyard.exploration.networks import NetworkSearch
    from steelyard.exploration.predictors import Leaderboard
    from steelyard.exploration.search_cost import SearchCost
    from steelyard.report.compare import Comparison
    from steelyard.search.chip import ChipPoint, ChipSearch
    from steelyard.search.training import TrainAnswer
    from steelyard.simulation.replay import Replay
    from steelyard.training.estimate import TrainEstimate

__all__ = ["page", "write_page"]

#: Columns of long words, and points of a front that a page has in its table.
_NETWORK, _CHIP, _ROWS = "architecture", "chip", 20


def write_page(result: Any, path: str | Path) -> None:
    """Write the page of a result. Raises :class:`InputError` when the file cannot be written."""
    write_html(page(result), path)


def page(result: Any) -> str:
    """The page as text. Raises :class:`TypeError` for what has no page."""
    from steelyard._version import __version__

    made = next((_PAGES[kind.__name__] for kind in type(result).__mro__ if kind.__name__ in _PAGES), None)
    if made is None:
        raise TypeError(f"no page of {type(result).__name__}")
    empty: dict[str, Any] = {"verdict": "", "good": True, "because": "", "facts": [], "tables": [], "more": []}
    values = {**empty, "about": [], "ledger": None, "stamp": "", "first": figures_of(result), **made(result)}
    return rendered("result.html", version=__version__, **values)


def _words(parts: Sequence[Any]) -> list[str]:
    """Plain text of what a terminal shows in styles."""
    return [words_of(x) for x in parts]


def _ledger(found: Any) -> dict[str, Any]:
    return {"assumptions": found.assumptions, "sources": found.sources, "guesses": found.guesses}


def _fits(fits: bool, headroom: float, change: Callable[[], str]) -> dict[str, Any]:
    spare = spare_text(headroom)
    because = spare if fits else f"{spare}; nearest change that fits: {change()}"
    return {"verdict": "fits" if fits else "does not fit", "good": fits, "because": because}


def _estimate(e: Estimate) -> dict[str, Any]:
    from steelyard.estimation.estimate import provenance
    from steelyard.estimation.infeasibility import remedy
    from steelyard.report import text

    title, *about = _words(text.title(e))
    most = f"largest batch {e.largest_batch:,}; largest context {e.largest_context:,} at this batch"
    return {
        "title": title,
        "about": [*about, most],
        **_fits(e.fits, float(e.memory.headroom), lambda: remedy(e.scenario)),
        "facts": text.rate_lines(e),
        "tables": [("What it takes", Table(text.TIMES, [_last_left(r) for r in text.time_rows(e)]), "")],
        "ledger": _ledger(e.ledger),
        "stamp": _stamp(provenance(e.scenario)),
    }


def _last_left(row: Sequence[str]) -> list[str]:
    return [cell.strip() for cell in row]


def _stamp(provenance: Any) -> str:
    return str(provenance.get("hash", ""))[:16]


def _network(found: NetEstimate) -> dict[str, Any]:
    from steelyard.estimation.network_remedy import network_remedy
    from steelyard.report import network, text

    title, *about = _words(network.title(found))
    spare = found.capacity_bytes - found.peak_memory_bytes
    unknown = [
        f"{u.op}: {u.count} of them, {u.bytes_frac:.1%} of the bytes, priced as traffic" for u in found.unknown_ops
    ]
    return {
        "title": title,
        "about": [*about, *unknown],
        **_fits(found.fits, spare, lambda: network_remedy(found)),
        "facts": network.rate_lines(found),
        "tables": [("What it takes", Table(text.TIMES, [_last_left(r) for r in network.time_rows(found)]), "")],
        "ledger": _ledger(found.ledger),
    }


def _space(found: SpaceEstimate) -> dict[str, Any]:
    where = found.scenario.network
    about = f"batch {found.scenario.batch:,}" + (f" on {where.cluster.title}" if where else "")
    return {"title": f"{len(found):,} architectures", "about": [about], "ledger": _ledger(found.ledger)}


def _train(found: TrainEstimate) -> dict[str, Any]:
    from steelyard.report import train, train_run

    title, *about = _words(train.title(found))
    spare = found.capacity_bytes - found.stages[found.peak_stage].reserved_bytes
    run = found.run
    tables = [] if run is None else [("The run", Table(train_run.HEADS, train_run.rows(run)), "")]
    verdict = _fits(found.fits, spare, lambda: train.remedy(found))
    if not found.fits:
        verdict["because"] += "; what stands below is of a step were it to fit"
    facts = train.rate_lines(found) if run is None else [*train.rate_lines(found), *train_run.lines(found, run)]
    return {
        "title": title,
        "about": about,
        **verdict,
        "facts": facts,
        "tables": tables,
        "ledger": _ledger(found.ledger),
    }


def _train_plan(answer: TrainAnswer) -> dict[str, Any]:
    from steelyard.report import train_plan

    w, heads = answer.winner, train_plan.HEADS
    table = Table(heads, train_plan.cells(answer), 2)
    title = train_plan.wish(answer)
    verdict = "no plan" if w is None else f"{w.scenario.cluster.title}"
    because = f"{answer.reason}; {train_plan.nearest(answer)}" if w is None else w.scenario.plan.shape
    mine = {} if w is None else _train(w)
    return {
        **mine,
        "title": f"{answer.question.scenarios[0].model.name}: {title}",
        "verdict": verdict,
        "good": w is not None,
        "because": because,
        "tables": [
            *mine.get("tables", []),
            ("The best layout of every number of devices", table, train_plan.effort(answer)),
        ],
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    from steelyard.report import compare

    heads, cells = compare.cells(found)
    a, b = heads[1:3]
    return {
        "title": f"{a} and {b}",
        "about": [f"two of a kind: {found.kind}"],
        "tables": [("Side by side", Table(heads, cells), "")],
    }


def _replay(found: Replay) -> dict[str, Any]:
    from steelyard.report import replay

    heads, cells = replay.cells(found)
    where = f"{found.simulation.scenario.transformer.name} on {found.simulation.scenario.cluster.title}"
    notes = [*found.log.recorded.notes, *found.log.recorded.rejected, found.words]
    return {
        "title": f"{found.log.recorded.name} beside {where}",
        "about": [f"{len(found.log.recorded):,} requests; {found.log.load}", *notes],
        "tables": [("Measured and simulated", Table(heads, cells), "")],
    }


def _llama_bench(found: LlamaBench) -> dict[str, Any]:
    s = found.rows[0].estimate.scenario
    return {"title": f"{found.name} beside {s.transformer.name} on {s.cluster.title}"}


def _search_network(found: NetworkSearch) -> dict[str, Any]:
    from steelyard.report import search_network

    heads, rows = search_network.cells(found)
    rows = [[*row, name] for row, name in zip(rows, found.architectures, strict=True)]
    some = spread(rows, _ROWS)
    note = f"{len(some)} of {len(rows)} shown; the picture's numbers have all" if len(some) < len(rows) else ""
    return {
        "title": f"{found.space.title}: best {found.score_name} on {', '.join(found.devices)}",
        "about": [search_network.effort(found)],
        "tables": [("The front, best score first", Table([*heads, _NETWORK], some, words=_NETWORK), note)],
        "ledger": _ledger(found.ledger),
        "stamp": _stamp(found.provenance),
    }


def _allocation(found: Allocation) -> dict[str, Any]:
    from steelyard.report import allocation

    names = allocation.figures_shown(found)
    heads = ["", *(allocation.NAMES[n] for n in names)]
    points = {str(i + 1): p for i, p in enumerate(found.front)} | {f"all {n}": p for n, p in found.alike.items()}
    cells = [[label, *(allocation.shown(n, p.figures[n]) for n in names)] for label, p in points.items()]
    return {
        "title": allocation.title(found),
        "about": [found.task.goal_title, f"of {len(found)} points at several limits {allocation.proven(found)}"],
        "tables": [("The front, and one choice for all", Table(heads, cells), "")],
        "ledger": _ledger(found.task.ledger),
        "stamp": _stamp(found.provenance),
    }


def _search_chip(found: ChipSearch) -> dict[str, Any]:
    from steelyard.report import chip

    head = [*chip.heads(found, wide=True), _CHIP]
    legend = chip.Legend(found, [*found.front, *found.best.values()])

    def cells(p: ChipPoint) -> list[str]:
        return [*chip.cells(found, p, wide=True), chip.words(found, p, legend.unlike)]

    front = [cells(p) for p in spread(found.front, _ROWS)]
    least = [[what, *cells(p)] for what, p in found.best.items()]
    robust = "worst: whose worst workload needs the smallest multiple of the time x energy that any chip reaches for it"
    robust = robust if "worst" in found.best else ""
    return {
        "title": f"chips of {found.space.name} for {', '.join(found.work.names)}",
        "about": [
            _points(f"{found.points:,} chips", found, len(front)),
            *([f"all of them: {legend.same}"] if legend.same else []),
        ],
        "tables": [
            ("The chip of least", Table(["", *head], least, words=_CHIP), robust),
            (f"The {chip.front_words(found)}", Table(head, front, 0, words=_CHIP), ""),
        ],
        "ledger": {"assumptions": chip.assumed(found), "sources": {}, "guesses": {}},
        "stamp": _stamp(found.provenance),
    }


def _points(every: str, found: ChipSearch | Codesign, shown: int) -> str:
    from steelyard.report import chip

    some = f", {shown} shown" if shown < found.front_size else ""
    return f"{every}{chip.kept(found)}; {found.front_size:,} on the front{some}; batch {found.words['batch']:,}"


def _codesign(found: Codesign) -> dict[str, Any]:
    from steelyard.report import chip, codesign
    from steelyard.report.paper import figure

    how = "every pair" if found.exact else f"{found.how}, {found.tried:,} tried"
    head = [codesign.score_name(found), *chip.heads(found, wide=True), _CHIP, _NETWORK]
    legend = chip.Legend(found, [p.chip for p in (*found.front, *found.best.values())])
    front = []
    for p in spread(found.front, _ROWS):
        last = [chip.words(found, p.chip, legend.unlike), p.architecture]
        front.append([figure(p.score), *chip.cells(found, p.chip, wide=True), *last])
    return {
        "title": f"{found.networks.title} on chips of {found.space.name}",
        "about": [
            _points(f"{codesign.count(found)} pairs, {how}", found, len(front)),
            *([f"all chips: {legend.same}"] if legend.same else []),
        ],
        "tables": [("The front, best score first", Table(head, front, 0, words=_NETWORK), "")],
        "ledger": {"assumptions": codesign.assumed(found), "sources": {}, "guesses": {}},
        "stamp": _stamp(found.provenance),
    }


def _search_cost(found: SearchCost) -> dict[str, Any]:
    from steelyard.report import search_cost

    heads, cells = search_cost.table(found)
    spent = [f"{w.name}: {w.about}; device-days: {search_cost.parts_words(w)}" for w in found.ways]
    return {
        "title": search_cost.title(found),
        "about": spent,
        "tables": [("What each way costs", Table(heads, cells), "")],
        "ledger": _ledger(found.ledger),
        "stamp": _stamp(found.provenance),
    }


def _search_predictor(found: Leaderboard) -> dict[str, Any]:
    from steelyard.report import search_predictor

    heads, rows = search_predictor.cells(found)
    absent = "; ".join(f"{name}: {why}" for name, why in found.absent.items())
    following = [[f"{i}.", name] for i, name in enumerate(found.measure_next, 1)]
    return {
        "title": f"{found.space.title}: predictors of {found.device} from {found.networks} networks",
        "about": ["each network predicted from the others"],
        "tables": [
            ("Predictors, best first", Table(heads, rows), f"not tried: {absent}" if absent else ""),
            *([("Measure next", Table(["", _NETWORK], following, words=_NETWORK), "")] if following else []),
        ],
        "stamp": _stamp(found.provenance),
    }


_PAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Estimate": _estimate,
    "NetEstimate": _network,
    "SpaceEstimate": _space,
    "TrainEstimate": _train,
    "TrainAnswer": _train_plan,
    "Comparison": _comparison,
    "Replay": _replay,
    "LlamaBench": _llama_bench,
    "NetworkSearch": _search_network,
    "Allocation": _allocation,
    "ChipSearch": _search_chip,
    "Codesign": _codesign,
    "SearchCost": _search_cost,
    "Leaderboard": _search_predictor,
}
