"""From a study to points: every combination in a fixed order, each with the hash of what decides its answer.

The hash covers the kind, the version of Steelyard and of the answer's form, the inputs with every default resolved,
the descriptions of model and machine, fitted parameters, and the contents of the files an input names. Equal scenarios
have equal hashes in every study, and are priced once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from sys import intern
from typing import Any

from steelyard._version import __version__
from steelyard.deployment.plan import DEGREES
from steelyard.documents import read_bytes
from steelyard.errors import InputError, raise_all
from steelyard.folders import catalogue_folders
from steelyard.machine.cluster import Cluster, parse_cluster
from steelyard.provenance import content_hash
from steelyard.scenario.fields import FLAGS, GROUPS, REQUIRED, UNSAID, fields_of, study_fields
from steelyard.scenario.scenario import Scenario, place
from steelyard.scenario.words import Problems, read_words
from steelyard.studies.checks import name_problems
from steelyard.studies.files import by_content, located
from steelyard.studies.store_columns import SCHEMAS, columns_of
from steelyard.studies.study import Study, given_in
from steelyard.workload.catalogue import Model, load_model

__all__ = [
    "MAX_POINTS",
    "Point",
    "answered_by",
    "check_points",
    "expand_study",
    "scenario_of",
    "shared_inputs",
    "written_inputs",
]

#: Points of one study of estimates at most, and of one of simulations or plans.
MAX_POINTS, MAX_RUNS = 250_000, 100_000
#: Points times tables of exclusions at most.
MAX_MATCHED = 20_000_000

#: Fields of an estimate that points of one program differ in.
SIZES = GROUPS["batch"]
#: Fields that decide model, machine, plan and engine.
SHARED = (*(n for n in fields_of("estimate") if n not in SIZES), "replicas")
#: Fields that make no traffic: two points that differ in these only see the same arrivals.
_NO_TRAFFIC = (*SHARED, *GROUPS["slo"], "policy", "router", "stop_after_s", "seed", "objective", "max_gpus")


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a study."""

    ordinal: int
    """Place in the study."""
    case: str
    repeat: int | None
    """None where the study has no repeats."""
    swept: tuple[str, ...]
    """Names of the study's axes."""
    values: Mapping[str, Any]
    """Every field that was given, as the question takes it."""
    told: Mapping[str, Any]
    """Input columns that the points of a group share."""
    hash: str
    group: str
    """Points of one group share a program and are priced together."""

    @property
    def axes(self) -> dict[str, Any]:
        """Swept fields and their values here."""
        found = {k: self.case if k == "case" else self.values[k] for k in self.swept if k == "case" or k in self.values}
        return found if self.repeat is None else {**found, "repeat": self.repeat}

    @property
    def inputs(self) -> dict[str, Any]:
        """The input columns of the store: resolved."""
        if self.group.startswith("train.") or self.group.endswith(self.hash):  # priced by itself
            return dict(self.told)
        return {**self.told, **_sizes(self.values)}


def expand_study(study: Study) -> list[Point]:
    """Every point, in the order of the file: cases, then zipped axes, then the grid with its last field fastest.

    Raises:
        InputError: names that nothing answers to (all of them), too many points, or none.
    """
    check_points(study)
    points: list[Point] = []
    swept, excluded = tuple(study.axes), _excluded(study)
    for case, values in _combinations(study):
        if any(_matches(values, table) for table in excluded):
            continue
        for repeat in range(study.repeats) if study.repeats else (None,):
            points.append(_point(study, len(points), case, repeat, swept, values))
    if not points:
        raise InputError("no point is left", field="exclude")
    return points


def check_points(study: Study) -> None:
    """Refuse names that nothing answers to (all of them) and too many points. Raises :class:`InputError`.

    What files of models and machines said before is forgotten: they are read as they are now.
    """
    for kept in (_model, _cluster, _resolved, answered_by):
        kept.cache_clear()
    raise_all(name_problems(study.kind, study.folder, given_in(study)))
    total = (len(study.cases) or 1) * max(1, study.repeats)
    for several in study.grid.values():
        total *= len(several)
    for table in study.zips:
        total *= len(next(iter(table.values()), [0]))
    most = MAX_POINTS if study.kind == "estimate" else MAX_RUNS
    if total > most:
        raise InputError(f"{total:,} points; at most {most:,}", field="grid")
    if total * len(study.exclude) > MAX_MATCHED:
        words = (
            f"{total:,} points and {len(study.exclude):,} tables to leave some out; at most {MAX_MATCHED:,} together"
        )
        raise InputError(words.replace("together", "as a product"), field="exclude")


def _combinations(study: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """Case and all values of every combination."""
    for case in study.cases or (None,):
        over = dict(case.values) if case else {}
        axes: list[list[dict[str, Any]]] = [[{}]]
        for table in study.zips:
            if table and not set(table) & set(over):
                n = len(next(iter(table.values())))
                axes.append([{name: table[name][i] for name in table} for i in range(n)])
        axes += [[{name: v} for v in values] for name, values in study.grid.items() if name not in over]
        for combination in product(*axes):
            values = {**study.fixed, **over}
            for part in combination:
                values |= {name: v for name, v in part.items() if v is not None}
            yield case.name if case else "", values


def _excluded(study: Study) -> list[dict[str, frozenset[Any]]]:
    return [{name: frozenset(wanted) for name, wanted in table.items()} for table in study.exclude if table]


def _matches(values: Mapping[str, Any], table: Mapping[str, frozenset[Any]]) -> bool:
    return all(values.get(name) in wanted for name, wanted in table.items())


def _sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    defaults = fields_of("estimate")
    return {name: values.get(name, defaults[name].default) for name in SIZES}


def _point(
    study: Study, ordinal: int, case: str, repeat: int | None, swept: tuple[str, ...], values: dict[str, Any]
) -> Point:
    if repeat is not None:
        values = {**values, "seed": _seed(study, values, repeat)}
    place = (study, ordinal, case, repeat, swept, values)
    if study.kind == "plan":
        return _whole(*place, {}, "")
    if study.kind == "train":
        alike = content_hash([values.get("model"), values.get("on")])  # one after another in one process
        return replace(_whole(*place, _trained(study.folder, values), ""), group=intern(f"train.{alike}"))
    key = tuple(values.get(name) for name in SHARED)
    try:
        shared, digest, scenario = _resolved(study.kind, study.folder, key)
    except InputError:
        # refused when it is priced, with the reason; until then it is what was written
        return _whole(*place, {}, "")
    if study.kind == "simulate":
        if values.get("disaggregate") or scenario.words.get("disaggregate"):  # the degrees are those of the pools
            shared = {k: v for k, v in shared.items() if k not in DEGREES}
        return _whole(*place, shared, digest)
    sizes = _sizes(values)
    group = f"{study.kind}.{digest}" + (".1" if sizes["isl"] == 1 else "")  # prompts of one token lower differently
    name = _short(answered_by(study.kind) + digest + ".".join(str(v) for v in sizes.values()))
    return Point(ordinal, case, repeat, swept, values, shared, name, intern(group))


def _whole(
    study: Study,
    ordinal: int,
    case: str,
    repeat: int | None,
    swept: tuple[str, ...],
    values: dict[str, Any],
    shared: Mapping[str, Any],
    digest: str,
) -> Point:
    """A point priced by itself; its hash covers everything given."""
    defaults = {n: f.default if f.default is not REQUIRED else None for n, f in study_fields(study.kind).items()}
    rest = {k: v for k, v in values.items() if not (digest and k in SHARED and k != "replicas")}
    rest = {k: by_content(study.folder, v) for k, v in rest.items() if v != defaults.get(k)}
    name = content_hash([answered_by(study.kind), digest, rest])
    inputs = written_inputs(study, values) | dict(shared)
    return Point(ordinal, case, repeat, swept, values, inputs, name, f"{study.kind}.{name}")


def written_inputs(study: Study, values: Mapping[str, Any]) -> dict[str, Any]:
    """Input columns as they were written, where nothing could be resolved, with the defaults of the rest."""
    known = columns_of(study.kind)
    defaults = {n: f.default if f.default is not REQUIRED else None for n, f in study_fields(study.kind).items()}
    told = {k: v for k, v in {**defaults, **values}.items() if k in known and v not in (None, "", ())}
    return {k: _text(v) if known[k].type == "text" else v for k, v in told.items()}


def _text(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _seed(study: Study, values: Mapping[str, Any], repeat: int) -> int:
    """From the traffic and the number of the repeat, so that deployments are compared on the same arrivals."""
    if study.kind == "train":  # all see the same draws
        return int(content_hash(["train", repeat]), 16) % 2**31
    traffic = {
        k: by_content(study.folder, v) for k, v in values.items() if k not in _NO_TRAFFIC and not k.startswith(FLAGS)
    }
    return int(content_hash([traffic, repeat]), 16) % 2**31


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def answered_by(kind: str) -> str:
    """Version of the program and of the answer, and a digest of prices and fitted parameters on this computer."""
    digest = hashlib.sha256()
    parts = ["calibration", "prices", "engines", "networks", "nodes"]
    parts += ["machines", "models"] if kind in ("plan", "train") else []  # elsewhere the ones asked for count alone
    parts += ["frameworks", "optimizers", "failures", "nets"] if kind == "train" else []
    for root in catalogue_folders():
        for part in parts:
            for file in sorted((root / part).rglob("*.toml")) if (root / part).is_dir() else ():
                digest.update(file.relative_to(root).as_posix().encode() + b"\0" + read_bytes(file))
    return f"{kind}/{SCHEMAS[kind]}/{__version__}/{digest.hexdigest()[:16]}/"


@lru_cache(maxsize=64)
def _model(name: str, generic: bool) -> tuple[Model, str]:
    found = load_model(name, generic=generic)
    return found, content_hash([_canonical(found.transformer), found.weight_bytes])


@lru_cache(maxsize=256)
def _cluster(text: str) -> tuple[Cluster, str]:
    found = parse_cluster(text)
    return found, content_hash(_canonical(found))


def _canonical(value: Any) -> Any:
    """Plain data with a fixed order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(v) for v in value)
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


@lru_cache(maxsize=65536)
def _resolved(kind: str, folder: str, key: tuple[Any, ...]) -> tuple[dict[str, Any], str, Scenario]:
    """Input columns, digest and scenario (batch and lengths 1) of one combination of :data:`SHARED`."""
    given = located(folder, {n: v for n, v in zip(SHARED, key, strict=True) if v is not None})
    problems = Problems()
    model, model_digest = _model(given["model"], given.get("generic", False))
    cluster, cluster_digest = _cluster(given["on"])
    words = read_words(kind, {**given, "model": model, "on": cluster}, problems)
    scenario = place(kind, words, problems)
    copies = words.get("replicas", 1)
    shared = {c.name: scenario.value(c.name) for c in columns_of(kind).values() if c.name in SHARED}
    shared |= {"model": model.transformer.name, "on": str(cluster), "machine": cluster.machine.name}
    shared |= {"devices": cluster.count * copies, "dp": scenario.plan.dp * copies}
    if (scenario.words.get("flags") or {}).get("scheduler"):
        shared["engine"] = scenario.words["flags"]["scheduler"]
    beside = [{n: words[n]} for n in UNSAID if words.get(n)]
    digest = content_hash([shared, model_digest, cluster_digest, scenario.usd_per_hour, *beside])
    return shared, digest, scenario


def _trained(folder: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Input columns of a training that are resolved: its model and devices; what cannot be is as it was written."""
    given = located(folder, {n: v for n, v in values.items() if n in ("model", "on")})
    found: dict[str, Any] = {}
    with suppress(InputError):
        cluster = _cluster(given["on"])[0]
        found |= {"on": str(cluster), "machine": cluster.machine.name, "devices": cluster.count}
        found["model"] = _model(given["model"], values.get("generic", False))[0].transformer.name
    return found


def shared_inputs(folder: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Input columns of an estimate's shared fields, resolved. Raises :class:`InputError` as :func:`scenario_of`."""
    return _resolved("estimate", folder, tuple(values.get(name) for name in SHARED))[0]


def scenario_of(folder: str, values: Mapping[str, Any]) -> Scenario:
    """The scenario of an estimate's shared fields (batch and lengths 1); kept for the next point that shares them.

    Raises:
        InputError: names or degrees that cannot be.
    """
    return _resolved("estimate", folder, tuple(values.get(name) for name in SHARED))[2]
