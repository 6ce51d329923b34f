"""Everything that reads outside data, with good data to damage and the cheapest answer it leads to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz import corpus, files, onnx_models, pages, questions
from tests.fuzz.mutate import write

__all__ = ["PARSERS", "Parser"]


@dataclass(frozen=True)
class Parser:
    """One reader of outside data."""

    form: str
    """How its data is damaged: see :func:`tests.fuzz.mutate.mutant`."""
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], None]
    share: float = 1.0
    """Of the mutants asked for: less than 1 where one takes long."""
    forked: bool = False
    """Whether each runs in a process of its own: a library in C may take the process down."""


def _json(*trees: Any) -> Callable[[], list[bytes]]:
    return lambda: [write(t, "json") for t in trees]


def _toml(*trees: Any) -> Callable[[], list[bytes]]:
    return lambda: [write(t, "toml") for t in trees]


#: Every parser by name.
PARSERS: dict[str, Parser] = {
    "config": Parser("json", corpus.configs, files.config),
    "config_generic": Parser("json", corpus.configs, files.generic, 0.5),
    "gguf": Parser("bytes", lambda: [files.gguf_bytes(json.loads(x)) for x in files.gguf_seeds()], files.gguf),
    "gguf_values": Parser("json", files.gguf_seeds, files.gguf_tree),
    "safetensors": Parser("bytes", lambda: [files.safetensors_bytes(write(files.HEADER, "json"))], files.safetensors),
    "safetensors_header": Parser("json", _json(files.HEADER), files.safetensors_tree),
    "safetensors_index": Parser("json", _json(files.INDEX), files.index),
    **(
        {
            "onnx": Parser("bytes", onnx_models.models, onnx_models.model, 0.3, forked=True),
            "onnx_edits": Parser("bytes", onnx_models.edits, onnx_models.edited, forked=True),
        }
        if onnx_models.THERE
        else {}
    ),
    "tensors": Parser("json", _json(files.TENSORS), files.tensors),
    "machine": Parser("toml", corpus.machines, files.machine_file),
    "chip_space": Parser("toml", _toml(files.CHIPS), files.chip_space),
    "net_space": Parser("toml", _toml(files.NETS), files.net_space),
    "known_devices": Parser("csv", lambda: [files.DEVICES], files.known_devices, 0.5),
    "losses": Parser("csv", lambda: [files.LOSSES], files.losses, 0.5),
    "machine_json": Parser("json", files.machines_json, files.machine_json, 0.5),
    "machine_text": Parser("toml", corpus.machines, files.machine_text, 0.5),
    **{
        f"catalogue_{kind}": Parser("toml", partial(corpus.catalogue, kind), partial(files.catalogue_of, kind), share)
        for kind, share in dict.fromkeys(corpus.CATALOGUES, 1.0).items()
    },
    "trace_table": Parser("csv", lambda: list(corpus.TRACES.values()), partial(files.trace, ".csv")),
    "trace_lines": Parser(
        "jsonl", lambda: [write(x, "jsonl") for x in corpus.LINES.values()], partial(files.trace, ".jsonl")
    ),
    "trace_json": Parser("json", _json(*corpus.LOGS.values()), partial(files.trace, ".json")),
    "trace_parquet": Parser("bytes", files.parquet_seeds, partial(files.trace, ".parquet"), 0.5, forked=True),
    "log_json": Parser("json", _json(*corpus.LOGS.values()), partial(files.log, ".json")),
    "log_lines": Parser("jsonl", lambda: [write(corpus.LINES["aiperf"], "jsonl")], partial(files.log, ".jsonl")),
    "log_records": Parser("csv", lambda: [corpus.TRACES["records"]], partial(files.log, ".csv")),
    "llama_bench": Parser("json", _json(corpus.LLAMA_BENCH), partial(files.llama_bench, ".json"), 0.5),
    "llama_bench_table": Parser("csv", lambda: [corpus.LLAMA_TABLE], partial(files.llama_bench, ".md"), 0.3),
    "saved_estimate": Parser("json", files.estimates, files.compared),
    "workflow": Parser("toml", _toml(corpus.WORKFLOW), files.workflow),
    "samples": Parser("csv", lambda: list(corpus.SAMPLES), files.samples, 0.3),
    "study_toml": Parser("toml", _toml(*corpus.STUDIES), partial(questions.study, ".toml")),
    "study_json": Parser("json", _json(*corpus.STUDIES), partial(questions.study, ".json")),
    "study_yaml": Parser("json", _json(*corpus.STUDIES), partial(questions.study, ".yaml"), 0.2),
    "plan_file": Parser("toml", questions.plans, questions.plan, 0.5),
    "recipe": Parser("toml", lambda: corpus.files("recipes", 4), files.recipe),
    "claims": Parser("toml", lambda: corpus.files("claims", 6)[-6:], files.claims),
    "op_list": Parser("toml", lambda: corpus.files("oplists", 6), files.op_list, 0.5),
    "presets": Parser("toml", lambda: corpus.files("techniques", 4), files.presets, 0.5),
    "anchor": Parser("toml", _toml(corpus.ANCHOR), files.anchor),
    "store": Parser("bytes", questions.stores, questions.store, 0.1, forked=True),
    **{
        f"words_{verb}": Parser("words", partial(corpus.words, verb), partial(questions.words, verb))
        for verb in corpus.WORDS
    },
    "specs": Parser("words", corpus.specs, questions.spec),
    "planned": Parser("words", partial(corpus.words, "plan"), questions.planned, 0.02),
    "page_query": Parser("bytes", pages.queries, pages.query, 0.5),
    "page_dropped": Parser("json", pages.configs, pages.dropped, 0.3),
    "page_answer": Parser("bytes", pages.answers, pages.answer, 0.3),
    "argv": Parser("words", lambda: [write(t, "words") for t in corpus.ARGV], questions.argv, 0.5),
}
