"""Names people type say the model, its weights and the engine."""

from __future__ import annotations

import pytest

import steelyard
from steelyard.errors import InputError, UnknownName
from steelyard.workload.catalogue import load_model

NAMES = [
    ("hf.co/bartowski/Qwen_Qwen3-8B-GGUF:Q4_K_M", "Qwen/Qwen3-8B", "q4_k_m", "llamacpp"),
    ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "meta-llama/Llama-3.1-8B", "q4_k_m", "llamacpp"),
    ("https://huggingface.co/unsloth/Qwen3-8B-GGUF", "Qwen/Qwen3-8B", "q4_k_m", "llamacpp"),
    (
        "unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:UD-Q4_K_XL",
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "ud_q4_k_xl",
        "llamacpp",
    ),
    ("mradermacher/Qwen3-8B-i1-GGUF:IQ4_XS", "Qwen/Qwen3-8B", "iq4_xs", "llamacpp"),
    ("unsloth/gpt-oss-20b-GGUF:F16", "openai/gpt-oss-20b", "mxfp4_moe", "llamacpp"),
    ("Qwen3-8B-Q4_K_M", "Qwen/Qwen3-8B", "q4_k_m", "llamacpp"),
    ("qwen3:8b-q4_K_M", "Qwen/Qwen3-8B", "q4_k_m", "ollama"),
    ("llama3.1:8b", "meta-llama/Llama-3.1-8B", "q4_k_m", "ollama"),
    ("llama3.1:8b-instruct-q4_0", "meta-llama/Llama-3.1-8B", "q4_0", "ollama"),
    ("llama3.1:8b-instruct-fp16", "meta-llama/Llama-3.1-8B", "fp16", "ollama"),
    ("deepseek-r1:70b", "meta-llama/Llama-3.1-70B", "q4_k_m", "ollama"),
    ("deepseek-r1:671b", "deepseek-ai/DeepSeek-R1", "q4_k_m", "ollama"),
    ("gpt-oss:20b", "openai/gpt-oss-20b", "mxfp4_moe", "ollama"),
    ("deepseek-r1:latest", "Qwen/Qwen3-8B", "q4_k_m", "ollama"),
    ("llama3.2:latest", "meta-llama/Llama-3.2-3B", "q4_k_m", "ollama"),
    ("mixtral:latest", "mistralai/Mixtral-8x7B-v0.1", "q4_k_m", "ollama"),
    ("gemma3:27b-it-qat", "google/gemma-3-27b-it", "q4_0", "ollama"),
    ("mlx-community/Qwen3-8B-4bit", "Qwen/Qwen3-8B", "mlx_4bit", "mlx"),
    ("mlx-community/Qwen3-30B-A3B-4bit-DWQ", "Qwen/Qwen3-30B-A3B", "mlx_4bit", "mlx"),
    ("lmstudio-community/Qwen3-8B-MLX-8bit", "Qwen/Qwen3-8B", "mlx_8bit", "mlx"),
    ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "meta-llama/Llama-3.1-8B", "nf4", ""),
    ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "Qwen/Qwen3-8B", "nf4", ""),
    ("Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B", "int4", ""),
    ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "Qwen/Qwen2.5-7B", "int8_weight_only", ""),
    ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B", "fp8_block", ""),
    ("RedHatAI/Qwen3-8B-FP8-dynamic", "Qwen/Qwen3-8B", "fp8", ""),
    ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "meta-llama/Llama-3.3-70B-Instruct", "nvfp4", ""),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "meta-llama/Llama-3.1-8B", "int4", ""),
    ("Intel/Qwen3-8B-int4-AutoRound", "Qwen/Qwen3-8B", "int4", ""),
    ("turboderp/Qwen3-8B-exl3:4.0bpw", "Qwen/Qwen3-8B", "int4@4", "exllamav3"),
    ("https://huggingface.co/Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "bf16", ""),
    ("ollama/qwen3:8b-q4_K_M", "Qwen/Qwen3-8B", "q4_k_m", "ollama"),
    ("ollama_chat/gpt-oss:20b", "openai/gpt-oss-20b", "mxfp4_moe", "ollama"),
    # published once in 16 bits, once in each narrower format
    (
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "fp8",
        "",
    ),
    (
        "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-NVFP4-QAD",
        "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16",
        "nvfp4",
        "",
    ),
    (
        "unsloth/NVIDIA-Nemotron-3-Nano-30B-A3B-GGUF:Q4_K_M",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "q4_k_m",
        "llamacpp",
    ),
]


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("qwen3.6", "Qwen/Qwen3.5-27B", True),  # the same shapes under another name
        ("deepseek-ai/DeepSeek-V3.1", "deepseek-ai/DeepSeek-V3", True),
        ("deepseek-v4", "deepseek-ai/DeepSeek-V4-Flash", True),  # one of a series
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B", False),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B", False),
        ("unsloth/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B", False),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", False),
    ],
)
def test_another_name_than_the_answers_is_said(name: str, model: str, said: bool) -> None:
    found = load_model(name)
    notes = [note for note in found.transformer.notes if "taken as" in note]
    assert found.name == model
    assert notes == ([f"{name}: taken as {model}"] if said else [])


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("XiaomiMiMo/MiMo-V2-Flash", "fp8_block"),
        ("mistralai/Mistral-Large-3-675B-Instruct-2512", "fp8"),
        ("mistralai/Mistral-Large-3-675B-Instruct-2512-BF16", "bf16"),
        ("mistralai/Mistral-Large-3-675B-Instruct-2512-NVFP4", "nvfp4"),
        ("mistralai/Ministral-3-8B-Instruct-2512", "fp8"),
        ("mistralai/Ministral-3-8B-Reasoning-2512", "bf16"),  # the same shapes, published in 16 bits
        ("mistralai/Devstral-Small-2-24B-Instruct-2512", "fp8"),
        ("mistralai/Magistral-Small-2509", "bf16"),
    ],
)
def test_models_published_in_fp8_alone(name: str, weights: str) -> None:
    assert load_model(name).transformer.native_weights == weights


@pytest.mark.parametrize("name", ["mistral-small-3.2", "mistralai/Pixtral-12B-2409"])
def test_a_window_that_the_config_has_as_null_is_none(name: str) -> None:
    shapes = load_model(name).transformer
    assert not any("sliding_window" in note for note in shapes.notes)
    full, longer = (float(shapes.kv_elements(tokens, 1)) for tokens in (4096, 32768))
    assert longer == pytest.approx(8 * full)


def test_sixteen_bits_of_a_model_published_narrower() -> None:
    assert load_model("deepseek-ai/DeepSeek-V3").transformer.native_weights == "fp8_block"
    assert load_model("unsloth/DeepSeek-V3-bf16").transformer.native_weights == "bf16"


@pytest.mark.parametrize(("name", "model", "weights", "engine"), NAMES)
def test_a_name_says_model_weights_and_engine(name: str, model: str, weights: str, engine: str) -> None:
    found = load_model(name)
    assert (found.name, found.transformer.native_weights, found.engine) == (model, weights, engine)
    said = [note for note in found.transformer.notes if "taken as" in note]
    assert bool(said) == (weights != "bf16")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Qwen/Qwen3-8B-GGUF:Q9_X", "Q4_K_M"),
        ("bartowski/Foo-1B-GGUF:Q4_K_M", "'bartowski/Foo-1B'"),
        ("qwen3:", "unknown model"),
        (":q4_K_M", "unknown model"),
        ("-GGUF", "unknown model"),
        ("a:" + "q4_" * 3000, "unknown model"),
        ("-" * 20_000 + "gguf", "unknown model"),
        ("x-" + "4bit-" * 5000, "unknown model"),
    ],
)
def test_names_that_say_nothing_known_are_refused(name: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(name)
    assert said in caught.value.message
    assert len(caught.value.message) < 500


def test_a_name_is_priced_as_its_format_and_engine() -> None:
    named = steelyard.estimate("qwen3:8b-q4_K_M", "rtx_4090")
    asked = steelyard.estimate("qwen3-8b", "rtx_4090", weights="q4_k_m")
    assert named.scenario.engine.name == "ollama_cuda"
    assert asked.scenario.engine.name == "llamacpp_cuda"
    assert named.memory.weights == asked.memory.weights
    other = steelyard.estimate("qwen3:8b-q4_K_M", "rtx_4090", engine="vllm", weights="bf16")
    assert (other.scenario.engine.name, other.scenario.plan.weights) == ("vllm", "bf16")


def test_mlx_files_hold_quantised_ends_and_run_on_apple_silicon_only() -> None:
    found = steelyard.estimate("mlx-community/Qwen3-8B-4bit", "m3_ultra", isl=128, osl=128)
    assert found.scenario.engine.name == "mlx"
    assert float(found.memory.weights) == pytest.approx(4.61e9, rel=0.05)  # 8.19 B weights of 4.5 bits
    assert found.tpot_s == pytest.approx(1 / 112.9, rel=0.1)  # tokens per second of a published run
    for machine, words in (("h100_sxm", {}), ("h100_sxm", {"engine": "sglang"})):
        with pytest.raises(InputError, match="MLX"):
            steelyard.estimate("mlx-community/Qwen3-8B-4bit", machine, **words)
    with pytest.raises(InputError, match="ExLlamaV3"):
        steelyard.estimate("turboderp/Qwen3-8B-exl3:4.0bpw", "rtx_3090", engine="vllm")


def test_show_and_compare_take_the_names_that_estimate_takes() -> None:
    from steelyard.report import entry

    for name in ("qwen3:8b", "hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M"):
        assert (entry.find(name).kind, entry.find(name).name) == ("model", "Qwen/Qwen3-8B")
    with pytest.raises(InputError, match="unknown name 'h100:2'"):
        entry.find("h100:2")


@pytest.mark.parametrize("name", ["resnet50", "flux.1-dev", "sdxl"])
def test_a_network_is_no_served_model_and_the_answer_says_who_takes_it(name: str) -> None:
    with pytest.raises(UnknownName, match="it is a network, which `steelyard estimate` and `explain` take") as found:
        load_model(name)
    assert name not in found.value.nearest
