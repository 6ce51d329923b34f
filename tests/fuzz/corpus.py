"""Good data to begin with: small, written here, or taken from our own catalogue."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import steelyard
from tests.fuzz.mutate import write

__all__ = [
    "ANCHOR",
    "ARGV",
    "CATALOGUES",
    "CONFIG",
    "LLAMA_BENCH",
    "LLAMA_TABLE",
    "LOGS",
    "QUANTISED",
    "SAMPLES",
    "STUDIES",
    "TRACES",
    "WORDS",
]

_CATALOGUE = Path(steelyard.__file__).parent / "catalogue"

#: A small decoder.
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "_name_or_path": "maker/small",
}
#: Ways in which published models say their formats.
QUANTISED: tuple[dict[str, Any], ...] = (
    {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "gptq", "bits": 3, "group_size": 128, "dynamic": {"-:.*attn.*": {}}},
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}
        },
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        "ignore": ["lm_head", "re:.*self_attn.*"],
    },
    {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
    {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {"model.layers.0.mlp.up_proj": {"quant_algo": "FP8"}},
    },
    {"quant_method": "aqlm", "nbits_per_codebook": 16, "num_codebooks": 1, "in_group_size": 8},
    {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {}}}},
    {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}, "exclude": ["*self_attn*"]},
    {"quant_method": "exl3", "bits": 4.5, "head_bits": 6},
)


@cache
def configs() -> list[bytes]:
    """A config of every family of the catalogue, and the small decoder with every quantisation."""
    from steelyard.workload.catalogue import find_model, model_names

    families: dict[str, Any] = {}
    for name in model_names():
        entry = find_model(name)
        families.setdefault(str(entry.config.get("model_type")), {**entry.config, "_name_or_path": entry.id})
    found = [CONFIG, *families.values(), *({**CONFIG, "quantization_config": q} for q in QUANTISED)]
    found += [{**CONFIG, "quantization": {"group_size": 64, "bits": 4, "model.embed_tokens": False}}]
    return [json.dumps(c, default=dict).encode() for c in found]


def files(kind: str, count: int = 6) -> list[bytes]:
    """The smallest files of a kind of our catalogue, and some others."""
    every = sorted((_CATALOGUE / kind).glob("*.toml"), key=lambda f: f.stat().st_size)
    chosen = every[:count] + every[count :: max(1, len(every) // count)][:count]
    return [f.read_bytes() for f in chosen if f.stat().st_size < 20_000] or [every[0].read_bytes()]


def machines() -> list[bytes]:
    """A machine of every kind, whole."""
    names = ("h100_sxm", "mi300x", "ryzen_9_7950x", "apple_a14", "ascend_910b", "aws_inferentia2", "tpu_v4", "rtx_4090")
    return [f.read_bytes() for n in names if (f := _CATALOGUE / "machines" / f"{n}.toml").is_file()] + files(
        "machines", 3
    )


#: Folders of a catalogue that a user may have of his own.
CATALOGUES = ("machines", "networks", "nodes", "prices", "engines", "classes", "formats", "models", "calibration")


def catalogue(kind: str) -> list[bytes]:
    """Files of one folder of a catalogue."""
    if kind == "calibration":
        return [
            f.read_bytes() for f in sorted((_CATALOGUE / kind / "h100_sxm").glob("*.toml")) if f.stat().st_size < 20_000
        ]
    if kind == "engines":  # whole by itself; the dated ones are generations of these
        return [(_CATALOGUE / kind / "engines.toml").read_bytes()]
    return machines() if kind == "machines" else files(kind, 3)


#: A measured run of a deployment.
ANCHOR = {
    "schema": "steelyard.anchor/1",
    "name": "a",
    "title": "a server",
    "version": "0.1.0",
    "run": [
        {
            "engine": "vllm",
            "machine": "h100_sxm",
            "model": "meta-llama/Llama-3.2-1B",
            "load": "closed loop of 4",
            "measured_ttft_s": 0.05,
            "measured_tpot_s": 0.003,
            "predicted_ttft_s": 0.04,
            "predicted_tpot_s": 0.002,
        }
    ],
}
_DATES = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
#: Traces that are tables, by format.
TRACES: dict[str, bytes] = {
    "vidur": b"arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,5\n0.5,50,7\n1.5,60,1\n",
    "plain": b"id,arrived_at,num_prefill_tokens,num_decode_tokens,priority,deadline_s\na,0,5,6,2,1.5\nb,1,7,8,0,2\n",
    "azure": b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + _DATES.encode(),
    "zones": b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    b"2024-05-10 00:00:00.009+00:00,9,5\n2024-05-10T02:00:01+02:00,2,6\n",
    "several": b"trace,arrival_s,input_length,output_length\na,0,10,1\na,1,30,3\n",
    "burstgpt": b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    b"5,A,72,8,80,x\n45,A,87,0,87,y\n",
    "sharegpt": b"workload,input_toks,output_toks,arrival_time_ns\nw,10,20,1000000000\nw,30,40,2500000000\n",
    "tabs": b"request_time\tprompt_tokens\tcompletion_tokens\n0.5\t10\t5\n1\t20\t5\n",
    "semicolons": b"ts;isl;osl\n2025-01-01 00:00:00;10;5\n2025-01-01 00:00:02;20;5\n",
    "genai": b"Metric,avg,p50\nTime To First Token (ms),50,45\nOutput Sequence Length (tokens),9,9\n"
    b"Input Sequence Length (tokens),90,90\nRequest Latency (ms),200,1\n\nMetric,Value\n"
    b"Request Throughput (per sec),4\nRequest Count (count),9\n",
    "lengths": b"input_length,output_length\n10,1\n20,2\n",
    "records": b"arrived_at,isl,osl,ttft_s,tpot_s,e2e_s,queued_s\n0,100,5,.1,.01,.14,0\n1,20,7,.2,.01,.26,.05\n",
}
#: Traces of JSON lines.
LINES: dict[str, list[dict[str, Any]]] = {
    "plain": [{"sent_at": 0.5, "isl": 10, "osl": 5}, {"sent_at": 1, "isl": 20, "osl": 5}],
    "mooncake": [
        {"timestamp": 0, "input_length": 1000, "output_length": 10, "hash_ids": [0, 1]},
        {"timestamp": 27482, "input_length": 1000, "output_length": 10, "hash_ids": [0, 7]},
    ],
    "aiperf": [
        {
            "metadata": {"request_start_ns": 10**18 + i, "benchmark_phase": "profiling", "was_cancelled": False},
            "metrics": {
                "input_sequence_length": {"value": 550, "unit": "tokens"},
                "output_sequence_length": {"value": 9, "unit": "tokens"},
                "time_to_first_token": {"value": 250.0, "unit": "ms"},
                "request_latency": {"value": 300.0, "unit": "ms"},
                "inter_token_latency": {"value": 6.25, "unit": "ms"},
            },
            "error": None,
        }
        for i in (0, 2 * 10**9)
    ],
}
_RUN = {
    "requests": {
        "successful": [
            {"request_start_time": 7.0, "prompt_tokens": 10, "output_tokens": 4, "request_latency": 1.0},
            {
                "start_time": 8.5,
                "end_time": 9.0,
                "prompt_tokens": 20,
                "output_tokens": 5,
                "time_to_first_token_ms": 30.0,
            },
        ],
        "errored": [{}],
        "incomplete": [],
    },
    "args": {"strategy": {"type_": "constant", "rate": 2.0}},
}
#: Results of benchmarks in JSON.
LOGS: dict[str, Any] = {
    "vllm": {
        "duration": 3.0,
        "request_throughput": 1.0,
        "request_rate": 2.0,
        "total_input_tokens": 300,
        "max_concurrency": 2,
        "input_lens": [100, 200, 300],
        "output_lens": [3, 0, 1],
        "ttfts": [0.1, 0.0, 0.2],
        "itls": [[0.01, 0.03], [], []],
        "start_times": [50.0, 51.0, 52.5],
    },
    "vllm without starts": {
        "duration": 3.0,
        "request_rate": "inf",
        "request_throughput": 1.0,
        "total_input_tokens": 300,
        "input_lens": [100, 300],
        "output_lens": [3, 1],
        "ttfts": [0.1, 0.2],
        "itls": [[0.01, 0.03], []],
        "latencies": [0.14, 0.2],
    },
    "guidellm": {"benchmarks": [_RUN]},
    "raw profile": {
        "experiments": [
            {
                "experiment": {"mode": "concurrency", "value": 2},
                "requests": [
                    {
                        "timestamp": 10**18 + i,
                        "request_inputs": {"payload": '{"model": "m"}'},
                        "response_timestamps": [10**18 + i + 10**8, 10**18 + i + 2 * 10**8],
                        "response_outputs": [
                            {"response": 'data: {"choices": [{"delta": {"content": "a"}}]}'},
                            {"response": 'data: {"choices": [{"text": "b"}], "usage": {"prompt_tokens": 9}}'},
                        ],
                    }
                    for i in (0, 10**9)
                ],
            }
        ]
    },
    "llmperf": {
        "results_end_to_end_latency_s_mean": 1.5,
        "results_ttft_s_mean": 0.5,
        "results_ttft_s_quantiles_p95": 0.9,
        "results_number_input_tokens_mean": 500.0,
        "results_number_output_tokens_mean": 50.5,
        "results_num_completed_requests": 30,
        "results_num_completed_requests_per_min": 60.0,
        "num_concurrent_requests": 4,
    },
    "one batch": {"batch_size": 2, "input_len": 64, "output_len": 8, "prefill_latency": 0.1, "total_latency": 0.9},
    "plain": [{"time": 0.5, "isl": 10, "osl": 5}, {"time": 1, "isl": 20, "osl": 5}],
}

#: Results of llama-bench.
_PROMPT: dict[str, Any] = {
    "cpu_info": "AMD Ryzen 9 7950X 16-Core Processor",
    "gpu_info": "NVIDIA GeForce RTX 4090",
    "backends": "CUDA",
    "model_filename": "Llama-3.2-1B-Q4_K_M.gguf",
    "model_type": "llama 1B Q4_K - Medium",
    "n_gpu_layers": 99,
    "type_k": "f16",
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "avg_ts": 10000.0,
    "stddev_ts": 50.0,
}
LLAMA_BENCH: list[dict[str, Any]] = [
    _PROMPT,
    {**_PROMPT, "n_prompt": 0, "n_gen": 128, "avg_ts": 100.0, "n_gpu_layers": 10, "type_k": "q8_0", "n_depth": 64},
]
LLAMA_TABLE = b"""  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9
| model                  |     size | params | backend | ngl |        test |             t/s |
| ---------------------- | -------: | -----: | ------- | --: | ----------: | --------------: |
| llama 1B Q4_K - Medium | 0.75 GiB | 1.24 B | CUDA    |  99 |       pp512 | 10000.0 \xc2\xb1 50.0 |
| llama 1B Q4_K - Medium | 0.75 GiB | 1.24 B | CUDA    |  99 | tg8 @ d4096 |   100.0 \xc2\xb1 0.50 |
"""

#: Rows of a few measured kernels.
SAMPLES = (
    b"op,dtype,m,n,k,latency_s\ngemm,bf16,16,4096,4096,1.2e-5\ngemm,bf16,64,4096,4096,1.3e-5\ngemm,bf16,4096,4096,4096,2.5e-4\n",
)
#: Workflows of calls.
WORKFLOW: dict[str, Any] = {
    "name": "agent",
    "call": [
        {"name": "plan", "isl": "lognormal:600", "osl": 50},
        {
            "name": "tool",
            "isl": 200,
            "osl": "uniform:10-20",
            "after": ["plan"],
            "count": 3,
            "delay": "2s",
            "carry": True,
        },
        {"name": "sum", "isl": 100, "osl": 30, "after": "tool", "carry": True},
    ],
}

_ASKED = {"model": "llama-3.2-1b", "on": "h100_sxm"}
_SENT = {"rate": "4/s", "requests": 8, "isl": 64, "osl": 4}
_LIMITS = {"rate": "2/s", "ttft": "p99:1s", "isl": 64, "osl": 8}
#: Studies of every kind.
STUDIES: tuple[dict[str, Any], ...] = (
    {
        "name": "grid",
        "kind": "estimate",
        "about": "batches",
        "fixed": {**_ASKED, "weights": "fp8"},
        "grid": {"batch": [1, 2], "isl": "64-256*2"},
        "zip": [{"osl": [10, 20], "kv": ["bf16", "fp8"]}],
        "exclude": [{"batch": 2, "osl": 10}],
        "case": [{"name": "a", "tp": 1}, {"name": "b", "on": "h200_sxm"}],
        "objective": [{"minimise": "usd_per_million_tokens", "where": "tpot_s <= 50ms", "name": "cheap"}],
    },
    {
        "name": "load",
        "kind": "simulate",
        "fixed": {**_ASKED, **_SENT},
        "grid": {"policy": ["fcfs", "shortest"]},
        "seeds": 2,
    },
    {
        "name": "flags",
        "kind": "simulate",
        "fixed": {**_ASKED, **_SENT, "flags": {"max_num_seqs": 8}, "techniques": ["fp8-kv"], "ttft": "p99:1s"},
        "grid": {"flags.block_size": [16, 32]},
    },
    {"name": "plans", "kind": "plan", "fixed": {**_ASKED, **_LIMITS}, "grid": {"objective": ["cost", "energy"]}},
)

#: A good value or several of every field, beyond model and machine.
_VALUES: dict[str, tuple[Any, ...]] = {
    "on": ("h100_sxm", "h100_sxm:2", "l40s"),
    "batch": (4,),
    "isl": (64, "uniform:32-64", "uniform:0.8-1.0x64", "lognormal:60"),
    "osl": (4, "uniform:2-6"),
    "weights": ("fp8", "int4", "bf16"),
    "activations": ("fp8",),
    "kv": ("fp8",),
    "communication": ("fp8",),
    **dict.fromkeys(("tp", "pp", "dp", "ep", "cp"), (1, 2)),
    "engine": ("vllm", "sglang", "llamacpp", "sarathi"),
    "flags": ({"max_num_seqs": 8, "block_size": 16, "enable_prefix_caching": True, "gpu_memory_utilization": 0.8},),
    "replicas": (2,),
    "disaggregate": ("1P:tp1,1D:tp1", "2P:tp1@h100_sxm,1D:tp1@l40s", "semi:0.6", "1A:1@h20,1F:1@h800", "1E:tp1,1M:tp1"),
    "transfer_overlap": (0.5,),
    "encode_s": ("50ms", 0.01),
    "mtbf": ("6h", 100.0),
    "restart": ("3min",),
    "outages": ("1s:0:down,2s:0:up",),
    "autoscale": ("1:8", "1:4,target=16,interval=30s,start=2min"),
    "migrate": (True,),
    "router": ("round-robin", "least-loaded", "prefix"),
    "skew": (0.8,),
    "usd_per_hour": (2.5,),
    "generic": (True,),
    "rate": ("4/s", "240/min", 2.0),
    "concurrency": (4,),
    "requests": (8,),
    "duration": ("3s",),
    "start": ("1s",),
    "arrivals": ("poisson", "constant", "gamma:cv=3", "onoff:on=10s,off=50s", "diurnal:peak=2,period=24h"),
    "burst": (2.0,),
    "peak": ("3x",),
    "turns": (3, "uniform:1-4"),
    "think": ("10s",),
    "system": (100,),
    "best_of": (2,),
    "beam": (2,),
    "seed": (3,),
    "policy": ("shortest", "priority", "deadline", "mlfq"),
    "techniques": ("fp8-kv", ["sarathi-serve:chunk=512"], "fp8-kv + int4-weights"),
    "speculate": (
        *("eagle:k=4", "draft:llama-3.2-1b,k=4,accept=0.7", "ngram:k=3", "medusa:heads=4"),
        *("tree:width=4,depth=4,by=medusa", "eagle:k=4,adaptive"),
    ),
    "lora": ("100", "100,zipf=1,rank=16,targets=attention,max_loras=8,base=0.2"),
    "kv_tiers": ("cpu:200GB,ssd:2TB,pool:10TB@25GB/s/4", "cpu:10GB,swap"),
    "early_exit": ("ramps=3,p=0.3", "rebatch:ramps=3"),
    "finetune": ("30ms", "30ms,context=2048"),
    "overlap": ("nanoflow", "tokenweave"),
    "ttft": ("p99:1s", "mean:500ms", "1s"),
    "tpot": ("p95:50ms",),
    "e2e": ("p95:20s",),
    "stop_after_s": (100.0,),
    "objective": ("cost", "throughput"),
    "budget": ("40usd/h", 40.0),
    "max_gpus": (8,),
    "max_power": ("20kW",),
    "rack_power": ("8kW",),
    "formats": ("any",),
    "mode": ("any", "aggregated"),
    "mix": (True,),
    "headroom": ("20%", 0.2),
    "sure": ("95%", 0.6),
    "spares": (1,),
    "carbon": (400.0,),
    "remedies": (False,),
}


def asked(verb: str) -> dict[str, Any]:
    """The shortest question of a verb."""
    more: dict[str, dict[str, Any]] = {"estimate": {}, "simulate": _SENT, "plan": _LIMITS}
    return {**_ASKED, **more[verb]}


def words(verb: str) -> list[bytes]:
    """Questions of a verb, one with each good value of each field."""
    from steelyard.scenario.fields import fields_of

    base = asked(verb)
    found: list[dict[str, Any]] = [base]
    for name in fields_of(verb):
        for value in _VALUES.get(name, ()):
            found.append({**base, name: 100 if (verb, name) == ("plan", "requests") else value})
    found += [{**a, **b} for a, b in zip(found[1::2], found[2::2], strict=False)]
    return [write(w, "words") for w in found]


def specs() -> list[bytes]:
    """Every good text of a field with a grammar of its own: ``[verb, field, text]``."""
    from steelyard.scenario.fields import fields_of

    values = {n: v for n, v in _VALUES.items() if any(isinstance(x, str) for x in v)}
    return [write([verb, n, x], "words") for verb in WORDS for n in fields_of(verb) for x in values.get(n, ())]


#: Words by verb, read when they are first used.
WORDS = ("estimate", "simulate", "plan")

_E = ["estimate", "llama-3.2-1b", "--on", "h100_sxm"]
_S = ["simulate", "llama-3.2-1b", "--on", "h100_sxm", "--rate", "4/s", "--requests", "8", "--isl", "64", "--osl", "4"]
_P = ["plan", "llama-3.2-1b", "--on", "h100_sxm", "--rate", "2/s", "--isl", "64", "--osl", "8"]
#: Commands; the files they name are written beside them.
ARGV: tuple[list[str], ...] = (
    [*_E, "--batch", "1,2", "--isl", "64-256*2", "--csv"],
    [*_E, "--weights", "fp8,bf16", "--kv", "fp8", "--tp", "1", "--json"],
    [*_E, "--engine", "sglang", "--price", "2.5usd/h", "--skew", "1", "--with", "fp8-kv"],
    ["estimate", "config.json", "--on", "machine.toml:2", "--generic"],
    ["explain", "llama-3.2-1b", "--on", "h100_sxm", "--batch", "2"],
    [*_S, "--policy", "shortest", "--max-num-seqs", "8", "--json"],
    [*_S, "--flag", "block_size=32", "--gpu-memory-utilization", "0.8", "--lora", "10", "--csv"],
    ["simulate", "llama-3.2-1b", "--on", "h100_sxm", "--trace", "trace.csv", "--ttft", "p99:1s", "--tpot", "p95:50ms"],
    [
        "simulate",
        "llama-3.2-1b",
        "--on",
        "h100_sxm:2",
        "--rate",
        "4/s",
        "--disaggregate",
        "1P:tp1,1D:tp1",
        "--requests",
        "8",
    ],
    [*_P, "--ttft", "p99:1s", "--objective", "cost", "--max-gpus", "2", "--budget", "40usd/h"],
    ["plan", "--replay", "plan.toml"],
    ["compare", "h100_sxm", "h200_sxm"],
    ["compare", "llama-3.1-8b", "llama-3.2-1b", "--kind", "model", "--json"],
    ["compare", "log.json", "--model", "llama-3.2-1b", "--on", "h100_sxm"],
    ["ls", "machines"],
    ["ls", "models", "--json"],
    ["ls", "policies"],
    ["show", "h100_sxm", "--json"],
    ["show", "vllm", "--kind", "engine"],
    ["show", "config.json"],
    ["study", "study.toml", "--dry-run", "--json"],
    ["study", "study.toml", "--no-store", "--executor", "serial", "--quiet"],
    ["report", "grid", "--store", "store.duckdb", "--best", "3"],
    ["report", "--store", "store.duckdb", "--json"],
    ["calibrate", "h100_sxm", "--samples", "samples.csv", "--out", "fitted"],
    ["calibrate", "--engine", "vllm", "log.json", "--model", "llama-3.2-1b", "--on", "h100_sxm", "--out", "fitted"],
    ["version"],
    ["estimate", "--help"],
)
