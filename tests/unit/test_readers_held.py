"""Readers on made-up rows in the shapes of tables that are not shared: read, covered, and behaving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from steelyard.measurements.reader import Ask, Comparison  # noqa: E402
from steelyard.testing.readers import ReaderContract  # noqa: E402
from steelyard_validation.readers import inferencex, llmservingsim, rocm_vllm, trtllm  # noqa: E402
from steelyard_validation.readers._whole import deploy  # noqa: E402


def pools(**changed: Any) -> dict[str, Any]:
    """A row of a 70B model with one prefill and one decode worker of four H100."""
    one = {"pp_size": 1, "attention_dp_size": 1, "moe_tp_size": 1, "moe_ep_size": 1}
    row = {
        "concurrency": 32.0,
        "backend": "dynamo-trtllm",
        "model_path": "meta-llama/Llama-3.1-70B",
        "system": "h100_sxm",
        "isl": 2048.0,
        "osl": 256.0,
        "gemm_quant_mode": "fp8",
        "moe_quant_mode": "fp8",
        "source_set": "x.csv",
        "ttft_ms": 500.0,
        "tpot_ms": 12.0,
        "decode_batch_size": 64.0,
    }
    for role in ("prefill", "decode"):
        row |= {f"{role}_num_workers": 1, f"{role}_tp_size": 4, **{f"{role}_{k}": v for k, v in one.items()}}
    return row | changed


def disaggregated(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Comparison]:
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "disagg_ttft_tpot.csv", index=False)
    return {c.metric: c for c in inferencex.read(folder, Ask("inferencex_silicon"))}


class TestDisaggregated(ReaderContract):
    reader = staticmethod(inferencex.read)
    source = "inferencex_silicon"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "d"
        moe = {"model_path": "deepseek-ai/DeepSeek-R1", "system": "h200_sxm", "moe_quant_mode": "fp8_block"}
        rows = [
            pools(),
            pools(backend="vllm"),
            pools(backend="sglang", decode_num_workers=2),
            pools(
                **moe,
                prefill_tp_size=8,
                decode_tp_size=1,
                decode_attention_dp_size=8,
                decode_moe_ep_size=8,
                prefill_moe_ep_size=8,
            ),
            pools(decode_tp_size=np.nan),
            pools(model_path="nobody/nothing"),
            pools(prefill_tp_size=1, isl=200000.0),
        ]
        disaggregated(folder, rows)
        return folder

    def test_rows_are_answered_or_say_why_not(self, folder: Path) -> None:
        found = {c.metric: c for c in self.read(folder)}
        assert set(found) == {"tpot_s", "ttft_s", "tokens_per_s_per_device"}
        for c in found.values():
            assert np.isfinite(c.predicted).tolist() == [True] * 4 + [False] * 3
        # tokens of an answer come no faster than the datasheet allows, prompts neither
        for metric in ("tpot_s", "ttft_s"):
            c = found[metric]
            assert np.all(c.predicted[:4] >= c.roofline[:4])
        assert found["tpot_s"].family[0] == "Llama-3.1-70B trtllm disaggregated"

    def test_more_workers_of_a_kind_help_what_that_kind_does(self, tmp_path: Path) -> None:
        found = disaggregated(
            tmp_path / "d",
            [pools(), pools(prefill_num_workers=2), pools(prefill_num_workers=4), pools(decode_num_workers=2)],
        )
        ttft, tpot = found["ttft_s"].predicted, found["tpot_s"].predicted
        assert ttft[0] > ttft[1] > ttft[2]
        assert tpot[3] < tpot[0]
        assert tpot[2] >= tpot[0] * 0.999

    def test_a_slower_wire_delays_the_first_token(self, tmp_path: Path) -> None:
        near, far = (
            disaggregated(tmp_path / "d", [pools(concurrency=1.0, isl=16384.0, prefill_tp_size=tp, decode_tp_size=tp)])
            for tp in (4, 8)
        )
        # two workers of eight are two nodes: the prompt itself is faster, its cache is not
        assert far["tpot_s"].predicted[0] < near["tpot_s"].predicted[0]
        assert near["ttft_s"].predicted[0] < 2 * far["ttft_s"].predicted[0]

    def test_missing_columns_are_unknown_not_fatal(self, tmp_path: Path) -> None:
        kept = (
            "concurrency",
            "backend",
            "model_path",
            "system",
            "isl",
            "osl",
            "ttft_ms",
            "tpot_ms",
            "gemm_quant_mode",
            "prefill_tp_size",
            "decode_tp_size",
        )
        row = {name: value for name, value in pools().items() if name in kept}
        assert np.isfinite(disaggregated(tmp_path / "d", [row])["ttft_s"].predicted).all()
        del row["isl"]
        assert disaggregated(tmp_path / "e", [row])["ttft_s"].why[0]


class TestPositions:
    def test_longer_prompts_wait_longer_and_shapes_are_read(self, tmp_path: Path) -> None:
        head = "precision,engine,tp,ep,isl,osl,concurrency,num_prompts,model_id,gpu,n_gpus,parallel,median_ttft_s,"
        head += "median_tpot_s\n"
        rows = [f"fp8,vllm,8,1,{isl},128,4,8,meta-llama/Llama-3.1-70B,h200_sxm,8,tp8,1,0.01\n" for isl in (1000, 64000)]
        rows += ["fp8,vllm,1,8,1000,128,8,16,Qwen/Qwen3-235B-A22B,H200,8,dep8,1,0.01\n"]
        (tmp_path / "h200x8_token_position_2026-02.csv").write_text(head + "".join(rows))
        tpot, ttft = inferencex.read(tmp_path, Ask("inferencex_silicon"))
        assert np.isfinite(tpot.predicted).all()
        assert ttft.predicted[1] > 20 * ttft.predicted[0]


class TestRocm(ReaderContract):
    reader = staticmethod(rocm_vllm.read)
    source = "rocm_vllm_mi300x"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "r"
        folder.mkdir()
        (folder / "llama31_mi300x.csv").write_text(
            "model,gpu,tp,precision,isl,osl,num_prompts,max_num_seqs,metric,value,batch_size\n"
            "amd/Llama-3.1-70B-Instruct-FP8-KV,MI300X,8,fp8,128,512,400,400,throughput_tok_s,9000,\n"
            "amd/Llama-3.1-70B-Instruct-FP8-KV,MI300X,8,fp8,128,512,400,50,throughput_tok_s,4000,\n"
            "meta-llama/Llama-3.1-70B,MI300X,8,float16,128,512,,,latency_s,6,1\n"
            "meta-llama/Llama-3.1-70B,MI300X,8,fp8,128,512,,,,6,1\n"
            "Llama 3.1 405B,MI300X,1,fp16,128,512,,,latency_s,60,1\n"
        )
        return folder

    def test_seats_set_the_rate_and_bytes_the_time(self, folder: Path) -> None:
        rate, whole = self.read(folder)
        assert (rate.metric, whole.metric) == ("tokens_per_s", "e2e_s")
        assert rate.predicted[0] > 2 * rate.predicted[1]
        assert whole.predicted[0] > whole.predicted[1]
        assert np.all(whole.predicted[:2] >= whole.roofline[:2])


def test_online_rates_are_served_until_they_are_not(tmp_path: Path) -> None:
    head = "model,gpu,tp,precision,isl_mean,osl_mean,request_rate_qps,mean_ttft_ms,mean_itl_ms,output_tput_tok_s\n"
    rows = "".join(
        f"LLaMA v3.1 70B,H100 SXM5,8,fp8,{isl},200,{rate},60,10,700\n"
        for isl, rate in ((215, 2), (215, 20), (215, "inf"), ("", 2))
    )
    (tmp_path / "online_serving_v0.14.csv").write_text(head + rows)
    ttft, tpot, rate = trtllm.read(tmp_path, Ask("trtllm_perf_overview"))
    assert np.isfinite(ttft.predicted).tolist() == [True, True, True, False]
    assert np.all(np.diff(ttft.predicted[:3]) > 0) and np.all(np.diff(tpot.predicted[:3]) > 0)
    assert rate.predicted[0] == pytest.approx(2 * 200, rel=0.1)


def test_logs_of_unknown_machines_and_shared_experts_are_read(tmp_path: Path) -> None:
    head = "gpu,model,tp,input_toks,output_toks,arrival_s,ttft_ms,tpot_ms,e2e_ms\n"
    rows = [
        f"{gpu},{model},2,{300 + i},{50 + i},{i / 4},{'' if i == 3 else 60},12,900\n"
        for gpu, model in (("H100", "Qwen3-30B-A3B"), ("XPU9", "no/model"))
        for i in range(8)
    ]
    (tmp_path / "requests.csv").write_text(head + "".join(rows))
    (tmp_path / "runs_meta.json").write_text(
        '[{"gpu": "H100", "model": "Qwen3-30B-A3B", "tp": 2, "kv_cache": {"num_gpu_blocks": 20000}, "engine_kwargs":'
        ' {"max_num_seqs": 64, "enable_expert_parallel": true, "kv_cache_dtype": "fp8", "data_parallel_size": 1}}]'
    )
    found = list(llmservingsim.read(tmp_path, Ask("llmservingsim_vllm_runs")))
    known = [c for c in found if c.machine[0] == "h100_sxm"]
    assert known
    assert all(np.isfinite(c.predicted).all() for c in known)
    assert all((c.why != "").all() for c in found if c not in known)


def test_cards_behind_one_switch_do_not_share_a_hosts_links() -> None:
    from steelyard.cost.op_models import link_parameters

    switched = trtllm._placed("LLaMA v3.1 70B", "L40S", tp=8, weights="fp8", engine="trtllm")
    nvlink = trtllm._placed("LLaMA v3.1 70B", "H100-SXM-80GB", tp=8, weights="fp8", engine="trtllm")
    assert not isinstance(switched, str) and not isinstance(nvlink, str)
    plain = deploy("Llama-3.1-70B", "l40s", tp=8, weights="fp8", engine="trtllm")
    assert not isinstance(plain, str)
    assert link_parameters(switched.cluster, "pcie").parameters.contention == 0.0
    assert link_parameters(plain.cluster, "pcie").parameters.contention > 1.0
    assert float(switched.decode(64, 1000).value[0]) < float(plain.decode(64, 1000).value[0])
    assert not nvlink.cluster.peer or not nvlink.cluster.peer.name.endswith("_switch")


def test_queued_short_prompts_share_steps() -> None:
    at = deploy("Llama-3.1-8B", "h100_sxm", weights="fp8", kv="fp8", engine="trtllm")
    assert not isinstance(at, str)
    rows = pd.DataFrame({"isl": [128.0, 128.0], "osl": [128.0, 128.0], "num_requests": [4000.0, 100.0]})
    rate, low, high, most = trtllm._queue_rate(at, rows)
    assert rate[0] > 1.5 * rate[1]  # a longer queue fills more seats, its ends count less
    assert np.all(rate < most)
    assert np.all(low < rate) and np.all(rate < high)
