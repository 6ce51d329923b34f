"""What the store keeps of an answer as columns one can plot: name, SQL type, unit and meaning.

The names are those of the JSON answers; what is not listed goes into the column ``more`` as JSON. The first columns of
every kind are the inputs of the point, resolved.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.scenario.fields import Field, fields_of

__all__ = ["ANSWERS", "SCHEMAS", "Column", "columns_of", "number_names"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer."""

    name: str
    type: str
    """``text``, ``whole``, ``number`` or ``switch``."""
    unit: str
    """``s``, ``B``, ``J``, ``W``, ``USD``, ``1`` ...; empty for text."""
    doc: str
    asked: bool = False
    """An input; otherwise an answer."""

    @property
    def sql(self) -> str:
        """Type in DuckDB."""
        return {"text": "VARCHAR", "whole": "BIGINT", "number": "DOUBLE", "switch": "BOOLEAN"}[self.type]


def _read(table: str) -> tuple[Column, ...]:
    """Answers: ``name | type | unit | meaning``, a line each."""
    lines = [line.split("|") for line in table.strip().splitlines()]
    return tuple(Column(n.strip(), t.strip(), u.strip(), d.strip()) for n, t, u, d in lines)


def _asked(kind: str) -> tuple[Column, ...]:
    """Inputs: the fields that are kept, those of the place first."""
    kept = {n: f for n, f in fields_of(kind).items() if f.column}
    place = [n for n in fields_of("estimate") if n in kept and n not in ("batch", "isl", "osl")]
    found = [_column(kept[n]) for n in dict.fromkeys([*(place if kind != "plan" else ["model", "on"]), *kept])]
    if kind != "plan":
        found[2:2] = [
            Column("machine", "text", "", "the machine", True),
            Column("devices", "whole", "1", "devices used", True),
        ]
    return tuple(found)


def _column(entry: Field) -> Column:
    kind = "text" if entry.type == "name" else entry.type
    return Column(entry.name, kind, "" if kind in ("text", "switch") else entry.unit, entry.doc, True)


_ESTIMATE = """
fits                    | switch |         | whether it fits the device
memory_weights_bytes    | number | B       | weights on the fullest device
memory_kv_cache_bytes   | number | B       | KV cache
memory_activations_bytes | number | B      | working set of the largest step
memory_other_bytes      | number | B       | workspace of the engine
memory_total_bytes      | number | B       | all of it
memory_capacity_bytes   | number | B       | what the engine may use
memory_headroom_bytes   | number | B       | what is left; negative when it does not fit
largest_batch           | whole  | 1       | most requests that fit at these lengths
largest_context         | whole  | 1       | longest context that fits at this batch
ttft_s                  | number | s       | first token of the last request of the batch
ttft_low_s              | number | s       | lower end of its 80 % interval
ttft_high_s             | number | s       | upper end
ttft_single_s           | number | s       | first token of one request alone
tpot_s                  | number | s       | time per output token
tpot_low_s              | number | s       | lower end of its 80 % interval
tpot_high_s             | number | s       | upper end
e2e_s                   | number | s       | the whole batch
e2e_low_s               | number | s       | lower end of its 80 % interval
e2e_high_s              | number | s       | upper end
tokens_per_s            | number | 1/s     | output tokens of all devices
tokens_per_s_per_device | number | 1/s     | output tokens per device
tokens_per_s_per_user   | number | 1/s     | output tokens one request sees
energy_j                | number | J       | devices, whole batch
host_energy_j           | number | J       | hosts, whole batch
energy_j_per_token      | number | J       | devices and hosts per output token
usd_per_device_hour     | number | USD/h   | rent
usd_per_million_tokens  | number | USD     | rent per million output tokens
price                   | text   |         | where the price is from
limit_ttft_s            | number | s       | physical limit of the prefill
limit_tpot_s            | number | s       | physical limit of a decode step
bound_prefill           | text   |         | what bounds the prefill
bound_decode            | text   |         | what bounds a decode step
"""

_PERCENTILES = ("mean", "p50", "p90", "p95", "p99")
_TIMES = {
    "ttft": "time to first token",
    "tpot": "time per output token of a request",
    "itl": "time between tokens",
    "e2e": "arrival to last token",
    "queue": "arrival to first step",
}

_SIMULATE = """
sent                    | whole  | 1       | requests sent
completed               | whole  | 1       | requests that got their whole answer
rejected                | whole  | 1       | requests refused
unfinished              | whole  | 1       | requests the end of the simulation cut off
stopped                 | text   |         | why it ended early
makespan_s              | number | s       | first arrival to last step
requests_per_s          | number | 1/s     | completed requests
input_tokens_per_s      | number | 1/s     | prompt tokens of completed requests
output_tokens_per_s     | number | 1/s     | output tokens of all devices
output_tokens_per_s_per_device | number | 1/s | output tokens per device
goodput_requests_per_s  | number | 1/s     | requests within every promise
goodput_frac            | number | 1       | share of the requests within every promise
promises_met            | switch |         | whether every percentile promised holds
batch_mean              | number | 1       | requests in a step
batch_max               | number | 1       | most requests in a step
waiting_max             | number | 1       | most requests waiting
kv_blocks               | whole  | 1       | cache blocks of a replica
kv_mean_frac            | number | 1       | share of the cache in use
kv_max_frac             | number | 1       | most of it
prefix_hit_frac         | number | 1       | share of prompt tokens found in the prefix cache
preemptions             | whole  | 1       | requests thrown out of the cache
idle_frac               | number | 1       | share of the time without a step
energy_j                | number | J       | devices over the makespan
host_energy_j           | number | J       | hosts over the makespan
energy_j_per_output_token | number | J     | devices per output token
usd                     | number | USD     | rent over the makespan
usd_per_million_output_tokens | number | USD | rent per million output tokens
"""

_PLAN = """
feasible                | switch |         | whether any deployment holds the promise
machine                 | text   |         | of the winner
devices                 | whole  | 1       | of the winner
engine                  | text   |         | of the winner
mode                    | text   |         | one pool, or prompts and answers apart
shape                   | text   |         | replicas and degrees
usd_per_hour            | number | USD/h   | rent of all devices
usd_per_million_tokens  | number | USD     | rent per million output tokens at the traffic
watts                   | number | W       | devices and hosts at the traffic
ttft_s                  | number | s       | at the promised percentile
tpot_s                  | number | s       | at the promised percentile
e2e_s                   | number | s       | at the promised percentile
tokens_per_s_per_device | number | 1/s     | output tokens per device at the largest rate
tokens_per_s_per_user   | number | 1/s     | output tokens one request sees
carbon_g_per_hour       | number | 1       | carbon, g/h
max_rate_per_s          | number | 1/s     | most requests per second it holds
candidates              | whole  | 1       | deployments looked at
simulated               | whole  | 1       | deployments simulated
"""

_times = "".join(
    f"{name}_{cut}_s | number | s | {words}, {cut}\n" for name, words in _TIMES.items() for cut in _PERCENTILES
)

#: Columns by kind of study: inputs, then answers.
ANSWERS: dict[str, tuple[Column, ...]] = {
    "estimate": (*_asked("estimate"), *_read(_ESTIMATE)),
    "simulate": (*_asked("simulate"), *_read(_SIMULATE + _times)),
    "plan": (*_asked("plan"), *_read(_PLAN)),
}

#: Version of the answer of each kind: part of a point's hash, so that a changed answer is priced again.
SCHEMAS = {kind: f"steelyard.{kind}/1" for kind in ANSWERS}


def columns_of(kind: str) -> dict[str, Column]:
    """Columns of a kind by name, in their order."""
    return {c.name: c for c in ANSWERS[kind]}


def number_names(kind: str) -> list[str]:
    """Answers that are numbers: what can be an objective."""
    return [c.name for c in ANSWERS[kind] if not c.asked and c.type in ("number", "whole")]
