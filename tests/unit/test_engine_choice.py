"""Which engine runs what where: usual ones, earlier generations, and combinations that do not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import steelyard
from steelyard.deployment.engine import default_engine, engines, find_engine
from steelyard.deployment.engine_choice import engine_for, runs_on
from steelyard.deployment.engine_config import engine_config
from steelyard.errors import InputError
from steelyard.estimation.infeasibility import remedy
from steelyard.machine.catalogue import find_machine, machine_names
from steelyard.search.space import formats_of
from steelyard.workload.catalogue import load_model


@pytest.mark.parametrize(
    ("machine", "words", "engine"),
    [
        ("rtx_4090", {"weights": "q4_k_m"}, "llamacpp_cuda"),
        ("rtx_4090", {"files": "llamacpp"}, "llamacpp_cuda"),
        ("rtx_4090", {"files": "llamacpp", "weights": "fp8"}, "vllm"),
        ("rtx_4090", {"named": "llamacpp"}, "llamacpp_cuda"),
        ("mi300x", {"files": "llamacpp"}, "llamacpp"),
        ("h100_sxm", {}, "vllm"),
        ("dgx_spark", {}, "llamacpp_cuda"),
        ("dgx_spark", {"weights": "nvfp4"}, "vllm"),
        ("dgx_spark", {"native": "mxfp4"}, "vllm"),
        ("m3_ultra", {}, "llamacpp"),
        ("m3_ultra", {"weights": "int4_g64"}, "mlx"),
        ("m3_ultra", {"files": "mlx"}, "mlx"),
        ("m3_ultra", {"native": "int4"}, "llamacpp"),
        ("ryzen_9_7950x", {"native": "mxfp4"}, "llamacpp"),
        ("p100_sxm", {}, "llamacpp_cuda"),
        ("mi50", {}, "llamacpp"),
        ("mi100", {}, "llamacpp"),
        ("m3_ultra", {"weights": "mlx_4bit"}, "mlx"),
        ("groq_lpu", {"weights": "int4_g64"}, "vllm"),
        ("a100_sxm", {"named": "Ollama"}, "ollama_cuda"),
    ],
)
def test_the_usual_engine_of_weights_on_a_machine(machine: str, words: dict[str, str], engine: str) -> None:
    assert engine_for(find_machine(machine), **words).name == engine


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("vllm@0.6", "vllm@0.6"),
        ("vLLM@v0.6.3.post1", "vllm@0.6"),
        ("vllm@0.7", "vllm@0.6"),
        ("vllm@0.11.0", "vllm@0.11"),
        ("vllm@0.24", "vllm"),
        ("vllm@0.2.7", "vllm_2023"),
        ("sglang@0.4.6", "sglang@0.4"),
        ("llamacpp@b3000", "llamacpp@b2500"),
    ],
)
def test_a_version_picks_the_generation(name: str, entry: str) -> None:
    assert find_engine(name).name == entry


@pytest.mark.parametrize(
    "name", ["vllm@0.0", "vllm@", "vllm@new", "qnn@2", "vlm@0.6", "vllm@0.6@1", "vllm@" + "9" * 300]
)
def test_a_version_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="engine"):
        find_engine(name)


def test_generations_differ_from_the_engine_of_today() -> None:
    old, new = find_engine("vllm@0.6"), find_engine("vllm")
    assert (old.memory_frac, old.scheduler, old.prefix_caching) == (0.90, "vllm-v0", False)
    assert old.step_s > new.step_s
    assert (old.attention, new.attention) == ("/single", "")  # heads that share no cache are not cut there
    assert old.block_tokens == new.block_tokens
    assert not old.compared
    for engine in engines().values():
        assert engine.version or engine.name in ("qnn", "rkllm")
        assert "step_s" in engine.guess or engine.name not in ("mlx", "exllamav3", "ktransformers", "lmdeploy", "tgi")


REFUSED = [
    ("m2_ultra", {"engine": "vllm"}, "llama.cpp, MLX and Ollama do"),
    ("m2_ultra", {"engine": "trtllm"}, "llama.cpp"),
    ("mi300x", {"engine": "trtllm"}, "vLLM v1, SGLang"),
    ("raspberry_pi_5", {"engine": "sglang"}, "llama.cpp"),
    ("rtx_4090", {"engine": "mlx"}, "vLLM v1"),
    ("p100_sxm", {"engine": "vllm"}, "llama.cpp"),
    ("h100_sxm", {"engine": "vllm", "kv": "q8_0"}, "16 bits, fp8"),
    ("h100_sxm", {"engine": "trtllm", "weights": "q4_k_m"}, "llama.cpp, CUDA, vLLM v1, SGLang and"),
    ("m3_ultra", {"engine": "mlx", "weights": "q4_k_m"}, "llama.cpp and Ollama do"),
    ("rtx_4090", {"engine": "llamacpp", "weights": "awq"}, "vLLM v1, SGLang, TensorRT-LLM and"),
    ("rtx_4090", {"engine": "ollama", "weights": "fp8"}, "vLLM v1, SGLang, TensorRT-LLM and"),
    ("a100_sxm", {"engine": "vllm", "activations": "fp8"}, "bf16"),
]


def test_prompts_that_are_cut_share_a_step_with_answers() -> None:
    """vLLM v0 puts prompts first unless it cuts them: asked to, or above 32,768 tokens of context since 0.6."""
    machine = find_machine("h100_sxm")
    model = load_model("llama-3.1-8b").transformer

    def runs(release: str, longest: int = 8_192, **flags: Any) -> tuple[str, bool, int]:
        config = engine_config(find_engine(release), machine, {"max_model_len": longest, **flags}, model)
        return config.scheduler, config.enable_chunked_prefill, config.max_num_batched_tokens

    assert runs("vllm@0.6") == ("vllm-v0", False, 8192)
    assert runs("vllm@0.6", enable_chunked_prefill=True) == ("sarathi", True, 2048)
    assert runs("vllm@0.4", enable_chunked_prefill=True, max_num_batched_tokens=512) == ("sarathi", True, 512)
    assert runs("vllm@0.6", 131_072) == ("sarathi", True, 2048)
    assert runs("vllm@0.6", 131_072, enable_chunked_prefill=False) == ("vllm-v0", False, 131_072)
    assert runs("vllm@0.6", 131_072, scheduler="vllm-v0")[:2] == ("vllm-v0", True), "what is asked for stands"
    assert runs("vllm", 131_072, enable_chunked_prefill=True)[0] == "vllm"


@pytest.mark.parametrize(("machine", "words", "said"), REFUSED)
def test_combinations_that_do_not_exist_are_refused(machine: str, words: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        steelyard.estimate("llama-3.1-8b", machine, **words)
    assert said in caught.value.message
    assert caught.value.field in ("engine", "kv", "activations")


def test_every_machine_has_an_engine_and_unknown_ones_take_any() -> None:
    from steelyard.deployment.engine import default_engine
    from steelyard.machine.catalogue import machine_names

    for name in machine_names():
        machine = find_machine(name)
        assert runs_on(default_engine(machine), machine)
    assert runs_on(find_engine("mlx"), find_machine("groq_lpu"))


def test_a_plan_leaves_out_what_does_not_exist() -> None:
    question = {"rate": "1/s", "isl": 500, "osl": 50, "ttft": "p90:5s", "requests": 100}
    found = steelyard.plan("llama-3.1-8b", "mi300x", engine="vllm,trtllm", **question)
    assert any("TensorRT-LLM does not run on" in note for note in found.ledger.assumptions)


def test_ollama_serves_what_it_downloads_and_an_engine_says_its_version() -> None:
    found = steelyard.estimate("llama-3.1-8b", "rtx_4090", engine="ollama")
    assert (found.scenario.plan.weights, found.scenario.engine.name) == ("q4_k_m", "ollama_cuda")
    assert (
        steelyard.estimate("llama-3.1-8b", "rtx_4090", engine="ollama", weights="q8_0").scenario.plan.weights == "q8_0"
    )
    assert any("vLLM v1 (0.24" in text for text in steelyard.estimate("llama-3.1-8b", "h100_sxm").ledger.assumptions)


def test_what_is_usual_on_a_machine_runs_there() -> None:
    """Of every machine of the catalogue."""
    wrong = [m.name for m in map(find_machine, machine_names()) if not runs_on(default_engine(m), m)]
    assert not wrong


@pytest.mark.parametrize(
    ("engine", "model", "machine", "weights", "said"),
    [
        (
            "vllm",
            "t5-large",
            "h100_sxm",
            "",
            "does not serve t5: of encoder-decoders whisper, cohere_asr; Tensor",
        ),
        ("vllm", "bart-large", "h100_sxm", "", "TGI and PyTorch, eager do"),
        ("vllm@0.11", "t5-small", "h100_sxm", "", "vLLM v1 of 0.11 (0.11, 2025-10) does not serve t5"),
        ("llamacpp", "whisper-small", "h100_sxm", "", "of encoder-decoders t5, mt5, umt5; vLLM v1, SGLang"),
        ("mlx", "whisper-small", "m3_ultra", "", "does not serve whisper: no encoder-decoders; PyTorch, eager does"),
        ("vllm", "llama-3.1-8b", "v100_sxm_32gb", "fp8", "no kernels for fp8 weights on NVIDIA Tesla V100"),
        ("vllm@0.8", "llama-3.1-8b", "t4", "fp8", "no kernels for fp8 weights on NVIDIA Tesla T4; vLLM v1"),
        ("vllm", "gpt-oss-20b", "t4", "", "no kernels for mxfp4 weights"),
        ("vllm", "llama-3.1-8b", "h100_sxm", "bitnet", "no kernels for ternary weights; llama.cpp, CUDA"),
        ("lmdeploy", "llama-3.1-8b", "t4", "fp8", "no kernels for fp8 weights on NVIDIA Tesla T4; vLLM v1 does"),
        ("vllm", "llama-3.1-8b", "b200_sxm", "int8", "no kernels for int8 weights on NVIDIA B200"),
        ("vllm", "Qwen/Qwen3-8B-AWQ", "v100_sxm_32gb", "", "weights quantised by awq on NVIDIA Tesla V100"),
        ("vllm@0.6", "llama-3.1-8b", "h100_sxm", "nvfp4", "vLLM v0 of 0.6 does not read nvfp4"),
        ("vllm", "llama-3.1-8b", "mi250x", "fp8", "no kernels for fp8 weights on AMD Instinct MI250X"),
    ],
)
def test_what_a_generation_has_no_kernels_for_is_refused(
    engine: str, model: str, machine: str, weights: str, said: str
) -> None:
    with pytest.raises(InputError) as caught:
        steelyard.estimate(model, machine, engine=engine, **({"weights": weights} if weights else {}))
    assert said in caught.value.message
    assert caught.value.field == "engine"


@pytest.mark.parametrize(
    ("method", "engine", "instead"),
    [
        ("aqlm", "vllm", "torch"),
        ("eetq", "vllm", "tgi"),
        ("hqq", "sglang", "torch"),
        ("bitnet", "vllm", "llamacpp_cuda"),
    ],
)
def test_a_method_that_an_engine_dropped_is_refused_and_not_chosen(
    method: str, engine: str, instead: str, tmp_path: Path
) -> None:
    quant = {"quant_method": method, "bits": 4, "num_codebooks": 1, "nbits_per_codebook": 16, "in_group_size": 8}
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8}
    config = {"model_type": "llama", "vocab_size": 1000, **sizes, "quantization_config": quant}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"does not read weights quantised by {method}"):
        steelyard.estimate(path, "h100_sxm", engine=engine)
    assert steelyard.estimate(path, "h100_sxm").scenario.engine.name == instead
    if method == "aqlm":
        assert steelyard.estimate(path, "h100_sxm", engine="vllm@0.9").scenario.engine.name == "vllm@0.8"


def test_encoder_decoders_run_on_what_serves_them() -> None:
    def engine(model: str, machine: str, **words: str) -> str:
        return steelyard.estimate(model, machine, **words).scenario.engine.name

    assert engine("whisper-small", "h100_sxm") == "vllm"
    assert engine("t5-small", "ryzen_9_7950x") == "llamacpp"
    assert engine("bart-base", "m3_ultra") == "torch"
    assert engine("bart-base", "h100_sxm", engine="vllm@0.6") == "vllm@0.6"
    assert engine("gpt-oss-20b", "v100_sxm_32gb") == "llamacpp_cuda"
    with pytest.raises(InputError, match="no engine known here does; --weights names another format"):
        engine("llama-3.1-8b", "v100_sxm_32gb", weights="fp8")
    said = steelyard.estimate("bart-base", "h100_sxm").ledger.assumptions
    assert any(
        "vLLM v1 (0.24, 2026-07) does not serve bart" in note and "TensorRT-LLM runs it" in note for note in said
    )


def test_bf16_is_fp16_where_the_card_has_none() -> None:
    old = steelyard.estimate("llama-3.1-8b", "v100_sxm_32gb")
    plan = old.scenario.plan
    assert {plan.weights, plan.activations, plan.kv, plan.communication} == {"fp16"}
    assert "v100_sxm_32gb multiplies no bf16: vLLM v1 runs the model in fp16 there" in old.ledger.assumptions
    assert steelyard.estimate("qwen3-8b", "rtx_2080_ti:2").scenario.plan.activations == "fp16"
    assert steelyard.estimate("llama-3.1-8b", "v100_sxm_32gb", engine="torch").scenario.plan.weights == "bf16"
    assert steelyard.estimate("llama-3.1-8b", "a100_sxm").scenario.plan.weights == "bf16"


def test_a_plan_takes_the_format_that_was_named_where_it_is_widened() -> None:
    model, card = load_model("llama-3.1-8b").transformer, find_machine("a100_sxm")
    assert [f.weights for f in formats_of(model, card, ("fp8",), ("",))] == ["fp8"]
    assert [f.weights for f in formats_of(model, card, ("", "fp8", "int4"), ("",))] == ["", "int4"]


def test_a_cache_without_kernels_is_refused() -> None:
    for machine, said in (("t4:2", "it has 16 bits, int8"), ("v100_sxm_32gb", "NVIDIA Tesla V100")):
        with pytest.raises(InputError, match="has no fp8 KV cache on") as caught:
            steelyard.estimate("llama-3.1-8b", machine, kv="fp8")
        assert said in caught.value.message
        assert caught.value.field == "kv"
    assert steelyard.estimate("llama-3.1-8b", "t4:2", kv="fp8", engine="vllm@0.12").fits
    assert "--kv fp8" not in remedy(steelyard.estimate("llama-3.1-70b", "t4:8").scenario)


def test_no_remedy_names_a_format_without_kernels() -> None:
    found = steelyard.estimate("llama-3.1-70b", "v100_sxm_32gb:4")
    assert not found.fits
    assert "--weights fp8" not in remedy(found.scenario)
    assert not steelyard.estimate("llama-3.1-70b", "v100_sxm_32gb", engine="vllm").fits
