"""``argonne_llm_inference_bench``: batches of equal requests, sent at once, on accelerators of 2024.

Output tokens/s of one batch from its start to its last token; the latencies of the table are the same figure again
(rate x latency = batch x tokens in every row) and are not asked. Engines are the generations of early and mid 2024;
requests beyond the cache wait, as they did.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard.traffic.build import Traffic
from steelyard_validation.readers._runs import Place, Row, compared

__all__ = ["read"]

ENGINES = {
    "vLLM": "vllm@0.4",
    "TensorRT-LLM": "trtllm_static",
    "Deepspeed-MII": "deepspeed_mii",
    "sambaflow": "sambaflow",
}
#: Model whose rows of 512 and 1024 tokens set the host times of DeepSpeed-MII.
FITTED = "meta-llama/Llama-2-7b-hf"
#: Of SambaFlow rows of FITTED played no part, and of this model one user's alone did.
UNUSED = "meta-llama/Meta-Llama-3-70B"
MODELS = {"huggyllama/llama-7b": "llama-7b"}
COLUMNS = ["model", "machine", "engine", "tp", "isl", "osl", "batch", "metric", "value"]


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The batches."""
    for path in ask.files(folder, "*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, COLUMNS, ["suspect"])
    frame = frame[frame["suspect"].isna() & frame["metric"].eq("total_token_throughput")]
    yield from compared([_row(r) for r in frame.itertuples(index=False)], path, ask)


def _row(r: Any) -> Row:
    engine = ENGINES.get(r.engine)
    place = Place(
        MODELS.get(r.model, r.model),
        r.machine,
        engine or "",
        tp=int(r.tp),
        static=engine in ("trtllm_static", "sambaflow"),
    )
    batch, isl, osl = int(r.batch), int(r.isl), int(r.osl)
    load = Traffic(concurrency=batch, requests=batch, isl=isl, osl=osl)
    measured = float(r.value) * osl / (isl + osl)  # the table counts prompts too
    if engine is None:
        return Row(place, None, "tokens_per_s", "mean", measured, f"no engine stands for {r.engine}")
    fitted = engine == "deepspeed_mii" and r.model == FITTED and isl in (512, 1024)
    fitted = fitted or (engine == "sambaflow" and r.model not in (FITTED, UNUSED if batch > 1 else ""))
    return Row(place, load, "tokens_per_s", "mean", measured, split="fit" if fitted else "all")
