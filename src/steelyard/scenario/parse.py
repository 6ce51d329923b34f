"""Text about where a model is served: pools for prompts and answers (``1P:tp8,1D:tp8``), engines, schedulers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.deployment.deployment import Pool
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all, suggest
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.machine.component import Machine

__all__ = ["engine_and_scheduler", "parse_pools", "read_pools"]

_LETTERS = {"P": "prefill", "D": "decode", "E": "encode", "M": "both"}
_POOL = re.compile(r"^(\d+)\s*([PDEM])(?::([a-z0-9]*))?(?:@(.+))?$", re.IGNORECASE)
_DEGREES = re.compile(r"(tp|pp|dp|ep|cp)(\d+)")


def engine_and_scheduler(name: str) -> tuple[str, str]:
    """``(engine, scheduler)``: an engine of the catalogue with its own scheduler, or a scheduler on the usual engine.

    Raises:
        UnknownName: neither.
    """
    from steelyard.deployment.engine import engines, find_engine, schedulers

    if not name:
        return "", ""
    try:
        return find_engine(name).name, ""
    except UnknownName:
        for scheduler in schedulers():
            if normalise(scheduler) == normalise(name):
                return "", scheduler
    raise UnknownName(
        "engine",
        name,
        [*(n for n in engines() if "@" not in n), *schedulers()],
        hint="`steelyard ls engines` lists all",
    )


def parse_pools(
    text: str, cluster: Cluster, plan: Plan, flags: Mapping[str, Any], replicas: int = 1
) -> tuple[tuple[Pool, ...], tuple[Cluster, ...]]:
    """Read ``1P:tp8,1D:tp8``: replicas, role (P prefill, D decode, E encode, M mixed), degrees, machine.

    ``2P:tp4,1D:tp8dp2`` gives each pool its degrees, those of ``plan`` where a pool names none;
    ``1P:tp8@h100_sxm`` a machine of its own.

    Args:
        text: pools, separated by commas.
        cluster: devices for the pools that name no machine; their count must be what the pools use.
        plan: formats, engine and degrees of every pool.
        flags: of its engine.
        replicas: copies of all pools.

    Raises:
        InputError: it cannot be read, or the devices do not add up.
    """
    pools, clusters = [], []
    used = 0
    for count, role, sizes, machine in read_pools(text, cluster.machine):
        own = replace(plan, **sizes)  # type: ignore[arg-type]
        where = cluster_of(machine) if machine else cluster
        pools.append(Pool(where.machine.name, own, count * replicas, role, flags, description=where.machine))
        clusters.append(where)
        used += 0 if machine else own.devices * count
    if used not in (0, cluster.count):
        raise InputError(f"the pools use {used} devices, but {cluster} has {cluster.count}", field="disaggregate")
    return tuple(pools), tuple(clusters)


def read_pools(text: str, given: Machine | None = None) -> list[tuple[int, str, dict[str, int], Machine | None]]:
    """The words of :func:`parse_pools`: ``(replicas, role, degrees, machine or None)`` of each pool.

    Args:
        text: the pools.
        given: a machine that may be of one's own, known by its name.

    Raises:
        InputError: every part that cannot be read.
    """
    pools: list[tuple[int, str, dict[str, int], Machine | None]] = []
    problems: list[Problem] = []
    for part in (p.strip() for p in text.split(",")):
        found = _POOL.match(part)
        if not found:
            problems.append(Problem("disaggregate", _unreadable(part)))
            continue
        count, letter, degrees, machine = found.groups()
        degrees_named = dict(_DEGREES.findall((degrees or "").lower()))
        sizes = {k: int(v) for k, v in degrees_named.items()}
        whole = "".join(f"{k}{v}" for k, v in degrees_named.items()) == (degrees or "").lower()
        if not whole or int(count) < 1 or 0 in sizes.values():
            words = f"expected degrees such as tp8 or tp4dp2 and one replica at least, got {part!r}"
            problems.append(Problem("disaggregate", words))
            continue
        where = None
        if machine:
            try:
                named = machine.strip()
                where = given if given is not None and named == given.name else find_machine(named)
            except InputError as error:
                problems += [Problem("disaggregate", p.message) for p in error.problems]
                continue
        pools.append((int(count), _LETTERS[letter.upper()], sizes, where))
    raise_all(problems)
    return pools


def _unreadable(part: str) -> str:
    """What is wrong with a part that is no pool."""
    head, colon, rest = part.partition(":")
    if colon and not head[:1].isdecimal() and suggest(head, ["semi"]):
        return f"unknown word {head!r}; did you mean 'semi:{rest or 0.6}'?"
    known = "P (prompts), D (answers), E (encoders), M (both)"
    letter = re.match(r"^\d+\s*([a-z])(?:[:@]|$)", part, re.IGNORECASE)
    if letter and letter[1].upper() not in _LETTERS:
        return f"unknown pool {letter[1]!r} in {part!r}; known: {known}"
    return f"expected pools such as 1P:tp8,1D:tp8, 2P:tp4@h100_sxm, 1A:8@h20,1F:8@h800 or semi:0.6, got {part!r}"
