"""Words of engines and of their benchmarks that ask for a field of ours, beside its own name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from steelyard.errors import InputError, show
from steelyard.scenario.fields import engine_flags, fields_of

__all__ = ["OFFLOADING", "SPELLED", "offloading", "spellings"]

#: Options of engines that ask for the same, and our word for each; ``{}`` is their value.
OFFLOADING: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("ngl", "n_gpu_layers", "gpu_layers"), "layers:{}"),
        **dict.fromkeys(("n_cpu_moe", "ncmoe"), "experts:{}"),
        **dict.fromkeys(("cpu_moe", "cmoe"), "experts"),
        **dict.fromkeys(("ot", "override_tensor"), "tensors:{}"),
        "cpu_offload_gb": "cpu:{}GiB",
    }
)

#: Options of engines and of their benchmarks that ask for a field beside its own, by the field. Those of up to three
#: letters stand behind one dash.
_SPELLED_TABLE = """
model | m model_path hf_model
tp | tp tp_size tensor_model_parallel_size tensor_parallel
pp | pp pp_size pipeline_model_parallel_size pipeline_parallel
dp | dp dp_size data_parallel
ep | ep_size expert_parallel_size moe_ep_size
kv | cache_type_k cache_type_v ctk ctv kv_cache_format
isl | p random_input_len random_input n_prompt
osl | n random_output_len random_output n_gen n_predict max_tokens max_new_tokens
system | random_prefix_len prefix_len
batch | batch_size
requests | num_requests request_count
power_limit_w | pl power_cap
max_model_len | c ctx_size n_ctx num_ctx max_context_length
max_num_seqs | parallel np max_running
max_num_batched_tokens | ub ubatch_size max_prefill_tokens
gpu_memory_utilization | kv_cache_free_gpu_memory_fraction kv_cache_free_gpu_mem_fraction
"""
#: The field by such an option, without dashes.
SPELLED: Mapping[str, str] = MappingProxyType(
    {
        word: name.strip()
        for name, _, words in (line.partition(" | ") for line in _SPELLED_TABLE.strip().splitlines())
        for word in words.split()
    }
)


@cache
def spellings(verb: str) -> Mapping[str, str]:
    """Words for the fields of a verb and for engine flags it takes, underscores for dashes: other options, SPELLED."""
    taken = {**engine_flags(verb), **fields_of(verb)}
    found = {word: name for word, name in SPELLED.items() if name in taken}
    found |= {option.lstrip("-").replace("-", "_"): name for name, f in taken.items() for option in f.options if option}
    return MappingProxyType({word: name for word, name in found.items() if word not in taken})


def offloading(name: str, value: object) -> str:
    """Our words for an option of an engine. Raises :class:`InputError` for a value that is none."""
    text = OFFLOADING[name]
    if "{}" not in text:
        return text if value not in (False, None, "", "false") else ""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"expected a number or text, got {show(value)}", field=name)
    shown = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.format(shown.strip()) if shown.strip() else ""
