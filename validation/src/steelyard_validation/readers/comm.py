"""Collectives: aiconfigurator (NCCL, oneCCL and all-reduces of serving libraries), APEX, Vidur, LLMCompass, DeepEP.

Sizes mean the full tensor, as in ``steelyard.cost.collective``. aiconfigurator counts elements, Vidur bytes, APEX KiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.collective import LIBRARIES
from steelyard.deployment.formats import find_format
from steelyard.errors import SteelyardError
from steelyard.machine.classes import stack_named
from steelyard.measurements import kernel_tables as tables
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_of, read_frame
from steelyard_validation.readers import _ops

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.machine.component import Machine

__all__ = ["aiconfigurator", "apex", "apex_rows", "deepep", "llmcompass", "vidur"]

#: Machines whose captured rows inside one node the calibration reads (``fits.collective``).
FITTED = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s", "v100_pcie")
APEX_MACHINES = {"H100-SXM-80GB": "h100_sxm", "H200-SXM-141GB": "h200_sxm", "V100-PCIE-16GB": "v100_pcie"}

#: Network between the nodes of a table that does not name it: APEX's largest messages move 1.0 to 1.1 GB/s a node.
NETWORKS = {"collectives_h100_h200_v100": "ethernet_10"}

#: Vidur's fabrics: the device and how many share a node. Pairs: two devices on one bridge, pairs joined by PCIe.
VIDUR_FABRICS = {
    "a100_dgx": ("a100_sxm", 8),
    "h100_dgx": ("h100_sxm", 8),
    "a100_pairwise_nvlink": ("a100_pcie", 4),
    "h100_pairwise_nvlink": ("h100_nvl", 4),
    "a40_pairwise_nvlink": ("a40", 4),
}
#: Host time of one eager call of a serving library's all-reduce, s, by machine family, and what one version of SGLang
#: adds: below it those rows time Python. Source: medians of messages up to 64 KiB of the fitted (even) sizes; L40S: of
#: two devices, more of which are bound by the copies.
EAGER_CALL_S = {"ampere": 45e-6, "ada": 49e-6, "hopper": 21e-6, "blackwell": 21e-6}
SLOWER_VERSIONS = {"0.5.14": 9e-6}
OTHER_HOST_WHY = "another host of the same machine name: its PCIe layout is not stated and its times differ tenfold"
#: Format of the rows an expert-parallel exchange sends (DeepEP's defaults).
DISPATCH_FORMAT, COMBINE_FORMAT = "fp8", "bf16"


def aiconfigurator(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """``aic_ops/comm_*.parquet``."""
    for path in ask.files(folder, "comm_*.parquet"):
        if ask.wants("comm") or ask.wants(path.stem):
            yield from guarded(ask, path, _aiconfigurator, path, ask)


def _aiconfigurator(path: Path, ask: Ask) -> Iterator[Comparison]:
    rows = tables.collective_rows(path)
    machines = {str(name): machine_of(str(name)) for name in rows["machine"].unique()}
    hosts = {name: EAGER_CALL_S.get(m.family, 0.0) if m else 0.0 for name, m in machines.items()}
    host_s = rows["machine"].map(hosts) + rows["version"].map(SLOWER_VERSIONS).fillna(0.0)
    other = [v in tables.OTHER_HOST.get(m, ()) for m, v in zip(rows["machine"], rows["version"], strict=True)]
    rows = rows.assign(host_s=host_s.where(rows["eager"], 0.0), per_node=0, other_host=other)
    frame = rows.rename(columns={"machine": "device"}).drop(columns="version")
    yield from _compare(frame.drop_duplicates(ignore_index=True), "comm", path.stem, ask, FITTED)


def apex(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """``apex_comm``: nccl-tests. Sizes rounded to 0 KiB are dropped, as are rows of more devices than a node."""
    for path in ask.files(folder, "collectives_*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, _apex, path, ask)


def _apex(path: Path, ask: Ask) -> Iterator[Comparison]:
    yield from _compare(apex_rows(path), path.stem, path.stem, ask, ("v100_pcie",))


def apex_rows(path: Path) -> pd.DataFrame:
    """Rows of APEX's table: device, library, eager, operation, message_bytes, devices, per_node, time_s."""
    raw = read_frame(path, ("gpu", "collective", "num_nodes", "num_gpus_per_node", "size(kb)", "time(us)"))
    raw = raw[(raw["size(kb)"] > 0) & (raw["num_gpus_per_node"] <= 8)].reset_index(drop=True)
    pair = raw["collective"] == "sendrecv"
    return raw[[]].assign(
        device=raw["gpu"].map(lambda x: APEX_MACHINES.get(x, str(x))),
        library="nccl",
        eager=False,
        operation=raw["collective"].map(tables.OPERATIONS),
        message_bytes=raw["size(kb)"].astype(float) * 1024.0,
        devices=(raw["num_nodes"] * raw["num_gpus_per_node"]).where(~pair, 2).astype(int),
        per_node=raw["num_gpus_per_node"].astype(int),
        time_s=raw["time(us)"].astype(float) * 1e-6,
    )


def llmcompass(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """``hw/allreduce_4xA100_NVLink_us.csv``: all-reduces of four A100 of one node, as LLMCompass measured them."""
    for path in ask.files(folder, "allreduce_4xA100_NVLink_us.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, _llmcompass, path, ask)


def _llmcompass(path: Path, ask: Ask) -> Iterator[Comparison]:
    raw = read_frame(path, ("bytes", "latency_us"))
    frame = raw[[]].assign(
        device="a100_sxm",
        library="nccl",
        eager=False,
        operation="all_reduce",
        message_bytes=raw["bytes"].astype(float),
        devices=4,
        per_node=0,
        time_s=raw["latency_us"].astype(float) * 1e-6,
    )
    yield from _compare(frame, path.stem, path.stem, ask, ())


def vidur(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """``vidur_profiling/network.parquet``: medians of eager ``torch.distributed`` calls."""
    path = folder / "network.parquet"
    if ask.wants("network"):
        yield from guarded(ask, path, _vidur, path, ask)


def _vidur(path: Path, ask: Ask) -> Iterator[Comparison]:
    medians = ("time_stats.all_reduce.median", "time_stats.send_recv.median")
    raw = read_frame(path, ("fabric", "op", "num_workers", "size", "devices_per_node"), optional=medians)
    known = [VIDUR_FABRICS.get(str(f), (str(f), 0)) for f in raw["fabric"]]
    frame = raw[["fabric"]].assign(
        device=[name for name, _ in known],
        library="nccl",
        eager=True,
        operation=raw["op"].map(tables.OPERATIONS),
        message_bytes=raw["size"].astype(float),
        devices=raw["num_workers"].astype(int),
        per_node=raw["devices_per_node"].astype(int),
        time_s=raw[medians[0]].fillna(raw[medians[1]]).astype(float) * 1e-3,
    )
    yield from _compare(frame, "network", path.stem, ask, ())


def _host_s(part: pd.DataFrame, machine: Machine, eager: bool) -> Any:
    """Host time (s) per call: the table's where it is known, else that of a launch from Python."""
    if "host_s" in part:
        return part["host_s"].to_numpy(float)
    return stack_named(machine.launch).launch_s if eager else 0.0


def _compare(frame: pd.DataFrame, table: str, stem: str, ask: Ask, fitted: Sequence[str]) -> Iterator[Comparison]:
    """Columns device, library, eager, operation, message_bytes, devices, per_node (0: the catalogue's), time_s.

    ``fitted``: machines whose captured rows of this table, inside one node, the calibration reads.
    """
    frame = frame[frame["time_s"] > 0]
    frame = frame.iloc[ask.pick(len(frame), stem)].reset_index(drop=True)
    nodes = np.where(frame["per_node"] > 0, frame["devices"] > frame["per_node"], False)
    if "other_host" not in frame:
        frame = frame.assign(other_host=False)
    keys = ["device", "library", "eager", "operation", "per_node", "other_host"]
    for key, part in frame.assign(many=nodes).groupby([*keys, "many"], dropna=False):
        name, library, eager, operation, per_node, other_host, many = key
        machine = machine_of(str(name))
        conditions = {" eager": eager, " across nodes": many, " other host": other_host}
        label, phase = str(library), str(operation) + "".join(words for words, true in conditions.items() if true)
        time_s = part["time_s"].to_numpy(float)

        def missing(
            why: str,
            name: Any = name,
            machine: Any = machine,
            label: str = label,
            time_s: Any = time_s,
            phase: str = phase,
        ) -> Comparison:
            shown = machine.name if machine else str(name)
            return comparison(
                ask, table, metric="time_s", phase=phase, machine=shown, family=label, measured=time_s, why=why
            )

        if machine is None or not isinstance(operation, str) or library not in LIBRARIES:
            yield missing("machine not in the catalogue" if machine is None else "collective or library not modelled")
            continue
        if other_host:
            yield missing(OTHER_HOST_WHY)
            continue
        try:
            answer = _ops.collective(
                machine,
                library,
                operation,
                part["message_bytes"].to_numpy(float),
                part["devices"].to_numpy(float),
                per_node=int(per_node),
                network=NETWORKS.get(stem, "") if many else "",
                host_s=_host_s(part, machine, bool(eager)),
            )
        except SteelyardError as error:
            yield missing(str(error))
            continue
        size = part["message_bytes"]
        sized = (size >= tables.SMALLEST_BYTES) & (size <= tables.LARGEST_BYTES)
        known = answer.fitted and machine.name in fitted and not (eager or many or other_host)
        if "host_s" in part and eager:  # the host time above was taken from even sizes
            known, sized = answer.fitted, size > 0
        split = np.where(tables.even_size(part) & sized, "fit", "left-out") if known else "all"
        yield comparison(
            ask,
            table,
            metric="time_s",
            phase=phase,
            machine=machine.name,
            family=label,
            measured=time_s,
            split=split,
            **answer.columns,
        )


def deepep(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """``aic_ops/wideep_deepep_*.parquet``: dispatch and combine of DeepEP, as the all-to-all an estimate prices."""
    for path in ask.files(folder, "wideep_deepep_*.parquet"):
        if ask.wants("deepep") or ask.wants(path.stem):
            yield from guarded(ask, path, _deepep, path, ask)


def _deepep(path: Path, ask: Ask) -> Iterator[Comparison]:
    raw = read_frame(
        path, ("system", "node_num", "hidden_size", "num_token", "num_topk", "num_experts"), optional=_DEEPEP_TIMES
    )
    raw = raw.iloc[ask.pick(len(raw), path.stem)]
    low_latency = raw["dispatch_avg_t_us"].notna()
    for (system, quick), part in raw.assign(quick=low_latency).groupby(["system", "quick"]):
        machine = machine_of(str(system))
        for step, fmt in (("dispatch", DISPATCH_FORMAT), ("combine", COMBINE_FORMAT)):
            if quick:
                time_s = part[f"{step}_avg_t_us"].to_numpy(float) * 1e-6
            else:
                time_s = (part[f"{step}_transmit_us"] + part[f"{step}_notify_us"]).to_numpy(float) * 1e-6
            yield from _exchange(
                machine, str(system), step, fmt, "low latency" if quick else "normal", part, time_s, ask
            )


_DEEPEP_TIMES = (
    "dispatch_avg_t_us",
    "combine_avg_t_us",
    "dispatch_transmit_us",
    "dispatch_notify_us",
    "combine_transmit_us",
    "combine_notify_us",
    "dispatch_sms",
    "combine_sms",
)


def _exchange(
    machine: Machine | None, system: str, step: str, fmt: str, family: str, part: pd.DataFrame, time_s: Any, ask: Ask
) -> Iterator[Comparison]:
    from steelyard.machine.cluster import cluster_of

    about = {
        "metric": "time_s",
        "phase": step,
        "machine": machine.name if machine else system,
        "family": family,
        "measured": time_s,
    }
    if machine is None:
        yield comparison(ask, "deepep", why="machine not in the catalogue", **about)
        return
    per_node = cluster_of(machine, 1).per_node
    devices = part["node_num"].to_numpy(float) * per_node
    tokens, top_k, hidden, experts = (
        part[c].to_numpy(float) for c in ("num_token", "num_topk", "hidden_size", "num_experts")
    )
    bits = find_format(fmt).stored_bits
    copies = devices * -np.expm1(top_k * np.log1p(-1.0 / devices))  # distinct devices a token's experts live on
    message = tokens * copies * hidden * bits / 8
    columns_of = {"tokens": tokens, "hidden": hidden, "top_k": top_k, "experts": experts}
    low_latency = family == "low latency"
    columns: dict[str, Any] = {name: np.full(len(part), np.nan) for name in ("predicted", "low", "high", "roofline")}
    for many in (False, True):
        rows = (devices > per_node) == many
        if rows.any():
            exchange: dict[str, Any] = {k: v[rows] for k, v in columns_of.items()}
            exchange |= {"exchange": step, "bits": bits, "low_latency": low_latency}
            if f"{step}_sms" in part and not low_latency:
                exchange["units"] = part[f"{step}_sms"].to_numpy(float)[rows]
            answer = _ops.collective(
                machine, "nccl", "all_to_all", message[rows], devices[rows], per_node=per_node, exchange=exchange
            )
            for name, values in answer.columns.items():
                columns[name][rows] = values
    yield comparison(ask, "deepep", **about, **columns)
