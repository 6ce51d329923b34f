"""Names and words of a study, each checked once: what nothing answers to is said with its path before any point."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from steelyard.deployment.engine import find_engine
from steelyard.deployment.formats import find_format
from steelyard.documents import is_file, no_file
from steelyard.errors import InputError, Problem, UnknownName, normalise
from steelyard.machine.component import Machine
from steelyard.scenario.fields import fields_of
from steelyard.scenario.parse import engine_and_scheduler, read_pools
from steelyard.scenario.scenario import FORMATS, read_cluster, read_model
from steelyard.scenario.slo import METRICS, parse_target
from steelyard.studies.files import located
from steelyard.techniques._registry import FLAGS, read_techniques

__all__ = ["name_problems"]

#: Problems of one table's field before the rest of its values is left unread: looking for near names takes time.
_MOST = 20


def name_problems(kind: str, folder: str, given: Iterable[tuple[str, str, Any]]) -> list[Problem]:
    """What is wrong with the names and words of a study.

    Args:
        kind: of the study.
        folder: where relative paths begin.
        given: path, field and value of everything that was given.
    """
    values = list(given)
    generic = any(value is True for _, name, value in values if name == "generic")
    checks = _checks(kind, generic, partial(_machines, folder, [v for _, n, v in values if n == "on"]))
    problems: list[Problem] = []
    wrong: dict[str, int] = {}
    for path, name, value in values:
        check, place = checks.get(name), path.partition("[")[0]
        if check is None or value == "" or wrong.get(place, 0) >= _MOST:
            continue
        try:
            check(located(folder, {name: value})[name])
        except InputError as error:
            wrong[place] = wrong.get(place, 0) + 1
            problems += [Problem(path, p.message) for p in error.problems]
    return problems


def _checks(kind: str, generic: bool, machines: Callable[[], list[Machine]]) -> dict[str, Callable[[Any], Any]]:
    """A reader by field; it raises :class:`InputError`. ``machines`` are those that pools may name."""
    found: dict[str, Callable[[Any], Any]] = {"model": partial(read_model, generic=generic)}
    found |= {n: partial(_chosen, n, f.choices) for n, f in fields_of(kind).items() if f.choices}
    found["techniques"] = partial(_technique, "techniques")
    if kind == "plan":
        found |= _of_plans()
    elif kind == "train":
        found |= _of_training()
    else:
        found |= {"on": read_cluster, **dict.fromkeys(FORMATS, find_format)}
        found["engine"] = find_engine if kind == "estimate" else engine_and_scheduler
    found |= _of_traffic(kind) if kind in ("simulate", "plan") else {}
    return found | ({"disaggregate": partial(_pools, machines)} if kind == "simulate" else {})


def _of_plans() -> dict[str, Callable[[Any], Any]]:
    from steelyard.search.api import check_word

    names = ("on", "engine", "weights", "kv", "mode", "budget", "max_power", "rack_power", "headroom", "speculate")
    return {name: partial(check_word, name) for name in names}


def _of_training() -> dict[str, Callable[[Any], Any]]:
    from steelyard.deployment.frameworks import find_framework
    from steelyard.deployment.optimizers import find_optimizer
    from steelyard.scenario.network import asks_net

    def model(name: Any) -> None:
        if not asks_net({"model": name}):  # networks are read where they are weighed
            read_model(name, True)

    return {"model": model, "on": read_cluster, "framework": find_framework, "optimizer": find_optimizer}


def _of_traffic(kind: str) -> dict[str, Callable[[Any], Any]]:
    from steelyard.traffic.arrivals import parse_arrivals, parse_rate
    from steelyard.traffic.lengths import parse_lengths
    from steelyard.traffic.readers import find_file
    from steelyard.units import parse_quantity

    fields = fields_of(kind)
    found: dict[str, Callable[[Any], Any]] = {}
    for name in (n for n, f in fields.items() if "Lengths" in f.also):
        found[name] = partial(_of_text, parse_lengths, name)
    for name in ("duration", "start", "think", "restart"):
        found[name] = partial(parse_quantity, unit="s", field=name)
    for metric in METRICS:
        found[metric.removesuffix("_s")] = partial(_of_text, parse_target, metric)
    found["rate"] = parse_rate
    found["arrivals"] = lambda v: parse_arrivals(str(v), 1.0)
    found["peak"] = lambda v: parse_quantity(str(v).strip().removesuffix("x"), "1", "peak")
    found["trace"] = lambda v: find_file(str(v))
    found["workflow"] = _there
    if kind == "simulate":
        from steelyard.simulation.policies import check_policy
        from steelyard.simulation.request_arrays import ROUTERS

        found["policy"] = check_policy
        found["router"] = partial(_chosen, "router", tuple(ROUTERS))
        for name in (*FLAGS, "mtbf", "outages"):
            found[name] = partial(_technique, name)
    return found


def _of_text(read: Callable[[str, str], Any], more: str, value: Any) -> None:
    read(str(value), more)


def _technique(name: str, value: Any) -> Any:
    return read_techniques({name: value if isinstance(value, bool) else str(value)})


def _pools(machines: Callable[[], list[Machine]], text: Any) -> None:
    """Pools, or a technique that shares devices between them; a machine of one's own is known by its name."""
    if _technique("disaggregate", text):
        return
    try:
        read_pools(str(text))
    except InputError:
        for machine in machines():
            if machine.name in str(text):
                read_pools(str(text), machine)
                return
        raise


def _machines(folder: str, given: Iterable[Any]) -> list[Machine]:
    """The machines of a study that can be read."""
    found = []
    for on in given:
        with suppress(InputError):
            found.append(read_cluster(located(folder, {"on": on})["on"]).machine)
    return found


def _there(path: Any) -> None:
    if not is_file(str(path)):
        raise no_file(str(path), "workflow")


def _chosen(name: str, choices: tuple[str, ...], value: Any) -> None:
    if normalise(str(value)) not in map(normalise, choices):
        raise UnknownName(name, str(value), choices)
