"""Rows of training tables as words of ``train``: made-up rows, and what each asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("steelyard_validation")

from steelyard_validation.readers import training_megatron as megatron
from steelyard_validation.readers import training_mlperf as mlperf
from steelyard_validation.readers import training_mosaic as mosaic
from steelyard_validation.readers import training_nemo as nemo
from steelyard_validation.readers import training_simumax as simumax
from steelyard_validation.readers import training_torchtitan as torchtitan
from steelyard_validation.readers import training_tpu as tpu
from steelyard_validation.readers._train import cut, said

NAN = float("nan")


def test_degrees_that_are_not_given_are_one() -> None:
    assert said(model="m", pp=2, vp=None, recompute="") == {"model": "m", "tp": 1, "pp": 2}


def test_a_model_cut_short_keeps_one_dense_layer() -> None:
    whole, short = cut("deepseek-v3", 61), cut("deepseek-v3", 4)
    assert whole.transformer.parameters() == pytest.approx(671e9, rel=0.01)
    layer = 11.5e9
    assert short.transformer.parameters() == pytest.approx(3 * layer + 2.6e9, rel=0.03)


def test_megatron_of_2022_says_how_sequences_lie() -> None:
    row = {
        "model": "gpt3-175B",
        "recompute": "sequence parallel + selective recompute",
        "n_gpus": 64.0,
        "tp": 8,
        "pp": 8,
        "global_batch": 32,
        "micro_batch": 1,
        "interleave": 3,
        "dtype": "float16",
        "seq_len": 2048,
    }
    words: Any = megatron.words_of_2022(row)
    assert (words["on"], words["vp"], words["recompute"]) == ("a100_sxm:64", 3, "selective")
    assert words["set"] == "sequence_parallel=true"
    full: Any = megatron.words_of_2022({**row, "recompute": "full activation recompute"})
    assert (full["recompute"], full["set"]) == ("full", "sequence_parallel=false")


def test_megatron_of_2021_guesses_micro_batches() -> None:
    row = {"params_b": 18.4, "tp": 8, "pp": 1, "n_gpus": 256, "global_batch": 1024, "seq_len": 2048}
    words: Any = megatron.words_of_2021({**row, "recompute": "full"})
    assert (words["model"], words["mbs"]) == ("megatron-gpt-18.4b", 8)
    large: Any = megatron.words_of_2021({**row, "params_b": 1008.0, "recompute": "full"})
    assert (large["model"], large["mbs"]) == ("megatron-gpt-1t", 1)


def test_mosaic_shapes_hold_the_parameters_of_the_rows() -> None:
    row = {
        "model": "3b",
        "seq_len": 2048,
        "gpu": "h100_80gb",
        "n_gpus": 8,
        "global_batch": 512,
        "micro_batch": 8,
        "sharding": "SHARD_GRAD_OP",
        "act_ckpt": True,
        "act_cpu_offload": False,
        "precision": "amp_bf16",
    }
    words: Any = mosaic.words(row)
    assert words["model"].transformer.parameters() == 2_651_837_440
    assert (words["on"], words["zero"], words["recompute"]) == ("h100_sxm:8", 2, "full")
    assert "no shapes" in str(mosaic.words({**row, "model": "9b"}))


def test_torchtitan_cuts_the_local_batch_into_stages() -> None:
    row = {
        "model": "Llama-3.1-405B",
        "gpu": "H100-96GB-HBM2e-2.4TBs-500W",
        "n_gpus": 512,
        "dp_fsdp": 8,
        "tp": 8,
        "pp": 8,
        "cp": 1,
        "local_batch": 32,
        "seq_len": NAN,
        "act_ckpt": "full",
        "technique": "3D+AsyncTP+compile+fp8 Interleaved 1F1B",
    }
    words: Any = torchtitan.words(row)
    assert (words["gbs"], words["mbs"], words["seq"]) == (256, 4, 8192)
    assert (words["schedule"], words["vp"], words["precision"]) == ("interleaved", 2, "fp8")
    assert words["framework"] == "torchtitan-async-tp"
    assert "suspect" in str(torchtitan.words({**row, "technique": "fp8 rowwise AsyncTP+compile"}))


def test_simumax_batches_count_all_replicas() -> None:
    row = {
        "model": "deepseek-v2",
        "layers": 4,
        "gpu": "b200_sxm",
        "n_gpus": 8,
        "micro_batches": 8,
        "mbs": 1,
        "dp": 4,
        "seq_len": 4096,
        "tp": 1,
        "pp": 2,
        "cp": 1,
        "ep": 4,
        "precision": "bf16",
    }
    words: Any = simumax.words(row)
    assert (words["gbs"], words["ep"], words["pp"], words["recompute"]) == (32, 4, 2, "none")
    assert words["tp"] == 1


def _bridge_row(**changed: Any) -> dict[str, Any]:
    row = {
        "release": "26.02 NeMo Container",
        "model": "DeepSeekV3 (w/o MTP)",
        "system": "DGX-GB200",
        "n_gpus": 256.0,
        "precision": "MXFP8",
        "gbs": 4096.0,
        "mbs": 1.0,
        "seq_len": 4096.0,
        "fsdp": "0",
        "tp": 1.0,
        "pp": 4.0,
        "cp": 1.0,
        "vp": NAN,
        "ep": 64.0,
    }
    return {**row, **changed}


def test_a_recipe_says_what_the_columns_leave_out(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(
        "model,precision,release,system,task,global_batch_size,num_gpus,micro_batch_size,tensor_model_parallel_size,"
        "pipeline_model_parallel_size,expert_model_parallel_size,recompute_modules,cuda_graph_impl,cuda_graph_scope,"
        "moe_flex_dispatcher_backend,moe_a2a_overlap,cpu_offloading_num_layers,pp_layout,"
        "virtual_pipeline_model_parallel_size\n"
        "DEEPSEEK_V3,FP8_MX,26.02,GB200,PRETRAIN,2048,256,1,,4,64,['moe'],,,,,,,\n"
        "DEEPSEEK_V3,FP8_MX,26.02,GB200,PRETRAIN,4096,256,,,4,64,\"['mla_up_proj', 'mlp']\",transformer_engine,"
        "\"['attn', 'moe_router']\",hybridep,True,,Et*4|(t*4|)*14tmL,\n",
        encoding="utf-8",
    )
    recipes = nemo.Recipes.read(path)
    words: Any = nemo.bridge_words(_bridge_row(), recipes.of(_bridge_row()))
    assert words["recompute"] == "mla_up_proj,mlp"
    assert words["set"] == "graph=true,dispatcher=hybridep"
    assert words["vp"] == 4
    assert recipes.of(_bridge_row(pp=8.0)) is None


def test_bridge_rows_that_are_not_asked_say_why() -> None:
    assert "dropped" in str(nemo.bridge_words(_bridge_row(model="DeepSeekV3 (tokendrop)")))
    assert "no shapes" in str(nemo.bridge_words(_bridge_row(model="Nobody_3")))
    sharded: Any = nemo.bridge_words(_bridge_row(model="LLAMA3_70B", fsdp="64 (0)", precision=NAN))
    assert (sharded["zero"], sharded["precision"], sharded["model"]) == (3, "fp8", "llama-3-70b")


def test_a_pipeline_without_a_bubble_is_suspect() -> None:
    row = {"model": "LLAMA2-13B", "task": "SFT", "pp": 4.0}
    assert "suspect" in str(nemo.nemo_words(row))


def test_mlperf_rows_state_devices_and_batch() -> None:
    row = {"benchmark": "llama31_405b", "accelerator": "NVIDIA Blackwell GPU (GB200)", "nodes": 64, "gbs": 448}
    row |= {"accel_per_node": 4, "grad_accum": 1.0}
    words: Any = mlperf.words(row)
    assert (words["on"], words["seq"], words["precision"]) == ("gb200:256", 8192, "fp8")
    assert "tp" not in words  # left open: the verb chooses
    assert "evenly" in str(mlperf.words({**row, "benchmark": "bert"}))
    even: Any = mlperf.words({**row, "benchmark": "bert", "gbs": 512})
    assert (even["mbs"], even["tp"]) == (2, 1)
    assert "tables" in str(mlperf.words({**row, "benchmark": "dlrm_dcnv2"}))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2x v5p-128", ("tpu_v5p", 128)),
        ("v6e-256", ("tpu_v6e", 256)),
        ("4x-v6e-256", ("tpu_v6e", 1024)),
        ("1x v4-384", ("tpu_v4", 192)),
        ("cloud", ("", 0)),
    ],
)
def test_topologies_count_chips(text: str, meant: tuple[str, int]) -> None:
    assert tpu.chips(text) == meant


def test_shapes_by_size_hold_as_many_parameters() -> None:
    for name in tpu.SHAPES:
        words: Any = tpu.scaling_words({"model": name, "slices_topology": "1x v5p-512"})
        assert words["model"].transformer.parameters() == pytest.approx(float(name[:-1]) * 1e9, rel=0.06)


def test_recipes_state_tokens_of_a_step() -> None:
    row = {"model": "Llama3.1-70B-MaxText", "topology": "v6e-128", "global_tokens_per_step": 4194304.0}
    words: Any = tpu.recipe_words({**row, "precision": "bf16 (assumed)"})
    assert (words["gbs"], words["mbs"]) == (512, 4)
    assert (words["on"].count, words["on"].per_node) == (128, 128)
    assert "FP8" in str(tpu.recipe_words({**row, "precision": "fp8"}))
