"""Collectives: alpha-beta models with the algorithm choice the libraries make.

    time = launch + min over (algorithm, protocol) of (L^q + W^q)^(1/q)
    L    = steps * step_s                      the latency chain of the algorithm
    W    = wire_bytes / (efficiency * bandwidth)      what crosses the busiest link of one device

Message convention (nccl-tests): `message_bytes` is the FULL tensor. all_reduce: the tensor every device holds;
all_gather: the gathered output; reduce_scatter: the unreduced input; all_to_all: what one device holds before the
exchange; broadcast and send: the tensor moved.

Sources: NCCL `src/graph/tuning.cc` (latency plus bytes over bandwidth per algorithm, protocol); Thakur, Rabenseifner,
Gropp, "Optimization of Collective Communication Operations in MPICH", 2005; vLLM `csrc/custom_all_reduce.cuh`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Sizes = float | int | npt.NDArray[np.generic]
LinkKind = Literal["nvlink", "pcie", "infinity_fabric", "ici", "ethernet", "infiniband", "tcp"]

OPERATIONS: Final = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")

ALL_TO_ALL_STEPS_PER_DOUBLING: Final = 1.5
"""Latency steps an all-to-all adds per doubling of the devices (fit over A100, H100, B200, L40S: 1.0 to 1.7)."""
SEND_EFFICIENCY_RATIO: Final = 1.12
"""A single send over the ring's Simple efficiency: no local copy in the pipe (A100 0.88, H100 0.90 of the link)."""
MESH_PEERS: Final = 7
"""Peers of a fully connected node without a switch (Infinity Fabric, 8 devices): each pair owns 1/7 of the links."""
MESSAGE_GAP: Final = 0.3
"""Of a step across nodes: how long a message holds its queue before the next (fit over TCP, 2 to 16 devices)."""
NEVER: Final = np.inf


@dataclass(frozen=True, slots=True)
class Fabric:
    """The links one device has into its neighbours.

    bandwidth_bytes_per_s: per device and direction; latency_s: one hop, wire and switch, 0 if part of the steps;
    switched: every pair at full bandwidth; multicast: the switch can reduce and replicate (NVLS, SHARP).
    """

    name: str
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    switched: bool = True
    multicast: bool = False
    kind: LinkKind = "nvlink"


@dataclass(frozen=True, slots=True)
class CollectiveParameters:
    """The fitted figures of one machine's collectives; efficiencies are fractions of the link bandwidth.

    Times are of a captured graph (no host launch). Defaults are the NVLink family's.
    """

    launch_s: float = 6.0e-6
    """Fixed part of one NCCL kernel."""
    step_s: float = 1.0e-6
    """One neighbour-to-neighbour step in the LL protocol (flag with every 4 bytes)."""
    ll128_step_ratio: float = 1.35
    """A step in LL128 over a step in LL."""
    simple_step_ratio: float = 2.0
    """A step in the Simple protocol (data, fence, flag) over a step in LL."""
    simple_fixed_s: float = 10.0e-6
    """What the Simple protocol adds once: buffers are filled before the first flag."""
    peer_fixed_s: float = 5.0e-6
    """The same for grouped sends and receives (all-to-all)."""
    ll_efficiency: float = 0.06
    ll128_efficiency: float = 0.5
    simple_efficiency: float = 0.75
    local_step_frac: float = 0.6
    """Local copy at the ends of a ring, in wire steps."""
    blend: float = 0.9
    """q: 1 adds latency and wire time, 0.5 is an ideally chunked pipeline of unknown chunk."""
    nvls_launch_s: float = 20.0e-6
    nvls_efficiency: float = 0.65
    custom_launch_s: float = 4.5e-6
    """Fixed part of a one-shot all-reduce with peer pointers (vLLM kernel)."""
    custom_peer_s: float = 0.1e-6
    """Added by each further peer that is signalled."""
    custom_efficiency: float = 0.7
    two_shot_launch_s: float = 5.0e-6
    """Added by the second stage and its barrier (vLLM kernel)."""
    two_shot_peer_s: float = 1.0e-6
    multimem_launch_s: float = 10.0e-6
    multimem_efficiency: float = 0.5
    """All-reduce in the switch through symmetric memory (vLLM, PyTorch)."""
    contention: float = 0.0
    """c: PCIe gives each device bandwidth * (2/devices)^c; 0 behind one switch, 2 over two sockets without one."""
    inter_step_s: float = 8.0e-6
    """One step across nodes."""
    inter_efficiency: float = 0.8


@dataclass(frozen=True, slots=True)
class AllReduceLibrary:
    """What a library does with an all-reduce inside a node (software facts; see catalogue/kernels/collective.toml).

    custom: it has a kernel with peer pointers; launch_ratio: that kernel's fixed costs over vLLM's; one_shot_bytes:
    messages from this size on use two shots, for 2, 4, 8 devices (None: the cheaper of the two); custom_bytes: messages
    from this size on go to NCCL; two_shot: it has a two-shot kernel; multimem: it reduces in the switch from 512 KiB
    (more than four devices) or 1 MiB on; nvls: its NCCL may reduce in the switch.
    """

    custom: bool
    launch_ratio: float = 1.0
    one_shot_bytes: tuple[float, float, float] | None = None
    custom_bytes: float = 0.0
    two_shot: bool = True
    multimem: bool = False
    nvls: bool = True


KIB: Final = 1024.0
MIB: Final = 1024.0**2
VLLM_ONE_SHOT: Final = (NEVER, 512 * KIB, 256 * KIB)

LIBRARIES: Final[dict[str, AllReduceLibrary]] = {
    "nccl": AllReduceLibrary(custom=False),
    "rccl": AllReduceLibrary(custom=False, nvls=False),
    "oneccl": AllReduceLibrary(custom=False, nvls=False),
    "vllm": AllReduceLibrary(True, 1.0, VLLM_ONE_SHOT, 8 * MIB, multimem=True),
    "vllm_0.14": AllReduceLibrary(True, 1.0, VLLM_ONE_SHOT, 8 * MIB, nvls=False),
    "sglang": AllReduceLibrary(True, 0.55, None, 24 * MIB),
    "sglang_0.5.10": AllReduceLibrary(True, 1.0, VLLM_ONE_SHOT, 12 * MIB),
    "trtllm": AllReduceLibrary(True, 0.68, None, 16 * MIB, two_shot=False),
}


def _check(operation: str, devices: FloatArray, library: str) -> None:
    if operation not in OPERATIONS:
        raise ValueError(f"operation {operation!r} is not one of {', '.join(OPERATIONS)}")
    if library not in LIBRARIES:
        raise ValueError(f"library {library!r} is not one of {', '.join(LIBRARIES)}")
    if np.any(devices < 1):
        raise ValueError("devices must be at least 1")


def ring_steps(operation: str, devices: Sizes) -> FloatArray:
    """Latency steps of the ring (all-to-all: of the grouped sends): 2(n-1), n-1, or 1 + 1.5 log2 n."""
    n = np.asarray(devices, dtype=np.float64)
    if operation == "all_reduce":
        return 2.0 * (n - 1.0)
    if operation == "all_to_all":
        return np.where(n > 1, 1.0 + ALL_TO_ALL_STEPS_PER_DOUBLING * np.log2(n), 0.0)
    if operation == "send":
        return np.where(n > 1, 1.0, 0.0)
    return n - 1.0


def wire_bytes(operation: str, message_bytes: Sizes, devices: Sizes) -> FloatArray:
    """Bytes one device sends over its own link: S*2(n-1)/n all_reduce; S*(n-1)/n gather, scatter, exchange; else S."""
    n = np.asarray(devices, dtype=np.float64)
    size = np.asarray(message_bytes, dtype=np.float64)
    if operation == "all_reduce":
        return size * 2.0 * (n - 1.0) / n
    if operation in ("broadcast", "send"):
        return np.where(n > 1, size, 0.0)
    return size * (n - 1.0) / n


def collective_limit_s(
    operation: str,
    message_bytes: Sizes,
    devices: Sizes,
    *,
    fabric: Fabric,
    inter: Fabric | None = None,
    devices_per_node: int = 8,
) -> FloatArray:
    """Least time the links allow: wire bytes / bandwidth of the narrowest level.

    A switch that reduces and replicates halves the all-reduce (each device sends its part once, receives the sum once).
    Across nodes: one device's share of what must leave its node, over its share of the node's network.
    """
    n = np.asarray(devices, dtype=np.float64)
    size = np.asarray(message_bytes, dtype=np.float64)
    inside = np.minimum(n, devices_per_node) if inter is not None else n
    moved = wire_bytes(operation, size, inside)
    if operation == "all_reduce" and fabric.multicast:
        moved = moved / 2.0
    limit = moved / fabric.bandwidth_bytes_per_s
    if inter is None:
        return np.asarray(limit)
    nodes = np.maximum(n / devices_per_node, 1.0)
    outside = _node_bytes(operation, size, n, inside, nodes)
    if operation == "all_reduce" and inter.multicast:
        outside = outside / 2.0
    return np.maximum(limit, np.where(nodes > 1, outside / inter.bandwidth_bytes_per_s, 0.0))


def _node_bytes(operation: str, size: FloatArray, n: FloatArray, inside: FloatArray, nodes: FloatArray) -> FloatArray:
    """Bytes one device's share of the node's network carries: all rails busy, except for one send."""
    if operation == "all_reduce":
        return size * 2.0 * (nodes - 1.0) / nodes / inside
    if operation == "all_to_all":
        return size * (n - inside) / n
    if operation == "send":
        return size
    return size * (nodes - 1.0) / nodes / inside


def _blend(latency: FloatArray, wire: FloatArray, q: float) -> FloatArray:
    small = np.minimum(latency, wire)
    large = np.maximum(np.maximum(latency, wire), 1e-30)
    return np.asarray(large * (1.0 + (small / large) ** q) ** (1.0 / q))


def _link_bandwidth(fabric: Fabric, n: FloatArray, contention: float) -> FloatArray:
    if fabric.kind == "pcie":  # even behind switches, transfers between roots share the hosts' links
        share = np.minimum(1.0, (2.0 / np.maximum(n, 2.0)) ** contention)
    elif fabric.kind == "infinity_fabric" and not fabric.switched:
        share = np.clip((n - 1.0) / MESH_PEERS, 1.0 / MESH_PEERS, 1.0)
    else:
        share = np.ones_like(n)
    return fabric.bandwidth_bytes_per_s * share


def _nccl_inside_s(
    operation: str, size: FloatArray, n: FloatArray, fabric: Fabric, p: CollectiveParameters, nvls: bool
) -> FloatArray:
    """One node: ring (or grouped sends) in three protocols, and NVLS for an all-reduce of more than four devices."""
    bandwidth = _link_bandwidth(fabric, n, p.contention)
    steps = ring_steps(operation, n)
    local = {"broadcast": 0.0, "send": 0.0, "all_to_all": 0.5}.get(operation, 1.0) * p.local_step_frac
    wire = wire_bytes(operation, size, n) + size / n * local
    best = np.full(np.broadcast(size, n).shape, NEVER)
    fixed = {"all_to_all": p.peer_fixed_s, "send": 0.0}.get(operation, p.simple_fixed_s)
    simple = min(p.simple_efficiency * (SEND_EFFICIENCY_RATIO if operation == "send" else 1.0), 1.0)
    protocols = [(1.0, 0.0, p.ll_efficiency), (p.simple_step_ratio, fixed, simple)]
    if fabric.kind == "nvlink":  # NCCL enables LL128 only where 128-byte stores stay whole
        protocols.append((p.ll128_step_ratio, 0.0, p.ll128_efficiency))
    for ratio, once, efficiency in protocols:
        chain = once + steps * (p.step_s * ratio + fabric.latency_s)
        best = np.minimum(best, p.launch_s + _blend(chain, wire / (efficiency * bandwidth), p.blend))
    if operation == "all_reduce" and fabric.multicast and nvls:
        in_switch = size * (1.0 + 1.0 / n) / (p.nvls_efficiency * bandwidth)
        switched = p.launch_s + _blend(np.full_like(best, p.nvls_launch_s), in_switch, p.blend)
        best = np.where(n > 4, np.minimum(best, switched), best)
    return np.where(n > 1, best, 0.0)


def _custom_all_reduce_s(
    size: FloatArray, n: FloatArray, fabric: Fabric, p: CollectiveParameters, library: AllReduceLibrary
) -> FloatArray:
    """One-shot (read all peers) and two-shot (reduce-scatter, all-gather) all-reduce through peer pointers."""
    bandwidth = p.custom_efficiency * _link_bandwidth(fabric, n, p.contention)
    launch = p.custom_launch_s * library.launch_ratio
    one = launch + p.custom_peer_s * (n - 1.0) + size * (n - 1.0) / bandwidth
    second = (p.two_shot_launch_s + p.two_shot_peer_s * (n - 1.0)) * library.launch_ratio
    two = launch + second + size * 2.0 * (n - 1.0) / n / bandwidth
    if not library.two_shot:
        return np.asarray(one)
    if library.one_shot_bytes is None:
        return np.minimum(one, two)
    two_bytes, four_bytes, eight_bytes = library.one_shot_bytes
    threshold = np.where(n <= 2, two_bytes, np.where(n <= 4, four_bytes, eight_bytes))
    return np.where(size < threshold, one, two)


def _library_all_reduce_s(
    size: FloatArray,
    n: FloatArray,
    fabric: Fabric,
    p: CollectiveParameters,
    library: AllReduceLibrary,
    nccl: FloatArray,
) -> FloatArray:
    """The kernel a serving library picks: its own while the message is small and every peer is reachable, else NCCL."""
    custom = _custom_all_reduce_s(size, n, fabric, p, library)
    if library.one_shot_bytes is None:
        custom = np.minimum(custom, nccl)
    if library.multimem and fabric.multicast:
        wire = size * np.where(n > 2, 1.0 + 1.0 / n, 1.0)
        in_switch = p.multimem_launch_s + wire / (p.multimem_efficiency * fabric.bandwidth_bytes_per_s)
        from_bytes = np.where(n > 4, 512 * KIB, MIB)
        custom = np.where(size >= from_bytes, np.minimum(custom, in_switch), custom)
        nccl = np.where(size <= 64 * MIB, np.minimum(nccl, in_switch), nccl)
    reachable = (n <= 2) | ((fabric.kind != "pcie") & (n <= 8))
    return np.where((size < library.custom_bytes) & reachable & (n > 1), custom, nccl)


def collective_time_s(
    operation: str,
    message_bytes: Sizes,
    devices: Sizes,
    *,
    fabric: Fabric,
    parameters: CollectiveParameters,
    library: str = "nccl",
    inter: Fabric | None = None,
    devices_per_node: int = 8,
) -> FloatArray:
    """Time of one collective, s; `message_bytes` and `devices` broadcast (see the module for the byte convention).

    Args: operation, one of OPERATIONS; message_bytes, B; devices, count; fabric, the links inside a node; inter, the
    network between nodes as one device's share of it (None: all devices are in one domain); library, one of LIBRARIES
    (only all_reduce differs). Returns: s, never below `collective_limit_s`.
    Raises ValueError for an unknown operation or library. Valid 1 KiB to 4 GiB, 2 to 72 devices in a domain.
    """
    n = np.asarray(devices, dtype=np.float64)
    size = np.asarray(message_bytes, dtype=np.float64)
    _check(operation, n, library)
    chosen = LIBRARIES[library]
    inside = np.minimum(n, devices_per_node) if inter is not None else n
    # across nodes, only the part of an all-to-all for the node's own devices crosses the inner links
    part = inside / np.maximum(n, 1.0) if inter is not None and operation == "all_to_all" else 1.0
    local_size = size * part
    time = _nccl_inside_s(operation, local_size, inside, fabric, parameters, chosen.nvls)
    if operation == "all_reduce" and chosen.custom:
        time = _library_all_reduce_s(size, inside, fabric, parameters, chosen, time)
    if inter is not None:
        nodes = np.maximum(n / devices_per_node, 1.0)
        whole = _across_nodes_s(operation, size, n, inside, nodes, time, fabric, inter, parameters)
        time = np.where(nodes > 1, whole, time)
    limit = collective_limit_s(operation, size, n, fabric=fabric, inter=inter, devices_per_node=devices_per_node)
    return np.maximum(time, limit)


def _across_nodes_s(
    operation: str,
    size: FloatArray,
    n: FloatArray,
    inside: FloatArray,
    nodes: FloatArray,
    inside_s: FloatArray,
    fabric: Fabric,
    inter: Fabric,
    p: CollectiveParameters,
) -> FloatArray:
    """Ring and tree over nodes, pipelined with the part inside a node: chains add, wires overlap.

    A ring passes through every device, so a node's network carries wire_bytes of all n devices; where the switch inside
    a node reduces first (NVLS), a tree over nodes carries only what must leave each node.
    """
    rate = p.inter_efficiency * inter.bandwidth_bytes_per_s
    least = _node_bytes(operation, size, n, inside, nodes)
    step = p.inter_step_s + inter.latency_s
    if operation == "all_to_all":  # sockets of a node share one queue, other networks have one for each device
        through, waits = least, (n - inside) * (inside if inter.kind == "tcp" else 1.0)
        chain = (1.0 + MESSAGE_GAP * (waits - 1.0)) * step
    elif operation == "send":
        through, chain = least, np.full_like(least, step)
    else:
        through = wire_bytes(operation, size, n) / inside
        waits = ring_steps(operation, n) - ring_steps(operation, nodes)
        chain = (ring_steps(operation, nodes) + MESSAGE_GAP * waits) * step
    outside = _blend(chain, through / rate, p.blend)
    if operation == "all_reduce":
        tree = 2.0 * np.ceil(np.log2(nodes)) * step
        outside = np.minimum(outside, _blend(tree, 1.1 * (least if fabric.multicast else through) / rate, p.blend))
    longer, shorter = np.maximum(inside_s, outside), np.minimum(inside_s, outside)
    return np.asarray(longer + np.minimum(shorter, p.launch_s + ring_steps(operation, inside) * p.step_s))


@dataclass(frozen=True, slots=True)
class ExchangeParameters:
    """DeepEP's dispatch and combine, fitted (pairs are dispatch, combine). Defaults: Hopper with NVLink4.

    launch_s: fixed cost, normal kernels; unit_bytes_per_s: what one communication SM copies inside a node;
    unit_token_bytes_per_s: payload one SM handles across nodes (send, forward, receive); efficiency: of the link.
    ll_*: the low-latency kernels: fixed cost, cost per expert, efficiency, and bandwidth fraction per expert.
    """

    launch_s: tuple[float, float] = (2.7e-5, 3.9e-5)
    unit_bytes_per_s: tuple[float, float] = (14.7e9, 17.9e9)
    efficiency: tuple[float, float] = (0.80, 0.79)
    inter_launch_s: tuple[float, float] = (4.0e-5, 6.0e-5)
    unit_token_bytes_per_s: tuple[float, float] = (1.7e9, 1.25e9)
    inter_efficiency: tuple[float, float] = (0.90, 0.90)
    ll_launch_s: tuple[float, float] = (8.2e-6, 9.8e-6)
    ll_expert_s: tuple[float, float] = (1.4e-8, 5.5e-9)
    ll_efficiency: tuple[float, float] = (0.57, 0.49)
    ll_per_expert: tuple[float, float] = (0.014, 0.093)
    ll_inter_launch_s: tuple[float, float] = (1.8e-5, 1.9e-5)
    ll_inter_expert_s: tuple[float, float] = (2.45e-8, 2.5e-8)
    ll_inter_efficiency: tuple[float, float] = (0.95, 0.92)


BLACKWELL_EXCHANGE: Final = ExchangeParameters(
    launch_s=(3.5e-5, 4.8e-5),
    unit_bytes_per_s=(13.9e9, 17.5e9),
    efficiency=(0.36, 0.46),
    ll_launch_s=(1.4e-5, 1.55e-5),
    ll_expert_s=(2.7e-8, 1.5e-8),
    ll_efficiency=(0.55, 0.68),
    ll_per_expert=(0.0066, 0.056),
)
"""DeepEP on B200 (fit; the same kernels as on Hopper, so the copies are bound by SMs, not by NVLink5)."""
EXCHANGES: Final[Mapping[str, ExchangeParameters]] = {"": ExchangeParameters(), "blackwell": BLACKWELL_EXCHANGE}
"""By the name a family gives; the unnamed are Hopper's, the first measured."""
EXCHANGE_BLEND: Final = 4.0


def expert_exchange_time_s(
    direction: Literal["dispatch", "combine"],
    tokens: Sizes,
    hidden: Sizes,
    topk: Sizes,
    experts: Sizes,
    devices: Sizes,
    *,
    bits: float,
    fabric: Fabric,
    parameters: ExchangeParameters,
    low_latency: bool = False,
    units: float = 24.0,
    inter: Fabric | None = None,
    devices_per_node: int = 8,
) -> FloatArray:
    """DeepEP dispatch or combine of one MoE layer, s.

    normal: a token crosses a link once per distinct device (inside a node) or node (between nodes) its experts live on,
    D * (1 - (1 - 1/D)^k) of D; low latency: once per expert. Time = launch + max(copy by SMs, link), blended.
    Args: tokens per device; hidden; topk; experts in the group; devices in the group; bits of a value on the wire with
    scales (dispatch 8.25, combine 16); units, communication SMs of the normal kernels; inter, one device's NIC.
    Returns: s. Source: fit to aic_ops/wideep_deepep_*: mean error 1 to 11 % low latency, 7 to 32 % normal.
    """
    p, way = parameters, 0 if direction == "dispatch" else 1
    n = np.asarray(devices, dtype=np.float64)
    k = np.asarray(topk, dtype=np.float64)
    e = np.asarray(experts, dtype=np.float64)
    payload = np.asarray(tokens, dtype=np.float64) * np.asarray(hidden, dtype=np.float64) * bits / 8.0
    inside = np.minimum(n, devices_per_node)
    nodes = np.maximum(n / devices_per_node, 1.0)
    link = fabric.bandwidth_bytes_per_s
    if low_latency:
        width = np.minimum(1.0, e * p.ll_per_expert[way])
        near = p.ll_launch_s[way] + p.ll_expert_s[way] * e
        near = near + payload * k * (inside - 1.0) / inside / (p.ll_efficiency[way] * link * width)
        if inter is None:
            return np.asarray(near)
        nic = p.ll_inter_efficiency[way] * inter.bandwidth_bytes_per_s
        far = p.ll_inter_launch_s[way] + p.ll_inter_expert_s[way] * e + payload * k * (n - inside) / n / nic
        return np.where(nodes > 1, far, near)
    homes = np.minimum(inside, e)
    copies = payload * homes * (1.0 - (1.0 - 1.0 / homes) ** k)
    by_units, by_link = copies / (units * p.unit_bytes_per_s[way]), copies / (p.efficiency[way] * link)
    near = p.launch_s[way] + (by_units**EXCHANGE_BLEND + by_link**EXCHANGE_BLEND) ** (1.0 / EXCHANGE_BLEND)
    if inter is None:
        return np.asarray(near)
    reached = nodes * (1.0 - (1.0 - 1.0 / nodes) ** k)
    remote = payload * reached * (1.0 - 1.0 / nodes)
    by_units = payload / (units * p.unit_token_bytes_per_s[way])
    by_link = remote / (p.inter_efficiency[way] * inter.bandwidth_bytes_per_s)
    far = p.inter_launch_s[way] + (by_units**EXCHANGE_BLEND + by_link**EXCHANGE_BLEND) ** (1.0 / EXCHANGE_BLEND)
    return np.where(nodes > 1, far, near)
