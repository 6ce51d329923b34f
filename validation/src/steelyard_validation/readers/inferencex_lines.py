"""How far fitted figures carry: lines of accuracy over the aggregated rows of InferenceX, each with its own split.

A line fits an engine's figures on some rows and is scored on others; parts of a line are fits of their own:

``same machine``: machine, engine, model and precision stay; fitted on every second doubling of clients and every
second shape of parallelism, scored on the others. ``machine left out``: fitted on one machine (or two), scored on
another. ``dense model left out``: fitted on the 70B model, scored on the 8B one, and back. ``experts``: as ``same
machine``, models with experts, per engine version. ``nothing fitted``: calibrated kernels and the engines' guesses, no
serving row seen.

The fits are made by ``python -m steelyard_validation.readers.inferencex_lines DATA`` and kept in ``serving_fits.toml``;
``validate`` replays the rows they did not see.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.fit_engine import fit_engine, tuned
from steelyard.deployment.engine import Engine, find_engine
from steelyard.errors import SteelyardError
from steelyard.measurements.reader import Floats, machine_name
from steelyard_validation.readers import inferencex
from steelyard_validation.readers._serve import Load, Service
from steelyard_validation.readers._whole import Placed, Shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LINES",
    "NOTHING_FITTED",
    "Part",
    "fits",
    "parts",
    "replay",
    "shipped_figures",
    "stored_fits",
    "unfitted",
]

Mask = NDArray[np.bool_]

#: The lines, in the order they are shown.
SAME, MACHINE, DENSE, EXPERTS = "same machine", "machine left out", "dense model left out", "experts, per version"
NOTHING_FITTED = "nothing fitted"
LINES: Final = (SAME, MACHINE, DENSE, EXPERTS, NOTHING_FITTED)
#: Figures of the host.
HOST = ("step_s", "step_s_per_sequence", "request_s", "launch_s")
#: The fewest rows a part is fitted to.
FEWEST = 6
#: The most; of more, so many are taken evenly.
MOST = 24
#: Gauss-Newton steps of a part.
ROUNDS = 3
FITS = Path(__file__).parent.parent / "serving_fits.toml"

#: Times before any serving row was looked at: guesses, from the engines' documentation and profiles of their hosts.
GUESSED: Final[Mapping[str, Mapping[str, float]]] = {
    "vllm": {"step_s": 0.6e-3, "step_s_per_sequence": 4e-6, "layer_s": 4e-6, "request_s": 12e-3},
    "sglang": {"step_s": 0.5e-3, "step_s_per_sequence": 3e-6, "layer_s": 4e-6, "request_s": 10e-3},
    "trtllm": {"step_s": 0.3e-3, "step_s_per_sequence": 2e-6, "layer_s": 2e-6, "request_s": 8e-3},
}


def unfitted(engine: Engine) -> Engine:
    """The engine with guessed times and the benchmarked kernels."""
    guessed: dict[str, Any] = dict(GUESSED.get(engine.name, {}))
    return replace(engine, launch_s=0.0, kernels=(), **guessed)


@dataclass(frozen=True, eq=False)
class Part:
    """One fit of a line."""

    line: str
    name: str
    engine: str
    fit: Mask
    score: Mask
    figures: tuple[str, ...]


def _columns(frame: pd.DataFrame) -> tuple[Any, ...]:
    name = frame["model_path"].astype(str).str.rpartition("/")[2]
    base = name.str.replace(r"-(FP8|NVFP4|Instruct)", "", regex=True)
    base = base.str.replace("DeepSeek-(R1|V3).*", "DeepSeek", regex=True)
    machine = frame["system"].map(machine_name)
    modes = _words(frame["gemm_quant_mode"]) + _words(frame["moe_quant_mode"])
    precision = np.where(modes.str.contains("nvfp4"), "fp4", np.where(modes.str.contains("fp8"), "fp8", "16 bit"))
    version = _words(frame["backend_version"])
    return base, machine, frame["backend"].astype(str), precision, version


def _words(column: pd.Series[Any]) -> pd.Series[str]:
    return column.astype(object).where(column.notna(), "").astype(str)


def _half(frame: pd.DataFrame, rows: NDArray[np.intp]) -> tuple[Mask, Mask]:
    """``(fitted, scored)``: every second doubling of clients at every second shape, and all other rows.

    Where clients are no powers of two, every second row in the order of the load.
    """
    n = len(frame)
    fit = np.zeros(n, dtype=bool)
    mine = frame.iloc[rows]
    octave = np.log2(mine["concurrency"].to_numpy(dtype=np.float64))
    whole = octave == np.round(octave)
    if whole.mean() < 0.5:
        order = np.lexsort([mine[c].to_numpy(dtype=np.float64) for c in ("concurrency", "tp", "osl", "isl")])
        fit[rows[order[::2]]] = True
    else:
        shape = mine["tp"] * 10000 + mine["dp"] * 100 + mine["ep"]
        known = sorted(shape.unique())
        chosen = shape.isin(known[::2] if len(known) > 2 else known).to_numpy()
        fit[rows[whole & (octave % 2 == 0) & chosen]] = True
    score = np.zeros(n, dtype=bool)
    score[rows] = True
    return fit, score & ~fit


def parts(frame: pd.DataFrame, clean: Mask) -> Iterator[Part]:
    """Every part of every fitted line over the whole table; ``clean``: rows with nothing the matter by their labels."""
    base, machine, engine, precision, version = _columns(frame)
    experts = ~base.str.contains("Llama").to_numpy()

    def where(*conditions: Any) -> Mask:
        found = clean.copy()
        for condition in conditions:
            found &= np.asarray(condition)
        return found

    for dense in (True, False):
        keys = [base, machine, engine, precision] + ([] if dense else [version])
        label = np.asarray([" ".join(str(x) for x in row if x) for row in zip(*keys, strict=True)], dtype=np.str_)
        mask = where(~experts if dense else experts)
        for name in sorted(set(label[mask].tolist())):
            fit, score = _half(frame, np.flatnonzero(mask & (label == name)))
            yield _part(frame, SAME if dense else EXPERTS, name, fit, score)
    big, small = base.str.contains("70B"), base.str.contains("8B")
    for e, before, after in (
        ("vllm", ("h100_sxm", "h200_sxm"), "b200_sxm"),
        ("vllm", ("h100_sxm",), "h200_sxm"),
        ("vllm", ("h200_sxm",), "h100_sxm"),
        ("trtllm", ("h200_sxm",), "b200_sxm"),
    ):
        for model in ("70B", "gpt-oss"):
            mine = (engine == e) & base.str.contains(model) & (model == "gpt-oss" or precision == "fp8")
            fit, score = where(mine, machine.isin(before)), where(mine, machine == after)
            yield _part(frame, MACHINE, f"{model} {e}, {' and '.join(before)} to {after}", fit, score)
    for e in ("vllm", "trtllm"):
        mine = engine == e
        yield _part(frame, DENSE, f"70B to 8B {e}", where(mine, big), where(mine, small))
        yield _part(frame, DENSE, f"8B to 70B {e}", where(mine, small), where(mine, big))


def _part(frame: pd.DataFrame, line: str, name: str, fit: Mask, score: Mask) -> Part:
    rows = frame[fit]
    engine = str(rows["backend"].iloc[0]) if len(rows) else ""
    return Part(line, name, engine, fit, score, _figures(rows))


def _figures(rows: pd.DataFrame) -> tuple[str, ...]:
    """What the rows can tell: times of the host, and the speed of the engine's kernels by family and format."""
    found = [*HOST]
    for values in rows[inferencex.KEYS].drop_duplicates().itertuples(index=False):
        at = inferencex.place(*values)
        if isinstance(at, str):
            continue
        family, weights = at.cluster.machine.family, at.plan.weights
        experts = bool(at.transformer.experts)
        dense = "bf16" if weights == "mxfp4" else weights
        found += [f"gemm.stream:{family}:{dense}", f"gemm.arithmetic:{family}:{dense}"]
        if experts:
            found += [f"moe.{x}:{family}:{weights}" for x in ("stream", "arithmetic", "saved_s")]
    return tuple(dict.fromkeys(found))


class Replay:
    """The rows of a mask, grouped by deployment, played again for every engine asked about."""

    def __init__(self, frame: pd.DataFrame, mask: Mask) -> None:
        self.rows = np.flatnonzero(mask)
        mine = frame.iloc[self.rows].reset_index(drop=True)
        self.groups: list[tuple[Placed, pd.DataFrame, list[Load], NDArray[np.intp]]] = []
        for values, index in mine.groupby(inferencex.KEYS, dropna=False, sort=False).groups.items():
            at = inferencex.place(*values)
            if not isinstance(at, str):
                rows = mine.loc[index]
                loads = [inferencex.load_of(at, row) for row in rows.to_dict("records")]
                self.groups.append((at, rows, loads, np.asarray(index)))

    def under(self, change: Any, *, interval: bool = True) -> list[Shown]:
        """TPOT, TTFT and throughput per device of all rows with ``change(engine)`` for every deployment's engine."""
        table = np.full((3, 4, len(self.rows)), np.nan)
        for at, rows, loads, index in self.groups:
            moved = replace(at, engine=change(at.engine))
            try:
                runs = Service.of(moved, loads).all_closed(loads, interval=interval)
            except SteelyardError:
                continue
            for i, answer in enumerate(inferencex.figures(moved, rows, runs)[:3]):
                table[i][:, index] = answer
        return [Shown(*figures) for figures in table]


def fits(frame: pd.DataFrame, clean: Mask, told: Any = None) -> Iterator[dict[str, Any]]:
    """Fit every part to its clean rows; the tables of ``serving_fits.toml``."""
    tpot, ttft = (frame[c].to_numpy(dtype=np.float64) * 1e-3 for c in ("tpot_ms", "ttft_ms"))
    for part in parts(frame, inferencex.labelled(frame)):
        chosen = part.fit & clean
        if chosen.sum() < FEWEST or not (part.score & clean).any():
            continue
        kept = np.flatnonzero(chosen)
        chosen = np.zeros_like(chosen)
        chosen[kept[np.unique(np.linspace(0, kept.size - 1, MOST).astype(int))]] = True
        rows = Replay(frame, chosen)
        start = replace(unfitted(find_engine(part.engine)), launch_s=START_LAUNCH_S)

        def predict(engine: Engine, rows: Replay = rows, part: Part = part) -> tuple[Floats, Floats]:
            tpot, ttft, _ = rows.under(lambda own: replace(engine, all_reduce=own.all_reduce), interval=False)
            return tpot.value, ttft.value

        found = fit_engine(start, part.figures, predict, tpot[rows.rows], ttft[rows.rows], rounds=ROUNDS)
        if told:
            told(f"{part.line}: {part.name}: {dict(found.before)} -> {dict(found.after)}")
        yield {"line": part.line, "part": part.name, "rows": int(chosen.sum()), "figures": dict(found.values)}


#: Where the fit of ``launch_s`` begins, s: far enough up that prompt steps feel it.
START_LAUNCH_S = 60e-6


def stored_fits(path: Path = FITS) -> dict[tuple[str, str], dict[str, float]]:
    """Figures by line and part."""
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        return {(x["line"], x["part"]): x["figures"] for x in tomllib.load(stream).get("fit", [])}


def shipped_figures(engine: str) -> dict[str, float]:
    """What ``engines.toml`` ships: the median of each figure over the parts that fitted one machine and model."""
    found: dict[str, list[float]] = {}
    for (line, part), figures in stored_fits().items():
        if line in (SAME, EXPERTS) and engine in part.split():
            for name, value in figures.items():
                found.setdefault(name, []).append(value)
    return {name: float(np.median(values)) for name, values in found.items()}


def replay(frame: pd.DataFrame, labelled: Mask, clean: Mask) -> Iterator[tuple[str, NDArray[np.intp], list[Shown]]]:
    """``(line, rows, answers)`` for the rows of ``clean`` that each line is scored on.

    Args:
        frame: the whole table, which the splits are made of.
        labelled: its rows with nothing the matter by their labels.
        clean: those asked about whose cache the simulation does not find full.
    """
    known = stored_fits()
    for part in parts(frame, labelled):
        figures = known.get((part.line, part.name))
        chosen = part.score & clean
        if figures is None or not chosen.any():
            continue
        rows = Replay(frame, chosen)
        found = rows.under(lambda own, figures=figures: tuned(unfitted(own), figures))
        yield part.line, rows.rows, found
    rows = Replay(frame, clean)
    yield NOTHING_FITTED, rows.rows, rows.under(unfitted)


def main() -> None:
    """Fit every part of every line and write the file."""
    import sys

    from steelyard.calibrate.toml_files import document, write_files

    frame, clean = inferencex.clean_rows(Path(sys.argv[1]))
    found = list(fits(frame, clean, told=lambda words: print(words, flush=True)))
    text = document({"fit": found}, ("Fits of readers/inferencex_lines.py: figures by line and part.",))
    write_files(FITS.parent, {FITS.name: text})


if __name__ == "__main__":
    main()
