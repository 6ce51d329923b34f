"""``steelyard explain``: where an estimate's numbers come from, kernel by kernel."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from steelyard.cli.network import explain_net, of_network
from steelyard.cli.options import Model, Wrong, answers, only, options_of
from steelyard.cli.output import Output, write
from steelyard.errors import SteelyardError

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate

Question: Any = options_of("estimate")


def explain(
    model: Model,
    /,
    *,
    question: Question,
    output: Output = Output(),  # noqa: B008 - frozen
    problems: Wrong,
) -> None:
    """Show every kernel of an estimate: formula, work, limit, what bounds it, source.

    Takes the options of `estimate`, for one scenario.
    """
    problems.read(output.check)
    if of_network(model):
        explain_net(model, question, output, problems)
        return
    found = only(answers(model, question, problems))
    from steelyard.estimation.explanation import Explanation
    from steelyard.report import explain as report

    explanation, measured = Explanation(found), _measured(found)
    write(
        output,
        data=lambda: {**report.to_dict(explanation), **({"measured_kernels": measured} if measured else {})},
        text=lambda columns: report.text(explanation, columns) + _shown(measured),
        rows=lambda: report.flat_rows(explanation),
    )


def _measured(found: Estimate) -> list[dict[str, Any]]:
    """Our kernel times beside those of the installed measured tables; empty when the package or the machine is not."""
    from steelyard.calibrate.measured_kernels import beside, installed_tables, measured_kernels

    if installed_tables() is None:
        return []
    try:
        tables = measured_kernels(found.scenario.cluster.machine)
    except SteelyardError:
        return []
    return [
        {"phase": phase, **asdict(line)}
        for phase, part in (("prefill", found.prefill), ("decode", found.decode))
        for line in beside(part.cost, tables)
    ]


def _shown(measured: list[dict[str, Any]]) -> str:
    if not measured:
        return ""
    lines = [
        f"  {x['phase']:8s}{x['name']:28s}{x['analytic_s'] * 1e6:10.1f} us {x['measured_s'] * 1e6:10.1f} us"
        for x in measured
        if x["measured_s"] is not None and x["measured_s"] == x["measured_s"]
    ]
    return "\n\nanalytic and measured, where the installed tables have a near shape\n" + "\n".join(lines)
