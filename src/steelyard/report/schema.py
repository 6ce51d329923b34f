"""The JSON schema of ``steelyard.estimate/1``: one table of fields, read by the docs and the tests."""

from __future__ import annotations

from typing import Any

__all__ = ["FIELDS", "estimate_schema"]

#: ``path -> (type, meaning with unit)``. A type ending in ``?`` may be null; ``{}`` is an object with free keys.
FIELDS: dict[str, tuple[str, str]] = {
    "schema": ("string", "always steelyard.estimate/1"),
    "model": ("string", "name of the model"),
    "machine.name": ("string", "catalogue name of the device"),
    "machine.title": ("string", "full name of the device"),
    "machine.count": ("integer", "devices"),
    "machine.per_node": ("integer", "devices of one node"),
    "machine.nodes": ("integer", "nodes used"),
    "machine.peer_network": ("string?", "network inside a node"),
    "machine.inter_network": ("string?", "network between nodes, when there are several"),
    "plan.weights": ("string", "number format of the weights"),
    "plan.activations": ("string", "number format of activations"),
    "plan.kv": ("string", "number format of the KV cache"),
    "plan.communication": ("string", "number format of collectives"),
    "plan.tp": ("integer", "tensor-parallel degree"),
    "plan.pp": ("integer", "pipeline-parallel degree"),
    "plan.dp": ("integer", "data-parallel degree"),
    "plan.ep": ("integer", "expert-parallel degree"),
    "plan.cp": ("integer", "context-parallel degree"),
    "plan.devices": ("integer", "devices used, tp x pp x dp x cp"),
    "engine": ("string", "serving engine"),
    "batch": ("integer", "requests in flight over the whole deployment"),
    "isl": ("integer", "prompt tokens per request"),
    "osl": ("integer", "generated tokens per request"),
    "skew": ("number", "exponent of the power law of expert popularity"),
    "fits": ("boolean", "whether everything fits the fullest device"),
    "memory_bytes.weights": ("number", "weights on the fullest device, B"),
    "memory_bytes.kv_cache": ("number", "KV cache, B"),
    "memory_bytes.activations": ("number", "activations of the largest step, B"),
    "memory_bytes.other": ("number", "graphs, buffers, workspaces, B"),
    "memory_bytes.total": ("number", "all of these, B"),
    "memory_bytes.capacity": ("number", "what the engine may use of the device, B"),
    "memory_bytes.headroom": ("number", "capacity less total, negative when it does not fit, B"),
    "largest_batch": ("integer", "largest batch that fits at isl + osl tokens"),
    "largest_context": ("integer", "largest context that fits at this batch, tokens"),
    "ttft_s": ("number", "time to first token of the last prompt of the batch, s"),
    "ttft_single_s": ("number", "time to first token of one request at an idle engine, s"),
    "tpot_s": ("number", "time per decode step at the mean context, s"),
    "e2e_s": ("number", "from arrival to the last token, s"),
    "tokens_per_s": ("number", "output tokens per second of the deployment"),
    "tokens_per_s_per_device": ("number", "the same per device"),
    "tokens_per_s_per_user": ("number", "1 / tpot"),
    "energy_j_per_token": ("number", "devices and hosts, J per output token"),
    "energy_j.devices": ("number", "all devices, whole batch, J"),
    "energy_j.hosts": ("number", "all hosts, whole batch, J"),
    "usd_per_million_tokens": ("number?", "rent per million output tokens, USD; null without a price"),
    "usd_per_device_hour": ("number?", "price used, USD per device and hour"),
    "price": ("string", "class and date of the price"),
    "limit.ttft_s": ("number", "physical limit of the prefill, s"),
    "limit.tpot_s": ("number", "physical limit of a decode step, s"),
    "interval.ttft_s": ("array", "80 % interval, [low, high], s"),
    "interval.tpot_s": ("array", "80 % interval, [low, high], s"),
    "interval.e2e_s": ("array", "80 % interval, [low, high], s"),
    "bound.prefill": ("string", "what bounds the prefill: compute, memory, network or overhead"),
    "bound.decode": ("string", "what bounds a decode step"),
    "bound_shares.prefill": ("{}", "share of the prefill by what bounds it"),
    "bound_shares.decode": ("{}", "share of a decode step by what bounds it"),
    "parameters.total": ("integer", "parameters of the model"),
    "parameters.active": ("integer", "parameters one token multiplies with"),
    "flops.prefill": ("number", "operations of the prefill of the whole batch"),
    "flops.decode": ("number", "operations of one decode step of the whole batch"),
    "assumptions": ("array", "choices made for you, in words"),
    "sources": ("{}", "what was used and where it is from"),
    "guesses": ("{}", "figures used that nobody published, with the reason for each"),
    "remedy": ("{}?", "the nearest change that fits, in words and as arguments; null when it fits"),
    "provenance.version": ("string", "version of Steelyard"),
    "provenance.inputs": ("{}", "arguments of steelyard.estimate that give this answer again"),
    "provenance.hash": ("string", "hash of version and inputs"),
}


def estimate_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one estimate."""
    root: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    for path, (kind, words) in FIELDS.items():
        parent = root
        *outer, name = path.split(".")
        for part in outer:
            parent = parent["properties"].setdefault(part, {"type": "object", "properties": {}, "required": []})
            if part not in root["required"]:
                root["required"].append(part)
        plain = "object" if kind.startswith("{}") else kind.rstrip("?")
        parent["properties"][name] = {"type": [plain, "null"] if kind.endswith("?") else plain, "description": words}
        parent["required"].append(name)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "steelyard.estimate/1", **root}
