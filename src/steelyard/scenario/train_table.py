"""Rows of the table of fields that are of training alone; see :mod:`steelyard.scenario.fields`."""

from __future__ import annotations

__all__ = ["PLAN_TRAINING", "TRAIN", "TRAIN_ROWS"]

#: In the form of :data:`steelyard.scenario.fields._TABLE`.
TRAIN_ROWS = """
[What runs]
task | name | pretrain | column choices=pretrain,sft,lora,qlora,grpo,ppo,dpo | what is trained: pretrain, sft (all
    weights), lora, qlora (adapters; the model stays as it is), grpo, ppo, dpo (from answers that are scored)
rank | whole | 16 | least=1 most=65536 | rank of adapters
gbs | text | - | column also=int --gbs --global-batch-size | a step: sequences, or tokens as 4Mtok (default: a
    few micro-batches of every stage)
mbs | whole | none | least=1 most=1e+06 column --mbs --micro-batch-size | sequences of a micro-batch on each model
    replica (default: the fastest that fits)
seq | whole | none | least=1 most=1e+08 column --seq --seq-length | tokens of a sequence (default: 4096, or what the
    model was made for where that is less)
docs | text | - | column also=int | tokens of the documents that are packed into a sequence, which attention stays
    inside of: 600, lognormal:600 (default: one document of a sequence)
train.precision | name | bf16 | column choices=fp32,tf32,fp16,bf16,fp8,fp8_block,mxfp8,nvfp4,mxfp4,int8 | format that
    products are computed in: bf16, fp8, mxfp8, nvfp4 ...
optimizer | name | adamw | column | adamw, adamw_bf16, adamw8bit, adafactor, lion, muon, sgd, galore
    (steelyard ls optimizers)
framework | name | - | column | what trains it: megatron, nemo, bridge, fsdp, torchtitan, deepspeed, maxtext,
    transformers; megatron@2022 is an earlier one (steelyard ls frameworks)
train.set | text | - | - | facts of the framework that you know better, NAME=VALUE, separated by commas:
    graph=true,attention=flash,tp_exposed=0.2
[Where it runs]
train.tp | whole | none | least=1 most=1e+06 column --tp --tensor-parallel-size | tensor-parallel degree (default: with
    the other degrees the fastest layout that fits; where tp and pp are given, vp, cp and ep are 1)
train.pp | whole | none | least=1 most=1e+06 column --pp --pipeline-parallel-size | pipeline stages
vp | whole | none | least=1 most=1000 column --vp --virtual-pipeline | chunks of layers of every stage (interleaved)
train.dp | whole | none | least=1 most=1e+06 column --dp --data-parallel-size | data-parallel replicas (default: what
    uses every device)
train.cp | whole | none | least=1 most=1e+06 column | ranks that share the tokens of a sequence
train.ep | whole | none | least=1 most=1e+06 column | ranks that share the experts
etp | whole | none | least=1 most=1e+06 column | tensor-parallel degree of experts (default: 1 with --ep, else tp)
zero | whole | none | least=0 most=3 column | stage of ZeRO: 1 cuts the optimizer over data-parallel ranks, 2 gradients
    too, 3 parameters too (FSDP) (default: the framework's; what is fastest where a degree is open)
shard | whole | none | least=1 most=1e+06 column | data-parallel ranks that ZeRO cuts over; others hold copies (HSDP)
    (default: all; or those of a node where a degree is open)
schedule | name | - | column choices=1f1b,gpipe,interleaved,zb-h1,zb-h2,zb-v,dualpipe,dualpipe-v,chimera | pipeline
    schedule: 1f1b, gpipe, interleaved, zb-h1, zb-h2, zb-v, dualpipe, dualpipe-v, chimera (default: 1f1b, interleaved
    with --vp)
recompute | text | - | column | computed again in the backward pass: none, selective, full, full:2 (of every chunk of a
    stage 2 layers), or modules as core_attn,act,norm (default: the framework's; what fits best where a degree is open)
across | name | - | column choices=replicas,stages | of --on h100_sxm:64+a100_sxm:64: each kind of device has replicas
    of its own, which share a step by their speed, or pipeline stages, which share the layers (default: the faster)
shares | text | - | column | of replicas of several kinds: the sequences of a step that each kind takes, 384/128, or
    equal (default: by speed)
loss | name | - | choices=whole,fused column | scores over the vocabulary: whole, or fused (head and loss in one kernel
    over parts of the tokens, as Liger) (default: whole; what fits best where a degree is open)
ring | whole | none | least=1 most=1e+06 column | of the --cp ranks, as many pass keys and values around; the
    others exchange heads (Ulysses) (default: all pass them around; what is fastest where a degree is open)
train.offload | text | - | column | what lies in the host's memory: optimizer (updated there), parameters, activations;
    NAME:nvme on its drives; none (default: nothing; what the framework offers where nothing fits without)
sync_every | whole | 1 | least=1 most=1e+06 column | steps between two exchanges among data-parallel replicas
    (local SGD, DiLoCo)
why_not | text | - | - | a layout of yours, which is weighed beside the one that is chosen: tp=4,pp=2,zero=3
[Rollouts]
prompts | whole | none | least=1 most=1e+06 column | of grpo, ppo: prompts of a step; of dpo: pairs of answers
    (default: 128)
group | whole | none | least=1 most=1000 column | answers to each prompt (default: 8 with grpo, 1 with ppo)
train.isl | text | - | column also=int/Lengths --isl --input-len | tokens of prompts: 512, lognormal:600 (default: 512)
train.osl | text | - | column also=int/Lengths --osl --output-len | tokens of answers (default: lognormal:1024,max=8192)
rollout_on | name | - | column also=Cluster/Machine | devices that answer, beside those of --on that train: h100_sxm:8
    (default: those of --on do both, in turns)
rollout_tp | whole | none | least=1 most=1e+06 column | tensor-parallel degree of answering (default: the fastest)
rollout_engine | name | vllm | column | engine that answers: vllm, sglang, trtllm
stale | whole | 0 | least=0 most=1 column | 1: while some devices train, those of --rollout-on answer for the next
    step, with weights a step old; 0: in turns
plan_training.stale | whole | none | least=0 most=1 column | 0: no answers with weights a step old, so all devices
    answer and train in turns; 1: some may answer for the next step while others train (default: both are tried)
reward | text | - | - | what scores answers: a model of the catalogue, or the time it takes, 2s (default: rules, in
    no time)
reference | name | frozen | choices=frozen,none column | a frozen copy of the model scores answers as well (KL): frozen,
    none
passes | whole | 1 | least=1 most=1000 column | passes over the answers of a step; --gbs: answers of an update (default:
    all)
[The run]
tokens | text | - | column also=float | tokens of the whole run: 15.6T, 300B
epochs | number | none | least=0 most=1e+09 column | passes over --samples
samples | text | - | column also=float | sequences of the data set: 2M
trainings | whole | 1 | least=1 most=1e+06 column | trainings of a search, one after the other: tokens, days and money
    are of all
failures | text | - | column | what fails: llama3, rsc-1, 3.8/1000node-day, sw:1/job-day, reclaim:0.05/node-day, none;
    with what comes after, as llama3,restart=6min,elastic (default: typical, where a run has a length)
checkpoint | text | auto | - | work between checkpoints: auto (the best interval), 30min; sync: training waits for them;
    storage=200GB/s
train.spares | text | - | also=int | nodes that stand by and are paid, 8 or 2% (default: one is always there)
jitter | number | none | least=0 most=10 | coefficient of variation of a node's time of a step: all wait for the slowest
train.by | text | - | also=float | deadline, 30d: the chance to end by then
train.budget | text | - | also=float | money of the whole run, 3Musd: the chance that it is enough
train.carbon | number | none | least=0 most=1e+06 unit=g/kWh | carbon intensity of the electricity, g/kWh
train.power_price | number | 0.0 | least=0 most=100 unit=USD/kWh | price of power beside the rent
[What the plan chooses]
plan_training.on | text | required | column also=Sequence[str]/Cluster/Machine | machines: h100_sxm,b200_sxm; of one
    h100_sxm:1024 at most so many
plan_training.objective | name | cost | column show choices=cost,time,energy | what the plan is best at: cost, time,
    energy
plan_training.by | text | - | also=float | the run must end within: 30d
plan_training.budget | text | - | also=float | the run must cost at most: 3Musd
plan_training.max_gpus | whole | none | least=1 most=1e+07 | devices at most (default: 16,384)
plan_training.sure | text | 0.8 | show also=float | the chance with which the run must end in time and in budget: 0.8
    or 80%
"""

PLAN_TRAINING = (
    "model on task rank gbs seq docs precision optimizer framework set mbs tp pp vp cp ring ep zero shard recompute "
    "loss offload host tokens epochs samples objective by budget max_gpus sure failures checkpoint spares jitter "
    "network usd_per_hour power_price carbon generic seed prompts group isl osl rollout_tp rollout_engine stale reward "
    "reference passes why_not tell"
)
TRAIN = (
    "model on across shares task rank gbs mbs seq docs precision optimizer framework set tp pp vp dp cp ring ep etp "
    "zero shard schedule recompute loss offload host sync_every techniques tokens epochs samples trainings failures "
    "checkpoint spares jitter by budget network power_limit_w usd_per_hour power_price carbon generic seed prompts "
    "group isl osl rollout_on rollout_tp rollout_engine stale reward reference passes why_not"
)
