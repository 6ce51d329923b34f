"""How right training steps are on rows that no fitted number saw: ``python -m steelyard_validation.training_folds``.

The facts of frameworks that are fitted scale parts of a step (elementwise passes, exposed traffic, rows routed to
experts, the host). For every fold, a model's or a machine's rows are left out, the scales of those parts are fitted to
the rest (least squares on the logarithm, outliers damped, drawn to the shipped facts), and the rows left out are
answered with them. What is shipped is the verb's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.measurements.reader import Floats, read_frame
from steelyard_validation.readers import (
    training_mosaic,
    training_nemo,
    training_simumax,
    training_torchtitan,
)
from steelyard_validation.readers._train import Words, answered
from steelyard_validation.validate import data_folder

__all__ = ["LINES", "Line", "Row", "left_out", "rows_of"]

#: How strongly scales are drawn to 1, and beyond which logarithm of an error it counts less.
DRAWN, DAMPED = 0.3, 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A measured step and the parts of its answer, s."""

    model: str
    machine: str
    measured_s: float
    parts_s: Mapping[str, float]
    share: float = 1.0
    """Of today's rate of products, a fact fitted to this family of machines."""

    @property
    def unfitted_s(self) -> Mapping[str, float]:
        """The parts without that fact, as they would be of a machine nobody measured."""
        slow = {"gemm": self.share, "recompute": self.share}
        return {name: time * slow.get(name, 1.0) for name, time in self.parts_s.items()}

    @property
    def answer_s(self) -> float:
        """The verb's own answer."""
        return sum(self.parts_s.values())


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: which rows, and the parts whose scales were fitted."""

    words: str
    rows: Callable[[Path], list[Row]]
    parts: tuple[str, ...]
    by: str
    """``model`` or ``machine``: what is left out."""


def rows_of(frame: Any, questions: Sequence[Words | str], measured: Callable[[Any, Any], float]) -> list[Row]:
    """The rows of a table that are answered; ``measured`` is seconds of a step by a row and its answer."""
    found = []
    cached: dict[str, Any] = {}
    for row, words in zip(frame.to_dict("records"), questions, strict=True):
        answer = words if isinstance(words, str) else answered(words, cached)
        if isinstance(answer, str):
            continue
        machine = answer.scenario.cluster.machine.name
        parts = {name: float(time) for name, time in answer.breakdown_s.items()}
        shares = answer.scenario.plan.framework.products_share
        share = shares.get(answer.scenario.cluster.machine.family, 1.0)
        found.append(Row(str(row["model"]).partition(" (")[0], machine, measured(row, answer), parts, share))
    return found


def left_out(rows: Sequence[Row], parts: Sequence[str], by: str) -> Floats:
    """Errors, predicted over measured less one, of rows whose model or machine was left out of the fit of ``parts``."""
    if by == "machine":
        rows = [replace(r, parts_s=r.unfitted_s) for r in rows]
    groups = np.array([getattr(r, by) for r in rows])
    errors = np.full(len(rows), np.nan)
    for group in dict.fromkeys(groups.tolist()):
        inside = [r for r, g in zip(rows, groups, strict=True) if g != group]
        if inside:
            scales = _fitted(inside, parts)
            at = np.flatnonzero(groups == group).tolist()
            errors[at] = [_scaled(rows[i], parts, scales) / rows[i].measured_s - 1.0 for i in at]
    return errors


def _fitted(rows: Sequence[Row], parts: Sequence[str]) -> Floats:
    from scipy.optimize import least_squares

    def residuals(scales: Floats) -> list[float]:
        errors = [float(np.log(_scaled(r, parts, scales) / r.measured_s)) for r in rows]
        return [*errors, *(DRAWN * np.log(scales))]

    start = np.ones(len(parts))
    return np.asarray(least_squares(residuals, start, bounds=(0.1, 8.0), loss="soft_l1", f_scale=DAMPED).x)


def _scaled(row: Row, parts: Sequence[str], scales: Floats) -> float:
    by_part = dict(zip(parts, scales, strict=True))
    return float(sum(time * by_part.get(name, 1.0) for name, time in row.parts_s.items()))


def _of_rate(column: str) -> Callable[[Any, Any], float]:
    """Seconds of a step by its tokens per second and device."""
    return lambda row, answer: float(answer.tokens_per_step / answer.scenario.cluster.count / row[column])


def _mosaic(data: Path) -> list[Row]:
    frame = read_frame(data / "mosaic_mpt_training" / "mpt_training_throughput.csv")
    frame = frame[frame["precision"] != "amp_fp8"]
    return rows_of(frame, [training_mosaic.words(r) for r in frame.to_dict("records")], _of_rate("tok_s_per_gpu"))


def _torchtitan(data: Path) -> list[Row]:
    frame = read_frame(data / "torchtitan_training" / "llama3_1_pretrain.csv")
    return rows_of(frame, [training_torchtitan.words(r) for r in frame.to_dict("records")], _of_rate("tps_per_gpu"))


def _simumax(data: Path) -> list[Row]:
    frame = read_frame(data / "simumax_b200" / "steps.csv")
    words = [training_simumax.words(r) for r in frame.to_dict("records")]
    return rows_of(frame, words, lambda row, _: float(row["step_time_s"]))


def _bridge(data: Path, kinds: Sequence[str], with_recipe: bool) -> list[Row]:
    """The last release of each layout."""
    recipes = training_nemo.Recipes.read(data / "megatron_bridge_recipes" / "facts.csv")
    frame = training_nemo.last_of_each(read_frame(data / "megatron_bridge_training" / "pretrain_sft_lora.csv"))
    frame = frame[frame["last"] & frame["model"].map(training_nemo.kind).isin(kinds)]
    asked: list[Words | str] = []
    for row in frame.to_dict("records"):
        recipe = recipes.of(row)
        asked.append("no recipe" if with_recipe and recipe is None else training_nemo.bridge_words(row, recipe))
    return rows_of(frame, asked, _of_rate("tok_s_per_gpu"))


def _dense(data: Path) -> list[Row]:
    """NeMo's last table and the last release of each of Megatron-Bridge's dense layouts."""
    frame = read_frame(data / "nemo_training_h100" / "nemo_h100_pretrain_finetune.csv")
    layout = ["model", "task", "n_gpus", "gbs", "mbs", "seq_len", "tp", "pp", "cp", "vp"]
    frame = frame.sort_values("doc_version").drop_duplicates(layout, keep="last")
    rows = rows_of(frame, [training_nemo.nemo_words(r) for r in frame.to_dict("records")], _of_rate("tok_s_per_gpu"))
    return [*rows, *_bridge(data, ["dense"], False)]


def _experts(data: Path) -> list[Row]:
    return _bridge(data, ["experts"], True)


LINES = (
    Line("PyTorch FSDP (Mosaic), 16 bit", _mosaic, ("gemm", "attention", "elementwise"), "model"),
    Line("PyTorch FSDP (Mosaic), 16 bit", _mosaic, ("gemm", "attention", "elementwise"), "machine"),
    Line("torchtitan", _torchtitan, ("attention", "elementwise", "tp"), "model"),
    Line("NeMo and Megatron-Bridge, dense", _dense, ("gemm", "elementwise", "tp"), "model"),
    Line("NeMo and Megatron-Bridge, dense", _dense, ("gemm", "elementwise", "tp"), "machine"),
    Line("Megatron on B200 (SimuMax)", _simumax, ("gemm", "tp", "ep"), "model"),
    Line("Megatron-Bridge with recipes, experts", _experts, ("elementwise", "ep", "host"), "model"),
    Line("Megatron-Bridge with recipes, experts", _experts, ("elementwise", "ep", "host"), "machine"),
)


def _figures(errors: Floats) -> str:
    size = np.abs(errors[np.isfinite(errors)]) * 100
    return f"{np.median(size):.1f} / {size.mean():.1f} / {np.quantile(size, 0.9):.1f}"


def main() -> None:
    """Print the table: absolute errors in %, median / mean / 90th percentile."""
    data = data_folder()
    known: dict[Any, list[Row]] = {}
    print("| rows | n | as shipped | left out | by | fitted |\n| --- | ---: | ---: | ---: | --- | --- |")
    for line in LINES:
        rows = known.setdefault(line.rows, line.rows(data) if line.rows not in known else [])
        shipped = np.array([r.answer_s / r.measured_s - 1.0 for r in rows])
        away = left_out(rows, line.parts, line.by)
        figures = f"{_figures(shipped)} | {_figures(away)} | {line.by} | {', '.join(line.parts)}"
        print(f"| {line.words} | {len(rows)} | {figures} |")


if __name__ == "__main__":
    main()
