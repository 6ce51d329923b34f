"""``megatron_selene`` and ``narayanan2021``: steps of Megatron-LM in 2021 and 2022 on up to 3,072 A100.

Nothing is fitted to them. The table of 2021 states neither micro-batches nor interleaving: the micro-batches are
guesses (:data:`MICRO_BATCH`), the schedule is taken as not interleaved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, read_frame
from steelyard_validation.readers._train import Words, answered, compared, said, stated, step_time, whole

if TYPE_CHECKING:
    pass

__all__ = ["MICRO_BATCH", "narayanan", "selene", "words_of_2021", "words_of_2022"]

#: Models of the papers as the catalogue calls them.
MODELS = {
    "megatron-22B": "megatron-gpt-22b",
    "gpt3-175B": "gpt-3-175b",
    "turing-530B": "megatron-gpt-529.6b",
    "megatron-1T": "megatron-gpt-1t",
}
#: Sequences of a micro-batch that the table of 2021 leaves unsaid, by size in 1e9 parameters (guess: large where the
#: model is small, one where pipelines are deep).
MICRO_BATCH: Mapping[float, int] = {1.7: 16, 3.6: 16, 7.5: 16, 18.4: 8, 39.1: 4, 76.1: 2, 145.6: 2}
#: Ways of figure 7: what is computed again, and whether sequences are cut among the tensor-parallel devices.
WAYS: Mapping[str, tuple[str, bool]] = {
    "none": ("none", False),
    "seq": ("none", True),
    "sel": ("selective", False),
    "seqsel": ("selective", True),
    "full": ("full", False),
}


def words_of_2022(row: Mapping[str, Any]) -> Words:
    """The question of a row of Korthikanti et al., table 5."""
    selective = "selective" in str(row["recompute"])
    return said(
        model=MODELS[str(row["model"])],
        on=f"a100_sxm:{whole(row['n_gpus'])}",
        gbs=whole(row["global_batch"]),
        mbs=whole(row["micro_batch"]),
        seq=whole(row["seq_len"]),
        tp=whole(row["tp"]),
        pp=whole(row["pp"]),
        vp=whole(row["interleave"]),
        recompute="selective" if selective else "full",
        precision="fp16" if row["dtype"] == "float16" else "bf16",
        framework="megatron@2022",
        set=stated(sequence_parallel="true" if selective else "false"),
    )


def words_of_2021(row: Mapping[str, Any]) -> Words:
    """The question of a row of Narayanan et al., table 1."""
    size = float(row["params_b"])
    return said(
        model=f"megatron-gpt-{'1t' if size > 1000 else f'{size:g}b'}",
        on=f"a100_sxm:{whole(row['n_gpus'])}",
        gbs=whole(row["global_batch"]),
        mbs=MICRO_BATCH.get(size, 1),
        seq=whole(row["seq_len"]),
        tp=whole(row["tp"]),
        pp=whole(row["pp"]),
        recompute=str(row["recompute"]),
        precision="fp16",
        framework="megatron@2021",
    )


def selene(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Table 5 (steps) and figure 7 (activations) of Korthikanti et al."""
    for path in ask.files(folder, "seqsel_tab5.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_steps, path, ask, words_of_2022, "iteration_time_s"))
    for path in ask.files(folder, "seqsel_fig7_activation_memory.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_activations, path, ask))


def narayanan(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Table 1 of Narayanan et al., its step times by the paper's equation 3."""
    for path in ask.files(folder, "table1.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_steps, path, ask, words_of_2021, "step_time_s_from_eq3"))


def _steps(path: Path, ask: Ask, words: Any, column: str) -> Iterator[Comparison]:
    frame = read_frame(path)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    named = frame["model"] if "model" in frame else frame["params_b"].map("{:g}B".format)
    yield compared(
        ask,
        path.stem,
        frame,
        [words(row) for row in frame.to_dict("records")],
        frame[column],
        metric="time_s",
        figure=step_time,
        machine=["a100_sxm"] * len(frame),
        family=named.astype(str).tolist(),
        phase="train",
        answers={},
    )


def _activations(path: Path, ask: Ask) -> Iterator[Comparison]:
    """Bytes of activations of the first stage over those with nothing computed again, % (a formula, no measurement)."""
    frame = read_frame(path, ["model", "mode", "activation_pct_of_none"])
    layouts = read_frame(path.with_name("seqsel_tab5.csv")).drop_duplicates("model").set_index("model")
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers: dict[str, Any] = {}
    found, why = np.full(len(frame), np.nan), np.full(len(frame), "", dtype=object)
    for i, (model, mode) in enumerate(zip(frame["model"], frame["mode"], strict=True)):
        asked = dict(words_of_2022({**layouts.loc[model].to_dict(), "model": model}))
        both = []
        for way in (mode, "none"):
            recompute, cut = WAYS[str(way)]
            words = {**asked, "recompute": recompute, "set": stated(sequence_parallel="true" if cut else "false")}
            both.append(answered(words, answers))
        if any(isinstance(x, str) for x in both):
            why[i] = next(x for x in both if isinstance(x, str))
        else:
            one, base = (float(x.stages[0].parts["activations"]) for x in both)
            found[i] = 100 * one / base
    yield comparison(
        ask,
        path.stem,
        metric="activations_percent",
        phase="memory",
        machine="a100_sxm",
        family=frame["model"].astype(str).tolist(),
        measured=frame["activation_pct_of_none"],
        predicted=found,
        why=why.astype(np.str_),
    )
