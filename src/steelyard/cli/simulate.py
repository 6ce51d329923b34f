"""``steelyard simulate``: traffic through a serving engine; what its users see, and what it costs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from steelyard.cli.output import Output, write
from steelyard.cli.progress import told
from steelyard.errors import InputError, Problem, raise_all

if TYPE_CHECKING:
    from steelyard.scenario.slo import Target
    from steelyard.simulation.result import Simulation

__all__ = ["simulate"]

_Model = Annotated[
    str, Parameter(help="catalogue name, or path of an HF config, a folder, a safetensors or a GGUF file")
]


def _option(help: str, *names: str) -> Parameter:  # noqa: A002 - cyclopts' own word
    return Parameter(name=names or None, help=help, show_default=False)


@Parameter(name="*")
@dataclass(frozen=True)
class Deployment:
    """Where it runs, as in ``estimate``."""

    on: Annotated[str, Parameter(help="machine: NAME[:COUNT], or the path of a machine file")]
    weights: Annotated[str, _option("number format of the weights (default: as published)")] = ""
    activations: Annotated[str, _option("number format of activations (default: implied by the weights)")] = ""
    kv: Annotated[str, _option("number format of the KV cache (default: 16 bit)")] = ""
    communication: Annotated[str, _option("number format of collectives (default: 16 bit)")] = ""
    tp: Annotated[int | None, _option("tensor-parallel degree (default: what uses every device)")] = None
    pp: Annotated[int | None, _option("pipeline-parallel degree")] = None
    dp: Annotated[int | None, _option("data-parallel degree: replicas inside --on, fed by the router")] = None
    ep: Annotated[int, _option("expert-parallel degree")] = 1
    cp: Annotated[int, _option("context-parallel degree")] = 1
    replicas: Annotated[int, _option("copies of the whole deployment that --on describes")] = 1
    disaggregate: Annotated[
        str,
        _option(
            "pools for prompts (P), answers (D), encoders (E) or both (M): 1P:tp8,1D:tp8 or 2P:tp4@h100_sxm,1D:tp8dp2; "
            "attention and feed-forward devices: 1A:8@h20,1F:8@h800; shares of the same devices: semi:0.6 for prompts"
        ),
    ] = ""
    transfer_overlap: Annotated[
        float, _option("share of a KV cache that is sent while its prompt is computed (default: 0, pulled afterwards)")
    ] = 0.0
    encode: Annotated[str, _option("time of an encoder before each prompt, 50ms, with a pool E")] = ""
    mtbf: Annotated[str, _option("mean time between failures of a replica, 6h (default: none fails)")] = ""
    restart: Annotated[str, _option("until a failed replica serves again (default: 3min)")] = ""
    outages: Annotated[str, _option("given failures, TIME:REPLICA:down or :up, separated by commas")] = ""
    autoscale: Annotated[
        str,
        _option(
            "LEAST:MOST replicas by load, 1:8 or 1:8,target=16,interval=30s,start=2min; --replicas are there at most"
        ),
    ] = ""
    migrate: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="running requests move to the replica with most room (Llumnix)"
        ),
    ] = False
    router: Annotated[
        str, Parameter(help="which replica gets a request: round-robin, random, least-loaded, session, prefix")
    ] = "round-robin"
    skew: Annotated[float, _option("exponent of the power law of expert popularity; 0 = balanced")] = 0.0
    price: Annotated[str, _option("USD per device and hour (default: newest in the catalogue)")] = ""
    generic: Annotated[
        bool, Parameter(negative="", show_default=False, help="read an unknown model type as a plain decoder")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Load:
    """What is sent: a trace, a rate, a number of clients, conversations or a workflow."""

    trace: Annotated[
        str,
        _option(
            "file (Vidur, Azure, BurstGPT, Mooncake, ShareGPT, vllm, aiperf, guidellm) or name (azure_conv, "
            "azure_code, mooncake_conversation); FILE#NAME picks one of several in a file"
        ),
    ] = ""
    rate: Annotated[str, _option("requests per second: 4/s, 240/min; with --trace only its lengths are used")] = ""
    concurrency: Annotated[int | None, _option("closed loop: so many clients, each waiting for its answer")] = None
    workflow: Annotated[str, _option("file of calls that wait for each other; --rate begins so many per second")] = ""
    isl: Annotated[
        str,
        _option("prompt tokens: 2000, uniform:2000-6000, uniform:0.8-1.0x4000, lognormal:600, file:F (default: 1024)"),
    ] = ""
    osl: Annotated[str, _option("generated tokens, in the same words (default: 256)")] = ""
    requests: Annotated[
        int | None, _option("how many (default: all of a trace, 1,000 drawn, 10 per client of a closed loop)")
    ] = None
    duration: Annotated[str, _option("how long requests arrive, 10min")] = ""
    start: Annotated[str, _option("leave out the beginning of a trace, 5min")] = ""
    arrivals: Annotated[
        str,
        _option("poisson, constant, gamma:cv=3, onoff:on=10s,off=50s, diurnal:peak=2,period=24h (default: poisson)"),
    ] = ""
    burst: Annotated[float | None, _option("coefficient of variation of the gaps; short for --arrivals gamma:cv=")] = (
        None
    )
    peak: Annotated[str, _option("multiply the arrival rate, 3x")] = ""
    turns: Annotated[str, _option("conversations of so many turns with a growing prompt, 5 or uniform:1-9")] = ""
    think: Annotated[str, _option("time between an answer and the next request, 10s (mean, for conversations)")] = ""
    system: Annotated[int, _option("tokens of a system prompt that all conversations share")] = 0
    best_of: Annotated[int | None, _option("answers drawn for every prompt, which they share")] = None
    beam: Annotated[int | None, _option("beams of equal length for every prompt, which they share")] = None
    seed: Annotated[int, Parameter(help="fixes everything drawn")] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class Serving:
    """The engine and its own flags."""

    engine: Annotated[
        str,
        _option("vllm, sglang, trtllm, llamacpp; or a scheduler: static, orca, tgi, sarathi", "--engine", "--backend"),
    ] = ""
    policy: Annotated[
        str,
        Parameter(
            help="order of the queue: fcfs, priority, shortest, deadline, or FILE.py:CLASS of your own (runs it)"
        ),
    ] = "fcfs"
    scheduler: Annotated[
        str, _option("another scheduler than the engine's own, such as vllm-v0, trtllm-max-utilization")
    ] = ""
    max_num_batched_tokens: Annotated[
        str, _option("tokens of one step", "--max-num-batched-tokens", "--chunked-prefill-size", "--max-num-tokens")
    ] = ""
    max_num_seqs: Annotated[
        str, _option("requests running at once", "--max-num-seqs", "--max-running-requests", "--max-batch-size")
    ] = ""
    max_model_len: Annotated[
        str, _option("longest prompt and answer", "--max-model-len", "--context-length", "--max-seq-len")
    ] = ""
    gpu_memory_utilization: Annotated[
        str,
        _option(
            "share of device memory it may use",
            "--gpu-memory-utilization",
            "--mem-fraction-static",
            "--free-gpu-memory-fraction",
        ),
    ] = ""
    block_size: Annotated[
        str, _option("tokens of one cache block", "--block-size", "--page-size", "--tokens-per-block")
    ] = ""
    num_gpu_blocks: Annotated[
        str, _option("cache blocks per replica, instead of what fits", "--num-gpu-blocks", "--num-gpu-blocks-override")
    ] = ""
    enable_prefix_caching: Annotated[bool | None, _option("share blocks of equal prefixes")] = None
    enable_chunked_prefill: Annotated[bool | None, _option("cut prompts to fill a step")] = None
    async_scheduling: Annotated[bool | None, _option("prepare the next step while the device works")] = None
    speculate: Annotated[
        str,
        _option(
            "guessed tokens: eagle:k=4, draft:llama-3.2-1b,k=4,accept=0.7, ngram:k=3, medusa:heads=4, mtp, "
            "tree:width=4,depth=4,by=medusa; any chain also ...,adaptive"
        ),
    ] = ""
    lora: Annotated[
        str, _option("adapters drawn by popularity: 100 or 100,zipf=1,rank=16,targets=attention,max_loras=8,base=0.2")
    ] = ""
    kv_tiers: Annotated[
        str,
        _option("cache levels below the device: cpu:200GB,ssd:2TB,pool:10TB@25GB/s/4; swap lets requests go there"),
    ] = ""
    early_exit: Annotated[str, _option("tokens leave before the last layer: ramps=3,p=0.3 or rebatch:ramps=3")] = ""
    finetune: Annotated[str, _option("finetuning fills steps up to this time: 30ms or 30ms,context=2048")] = ""
    overlap: Annotated[str, _option("kernels beside each other: nanoflow or tokenweave")] = ""
    flag: Annotated[
        tuple[str, ...],
        Parameter(
            name="--flag",
            help="any other flag, NAME=VALUE, may be repeated",
            show_default=False,
            negative="",
            consume_multiple=False,
        ),
    ] = ()

    def flags(self) -> dict[str, Any]:
        """The flags given, as numbers. Raises :class:`InputError` with every one that is none."""
        problems: list[Problem] = []
        found: dict[str, Any] = {"scheduler": self.scheduler or None}
        whole = ("max_num_batched_tokens", "max_num_seqs", "max_model_len", "block_size", "num_gpu_blocks")
        for name in (*whole, "gpu_memory_utilization"):
            text = getattr(self, name)
            key = "num_gpu_blocks_override" if name == "num_gpu_blocks" else name
            found[key] = _value(text, name, problems, whole=name in whole) if text else None
        if found["num_gpu_blocks_override"] == 0:  # which means "what fits" inside
            problems.append(Problem("num_gpu_blocks", "expected at least 1, got 0"))
        for name in ("enable_prefix_caching", "enable_chunked_prefill", "async_scheduling"):
            found[name] = getattr(self, name)
        for item in self.flag:
            name, equals, text = item.partition("=")
            if not equals or not name:
                problems.append(Problem("flag", f"expected NAME=VALUE, got {item!r}"))
                continue
            word = text.strip().lower()
            found[name.strip().lstrip("-")] = (
                word in ("true", "yes", "on") if word in ("true", "false", "yes", "no", "on", "off") else _any(text)
            )
        raise_all(problems)
        return {k: v for k, v in found.items() if v is not None}


def _value(text: str, name: str, problems: list[Problem], *, whole: bool) -> int | float | None:
    from steelyard.units import parse_quantity

    try:
        value = parse_quantity(text, "1", name)
    except InputError as error:
        problems += error.problems
        return None
    if whole and value != int(value):
        problems.append(Problem(name, f"expected a whole number, got {text}"))
        return None
    return int(value) if whole else value


def _any(text: str) -> int | float | str:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


@Parameter(name="*")
@dataclass(frozen=True)
class Promises:
    """What the service promises; goodput counts requests within all the limits."""

    ttft: Annotated[str, _option("limit of the time to first token: p99:1s, mean:500ms, or 1s (p99)")] = ""
    tpot: Annotated[str, _option("limit of the time per output token: p95:50ms")] = ""
    e2e: Annotated[str, _option("limit from arrival to the last token")] = ""
    intervals: Annotated[
        bool | None, _option("80 % intervals from two more runs (default: up to two million engine steps)")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """What else is written."""

    records: Annotated[str, _option("one row per request: .csv, .jsonl or .parquet")] = ""
    perfetto: Annotated[str, _option("Chrome trace of steps and requests (.json), for ui.perfetto.dev")] = ""
    html: Annotated[str, _option("page of time series and histograms")] = ""
    format: Annotated[
        Literal["steelyard", "vllm"], _option("form of the JSON: ours, or that of vllm bench serve (implies --json)")
    ] = "steelyard"

    def check(self) -> None:
        """Refuse files that cannot be, before any work. Raises :class:`InputError` with every problem."""
        from steelyard.report.records import FORMATS, check_path

        problems: list[Problem] = []
        for name, endings in (("records", FORMATS), ("perfetto", ()), ("html", (".html", ".htm"))):
            path = getattr(self, name)
            if path:
                try:
                    check_path(path, endings, name)
                except InputError as error:
                    problems += error.problems
        raise_all(problems)


def simulate(
    model: _Model,
    /,
    *,
    deployment: Deployment,
    load: Load = Load(),
    serving: Serving = Serving(),
    promises: Promises = Promises(),
    files: Files = Files(),
    output: Output = Output(),  # noqa: B008
) -> None:
    """Send traffic through a serving engine, step by step.

    Exit code 0 also when a promise is missed: the report and `verdicts` in the JSON say so.
    """
    if files.format == "vllm":
        output = Output(True, output.csv, output.out, output.quiet)
    output.check()
    files.check()
    found, targets = _run(model, deployment, load, serving, promises, output.quiet)
    _write(found, targets, promises.intervals, files, output)


def _run(
    model: str, deployment: Deployment, load: Load, serving: Serving, promises: Promises, quiet: bool
) -> tuple[Simulation, tuple[Target, ...]]:
    from steelyard.simulation.api import Problems, branched, changes_of, check_words, extras_of, serve, targets_of
    from steelyard.traffic.build import Traffic, traffic

    d, v, problems = deployment, serving, Problems()
    targets = problems.read(lambda: targets_of(ttft=promises.ttft, tpot=promises.tpot, e2e=promises.e2e))
    flags = problems.read(serving.flags)
    problems.read(lambda: check_words(serving.engine, d.disaggregate))
    usd = problems.read(lambda: _price(d.price))
    encode_s = problems.read(lambda: _time(d.encode, "encode") if d.encode else None)
    changes = problems.read(
        lambda: changes_of(mtbf=d.mtbf, restart=d.restart, outages=d.outages, autoscale=d.autoscale, migrate=d.migrate)
    )
    extras = problems.read(
        lambda: extras_of(
            speculate=v.speculate,
            lora=v.lora,
            kv_tiers=v.kv_tiers,
            early_exit=v.early_exit,
            finetune=v.finetune,
            overlap=v.overlap,
        )
    )
    asked = Traffic(
        load.trace,
        load.rate,
        load.concurrency,
        load.workflow,
        load.isl,
        load.osl,
        load.requests,
        load.duration,
        load.start,
        load.arrivals,
        load.burst,
        load.peak,
        load.turns,
        load.think,
        load.system,
        load.seed,
    )
    with told(quiet, "reading traffic") as say:
        sent = problems.read(lambda: branched(traffic(asked), load.best_of, load.beam))
        problems.done()
        say(f"simulating {len(sent):,} requests", len(sent))
        found = serve(
            model,
            d.on,
            sent,
            targets,
            weights=d.weights,
            activations=d.activations,
            kv=d.kv,
            communication=d.communication,
            tp=d.tp,
            pp=d.pp,
            dp=d.dp,
            ep=d.ep,
            cp=d.cp,
            engine=serving.engine,
            flags=flags,
            policy=serving.policy,
            router=d.router,
            replicas=d.replicas,
            disaggregate=d.disaggregate,
            transfer_overlap=d.transfer_overlap,
            encode_s=encode_s,
            changes=changes,
            extras=extras,
            seed=load.seed,
            skew=d.skew,
            usd_per_hour=usd,
            generic=d.generic,
            watch=say.watch,
        )
    return found, targets


def _price(text: str) -> float | None:
    from steelyard.units import Quantity

    return Quantity("USD/h", "price", ge=0, le=1e6).parse(text, "price") if text else None


def _time(text: str, name: str) -> float:
    from steelyard.units import Quantity

    return Quantity("s", name, ge=0, le=1e9).parse(text, name)


def _write(
    found: Simulation, targets: tuple[Target, ...], intervals: bool | None, files: Files, output: Output
) -> None:
    from steelyard.report import simulation as report
    from steelyard.simulation.limits import ends_of

    ends = None if files.format == "vllm" and not files.html else ends_of(found, intervals)
    if files.records:
        from steelyard.report.records import write_records

        write_records(found, files.records)
    if files.perfetto:
        from steelyard.report.perfetto import write_perfetto

        left = write_perfetto(found, files.perfetto)
        if left and not output.quiet:
            print(f"{files.perfetto} {left}", file=sys.stderr)
    if files.html:
        from steelyard.report.timeline import write_timeline

        write_timeline(found, files.html, targets, ends)

    def document() -> dict[str, Any]:
        if files.format == "vllm":
            from steelyard.report.plain import plain
            from steelyard.report.records import vllm_bench

            return plain(vllm_bench(found))  # type: ignore[no-any-return]
        return report.to_dict(found, targets, ends)

    write(
        output,
        data=document,
        text=lambda columns: report.text(found, columns, targets, ends),
        rows=lambda: [report.flat(found, targets, ends)],
    )
