"""``llamacpp_consumer``: llama.cpp on phones, small boards, Macs and desktops, tokens per second.

Prompts are one sequence in micro-batches; generation is batch 1. Weights are GGUF: the embedding is gathered, the
head is read. Ollama's default file is Q4_K_M (MXFP4 for gpt-oss). The Apple table is LLaMA 7B, a prompt of 512 tokens
and 128 generated ones; the chip and its GPU cores choose the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steelyard.cost.memory import weight_bytes
from steelyard.measurements.reader import (
    Ask,
    Comparison,
    comparison,
    guarded,
    machine_name,
    machine_of,
    read_frame,
)
from steelyard.workload.transformer import transformer_of
from steelyard_validation.readers._whole import Placed, Shown, deploy, predict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["apple_machine", "place", "rates", "read", "system_machine"]

MODELS = {
    "LLaMA 7B (6.74 B)": "huggyllama/llama-7b",
    "llama 7B": "Llama-2-7b",
    "llama 8B": "Llama-3.1-8B",
    "DeepSeek R1 14b": "Qwen2.5-14B",
    "DeepSeek R1 671b": "deepseek-ai/DeepSeek-R1",
}
#: Tokens of context of a short chat, where a table gives none (Ollama's prompts of that study are one sentence).
SHORT_CONTEXT = 256
#: Micro-batch of a prompt (``n_ubatch``) and prompt length where a table gives none: llama.cpp's defaults.
MICRO_BATCH = 512
#: Bytes of an element of the embedding, which llama.cpp does not load onto the device (16 bit beside MXFP4).
EMBEDDING_BYTES = 2.0
KEYS = ["model", "machine", "format", "why"]


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The Apple table, the small-machine table and points from issues."""
    for name, table in (("apple*.csv", _apple), ("geerling*.csv", _systems), ("*issue_points.csv", _points)):
        for path in ask.files(folder, name):
            if ask.wants(path.stem):
                yield from guarded(ask, path, partial(table, path, ask))


def place(model: str, machine: str, quant: str, why: str) -> Placed | str:
    """The deployment of a row: one device, llama.cpp."""
    if why:
        return why
    name = MODELS.get(model, model)
    device = machine_of(machine)
    engine = "llamacpp_cuda" if device is not None and device.launch == "cuda" else "llamacpp"
    found = deploy(name, machine, weights=quant, kv="fp16", engine=engine)
    if isinstance(found, str):
        return found
    found = _without_tensor_units(found)
    room = found.cluster.machine.root.capacity_bytes - found.cluster.machine.reserved_bytes
    shapes = transformer_of(found.transformer, "llama.cpp")
    gathered = 0.0 if shapes.tied else shapes.vocab * shapes.hidden * EMBEDDING_BYTES  # stays in host memory
    if weight_bytes(shapes, found.plan) - gathered > room:
        return "the weights do not fit this machine"
    return found


def _without_tensor_units(at: Placed) -> Placed:
    """Metal kernels of llama.cpp multiply on the shader lanes; the M5's tensor units need another interface."""
    machine = at.cluster.machine
    lanes = max((c.peak.get("fp16", 0.0) for c in machine.engines("vector")), default=0.0)
    if machine.launch != "metal" or all(c.peak.get("fp16", 0.0) <= lanes for c in machine.compute):
        return at
    compute = tuple(c for c in machine.compute if c.kind != "matrix")
    return replace(at, cluster=replace(at.cluster, machine=replace(machine, compute=compute)))


@cache
def apple_machine(chip: str, cores: int) -> str:
    """``M3 Max 30c`` with its GPU cores as the catalogue calls it; the name itself when it has none."""
    base = re.sub(r" \d+c$", "", chip).lower().replace(" ", "_")
    for name in (f"{base}_{cores}c", base):
        found = machine_of(name)
        if found is not None and any(round(c.units) == cores for c in found.compute):
            return found.name
    return f"{chip} {cores}c"


#: What a system of the small-machine table is, by a pattern of its description; the first that matches counts.
SYSTEMS = (
    (r"M1 Ultra \(48", "m1_ultra_48c"),
    (r"M3 Ultra", "m3_ultra"),
    (r"M1 Max", "m1_max"),
    (r"M4 Mac mini", "m4"),
    (r"GB10", "dgx_spark"),
    (r"Framework.*Cluster", ""),
    (r"Framework (Desktop )?Mainboard", "strix_halo"),
    (r"AmpereOne A192", "ampereone_a192"),
    (r"Intel N150", "intel_n150"),
    (r"Pi .*Cluster|CM5 Cluster", ""),
    (r"Pi (5|500\+|CM5)", "raspberry_pi_5"),
    (r"Pi 400", "raspberry_pi_4"),
)


def system_machine(system: str, device: str) -> tuple[str, str]:
    """``(machine, why not)`` of a described system: the graphics card in brackets, else the computer itself."""
    if "/" in device:
        return system, "runs partly on the host"
    card = None if "GB10" in system else re.search(r"\(((?:Nvidia|AMD|Intel Arc)[^)]*)\)", system)
    if card and device == "GPU":
        name = card.group(1)
        for text in (name, re.sub(r"1$", "", name), re.sub(r"^(AMD|Nvidia) ", "", re.sub(r"1$", "", name))):
            for spelt in (text, f"RTX {text}", text.replace("AI Pro", "Radeon AI Pro")):
                found = machine_of(spelt)
                if found is not None and found.kind == "gpu":
                    return found.name, ""
        return name, f"unknown machine {name!r}"
    for pattern, name in SYSTEMS:
        if re.search(pattern, system):
            if not name:
                return system, "several machines over Ethernet"
            found = machine_of(name)
            if found is not None and device == "CPU" and found.launch in ("cuda", "hip", "metal"):
                return name, "the host processor of this machine is not in the catalogue"
            return name, ""
    return system, f"unknown machine {system!r}"


def rates(at: Placed, rows: pd.DataFrame) -> Shown:
    """Tokens/s of prompts (``n`` tokens each in micro-batches of ``ubatch``) and of answers, behind ``context`` tokens.

    The rate is that of all ``batch`` sequences together (one where the rows state none); a micro-batch holds as many
    whole prompts as fit.
    """
    n, before = (rows[name].to_numpy(dtype=np.float64) for name in ("n", "context"))
    batch = rows["batch"].to_numpy(dtype=np.float64) if "batch" in rows else np.ones(len(rows))
    size = rows["ubatch"].to_numpy(dtype=np.float64)
    decode = (rows["phase"] == "decode").to_numpy()
    step = at.decode(batch, before + np.maximum(n, 2) / 2).times(1.0 / batch)
    n = np.maximum(n, 1.0)
    ubatch = np.maximum(np.minimum(size, n), 1.0)
    whole = np.clip(np.floor(size / n), 1.0, batch)
    pieces = (
        batch * n / size * at.engine.micro_batch_tokens
    )  # of the rows' own length, where the engine's is its default
    steps = np.ceil(batch / whole) * np.ceil(n / ubatch) * at.replica.pieces_frac(pieces)
    piece = replace(at, engine=replace(at.engine, micro_batch_tokens=0.0))
    behind = before + np.maximum(ubatch, (n + ubatch) / 2)
    prompt = piece.prefill(whole, ubatch, behind).times(steps / (batch * n))
    return Shown(*(np.where(decode, one, many) for one, many in zip(step, prompt, strict=True))).rate(1.0)


def _yield(path: Path, ask: Ask, frame: pd.DataFrame, measured: str) -> Iterator[Comparison]:
    from steelyard_validation.fits.family import split_of

    split = split_of(frame["machine"], frame["model"])
    chosen = ask.pick(len(frame), path.stem)
    frame, split = frame.iloc[chosen].reset_index(drop=True), split[chosen]
    found = predict(frame, KEYS, place, rates)
    for phase in ("prefill", "decode"):
        rows = (frame["phase"] == phase).to_numpy()
        if rows.any():
            yield comparison(
                ask,
                path.stem,
                metric="tokens_per_s",
                phase=phase,
                machine=frame["machine"].to_numpy(dtype=str)[rows],
                family=(frame["model"] + " " + frame["format"]).to_numpy(dtype=str)[rows],
                measured=frame[measured].to_numpy(dtype=np.float64)[rows],
                predicted=found.predicted[rows],
                low=found.low[rows],
                high=found.high[rows],
                roofline=found.roofline[rows],
                split=split[rows],
                why=found.why[rows],
            )


def _apple(path: Path, ask: Ask) -> Iterator[Comparison]:
    yield from _yield(path, ask, apple_questions(path), "tok_s")


def apple_questions(path: Path) -> pd.DataFrame:
    """The Apple table as questions: model, machine, format, phase, n, ubatch, context, and ``tok_s``."""
    frame = read_frame(path, ["model", "chip", "gpu_cores", "quant", "phase", "tok_s"])
    frame["machine"] = [apple_machine(str(c), int(n)) for c, n in zip(frame["chip"], frame["gpu_cores"], strict=True)]
    frame["format"] = frame["quant"].replace({"F16": "fp16"})
    frame["n"] = frame["phase"].str.extract(r"(\d+)$")[0].astype(float)
    frame["phase"] = frame["phase"].str.split("_").str[0]
    return frame.assign(ubatch=MICRO_BATCH, context=0, why="")


def _systems(path: Path, ask: Ask) -> Iterator[Comparison]:
    yield from _yield(path, ask, system_questions(path), "decode_tok_s")


def system_questions(path: Path) -> pd.DataFrame:
    """The small-machine table as questions."""
    frame = read_frame(path, ["model", "system", "device", "decode_tok_s"])
    found = [system_machine(str(s), str(d)) for s, d in zip(frame["system"], frame["device"], strict=True)]
    frame["machine"] = [name for name, _ in found]
    frame["why"] = [why for _, why in found]
    frame["model"] = frame["model"].str.replace("Llama 3.2:3b", "Llama-3.2-3B").str.replace("Llama 3.1:", "Llama-3.1-")
    frame["model"] = frame["model"].str.replace("gpt-oss ", "gpt-oss-")
    frame["format"] = np.where(frame["model"].str.startswith("gpt-oss"), "mxfp4", "q4_k_m")
    return frame.assign(phase="decode", n=0, ubatch=MICRO_BATCH, context=SHORT_CONTEXT)


def _points(path: Path, ask: Ask) -> Iterator[Comparison]:
    yield from _yield(path, ask, point_questions(path), "tok_s")


def point_questions(path: Path) -> pd.DataFrame:
    """Single points from issues as questions."""
    frame = read_frame(path, ["device", "backend", "model", "quant", "test", "tok_s"], ["n_ubatch"])
    device = frame["device"].astype(str)
    frame["machine"] = [machine_name(re.sub(r" \(.*\)$", "", re.sub(r"^.*(Mac mini M4).*$", "m4", d))) for d in device]
    frame["why"] = ""
    frame.loc[device.str.match(r"\d+x "), "why"] = "llama.cpp's pipeline over several devices is not modelled"
    frame.loc[device.str.contains("Adreno"), "why"] = "the Adreno GPU is not in the catalogue (the NPU is)"
    frame["format"] = frame["quant"].replace({"F16": "fp16"})
    frame["model"] = frame["model"].str.replace("llama3.1 8B", "Llama-3.1-8B").str.replace(" ", "-", regex=False)
    frame["model"] = frame["model"].replace({"llama-8B": "Llama-3.1-8B", "llama-7B": "Llama-2-7b"})
    frame["phase"] = np.where(frame["test"].str.startswith("pp"), "prefill", "decode")
    frame["n"] = frame["test"].str.extract(r"(\d+)")[0].astype(float)
    return frame.assign(ubatch=frame["n_ubatch"].fillna(MICRO_BATCH), context=0)
