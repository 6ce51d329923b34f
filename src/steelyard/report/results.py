"""The forms of every kind of result, by the name of its class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steelyard.errors import InputError

__all__ = ["Forms", "forms_of", "frame_of", "html_of"]


@dataclass(frozen=True, slots=True)
class Forms:
    """How one kind of result is written.

    Args:
        to_dict: as JSON.
        rows: as the rows (or arrays by column) of a table.
        parts: as renderables of a report.
        summary: in one or a few lines.
    """

    to_dict: Callable[[Any], dict[str, Any]]
    rows: Callable[[Any], Any]
    parts: Callable[[Any], list[Any]]
    summary: Callable[[Any], str]


def _estimate() -> Forms:
    from steelyard.report import estimate, text

    return Forms(estimate.to_dict, lambda e: [estimate.flat(e)], text.parts, estimate.summary)


def _network() -> Forms:
    from steelyard.report import network

    return Forms(network.to_dict, lambda e: [network.flat(e)], network.parts, network.summary)


def _space() -> Forms:
    from steelyard.report import space

    return Forms(space.to_dict, space.csv_columns, space.parts, space.summary)


def _search_network() -> Forms:
    from steelyard.report import search_network

    return Forms(search_network.to_dict, search_network.flat_rows, search_network.parts, search_network.summary)


def _search_predictor() -> Forms:
    from steelyard.report import search_predictor

    return Forms(search_predictor.to_dict, search_predictor.flat_rows, search_predictor.parts, search_predictor.summary)


def _allocation() -> Forms:
    from steelyard.report import allocation

    return Forms(allocation.to_dict, allocation.flat_rows, allocation.parts, allocation.summary)


def _chip() -> Forms:
    from steelyard.report import chip

    return Forms(chip.to_dict, chip.rows, chip.parts, chip.summary)


def _search_cost() -> Forms:
    from steelyard.report import search_cost

    return Forms(search_cost.to_dict, search_cost.rows, search_cost.parts, search_cost.summary)


def _codesign() -> Forms:
    from steelyard.report import codesign

    return Forms(codesign.to_dict, codesign.rows, codesign.parts, codesign.summary)


def _simulation() -> Forms:
    from steelyard.report import records, simulation

    return Forms(simulation.to_dict, lambda s: records.columns_of(s.records), simulation.parts, simulation.summary)


def _plan() -> Forms:
    from steelyard.report import plan

    return Forms(plan.to_dict, plan.flat_rows, plan.parts, plan.summary)


def _train() -> Forms:
    from steelyard.report import train

    return Forms(train.to_dict, lambda e: [train.flat(e)], train.parts, train.summary)


def _train_plan() -> Forms:
    from steelyard.report import train_plan

    return Forms(train_plan.to_dict, train_plan.flat_rows, train_plan.parts, train_plan.summary)


def _study() -> Forms:
    from steelyard.report import study, study_text

    return Forms(study.to_dict, study.flat_rows, study_text.parts, study_text.summary)


def _explanation() -> Forms:
    from steelyard.report import explain

    return Forms(explain.to_dict, explain.flat_rows, explain.parts, explain.summary)


def _comparison() -> Forms:
    from steelyard.report import compare

    return Forms(compare.to_dict, compare.Comparison.rows, compare.parts, compare.summary)


def _replay() -> Forms:
    from steelyard.report import replay

    return Forms(replay.to_dict, replay.rows, replay.parts, lambda found: f"<Replay: {found.words}>")


def _llama_bench() -> Forms:
    from steelyard.report import llama_bench

    return Forms(llama_bench.to_dict, llama_bench.flat_rows, llama_bench.parts, llama_bench.summary)


def _places() -> Forms:
    from steelyard.report import places

    return Forms(places.to_dict, places.rows, places.parts, places.summary)


_FORMS: dict[str, Callable[[], Forms]] = {
    "Estimate": _estimate,
    "NetEstimate": _network,
    "SpaceEstimate": _space,
    "NetworkSearch": _search_network,
    "Leaderboard": _search_predictor,
    "ChipSearch": _chip,
    "Codesign": _codesign,
    "SearchCost": _search_cost,
    "Allocation": _allocation,
    "Simulation": _simulation,
    "Answer": _plan,
    "TrainEstimate": _train,
    "TrainAnswer": _train_plan,
    "Findings": _study,
    "Explanation": _explanation,
    "Comparison": _comparison,
    "Replay": _replay,
    "LlamaBench": _llama_bench,
    "Places": _places,
}


def forms_of(result: Any) -> Forms:
    """The forms of a result. Raises :class:`TypeError` for anything else."""
    for kind in type(result).__mro__:
        if kind.__name__ in _FORMS:
            return _FORMS[kind.__name__]()
    raise TypeError(f"no forms of {type(result).__name__}")


def frame_of(result: Any) -> Any:
    """The rows of a result as a ``pandas.DataFrame``. Raises :class:`InputError` without pandas."""
    try:
        import pandas
    except ImportError:
        raise InputError("to_pandas needs pandas: pip install 'steelyard[data]'", field="to_pandas") from None
    return pandas.DataFrame(forms_of(result).rows(result))


def html_of(result: Any) -> str:
    """The report of a result as HTML that stands alone, with its first figures below."""
    from steelyard.report.figures.pictures import shown
    from steelyard.report.paper import html

    return html(forms_of(result).parts(result)) + shown(result)
