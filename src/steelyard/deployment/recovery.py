"""What a training job does about failures: how soon it is back, its checkpoints, its spares; as text and as numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final

from steelyard.deployment.failures import NEVER, Failures, parse_failures
from steelyard.errors import InputError, UnknownName
from steelyard.units import Quantity, parse_quantity

__all__ = [
    "USUAL",
    "Checkpoint",
    "CheckpointRule",
    "Recovery",
    "parse_checkpoint",
    "parse_recovery",
    "parse_spares",
]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What happens between a failure and the next step."""

    detect_s: Annotated[float, Quantity("s", "until a failure is noticed (a guess)", ge=0, le=1e7)] = 180.0
    restart_s: Annotated[
        float,
        Quantity(
            "s",
            "until the job computes again: processes, communicators, the checkpoint read, the first step (a guess)",
            ge=0,
            le=1e7,
        ),
    ] = 300.0
    repair_s: Annotated[float, Quantity("s", "until a node that failed is back (a guess)", ge=0, le=1e9)] = 86400.0
    reclaim_s: Annotated[float, Quantity("s", "until a reclaimed node is replaced (a guess)", ge=0, le=1e9)] = 600.0
    notice_s: Annotated[
        float,
        Quantity(
            "s", "warning before a node is reclaimed; when it is enough for a checkpoint nothing is lost", ge=0, le=1e7
        ),
    ] = 0.0
    silent_s: Annotated[float, Quantity("s", "until wrong numbers are found (a guess)", ge=0, le=1e9)] = 3600.0
    spares: Annotated[int | None, "nodes that stand by; None: another is always to be had"] = None
    elastic: Annotated[bool, "goes on with fewer replicas where no node stands by"] = False


#: What is assumed of a job nobody described.
USUAL: Final = Recovery()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint takes."""

    stall_s: Annotated[float, Quantity("s", "training stands still", ge=0, le=1e7)]
    late_s: Annotated[
        float, Quantity("s", "from then until it is safe: 0 when training waits for it", ge=0, le=1e7)
    ] = 0.0
    interval_s: Annotated[float | None, "work between two, s; None: the best"] = None

    @property
    def least_s(self) -> float:
        """Work between two at least, s: the next cannot begin before the last is safe."""
        return max(self.late_s - self.stall_s, 0.0)


@dataclass(frozen=True, slots=True)
class CheckpointRule:
    """How checkpoints are saved, whatever is in them."""

    interval_s: Annotated[float | None, Quantity("s", "work between two; none: the best", gt=0, le=1e9)] = None
    waits: Annotated[bool, "training stands still until a checkpoint is safe (sync)"] = False
    storage_bytes_per_s: Annotated[float | None, Quantity("B/s", "of the whole storage; none: 1 GB/s a node", gt=0)] = (
        None
    )
    copy_bytes_per_s: Annotated[
        float, Quantity("B/s", "from a device to its host (a guess: half of a PCIe 5 slot)", gt=0)
    ] = 25e9

    def storage(self, nodes: float) -> float:
        """Bytes a second that the storage takes from so many nodes."""
        return self.storage_bytes_per_s or STORAGE_BYTES_PER_S * nodes

    def checkpoint(self, size_bytes: float, *, nodes: float, writers: float) -> Checkpoint:
        """What a checkpoint takes.

        Training stands still while every writer copies its share to its host, ``bytes / (writers x copy)``; the hosts
        write it behind, ``bytes / storage``, and with ``waits`` training stands still for that too.

        Args:
            size_bytes: weights and states of the optimizer, one copy.
            nodes: of the job.
            writers: devices that hold different parts.
        """
        copy_s = size_bytes / (writers * self.copy_bytes_per_s)
        write_s = size_bytes / self.storage(nodes)
        stall_s, late_s = (copy_s + write_s, 0.0) if self.waits else (copy_s, write_s)
        return Checkpoint(stall_s, late_s, self.interval_s)


#: What a node can write on: the storage of the Llama 3 cluster keeps up 2 TB/s for some 2,000 nodes (arXiv:2407.21783).
STORAGE_BYTES_PER_S: Final = 1e9
#: Words of a text about failures that say what comes after one.
_TIMES: Final = {f.name.removesuffix("_s"): f.name for f in fields(Recovery) if f.name.endswith("_s")}
_PAIR = re.compile(r"^(?P<name>[a-z_]+)\s*=\s*(?P<value>.+)$")


def parse_recovery(text: str, recovery: Recovery = USUAL) -> tuple[Failures, Recovery]:
    """What fails and what comes after, of one text: ``llama3, restart=6min, detect=2min, elastic``.

    Rates and clusters are those of :func:`steelyard.deployment.failures.parse_failures`; ``detect``, ``restart``,
    ``repair``, ``reclaim``, ``notice`` and ``silent`` are times, ``elastic`` goes on with fewer replicas.

    Raises:
        InputError: an item is none of these; names the field ``failures``.
    """
    rates = []
    for part in (p.strip().lower() for p in text.split(",") if p.strip()):
        pair = _PAIR.match(part)
        if part == "elastic":
            recovery = replace(recovery, elastic=True, spares=recovery.spares or 0)
        elif pair is None:
            rates.append(part)
        elif pair["name"] not in _TIMES:
            raise InputError(
                UnknownName("time of failures", pair["name"], [*_TIMES, "elastic"]).message, field="failures"
            )
        else:
            seconds = Quantity("s", ge=0, le=1e9).parse(pair["value"], f"failures.{pair['name']}")
            changes: dict[str, Any] = {_TIMES[pair["name"]]: seconds}
            recovery = replace(recovery, **changes)
    return (parse_failures(", ".join(rates)) if rates else NEVER), recovery


def parse_checkpoint(text: str) -> CheckpointRule:
    """How checkpoints are saved: ``auto`` or the work between two (``30min``), ``sync`` or ``async``, rates.

    ``storage=200GB/s`` is what the whole storage takes, ``copy=25GB/s`` what a device copies to its host.

    Raises:
        InputError: an item is none of these; names the field ``checkpoint``.
    """
    rule = CheckpointRule()
    for part in (p.strip() for p in text.split(",") if p.strip()):
        pair = _PAIR.match(part)
        if part.lower() in ("auto", "best", "async"):
            continue
        if part.lower() == "sync":
            rule = replace(rule, waits=True)
        elif pair is not None:
            known = {"storage": "storage_bytes_per_s", "copy": "copy_bytes_per_s"}
            if pair["name"] not in known:
                raise InputError(UnknownName("rate of checkpoints", pair["name"], known).message, field="checkpoint")
            rate = Quantity("B/s", gt=0).parse(pair["value"], f"checkpoint.{pair['name']}")
            changes: dict[str, Any] = {known[pair["name"]]: rate}
            rule = replace(rule, **changes)
        elif not part[:1].isdigit():
            known_words = ["auto", "sync", "async", "storage=", "copy="]
            raise InputError(UnknownName("word of checkpoints", part, known_words).message, field="checkpoint")
        else:
            rule = replace(rule, interval_s=Quantity("s", gt=0, le=1e9).parse(part, "checkpoint"))
    return rule


def parse_spares(text: str | int | None, nodes: int) -> int | None:
    """Nodes that stand by: a number, or a share of those of the job (``2%``, up to whole nodes); None: always one.

    Raises:
        InputError: it is neither; names the field ``spares``.
    """
    if text is None or text == "":
        return None
    words = str(text).strip()
    try:
        value = parse_quantity(words, "1", "spares")
    except InputError:
        value = -1.0
    if "%" in words and 0 <= value <= 1:
        return -int(-value * nodes // 1)
    if value < 0 or value != int(value) or value > 1e6:
        raise InputError(f"expected nodes (8) or a share of them (2%), got {words!r:.40}", field="spares")
    return int(value)
