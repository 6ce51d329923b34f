"""Whole networks in PyTorch eager mode on one device, fp32 (``neusight_ops/e2e_model_latency.csv`` and the table of
NeuSight's own predictions, ``hw/neusight_e2e_label_vs_pred.csv``).

Inference is the forward pass over whole sequences with logits of every token: every op of the Hugging Face code is a
kernel of its own, attention writes its scores to memory, and masked scores are computed all the same. A training step
is asked of ``steelyard.train`` (Transformers, eager attention, 32 bits); the rows have no optimizer and nothing between
two steps, so that the update and the host's time for a step are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.price import price
from steelyard.cost.program import Kernel, lower
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard.workload.catalogue import Model
from steelyard.workload.families import read_config
from steelyard.workload.transformer import Step
from steelyard_validation.readers._train import Words, compared, said, step_time
from steelyard_validation.readers._whole import Placed, Shown, deploy, known_model, predict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["peer", "read"]


@dataclass(frozen=True, slots=True)
class Eager:
    """Elementwise kernels of the Hugging Face code beyond the one each op stands for."""

    score_passes: float
    """Over the scores: scaling, masking."""
    activation_passes: float
    """Over the feed-forward width: a GELU written out in Python."""


#: transformers 4.3x: GPT-2 divides and masks the scores, and its ``gelu_new`` is eight elementwise kernels; BERT
#: divides and adds a mask, its GELU is one kernel; OPT adds a mask and takes a maximum.
EAGER: Mapping[str, Eager] = MappingProxyType({"gpt2": Eager(2, 7), "bert": Eager(2, 0), "opt": Eager(2, 0)})
#: Copies of the hidden states per norm that permuting heads costs: batched products need contiguous operands (the
#: queries before, the merged heads after; keys and values are in the cache write).
COPIES = 1.0
#: GPT-2 shapes with the widths of the GPT-3 paper's models, as NeuSight configured them: (width, heads, layers).
GPT3 = {"gpt3_xl": (3072, 24, 24), "gpt3_27": (2560, 32, 32), "gpt3_67": (4096, 32, 32), "gpt3_13": (5120, 40, 40)}
MODELS = {
    "bert_large": "google-bert/bert-large-uncased",
    "bert": "google-bert/bert-base-uncased",
    "gpt2_large": "openai-community/gpt2-large",
    "gpt2_med": "openai-community/gpt2-medium",
    "gpt2_xl": "openai-community/gpt2-xl",
    "opt_13": "facebook/opt-1.3b",
}
#: What the verb is told of the code of training steps.
TRAINED = {"framework": "transformers", "precision": "fp32", "zero": 0}
#: Traffic of elementwise work over that of fused kernels, 18 widths a token and layer: dropout and copies of both
#: blocks add 8.5 widths, and GPT-2's ``gelu_new``, seven kernels more, 56.
PASSES: Mapping[str, float] = MappingProxyType({"gpt2": 4.6, "bert": 1.5, "opt": 1.5})
FP32_BYTES = 4.0


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The measured table of the NeuSight repository."""
    for path in ask.files(folder, "e2e_model_latency.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_measured, path, ask))


def peer(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The rows NeuSight predicted; ``roofline`` is the datasheet's as elsewhere, not NeuSight's."""
    for path in ask.files(folder, "neusight_e2e_label_vs_pred.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_peer, path, ask))


def _measured(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["device", "model", "mode", "seq_len", "batch", "e2e_latency_ms"], ["variant"])
    frame["option"] = frame["variant"].fillna("").astype(str).str.lstrip("-")
    yield from _rows(path, ask, frame, "e2e_latency_ms")


def _peer(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["model_name", "seqlen", "batch", "device", "mode", "label_all_e2e_latency"], ["option"])
    frame = frame.rename(columns={"model_name": "model", "seqlen": "seq_len"})
    frame["option"] = frame["option"].fillna("").astype(str)
    yield from _rows(path, ask, frame, "label_all_e2e_latency")


def _rows(path: Path, ask: Ask, frame: pd.DataFrame, measured: str) -> Iterator[Comparison]:
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    passes, steps = (frame[frame["mode"] == mode] for mode in ("inf", "train"))
    if len(passes):
        found = predict(passes, ["model", "device", "option"], _place, _ask)
        yield comparison(
            ask,
            path.stem,
            metric="time_s",
            phase="prefill",
            machine=passes["device"].map(_machine),
            family=passes["model"],
            measured=passes[measured].to_numpy() * 1e-3,
            **found.columns,
        )
    if len(steps):
        yield compared(
            ask,
            path.stem,
            steps,
            [_words(row) for row in steps.to_dict("records")],
            steps[measured].to_numpy() * 1e-3,
            metric="time_s",
            figure=_without_update,
            machine=steps["device"].map(_machine).tolist(),
            family=steps["model"].astype(str).tolist(),
            phase="train",
            answers={},
        )


def _words(row: Mapping[str, Any]) -> Words | str:
    """The training step of a row as the verb is asked."""
    found = _model(str(row["model"]))
    if found is None:
        return f"unknown model {row['model']!r}"
    way, degree = _split(str(row["option"]))
    batch = int(row["batch"])
    each = batch // degree if way == "dp" else batch  # a pipeline of one micro-batch
    return said(
        model=found,
        on=f"{_machine(str(row['device']))}:{degree}",
        gbs=batch,
        mbs=max(1, each),
        seq=int(row["seq_len"]),
        tp=degree if way == "tp" else 1,
        pp=degree if way == "pp" else 1,
        recompute="none",
        set=f"attention=eager,step_host_s=0,elementwise_passes={PASSES.get(found.transformer.model_type, 1.5)}",
        **TRAINED,
    )


def _split(option: str) -> tuple[str, int]:
    """``tp4``, ``dp4``, ``pp4_1``: how a step is split, and over how many devices."""
    return (option[:2], int(option[2:].partition("_")[0])) if option[2:3].isdigit() else ("", 1)


def _without_update(found: Any, words: Words) -> tuple[float, float, float]:
    """Seconds of a step without its optimizer's update."""
    time, low, high = step_time(found, words)
    share = 1.0 - float(found.breakdown_s["optimizer"]) / time
    return time * share, low * share, high * share


def _machine(device: str) -> str:
    """``NVIDIA_A100_80GB_PCIe`` as the catalogue calls it."""
    name = device.replace("_", " ").replace("Tesla ", "").replace("AMD Instinct ", "").replace("MI250", "MI250 GCD")
    return machine_name(name)


@cache
def _model(name: str) -> Model | None:
    if name in GPT3:
        width, heads, layers = GPT3[name]
        config = {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_embd": width,
            "n_head": heads,
            "n_layer": layers,
            "n_positions": 2048,
            "n_ctx": 2048,
            "vocab_size": 50257,
            "activation_function": "gelu_new",
        }
        return Model(name, read_config(config, name=name), "NeuSight's configuration")
    return known_model(MODELS.get(name, name))


@dataclass(frozen=True, eq=False)
class _Run(Placed):
    """A deployment and what the row says is done with it."""

    option: str = ""


def _place(model: str, device: str, option: str) -> Placed | str:
    found = _model(model)
    if found is None:
        return f"unknown model {model!r}"
    if found.transformer.model_type not in EAGER:
        return f"no facts about the eager code of {found.transformer.model_type!r}"
    degree = _split(option)[1]
    tp = degree if option.startswith("tp") else 1
    at = deploy(found, _machine(device), tp=tp, weights="fp32", activations="fp32", kv="fp32", engine="torch")
    if isinstance(at, str):
        return at
    if option and option != "fusion" and degree == 1:
        return f"unknown variant {option!r}"
    plan = replace(at.plan, fused=False, communication="fp32")
    return _Run(at.model, at.cluster, plan, at.engine, *at.sizes, option=option)


def _ask(at: Placed, rows: pd.DataFrame) -> Shown:
    assert isinstance(at, _Run)
    copies = int(at.option[2:]) if at.option.startswith("dp") else 1
    batch = rows["batch"].to_numpy(dtype=np.float64) / copies
    length = rows["seq_len"].to_numpy(dtype=np.float64)
    model = at.transformer
    graph = model.graph(Step(batch, length, length, logits=batch * length))
    program = lower(graph, at.plan, at.cluster.machine)
    facts_of = EAGER[model.model_type]
    if at.option != "fusion":
        program = replace(program, kernels=tuple(_eager(k, facts_of) for k in program.kernels))
    cost = price(program, at.cluster, at.engine, decode=False)
    time = sum((np.asarray(k.time_s) for k in cost.kernels), np.zeros(1)) + cost.overhead_s
    limit = sum((np.asarray(k.limit_s) for k in cost.kernels), np.zeros(1))
    return Shown.time(*(np.broadcast_to(x, batch.shape) for x in (time, np.asarray(cost.log_spread()), limit)))


def _eager(kernel: Kernel, facts: Eager) -> Kernel:
    """The kernel as the eager code runs it: masked scores computed, and its elementwise passes added."""
    op = kernel.name.rpartition(".")[2]
    more = {"softmax": facts.score_passes, "act": facts.activation_passes, "norm1": COPIES, "norm2": COPIES}.get(
        op, 0.0
    )
    times = 1.0 + more
    if kernel.kind == "gemm":
        f = kernel.features
        full = 2.0 * np.asarray(f["m"]) * f["n"] * f["k"] * f["groups"]
        return replace(kernel, flops=np.maximum(kernel.flops, full))
    if op == "softmax":  # masked scores are written and read as well
        scores = kernel.ops[0].elements(kernel.ops[0].output, visited=False) * FP32_BYTES
        kernel = replace(kernel, traffic={**kernel.traffic, "read": scores, "write": scores})
    traffic = {name: np.asarray(value) * times for name, value in kernel.traffic.items()}
    return replace(kernel, traffic=traffic, flops=kernel.flops * times)
