"""``steelyard explain``: where an estimate's numbers come from, kernel by kernel."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.options import Question, answers, only
from steelyard.cli.output import Output, write

_Model = Annotated[
    str, Parameter(help="catalogue name, or path of an HF config, a folder, a safetensors or a GGUF file")
]


def explain(model: _Model, /, *, question: Question, output: Output = Output()) -> None:  # noqa: B008 - frozen
    """Show every kernel of an estimate: formula, work, limit, what bounds it, source.

    Takes the options of `estimate`, for one scenario.
    """
    output.check()
    found = only(list(answers(model, question)))
    from steelyard.report import explain as report

    write(
        output,
        data=lambda: report.to_dict(found),
        text=lambda columns: report.text(found, columns),
        rows=lambda: report.flat_rows(found),
    )
