"""The devices of a question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.errors import InputError, UnknownName, show
from steelyard.machine.cluster import Cluster, cluster_of, parse_cluster
from steelyard.machine.component import Machine
from steelyard.techniques._base import relabelled
from steelyard.workload.catalogue import find_model

__all__ = ["read_cluster", "takes"]


def read_cluster(on: str | Cluster | Machine, read: Callable[[str], Cluster] = parse_cluster) -> Cluster:
    """The devices meant, text as ``read`` reads it. Raises :class:`InputError`."""
    if isinstance(on, Cluster | Machine):
        return on if isinstance(on, Cluster) else cluster_of(on)
    try:
        return read(on)
    except UnknownName as error:
        message = error.message
        if takes(find_model, on):
            message = f"{on!r} is a model; expected a machine: NAME or NAME:COUNT"
        elif "," in on:
            message = f"expected one machine: NAME or NAME:COUNT, got {show(on)}"
        raise InputError(message, field="on") from None
    except InputError as error:
        raise relabelled(relabelled(error, "machine", "on"), "file", "on") from None


def takes(reader: Callable[[str], Any], text: str) -> bool:
    """Whether a reader takes a text."""
    try:
        reader(text)
    except InputError:
        return False
    return True
