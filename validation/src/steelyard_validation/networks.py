"""Networks of timm as graphs, their families, and which families the fits never see."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.estimation.network import estimates_of
from steelyard.scenario.network import read_net_scenario
from steelyard.scenario.words import Problems
from steelyard.workload.ingest.kept_graph import read_graph
from steelyard.workload.nets import is_net, load_net
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["FUSED_FROM", "KEPT", "answers", "family_of", "held_out", "largest_fit", "split_of", "timm_graph"]

#: Folder of graphs ``MODEL@SIZE.json.gz`` traced before, so that a run does not trace a thousand networks again.
KEPT = "STEELYARD_GRAPHS"
#: Release of PyTorch (2.9.1 is 291) from which on the tables' networks are fused.
FUSED_FROM = 291
_FAMILY = re.compile(r"(?:tf_|gc_|legacy_|test_|skw?|sew?|eca_?|cs3|cs)?([a-z]+)")


def family_of(model: str) -> str:
    """The letters a name of timm begins with, without the marks of ports and variants: ``tf_efficientnet_b0``."""
    found = _FAMILY.match(model)
    return found[1] if found else model


def held_out(family: str) -> bool:
    """Whether a family plays no part in any fit: one in four, by its name."""
    return zlib.crc32(family.encode()) % 4 == 0


def split_of(model: str) -> str:
    """``fit`` or ``left-out``."""
    return "left-out" if held_out(family_of(model)) else "fit"


@cache
def timm_graph(model: str, size: int, fused: bool = False) -> TensorGraph | str:
    """The graph of a network of timm at a size of image, or why there is none.

    Kept graphs come first, then a trace where timm is installed, then the catalogue's network of the same name.

    Args:
        model, size: its name, and the pixels of a side.
        fused: branches that are one convolution after training are one, as tables from PyTorch 2.9 on were measured
            (their counts of work say so); kept graphs ``MODEL@SIZE+fused`` are such.
    """
    if folder := os.environ.get(KEPT):
        for name in (f"{model}@{size}+fused", f"{model}@{size}") if fused else (f"{model}@{size}",):
            path = Path(folder) / f"{name}.json.gz"
            if path.is_file():
                return read_graph(path)
    try:
        if find_spec("timm") is not None:
            return load_net(f"timm:{model}", size=size)
        if is_net(model):
            return load_net(model, size=size)
    except InputError as error:
        return str(error)[:80]
    return "timm is not installed, and the catalogue has no network of this name"


def largest_fit(graph: TensorGraph, words: Mapping[str, Any], batches: Any) -> float | str:
    """The largest of some batches that the public verb says fits; 0: none. Or why there is no answer."""
    try:
        many = read_net_scenario({**words, "model": graph, "batch": 1}, Problems()).with_batches(np.asarray(batches))
        return max((float(e.scenario.batch) for e in estimates_of(many) if e.fits), default=0.0)
    except InputError as error:
        return str(error)[:80]


def answers(graph: TensorGraph, words: Mapping[str, Any], batches: Any) -> Any:
    """Time, ends of its interval and limit ``[batches, 4]`` as the public verb answers; or why there is none."""
    try:
        many = read_net_scenario({**words, "model": graph, "batch": 1}, Problems()).with_batches(np.asarray(batches))
        return np.array([(e.latency_s, *e.interval["latency_s"], e.limit_s) for e in estimates_of(many)])
    except InputError as error:
        return str(error)[:80]
