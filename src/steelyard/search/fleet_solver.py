"""Linear and mixed-integer programs by HiGHS, from rows of coefficients."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.search.options import Floats

__all__ = ["GAP", "Linear", "Solved"]


#: Relative gap between the answer and the proven bound at which the solver may stop.
GAP = 1e-9


@dataclass(frozen=True, eq=False)
class Solved:
    """What the solver found."""

    x: Floats | None
    """``[columns]``; None when there is no answer (or none in time)."""
    value: float
    bound: float
    """No answer is below it."""
    complete: bool
    """An optimum within :data:`GAP`, or proof that there is no answer."""


@dataclass
class Linear:
    """``minimise cost . x, low <= A x <= high, 0 <= x <= most``, some ``x`` whole."""

    cost: Floats
    most: Floats
    whole: int = 0
    """The first so many columns are whole numbers."""
    row: list[Any] = field(default_factory=list)
    column: list[Any] = field(default_factory=list)
    value: list[Any] = field(default_factory=list)
    low: list[Any] = field(default_factory=list)
    high: list[Any] = field(default_factory=list)
    rows: int = 0

    def add(self, rows: int, row: Any, column: Any, value: Any, low: float, high: float) -> None:
        """So many constraints with the same sides; ``row`` counts from 0 among them."""
        row, column, value = np.broadcast_arrays(row, column, value)
        kept = value != 0
        self.row.append(row[kept] + self.rows)
        self.column.append(column[kept])
        self.value.append(value[kept])
        self.low.append(np.full(rows, low))
        self.high.append(np.full(rows, high))
        self.rows += rows

    def solve(self, time_limit_s: float = math.inf, gap: float = GAP) -> Solved:
        """Run the solver on one thread: the same program gives the same answer.

        Raises:
            InputError: highspy is not installed.
        """
        highspy = _highs()
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.cost), self.rows
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = self.cost, np.zeros(len(self.cost)), self.most
        lp.row_lower_, lp.row_upper_ = np.concatenate(self.low), np.concatenate(self.high)
        row, column, value = (np.concatenate(part) for part in (self.row, self.column, self.value))
        order = np.lexsort((column, row))
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=self.rows))]).astype(np.int32)
        lp.a_matrix_.index_ = column[order].astype(np.int32)
        lp.a_matrix_.value_ = value[order].astype(np.float64)
        if self.whole:
            kinds = [highspy.HighsVarType.kInteger] * self.whole
            lp.integrality_ = kinds + [highspy.HighsVarType.kContinuous] * (len(self.cost) - self.whole)
        solver = highspy.Highs()
        for name, option in (("output_flag", False), ("threads", 1), ("mip_rel_gap", gap)):
            solver.setOptionValue(name, option)
        if math.isfinite(time_limit_s):
            solver.setOptionValue("time_limit", float(time_limit_s))
        solver.passModel(lp)
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        done = highspy.HighsModelStatus
        if status in (done.kInfeasible, done.kUnboundedOrInfeasible):
            return Solved(None, math.inf, math.inf, True)
        found = np.asarray(solver.getSolution().col_value, dtype=np.float64)
        value_found = float(info.objective_function_value)
        bound = float(info.mip_dual_bound) if self.whole else value_found
        if status == done.kOptimal:
            return Solved(found, value_found, bound, True)
        feasible = int(info.primal_solution_status) == int(highspy.SolutionStatus.kSolutionStatusFeasible)
        return Solved(found if feasible else None, value_found if feasible else math.inf, bound, False)


@cache
def _highs() -> Any:
    """The module ``highspy``; the first solver of a process says on stdout whose it is, and does so to nobody here."""
    highspy: Any
    try:
        import highspy
    except ImportError as error:
        raise InputError("mixed fleets need HiGHS: pip install 'steelyard[opt]'", field="mix") from error
    try:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no stdout that it could be said to
        return highspy
    try:
        os.dup2(nowhere, 1)
        highspy.Highs()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
    return highspy
