"""The command ``steelyard validate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.progress import bar
from steelyard.errors import InputError
from steelyard_validation import hybrids, report
from steelyard_validation import validate as run

_Sources = Annotated[str, Parameter(help="folders (aic_ops) or tables (aic_ops/gemm); default: all")]
_Data = Annotated[
    str, Parameter(help="folder of folders of tables; nothing in it counts as fitted (default: $STEELYARD_DATA/truth)")
]
_Machine = Annotated[str, Parameter(help="only rows of this machine")]
_Sample = Annotated[int, Parameter(help="at most so many rows per table, drawn by --seed; 0 = all")]
_Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="print JSON")]
_Out = Annotated[str, Parameter(help="write pages and pictures to this folder (docs/validation)")]
_Readme = Annotated[str, Parameter(help="put the accuracy table between the markers of this file")]
_Quiet = Annotated[bool, Parameter(name="--quiet", negative="", show_default=False, help="no progress, no warnings")]


def validate(
    *sources: _Sources,
    data: _Data = "",
    machine: _Machine = "",
    sample: _Sample = 0,
    seed: int = 0,
    json: _Json = False,
    out: _Out = "",
    readme: _Readme = "",
    quiet: _Quiet = False,
) -> None:
    """Compare predictions with measured tables: errors, coverage, and how often the interval holds."""
    if sample < 0:
        raise InputError(f"expected at least 0, got {sample}", field="sample")
    folder = run.data_folder(data or None)
    with bar(quiet) as told:
        found = run.validate(sources, data=data or None, machine=machine, sample=sample, seed=seed, progress=told)
    if not quiet:
        for warning in found.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if out:
        words = [*sources, *(["--sample", str(sample)] if sample else []), *(["--machine", machine] if machine else [])]
        command = " ".join(["steelyard validate", *words, "--out", Path(out).as_posix()])
        report.write_pages(found, Path(out), folder, command)
        hybrids.write_page(found, Path(out), command)
    if readme and not report.update_readme(Path(readme), found.rows):
        raise InputError(f"no markers {' '.join(report.MARKERS)}", field=readme)
    print(found.to_json() if json else report.text(found))
