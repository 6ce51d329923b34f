"""``nemo_training_h100`` and ``megatron_bridge_training``: NVIDIA's published trainings, dense and with experts.

A row states model, batch, degrees and precision. What it leaves out (what is computed again, how tokens reach their
experts, what a CUDA graph holds) stands in the recipe of its release, where one is known
(``megatron_bridge_recipes``): rows are asked with it, and once more by the columns alone. The same layout comes back
in later releases; the last of each is scored and the rest set apart.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.readers._train import Words, compared, cut, said, stated, token_rate, whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Recipes", "bridge", "bridge_words", "kind", "last_of_each", "nemo", "nemo_words"]

MODELS = {
    "GPT3-5B": "gpt3-5b",
    "GPT3-20B": "gpt3-20b",
    "GPT3-175B": "gpt-3-175b",
    "LLAMA2-7B": "llama-2-7b",
    "LLAMA2-13B": "llama-2-13b",
    "LLAMA2-70B": "llama-2-70b",
    "LLAMA3-8B": "llama-3-8b",
    "LLAMA3-70B": "llama-3-70b",
    "Nemotron-8B": "nemotron-8b",
    "Nemotron-22B": "nemotron-22b",
    "Nemotron-340B": "nemotron-4-340b",
    "LLAMA3_8B": "llama-3-8b",
    "LLAMA3_70B": "llama-3-70b",
    "LLAMA3.1_405B": "llama-3.1-405b",
    "DeepSeekV3": "deepseek-v3",
    "GPT OSS 120B": "gpt-oss-120b",
    "Kimi_K2": "kimi-k2",
    "Qwen3_30B_a3B": "qwen3-30b-a3b",
    "Qwen3_235B_a22B": "qwen3-235b-a22b",
    "Nemotron_3_Nano": "nemotron-3-nano",
    "Nemotron_3_Super": "nemotron-3-super",
}
#: Models by what the recipes call them.
RECIPE_NAMES = {
    "LLAMA3_8B": "LLAMA3_8B",
    "LLAMA3_70B": "LLAMA3_70B",
    "LLAMA3.1_405B": "LLAMA31_405B",
    "DeepSeekV3": "DEEPSEEK_V3",
    "GPT OSS 120B": "GPT_OSS_120B",
    "Kimi_K2": "KIMI_K2",
    "Qwen3_30B_a3B": "QWEN3_30B_A3B",
    "Qwen3_235B_a22B": "QWEN3_235B_A22B",
    "Nemotron_3_Nano": "NEMOTRON_3_NANO",
    "Nemotron_3_Super": "NEMOTRON_3_SUPER",
}
MACHINES = {
    "DGX-H100": "h100_sxm",
    "DGX-B200": "b200_sxm",
    "DGX-B300": "b300_sxm",
    "DGX-GB200": "gb200",
    "DGX-GB300": "gb300",
}
#: Precisions by what the tables call them; FP8 alone has one scale a tensor. Where a cell names two, the first.
PRECISION = {"FP8": "fp8", "FP8-CS": "fp8", "FP8-MX": "mxfp8", "MXFP8": "mxfp8", "NVFP4": "nvfp4", "BF16": "bf16"}
RECIPE_PRECISION = {"fp8": "FP8_CS", "mxfp8": "FP8_MX", "nvfp4": "NVFP4", "bf16": "BF16"}
#: DeepSeek-V3 is trained with a layer more, which guesses the token after the next, where a row does not say otherwise
#: (its operations per token say so in every release); the layer is priced, its copy of the head is not.
DEEPSEEK_LAYERS = 61
#: Modules computed again by what the recipes call them; the rest bears our names.
MODULES = {"moe_act": "act", "layernorm": "norm"}
#: Kinds of models by their names; the rest is dense.
KINDS = {"Nemotron_3": "hybrid", "DeepSeek": "experts", "GPT OSS": "experts", "Kimi": "experts", "Qwen3": "experts"}
#: Fine-tuning packs questions on paragraphs (SQuAD) into sequences; tokens of one with its prompt (guess).
FINE_TUNED = "200"
TASKS = {"pretrain": "", "SFT": "sft", "LoRA": "lora"}


def kind(model: str) -> str:
    """Dense, with experts, or a hybrid of them with state models."""
    return next((k for start, k in KINDS.items() if model.startswith(start)), "dense")


def nemo_words(row: Mapping[str, Any]) -> Words | str:
    """The question of a row of NeMo's table."""
    name, task, pp = str(row["model"]), str(row["task"]), whole(row["pp"])
    if name == "LLAMA2-13B" and task == "SFT" and pp > 1:
        return "suspect: a pipeline of four without a bubble, faster than the same model's pre-training"
    return said(
        model=MODELS[name],
        on=f"h100_sxm:{whole(row['n_gpus'])}",
        gbs=whole(row["gbs"]),
        mbs=whole(row["mbs"]),
        seq=whole(row["seq_len"]),
        tp=whole(row["tp"]),
        pp=pp,
        vp=whole(row["vp"]),
        cp=whole(row["cp"]),
        precision=str(row["precision"]),
        task=TASKS[task],
        docs="" if task == "pretrain" else FINE_TUNED,
        framework="nemo",
    )


def bridge_words(row: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Words | str:
    """The question of a row of Megatron-Bridge's table, with the settings of its release's recipe where given."""
    name = _bare(row["model"])
    if name not in MODELS:
        return f"no shapes of model {name!r}"
    if "tokendrop" in str(row["model"]):
        return "tokens beyond an expert's capacity were dropped; the capacity is not stated"
    fsdp = whole(str(row["fsdp"]).split(" ")[0], 0)
    ahead = name == "DeepSeekV3" and "w/o MTP" not in str(row["model"])
    return said(
        model=cut(MODELS[name], DEEPSEEK_LAYERS + 1) if ahead else MODELS[name],
        on=f"{MACHINES[str(row['system'])]}:{whole(row['n_gpus'])}",
        gbs=whole(row["gbs"]),
        mbs=whole(row["mbs"]),
        seq=whole(row["seq_len"]),
        tp=whole(row["tp"]),
        pp=whole(row["pp"]),
        vp=whole(row["vp"], _chunks(recipe, whole(row["pp"]))),
        cp=whole(row["cp"]),
        ep=whole(row["ep"]),
        zero=3 if fsdp else None,
        precision=_precision(row),
        framework="bridge",
        **recipe_words(recipe),
    )


def _chunks(recipe: Mapping[str, Any] | None, pp: int) -> int:
    """Chunks of layers a stage that a recipe states, by number or as a layout (``Et*4|(t*4|)*14tmL``: 16 in all)."""
    if recipe is None:
        return 1
    stated = whole(recipe.get("virtual_pipeline_model_parallel_size"), 0)
    layout = str(recipe.get("pp_layout") or "")
    if stated or not layout:
        return stated or 1
    groups = re.findall(r"\(([^)]*)\)\*(\d+)", layout)
    bars: int = sum(inner.count("|") * int(times) for inner, times in groups)
    bars += re.sub(r"\([^)]*\)\*\d+", "", layout).count("|")
    return max(1, (bars + 1) // pp)


def recipe_words(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a recipe adds to the words of a row: modules computed again, and facts of the framework."""
    if recipe is None:
        return {}
    again = {MODULES.get(name, name) for name in _list(recipe.get("recompute_modules"))}
    captured = str(recipe.get("cuda_graph_impl") or "") in ("transformer_engine", "local")
    scope = str(recipe.get("cuda_graph_scope") or "")
    facts = stated(
        graph="true" if captured and scope not in ("", "[]") else "false",
        dispatcher=str(recipe.get("moe_flex_dispatcher_backend") or "alltoall"),
    )
    return {"recompute": ",".join(sorted(again)), "set": facts}


@dataclass(frozen=True)
class Recipes:
    """Settings of the releases' recipes, by model, precision, system and release."""

    rows: Mapping[tuple[str, str, str, str], tuple[Mapping[str, Any], ...]]

    @classmethod
    def read(cls, path: Path) -> Recipes:
        """Of a table of facts; none where there is no such file."""
        if not path.is_file():
            return cls({})
        frame = read_frame(path).astype(object)
        frame = frame.where(frame.notna(), "")
        found: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
        for row in frame[frame["task"] == "PRETRAIN"].to_dict("records"):
            for release in str(row["release"]).split("/"):
                key = (str(row["model"]), str(row["precision"]), str(row["system"]), release)
                found.setdefault(key, []).append({str(k): v for k, v in row.items()})
        return cls({key: tuple(rows) for key, rows in found.items()})

    def of(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The recipe whose batch, devices and degrees, where it states them, are the row's; None: there is none."""
        name = RECIPE_NAMES.get(_bare(row["model"]), "")
        system = str(row["system"]).removeprefix("DGX-")
        key = (name, RECIPE_PRECISION[_precision(row)], system, _release(row))
        near = [r for r in self.rows.get(key, ()) if all(_same(r.get(theirs), row[ours]) for theirs, ours in _JOINED)]
        return near[-1] if near else None


#: Columns of recipes and of the table that must agree where the recipe has a value.
_JOINED = (
    ("global_batch_size", "gbs"),
    ("num_gpus", "n_gpus"),
    ("micro_batch_size", "mbs"),
    ("tensor_model_parallel_size", "tp"),
    ("pipeline_model_parallel_size", "pp"),
    ("expert_model_parallel_size", "ep"),
)
#: Columns that make a layout; the last release of one is scored.
_LAYOUT = ["model", "system", "n_gpus", "precision", "gbs", "mbs", "seq_len", "fsdp", "tp", "pp", "cp", "vp", "ep"]


def _same(theirs: Any, ours: Any) -> bool:
    return theirs in ("", None) or whole(theirs) == whole(ours)


def _bare(model: Any) -> str:
    """The model's name without what is said of the run in brackets."""
    return re.sub(r" \(.*\)$", "", str(model))


def _release(row: Mapping[str, Any]) -> str:
    return str(row["release"]).split(" ")[0]


def _precision(row: Mapping[str, Any]) -> str:
    """As its cell says; the first release names two kinds of FP8 in its headings, and the first of them is meant."""
    text = str(row["precision"]).split(" ")[0]
    return PRECISION.get(text, "fp8")


def _list(text: Any) -> list[str]:
    """A list that was written as Python writes it."""
    try:
        found = ast.literal_eval(str(text))
    except (SyntaxError, ValueError):
        return []
    return [str(x) for x in found] if isinstance(found, list) else []


def nemo(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Tokens per second and device of NeMo on H100."""
    for path in ask.files(folder, "nemo_h100*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_nemo, path, ask))


def bridge(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Tokens per second and device of Megatron-Bridge."""
    for path in ask.files(folder, "pretrain*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_bridge, path, ask))


def _nemo(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers: dict[str, Any] = {}
    for task, rows in frame.groupby("task", sort=True):
        yield compared(
            ask,
            path.stem,
            rows,
            [nemo_words(row) for row in rows.to_dict("records")],
            rows["tok_s_per_gpu"],
            metric="tokens_per_s_per_device",
            figure=token_rate,
            machine=["h100_sxm"] * len(rows),
            family=rows["model"].astype(str).tolist(),
            phase=str(task),
            answers=answers,
            split="fit",
        )


def _bridge(path: Path, ask: Ask) -> Iterator[Comparison]:
    recipes = Recipes.read(path.parent.parent / "megatron_bridge_recipes" / "facts.csv")
    frame = last_of_each(read_frame(path))
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    frame["kind"] = frame["model"].map(kind)
    rows = frame.to_dict("records")
    recipe = [recipes.of(row) for row in rows]
    frame["phase"] = [
        f"{row['kind']}{', with its recipe' if found else ''}{'' if row['last'] else ', earlier releases'}"
        for row, found in zip(rows, recipe, strict=True)
    ]
    frame["asked"] = [bridge_words(row, found) for row, found in zip(rows, recipe, strict=True)]
    answers: dict[str, Any] = {}
    for phase, part in frame.groupby("phase", sort=True):
        yield _rates(ask, path.stem, part, str(phase), part["asked"].tolist(), answers)
    known = frame[np.array([found is not None for found in recipe]) & frame["last"].to_numpy()]
    for name, part in known.groupby("kind", sort=True):
        bare = [bridge_words(row) for row in part.to_dict("records")]
        yield _rates(ask, path.stem, part, f"{name}, by its columns alone", bare, answers)


def last_of_each(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with a column ``last``: whether a row is the last release's of its layout."""
    dated = frame.assign(when=frame["release"].map(lambda text: str(text).split(" ")[0])).sort_values("when")
    return frame.assign(last=~dated.duplicated(_LAYOUT, keep="last").sort_index())


def _rates(
    ask: Ask, table: str, rows: pd.DataFrame, phase: str, asked: list[Words | str], answers: dict[str, Any]
) -> Comparison:
    return compared(
        ask,
        table,
        rows,
        asked,
        rows["tok_s_per_gpu"],
        metric="tokens_per_s_per_device",
        figure=token_rate,
        machine=rows["system"].map(MACHINES).tolist(),
        family=rows["model"].astype(str).map(_bare).tolist(),
        phase=phase,
        answers=answers,
        split="fit",
    )
