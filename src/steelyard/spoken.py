"""What things are called elsewhere: words of engines, vendors, clouds and people, and the word Steelyard has for them.

Only suggestions are made of these, never answers: who types ``--tensor-parallel-size`` is told of ``--tp``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

__all__ = ["NO_FIELD", "meant"]

#: By kind of name: our word, then what others call it. Case, dashes and blanks do not count.
_TABLES = {
    "field": """
model | model-path model-name model-id hf-model checkpoint tokenizer m
on | gpu gpus gpu-type gpu-name device devices machine machines hardware hw accelerator accelerators instance
    instance-type node nodes cluster platform target chip host
weights | quantization quantize quant q dtype weight-dtype weights-dtype precision torch-dtype load-in-4bit load-in-8bit
activations | activation-dtype act-dtype compute-dtype
kv | kv-cache-dtype kv-dtype kv-cache cache-dtype cache-type-k cache-type-v ctk ctv kv-quant kv-format
communication | allreduce-dtype comm-dtype
tp | tensor-parallel-size tensor-parallel tensor-model-parallel-size tp-size tensor-parallelism num-gpus n-gpus ngpus
    gpu-count gpus-per-node split-mode tensor-split
pp | pipeline-parallel-size pipeline-parallel pipeline-model-parallel-size pp-size pipeline-parallelism
dp | data-parallel-size data-parallel dp-size data-parallelism
ep | expert-parallel-size expert-parallel enable-expert-parallel ep-size moe-ep-size expert-parallelism
cp | context-parallel-size context-parallel cp-size decode-context-parallel-size sequence-parallel
    sequence-parallel-size
engine | framework runtime server serving-engine inference-engine
batch | batch-size bs b max-batch batchsize
isl | input-len input-length input-tokens input-size prompt-len prompt-length prompt-tokens prompt-size random-input-len
    random-input input n-prompt prefill-len prefill-tokens max-input-length in prompt
osl | output-len output-length output-tokens output-size gen-len generated-tokens max-tokens max-new-tokens n-predict
    random-output-len random-output output n-gen decode-len decode-tokens max-output-length completion-tokens
replicas | num-replicas replica copies copy num-instances instances servers workers
disaggregate | disaggregation disaggregation-mode disaggregated pd pd-disaggregation prefill-decode kv-transfer-config
mtbf | failure-rate failures
outages | outage downtime
autoscale | autoscaler autoscaling hpa min-replicas max-replicas scale
router | load-balancer load-balancing lb routing routing-policy routing-strategy route balancer
skew | zipf expert-skew imbalance
usd_per_hour | price-per-hour hourly-price gpu-price usd cost-per-hour rent usd-per-gpu-hour
generic | trust-remote-code
trace | dataset dataset-path dataset-name workload replay-trace requests-file log sharegpt
rate | qps rps request-rate requests-per-second reqs-per-second load throughput req-rate tps
concurrency | max-concurrency clients users num-users num-clients concurrent-requests num-concurrent virtual-users vus
workflow | agent agents dag
requests | num-prompts num-requests n-requests request-count prompts number-of-requests
duration | time length-of-run benchmark-duration
arrivals | arrival-process arrival-pattern distribution
burst | burstiness burstyness cv
turns | num-turns multi-turn conversations
think | think-time delay
system | system-prompt shared-prefix prefix-len shared-prefix-len system-prompt-len
best_of | n num-return-sequences samples
beam | beams beam-width num-beams use-beam-search
seed | random-seed rng-seed
policy | scheduling-policy schedule-policy queue-policy scheduling order priority
techniques | technique method optimization optimizations with
speculate | speculative speculation speculative-config speculative-model speculative-algorithm draft-model draft md
    num-speculative-tokens speculative-num-draft-tokens model-draft
lora | enable-lora lora-modules lora-paths adapters adapter loras
kv_tiers | cpu-offload swap-space kv-offload hicache enable-hierarchical-cache
ttft | time-to-first-token first-token slo-ttft slo slos prefill-latency
tpot | time-per-output-token inter-token-latency itl slo-tpot tbt time-between-tokens decode-latency
e2e | latency e2el end-to-end total-latency response-time slo-e2e
objective | goal optimize optimise minimize minimise maximize criterion
budget | max-cost max-usd max-price cost-limit
max_gpus | max-devices gpu-limit
max_power | power power-limit max-watts
headroom | margin slack reserve
spares | spare redundancy n-plus-one
carbon | carbon-intensity co2 gco2 emissions
max_num_batched_tokens | batched-tokens token-budget max-prefill-tokens ubatch-size ub chunk-size
max_num_seqs | max-seqs parallel np max-running max-sequences cuda-graph-max-bs
max_model_len | ctx-size n-ctx ctx context max-context context-window max-position-embeddings max-total-tokens c
gpu_memory_utilization | gpu-mem mem-fraction memory-fraction gpu-memory-fraction gpu-memory gpu-util
    kv-cache-free-gpu-memory-fraction gpu-memory-utilisation
block_size | kv-block-size page
enable_prefix_caching | prefix-caching prefix-cache cache-reuse disable-radix-cache radix-cache enable-kv-cache-reuse
enable_chunked_prefill | chunked-prefill chunked enable-mixed-chunk chunking
out | output-file output-dir save-to file result-dir result-filename o
json | format-json as-json
""",
    "verb": """
estimate | predict cost weigh size memory fit fits vram calc calculate price run eval
simulate | bench benchmark sim play replay load-test loadtest traffic
plan | optimize optimise search recommend find choose deploy capacity tune autotune solve
study | grid experiment batch matrix
report | results result view
explain | why breakdown profile trace roofline kernels
ls | list models machines gpus hardware catalogue catalog dir
show | info describe get cat inspect
compare | diff versus vs
calibrate | measure fit
validate | check accuracy test verify
version | about env
""",
    "engine": """
llamacpp | lmstudio lm-studio gguf llama.cpp llama-server llama-cpp-python koboldcpp llamafile gpt4all jan
trtllm | tensorrt tensorrt-llm tensorrtllm trt triton nim
vllm | aphrodite
mlx | mlx-server
exllamav3 | exllamav2 exl2
torch | transformers huggingface hf pytorch accelerate gpt-fast
sglang | sgl srt radix
qnn | qualcomm genie
rkllm | rockchip
""",
    "format": """
int4 | 4-bit 4bits w4 int4-awq gptq-int4 autoround marlin
int8 | 8-bit 8bits w8 llm.int8 smoothquant
int8_weight_only | int8-w8a16 eetq
int4_g64 | hqq hqq-4bit
int2 | aqlm vptq quip quip-sharp
fp8 | 8bit-float float8_e4m3fn float8_e5m2 e5m2 fp8_e4m3fn fp8_dynamic
bf16 | 16bit 16-bit bf bfloat brain-float b16 auto
fp16 | f-16 half-precision
fp32 | 32bit full single float-32
nf4 | bnb load-in-4bit qlora bitsandbytes-4bit
q8_0 | q8
q4_k_m | q4 q4-k
q5_k_m | q5 q5-k
nvfp4 | modelopt-fp4 4bit-float
mxfp4 | mx4 e2m1
""",
    "router": """
round-robin | rr roundrobin weighted-round-robin cyclic
least-loaded | least-connections least-requests least-request least-outstanding jsq shortest-queue load power-of-two p2c
    kv-load queue-depth
session | sticky session-affinity affinity user hash consistent-hash consistent-hashing
prefix | cache cache-aware kv-aware prefix-aware precise-prefix kv-cache-aware prefix-cache
random | rand uniform
""",
    "policy": """
fcfs | fifo first-come arrival none default
shortest | sjf spf srpt ljf shortest-job-first length
deadline | edf slo earliest-deadline slack
fair | vtc fair-share fairness wfq
mlfq | fastserve multi-level-feedback feedback
prefix-group | lpm longest-prefix-match dfs-weight prefix
priority | prio
priority-preempt | preemptive priority-preemption preemption
""",
    "objective": """
cost | price money usd dollars cheapest cheap rent budget tco
energy | power watts joules efficiency electricity
carbon | co2 emissions green
throughput | tokens tps goodput rate requests speedup qps
latency | speed fast fastest time ttft tpot e2e slo
""",
    "mode": """
aggregated | mixed colocated one together monolithic
disaggregated | pd disagg split separate apart prefill-decode
any | all both either auto
""",
    "technique": """
fp8-kv | fp8 kv-fp8 kv-cache-fp8 kv-quantization fp8-cache
int4-weights | int4 awq gptq w4a16 quantization
sarathi-serve | chunked-prefill chunked sarathi
eagle | speculation speculative spec-decode speculate
draft | draft-model assistant speculative-decoding
ngram | prompt-lookup lookup
kv-tiers | offload offloading lmcache mooncake hicache swap
llumnix | migration migrate live-migration
autoscale | autoscaler hpa keda
semi-pd | semi intra-gpu-disaggregation
lora | adapters s-lora punica multi-lora
""",
    "unit": """
s | seconds second secs
min | minutes minute mins m
h | hours hour hr hrs
d | days day
ms | milliseconds millisecond msec msecs millis
us | microseconds microsecond usec
W | watt watts
kW | kwatt kilowatt kilowatts
GB | gigabyte gigabytes
GB/s | gbps gigabytes/s gbytes/s
USD/h | usd/hour usd/hr dollars/h dollar/h $/hour eur/h
% | pct percent
""",
    "listed": """
models | model llm llms network-models weights
machines | machine gpu gpus device devices hardware accelerator accelerators cpu cpus
formats | format dtype dtypes precision quantization quantizations
engines | engine backend backends framework frameworks servers schedulers
networks | network links interconnect interconnects
nodes | node servers hosts
systems | system instances boxes racks cloud clouds
prices | price cost costs
policies | policy scheduling order
techniques | technique methods optimizations with
""",
    "machine": """
h100_sxm | h100-80gb-hbm3 hopper
t4 | colab kaggle
aws_trainium | trainium trainium1
aws_inferentia2 | inferentia
tpu_v5e | v5litepod tpu
tpu_v6e | trillium
tpu_v7 | ironwood
b200_sxm | blackwell
a100_sxm | ampere
gaudi3 | gaudi habana
m4_max | mac macbook apple-silicon
""",
}
#: Options of engines that ask for nothing a question has.
NO_FIELD: Mapping[str, str] = MappingProxyType(
    {
        "ngl": "estimate and simulate take it; a plan keeps every layer on the devices",
        "ngpulayers": "estimate and simulate take it; a plan keeps every layer on the devices",
        "gpulayers": "estimate and simulate take it; a plan keeps every layer on the devices",
        "threads": "the whole device works",
        "t": "the whole device works",
        "fa": "the attention kernels of the engine are priced as they are",
        "flashattn": "the attention kernels of the engine are priced as they are",
        "mlock": "weights are in memory once it runs",
        "nommap": "weights are in memory once it runs",
        "ignoreeos": "every answer has --osl tokens",
        "burstiness": "vLLM's is 1 / cv^2 and --burst is cv: 1 for its 1, 3.2 for its 0.1",
        "goodput": "name the SLOs: --ttft p99:500ms --tpot p99:50ms",
        "servedmodelname": "nothing is served here; plan --out writes what starts a server",
        "port": "nothing is served here; plan --out writes what starts a server",
        "verbose": "explain shows every kernel",
        "temperature": "--sampling says how tokens are chosen: greedy, random, top-p",
        "topp": "--sampling says how tokens are chosen: greedy, random, top-p",
        "topk": "--sampling says how tokens are chosen: greedy, random, top-p",
        "apikey": "nothing is asked of a server",
    }
)


@cache
def _table(kind: str) -> Mapping[str, str]:
    """Other words, without what does not count, and our word for each; the first line that has a word wins."""
    found: dict[str, str] = {}
    ours = ""
    for line in _TABLES.get(kind, "").strip().splitlines():
        word, bar, others = line.partition(" | ")
        ours = word.strip() if bar else ours
        for other in (others if bar else line).split():
            found.setdefault(_key(other), ours)
    return MappingProxyType(found)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name[:200].lower())


def meant(kind: str, name: str) -> str:
    """Our word for what ``name`` is called elsewhere; empty when nobody is known to call anything so.

    Args:
        kind: ``field``, ``verb``, ``machine``, ``engine``, ``format``, ``router``, ``policy``, ``objective``,
            ``mode`` or ``technique``.
        name: what was written.
    """
    return _table(kind).get(_key(name), "")
