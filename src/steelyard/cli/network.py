"""``estimate`` and ``explain`` of a network, which is not served token by token."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from steelyard.cli.output import Output, Paged, write
from steelyard.errors import DoesNotFit, InputError
from steelyard.scenario.fields import fields_of
from steelyard.scenario.network import asks_net, read_net_scenario, sets_of
from steelyard.scenario.ranges import expand
from steelyard.scenario.space import asks_space, read_space_scenario
from steelyard.scenario.words import Problems

if TYPE_CHECKING:
    from steelyard.estimation.network import NetEstimate

__all__ = ["estimate_net", "explain_net", "of_network"]


def of_network(model: str) -> bool:
    """Whether what was typed is a network."""
    return asks_net({"model": model})


def _words(question: Any) -> dict[str, Any]:
    """What was typed beside the defaults."""
    known = fields_of("estimate")
    given = {f.name: getattr(question, f.name) for f in fields(question)}
    return {n: v for n, v in given.items() if n in known and v not in ("", None) and str(v) != str(known[n].default)}


def _answers(model: str, question: Any, problems: Problems) -> list[NetEstimate]:
    """The answers for every machine and batch that was typed."""
    import numpy as np

    from steelyard.estimation.network import estimates_of

    words = _words(question)
    batches = problems.read(expand, question.batch, "batch") or [1]
    words["batch"] = batches[0]
    found: list[NetEstimate] = []
    for on in [p.strip() for p in str(question.on).split(",") if p.strip()] or [""]:
        scenario = read_net_scenario({**words, "model": model, "on": on}, problems)
        one = len(batches) == 1 or "batch" in sets_of(words.get("set", ""))
        chosen = np.array([scenario.batch] if one else batches)
        found += estimates_of(scenario.with_batches(chosen))
    return found


def estimate_net(model: str, question: Any, output: Output, paged: Paged, problems: Problems) -> None:
    """Weigh a network on one or several machines, or many architectures of a space on one."""
    if _space(model, question, output, paged, problems):
        return
    from steelyard.estimation.network_remedy import network_remedy
    from steelyard.report import network as report

    found = _answers(model, question, problems)
    rows = [report.flat(f) for f in found]
    paged.refuse_many(len(found))
    if len(found) == 1:
        one = found[0]
        paged.write(one)
        write(output, data=lambda: report.to_dict(one), text=lambda c: report.report(one, c), rows=lambda: rows)
        if not one.fits:
            raise DoesNotFit(f"does not fit: {report.shortfall(one)}", change=network_remedy(one))
        return
    write(
        output,
        data=lambda: {"schema": "steelyard.estimates/1", "estimates": [report.to_dict(f) for f in found]},
        text=lambda columns: report.table(found, columns),
        rows=lambda: rows,
    )
    if not any(f.fits for f in found):
        raise DoesNotFit("no scenario fits", change=network_remedy(found[0]))


def _space(model: str, question: Any, output: Output, paged: Paged, problems: Problems) -> bool:
    """Answer architectures of a searched space, where they are asked about."""
    words = _words(question)
    if not asks_space({**words, "model": model}):
        return False
    from steelyard.estimation.space import answer_space
    from steelyard.report import space as report

    found = answer_space(read_space_scenario({**words, "model": model}, problems))
    paged.write(found)
    write(
        output,
        data=lambda: report.to_dict(found),
        text=lambda columns: report.report(found, columns),
        rows=lambda: report.csv_columns(found),
    )
    return True


def explain_net(model: str, question: Any, output: Output, problems: Problems) -> None:
    """Show the kernels of one estimate of a network."""
    from steelyard.report import network as report
    from steelyard.report.paper import render

    found = _answers(model, question, problems)
    if len(found) != 1:
        raise InputError(f"expected one machine and batch, got {len(found)}", field="batch")
    one = found[0]
    write(
        output,
        data=lambda: report.explained_dict(one),
        text=lambda columns: render(report.parts_explained(one), columns),
        rows=lambda: report.kernels_of(one),
    )
