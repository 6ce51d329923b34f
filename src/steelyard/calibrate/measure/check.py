"""Predicted against measured on this computer: blocks of sizes the calibration never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from steelyard.calibrate.measure.blocks import Block, blocks
from steelyard.calibrate.measure.graphs import plan_for
from steelyard.calibrate.measure.timing import interleaved
from steelyard.cost.interval import interval80
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.deployment.engine import find_engine
from steelyard.errors import InputError
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine

__all__ = ["Checked", "check_blocks", "predict_s"]

BUDGET_S = 60.0


@dataclass(frozen=True, slots=True)
class Checked:
    """One block."""

    name: str
    number_format: str
    predicted_s: float
    measured_s: float
    low_s: float
    high_s: float
    noise: float

    @property
    def error_frac(self) -> float:
        """predicted / measured - 1."""
        return self.predicted_s / self.measured_s - 1.0


def predict_s(block: Block, machine: Machine) -> tuple[float, float]:
    """(seconds, log-space spread) of a block on a machine, eager PyTorch."""
    program = lower(block.graph, plan_for(block.number_format), machine)
    cost = price(program, cluster_of(machine), find_engine("torch"))
    return float(cost.time_s), float(cost.log_spread())


def check_blocks(
    machine: Machine,
    threads: int,
    number_formats: tuple[str, ...],
    *,
    rounds: int = 9,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Checked]:
    """Run every block on the CPU and price it on the calibrated machine.

    Raises:
        InputError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError("checking runs blocks in PyTorch: pip install 'steelyard[torch]'", field="check") from None
    from steelyard.calibrate.measure.kernels_torch import Kernels

    timer = Kernels(torch.device("cpu"), 1.0, threads).timer(threads)
    found, answers = [], []
    made = blocks(number_formats)
    for number, block in enumerate(made):
        call = block.make()
        answers.append(interleaved([call], timer, budget_s=BUDGET_S / len(made), rounds=rounds, least_rounds=3)[0])
        progress("blocks", number + 1, len(made))
    for block, timed in zip(made, answers, strict=True):
        seconds, spread = predict_s(block, machine)
        low, high = interval80(seconds, spread)
        found.append(Checked(block.name, block.number_format, seconds, timed.time_s, low, high, timed.spread))
    return found
