"""``steelyard compare``: two of a kind side by side, or a measured benchmark beside its simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from steelyard.cli.output import Output, write
from steelyard.cli.progress import told
from steelyard.cli.simulate import Deployment, Serving, _price
from steelyard.errors import InputError
from steelyard.report.entry import Kind

if TYPE_CHECKING:
    from steelyard.simulation.result import Simulation

_First = Annotated[
    str, Parameter(help="name of a machine or model, a saved estimate (--json --out FILE), or a benchmark's log")
]
_Second = Annotated[str, Parameter(help="what to put beside it; not for a benchmark's log", show_default=False)]
_Kind = Annotated[Kind | None, Parameter(name="--kind", help="what the names mean, when they mean several things")]
_Model = Annotated[
    str,
    Parameter(
        name="--model",
        show_default=False,
        help="model of the benchmark (a log of vllm bench serve, aiperf or guidellm, or records of requests)",
    ),
]
_Rate = Annotated[str, Parameter(name="--rate", show_default=False, help="its load, when the log does not say: 4/s")]
_Clients = Annotated[
    int | None, Parameter(name="--concurrency", show_default=False, help="its load: so many requests in flight")
]
_Seed = Annotated[int, Parameter(name="--seed", help="fixes everything drawn")]


def compare(
    a: _First,
    b: _Second = "",
    /,
    *,
    kind: _Kind = None,
    model: _Model = "",
    deployment: Deployment | None = None,
    serving: Serving = Serving(),  # noqa: B008 - frozen
    rate: _Rate = "",
    concurrency: _Clients = None,
    seed: _Seed = 0,
    output: Output = Output(),  # noqa: B008
) -> None:
    """Put two machines, two models or two saved estimates side by side, or a measured benchmark and its simulation.

    With --model and --on, the load of the benchmark's log goes through the simulator: the options are those of
    `simulate`.
    """
    output.check()
    if b and not model and deployment is None:
        _pair(a, b, kind, output)
    else:
        _replay(a, b, model, deployment, serving, rate, concurrency, seed, output)


def _pair(a: str, b: str, kind: Kind | None, output: Output) -> None:
    from steelyard.report import compare as report

    if kind is None:
        from steelyard.simulation.replay import is_log

        logs = [x for x in (a, b) if is_log(x)]
        if logs:
            raise InputError(
                f"{logs[0]!r} is a benchmark's log: compare it alone, with --model MODEL --on MACHINE", field="compare"
            )
    found = report.compare(a, b, kind)
    write(output, data=lambda: report.to_dict(found), text=lambda columns: report.text(found, columns), rows=found.rows)


def _replay(
    run: str,
    second: str,
    model: str,
    deployment: Deployment | None,
    serving: Serving,
    rate: str,
    concurrency: int | None,
    seed: int,
    output: Output,
) -> None:
    if second:
        raise InputError(f"with --model and --on one log is compared; {second!r} is too much", field="compare")
    if not model or deployment is None:
        missing = " and ".join(n for n, given in (("--model", model), ("--on", deployment is not None)) if not given)
        raise InputError(f"needs a second name, or for a benchmark's log {missing}", field="compare")
    from steelyard.report import replay as report
    from steelyard.simulation.api import serve
    from steelyard.simulation.replay import read_log, replay
    from steelyard.traffic.trace import Trace

    flags = serving.flags()
    usd = _price(deployment.price)
    d = deployment

    def send(trace: Trace) -> Simulation:
        return serve(
            model,
            d.on,
            trace,
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
            seed=seed,
            skew=d.skew,
            usd_per_hour=usd,
            generic=d.generic,
        )

    with told(output.quiet, "reading the log") as say:
        log = read_log(run, rate=rate, concurrency=concurrency, seed=seed)
        say(f"simulating {len(log.trace):,} requests")
        found = replay(log, send)
    write(
        output,
        data=lambda: report.to_dict(found),
        text=lambda columns: report.text(found, columns),
        rows=lambda: report.rows(found),
    )
