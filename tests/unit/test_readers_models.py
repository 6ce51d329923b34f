"""Readers of whole-model tables on small made-up folders, and the arithmetic they share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas")

from steelyard.measurements.reader import Ask
from steelyard.testing.readers import ReaderContract
from steelyard_validation.fits import family as fit_family
from steelyard_validation.readers import (
    deepseek_serving,
    gpt3_layer,
    inferencex,
    llamacpp,
    llmservingsim,
    ml_energy,
    mlperf_inference,
    neusight_e2e,
    qualcomm_llm,
    rockchip_llm,
    splitwise,
    tpu_serving,
    trtllm,
)
from steelyard_validation.readers._serve import Load, Service, shown
from steelyard_validation.readers._whole import Placed, deploy, static_batch


def at(model: str = "Llama-3.1-8B", machine: str = "h100_sxm", **plan: object) -> Placed:
    found = deploy(model, machine, **plan)  # type: ignore[arg-type]
    assert isinstance(found, Placed)
    return found


class TestSteps:
    def test_many_rows_price_as_each_alone(self) -> None:
        here = at()
        batch, context = np.array([1.0, 8.0, 8.0, 64.0]), np.array([100.0, 100.0, 5000.0, 1000.0])
        together = here.decode(batch, context).value
        alone = [float(here.decode(b, c).value[0]) for b, c in zip(batch, context, strict=True)]
        assert together == pytest.approx(alone, rel=1e-9)

    def test_no_step_is_faster_than_the_datasheet_and_the_interval_holds_it(self) -> None:
        here = at()
        for step in (here.decode([1, 64], [500, 4000]), here.prefill([1, 8], [128, 2048])):
            assert np.all(step.limit <= step.low) and np.all(step.low <= step.value) and np.all(step.value <= step.high)

    def test_what_is_scored_of_a_static_batch_is_what_estimate_shows(self) -> None:
        from steelyard import estimate

        shown = estimate("llama-3.1-8b", "h100_sxm", batch=4, isl=512, osl=129, engine="vllm")
        scored = static_batch(at(engine="vllm"), 4.0, 512.0, 129.0)
        for name, figure in (("ttft_s", scored.ttft), ("tpot_s", scored.tpot), ("e2e_s", scored.e2e)):
            assert float(figure.value[0]) == pytest.approx(getattr(shown, name)), name
            assert (float(figure.low[0]), float(figure.high[0])) == pytest.approx(shown.interval[name]), name

    def test_a_rate_turns_the_interval_round(self) -> None:
        step = at().decode(8.0, 1000.0)
        rate = step.rate(8.0)
        assert float(rate.low[0]) == pytest.approx(8.0 / float(step.high[0]))
        assert rate.low < rate.value < rate.high < rate.limit

    def test_a_quantised_head_moves_less(self) -> None:
        here = at("qwen2.5-0.5b", "rk3588", weights="int8", engine="rkllm")
        narrow = replace(here, head_format="int8")
        assert float(narrow.decode(1.0, 100.0).value[0]) < float(here.decode(1.0, 100.0).value[0])

    @pytest.mark.parametrize(
        ("model", "machine", "plan"),
        [
            ("no such model", "h100_sxm", {}),
            ("Llama-3.1-8B", "no such machine", {}),
            ("Llama-3.1-8B", "h100_sxm", {"tp": 3}),
        ],
    )
    def test_what_cannot_be_is_a_reason(self, model: str, machine: str, plan: dict[str, int]) -> None:
        assert isinstance(deploy(model, machine, **plan), str)  # type: ignore[arg-type]


class TestLoads:
    def test_what_is_scored_of_a_load_is_what_simulate_shows(self) -> None:
        import steelyard
        from steelyard.simulation.metrics import intervals

        run = steelyard.simulate(
            "llama-3.1-8b", "h100_sxm", concurrency=4, isl=600, osl=50, requests=20, think="0s", engine="vllm"
        )
        service = Service.of(at(engine="vllm"), [Load(4, 20, 600, 50)])
        trace = run.trace
        scored = service.play(trace, {}).outcomes
        told = intervals(run)
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            figure = shown([scored], name, np.nan)
            assert float(figure.value[0]) == pytest.approx(run.summary()[name]["mean"], rel=1e-6)
            # one table serves every load of a deployment; its spread is over what any of them may do
            assert (float(figure.low[0]), float(figure.high[0])) == pytest.approx(told[name]["mean"], rel=0.01)

    def test_more_clients_mean_more_tokens_and_longer_waits(self) -> None:
        loads = [Load(n, 4 * n, 1024, 256, 0.8) for n in (1, 8, 64)]
        runs = Service.of(at(), loads).all_closed(loads, interval=False)
        for name in ("tokens_per_s", "ttft_s", "tpot_s"):
            assert np.all(np.diff([getattr(run[0], name) for run in runs]) > 0), name

    def test_a_load_that_never_fits_is_no_answer_and_the_others_are(self) -> None:
        loads = [Load(1, 2, 1000, 100), Load(1, 2, 3_000_000, 100)]
        runs = Service.of(at(), loads).all_closed(loads)
        assert np.isfinite(runs[0][0].e2e_s) and np.isnan(runs[1][0].e2e_s)


class TestFamilies:
    def test_the_split_is_the_same_every_time_and_uses_both_labels(self) -> None:
        machines = [f"m{i}" for i in range(40)]
        labels = fit_family.split_of(machines, ["x"] * 40)
        assert set(labels.tolist()) == {"fit", "left-out"}
        assert labels.tolist() == fit_family.split_of(machines, ["x"] * 40).tolist()

    def test_a_known_family_is_found_again(self) -> None:
        """Rates made with three figures give these figures back."""
        from steelyard.workload.transformer import Step

        rates = []
        for name in ("qwen2.5-0.5b", "qwen2.5-1.5b", "tinyllama", "internlm2-1.8b", "phi-3-mini", "gemma-2-2b"):
            here = rockchip_llm.place(name, "rk3588", "w8a8")
            assert not isinstance(here, str)
            for step, decode in ((Step.decode(1, 160), True), (Step.prefill(1, 128), False)):
                made = fit_family.rate(here, step, decode, 1.0, name)
                truth = fit_family._predicted(made, np.array([0.6, 0.3, 60e-6]))
                rates.append(replace(made, measured_s=truth))
        found = fit_family.fit(rates)
        assert found.dram_frac == pytest.approx(0.6, rel=0.1)
        assert found.compute_frac == pytest.approx(0.3, rel=0.15)

    def test_merging_replaces_only_its_own_sections(self, tmp_path: Path) -> None:
        path = tmp_path / "gemm.toml"
        path.write_text("# head\n[one]\n[one.parameters]\na = 1\n[two]\n[two.parameters]\na = 2\n", encoding="utf-8")
        fit_family.merge(path, {"one": "[one]\n[one.parameters]\na = 3\n"})
        import tomllib

        read = tomllib.loads(path.read_text(encoding="utf-8"))
        assert read["one"]["parameters"]["a"] == 3 and read["two"]["parameters"]["a"] == 2


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


class TestSplitwise(ReaderContract):
    reader = staticmethod(splitwise.read)
    source = "splitwise_perf_model"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        head = "model,hardware,isl,batch_size,osl,tensor_parallel,prompt_time_ms,token_time_ms\n"
        rows = ["llama2-70b,h100-80gb,512,1,128,8,50,30", "bloom-176b,a100-80gb,512,8,128,8,1300,53"]
        rows += ["llama2-70b,h100-80gb-pcap,512,1,128,8,65,30", "nobody-1b,h100-80gb,512,1,128,8,65,30"]
        return write(tmp_path / "s", "t.csv", head + "\n".join(rows) + "\n")

    def test_scaled_rows_and_unknown_models_are_not_covered(self, folder: Path) -> None:
        prefill, decode = self.read(folder)
        assert np.isfinite(prefill.predicted).tolist() == [True, True, False, False]
        assert np.isfinite(decode.predicted).tolist() == [True, True, True, False]


class TestTrtllm(ReaderContract):
    reader = staticmethod(trtllm.read)
    source = "trtllm_perf_overview"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = write(
            tmp_path / "t",
            "static_batch_x.csv",
            "version,kind,model,gpu,precision,batch_size,tp,isl,osl,out_tok_s_per_gpu,first_token_latency_ms\n"
            "0.9,peak_throughput,GPT-J 6B,H100-SXM-80GB,fp8,64,1,128,128,5000,\n"
            "0.9,first_token_latency,LLaMA 7B,A100-SXM4-80GB,fp16,1,1,128,1,,16\n",
        )
        write(
            folder,
            "throughput_x.csv",
            "model,gpu,tp,pp,precision,kv_dtype,isl,osl,throughput_tok_s\n"
            "LLaMA v3.1 8B,H100-SXM-80GB,1,1,fp8,fp8,128,128,28000\nQwen9 1T,H100-SXM-80GB,1,1,fp8,fp8,128,128,1\n",
        )
        return write(
            folder,
            "online_serving_x.csv",
            "model,gpu,tp,precision,isl_mean,osl_mean,request_rate_qps,mean_ttft_ms,mean_itl_ms,output_tput_tok_s\n"
            "LLaMA v3.1 8B,H100-SXM-80GB,1,fp8,200,200,4,20,6,800\n",
        )


class TestNeusight(ReaderContract):
    reader = staticmethod(neusight_e2e.read)
    source = "neusight_ops"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = ["Tesla_T4,gpt2_large,inf,1024,4,,1", "Tesla_T4,gpt2_large,train,1024,4,,1"]
        rows += [
            "NVIDIA_A100-SXM4-40GB,gpt2_large,train,1024,4,-tp4,1",
            "NVIDIA_A100-SXM4-40GB,gpt2_large,train,1024,4,-dp4,1",
        ]
        rows += ["NVIDIA_A100-SXM4-40GB,gpt2_large,train,1024,4,-pp4_1,1", "Tesla_T4,switchxl4,inf,512,1,,1"]
        head = "device,model,mode,seq_len,batch,variant,e2e_latency_ms\n"
        return write(tmp_path / "n", "e2e_model_latency.csv", head + "\n".join(rows) + "\n")

    def test_training_costs_more_and_splitting_less(self, folder: Path) -> None:
        inference, training = self.read(folder)
        one, tp, dp, pp = training.predicted
        assert one > 2.5 * inference.predicted[0]
        assert max(tp, dp) < pp


class TestGpt3Layer(ReaderContract):
    reader = staticmethod(gpt3_layer.read)
    source = "hw"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = [f"{op},0.001,0.0001" for op in gpt3_layer.KERNEL]
        text = "op,prefill_s,decode_s\n" + "\n".join(rows) + "\n"
        return write(tmp_path / "g", "gpt3_layer_4xA100_prefill_decode_s.csv", text)

    def test_the_layer_is_the_sum_of_its_ops(self, folder: Path) -> None:
        for found in self.read(folder):
            assert found.family[-1] == "layer"
            assert found.predicted[-1] == pytest.approx(found.predicted[:-1].sum())

    def test_the_other_table_gives_the_layers_alone(self, tmp_path: Path) -> None:
        rows = [f"{phase},{op},0.001" for phase in ("prefill", "decode") for op in gpt3_layer.KERNEL]
        folder = write(
            tmp_path / "h", "gpt3_layer_breakdown_a100x4.csv", "phase,op,latency_s\n" + "\n".join(rows) + "\n"
        )
        found = list(gpt3_layer.breakdown(folder, Ask("llmcompass_ops")))
        assert [c.phase for c in found] == ["prefill", "decode"]
        assert [c.family.tolist() for c in found] == [["layer"], ["layer"]]
        assert found[0].measured[0] == pytest.approx(0.012)


class TestLlamacpp(ReaderContract):
    reader = staticmethod(llamacpp.read)
    source = "llamacpp_consumer"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = write(
            tmp_path / "l",
            "apple_x.csv",
            "model,chip,gpu_cores,quant,phase,tok_s\nLLaMA 7B (6.74 B),M2 Max,38,Q4_0,decode_tg128,66\n"
            "LLaMA 7B (6.74 B),M2 Max,30,Q4_0,prefill_pp512,540\nLLaMA 7B (6.74 B),M9,10,F16,decode_tg128,9\n",
        )
        return write(
            folder,
            "geerling_x.csv",
            "model,system,device,decode_tok_s\nLlama 3.2:3b,Pi 5 - 16GB,CPU,5\nLlama 3.1:70b,Pi 5 - 16GB,CPU,1\n"
            "Llama 3.2:3b,Pi CM5 - 16GB (Nvidia RTX 40901),GPU,200\nLlama 3.2:3b,A Cray-1,CPU,1\n",
        )

    @pytest.mark.parametrize(
        ("chip", "cores", "name"),
        [("M2 Max", 38, "m2_max"), ("M2 Max", 30, "m2_max_30c"), ("M3 Max 30c", 30, "m3_max_30c"), ("M9", 4, "M9 4c")],
    )
    def test_chips_with_their_cores(self, chip: str, cores: int, name: str) -> None:
        assert llamacpp.apple_machine(chip, cores) == name

    @pytest.mark.parametrize(
        ("system", "device", "name"),
        [
            ("Pi CM5 - 16GB (Nvidia RTX 40901)", "GPU", "rtx_4090"),
            ("Pi 5 - 16GB (AMD Pro W77001)", "GPU", "radeon_pro_w7700"),
            ("Dell Pro Max with GB10 (Nvidia Spark)", "GPU", "dgx_spark"),
            ("M1 Ultra (48 GPU Core) 64GB", "GPU", "m1_ultra_48c"),
            ("Pi 500+ - 16GB", "CPU", "raspberry_pi_5"),
        ],
    )
    def test_described_systems(self, system: str, device: str, name: str) -> None:
        assert llamacpp.system_machine(system, device) == (name, "")

    def test_models_that_do_not_fit_are_not_covered(self, folder: Path) -> None:
        small = self.read(folder)[-1]
        assert small.why[1] == "the weights do not fit this machine"


class TestQualcomm(ReaderContract):
    reader = staticmethod(qualcomm_llm.read)
    source = "qualcomm_aihub"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write(
            tmp_path / "q",
            "llm_on_snapdragon.csv",
            "model,precision,device,context_length,ttft_min_ms,ttft_max_ms,decode_tok_s\n"
            "llama_v3_2_3b_instruct,w4a16,Snapdragon 8 Elite QRD,4096,90,2800,23\n"
            "somebody_1b,w4a16,Snapdragon 8 Elite QRD,4096,90,2800,23\n",
        )

    def test_a_full_prompt_is_its_chunks(self, folder: Path) -> None:
        _, chunk, full = self.read(folder)
        assert full.predicted[0] == pytest.approx(32 * chunk.predicted[0])


class TestRockchip(ReaderContract):
    reader = staticmethod(rockchip_llm.read)
    source = "rockchip_npu"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write(
            tmp_path / "r",
            "rknn_llm_benchmark.csv",
            "soc,model,size,dtype,prompt_len,new_tokens,ttft_ms,decode_tok_s\nRK3588,Qwen2,0.5B,w8a8,128,64,146,42\n"
            "RV1126B,Qwen2,0.5B,w4a16,,,650,21\nRK9999,Qwen2,0.5B,w8a8,128,64,146,42\n",
        )


class TestInferencex(ReaderContract):
    reader = staticmethod(inferencex.read)
    source = "inferencex_silicon"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        head = "concurrency,backend,backend_version,model_path,system,isl,osl,tp_size,attention_dp_size,moe_tp_size,"
        head += "moe_ep_size,"
        head += "gemm_quant_mode,moe_quant_mode,source_set,duplicate,parallel_suspect,ttft_ms,tpot_ms\n"
        rows = ["8,vllm,,meta-llama/Llama-3.1-70B,h100_sxm,1024,1024,4,,1,1,fp8,fp8,x.csv,False,False,100,10"]
        rows += ["8,vllm,,meta-llama/Llama-3.1-70B,h100_sxm,1024,1024,4,,1,1,fp8,fp8,x.csv,True,False,100,10"]
        rows += ["64,trtllm,,deepseek-ai/DeepSeek-R1,b200_sxm,1024,1024,1,8,1,8,nvfp4,nvfp4,x.csv,False,False,100,10"]
        rows += ["4,vllm,,Qwen/Qwen3-235B-A22B-FP8,h200_sxm,1024,128,1,,1,1,fp8,fp8,x.csv,False,False,100,10"]
        folder = write(tmp_path / "i", "agg_ttft_tpot.csv", head + "\n".join(rows) + "\n")
        head = "concurrency,backend,model_path,system,isl,osl,decode_num_workers,decode_tp_size,prefill_num_workers,"
        head += "prefill_tp_size,gemm_quant_mode,moe_quant_mode,ttft_ms,tpot_ms\n"
        row = "32,sglang,meta-llama/Llama-3.1-70B,h100_sxm,1024,1024,2,4,1,4,fp8,fp8,200,10\n"
        write(folder, "disagg_ttft_tpot.csv", head + row)
        head = "precision,engine,tp,ep,isl,osl,concurrency,model_id,gpu,n_gpus,median_ttft_s,median_tpot_s\n"
        return write(
            folder,
            "h200x8_token_position_2026-02.csv",
            head + "fp8,vllm,8,,100000,128,1,meta-llama/Llama-3.1-70B,h200_sxm,8,10,0.01\n",
        )

    def test_duplicates_go_and_what_does_not_fit_stays_uncovered(self, folder: Path) -> None:
        tpot = self.read(folder)[0]
        assert len(tpot) == 3
        assert np.isfinite(tpot.predicted).tolist() == [True, True, False]

    def test_throughput_follows_from_both_times_and_families_say_what_is_the_matter(self, folder: Path) -> None:
        tpot, ttft, rate = self.read(folder)[:3]
        assert [c.metric for c in (tpot, ttft, rate)] == ["tpot_s", "ttft_s", "tokens_per_s_per_device"]
        assert rate.predicted[0] == pytest.approx(8 / (tpot.predicted[0] + ttft.predicted[0] / 1024) / 4)
        assert rate.measured[0] == pytest.approx(8 / (0.010 + 0.1 / 1024) / 4)
        assert tpot.family[0] == "Llama-3.1-70B vllm"
        assert set(tpot.split) == {"fit", "left-out"}  # every second doubling of clients of a fitted part

    def test_flags_are_those_of_the_published_scripts(self) -> None:
        dense = deploy("Llama-3.1-70B", "h200_sxm", tp=4, weights="fp8", kv="fp8", engine="trtllm")
        assert not isinstance(dense, str)
        row = {"concurrency": 16, "isl": 1024, "osl": 1024, "uniform": True}
        load = inferencex.load_of(dense, row)
        assert (load.requests, load.shortest_frac, dict(load.flags)["max_num_batched_tokens"]) == (160, 0.8, 2248)
        assert dict(load.flags)["batch_wait_timeout_iters"] == 20
        assert "batch_wait_timeout_iters" not in dict(inferencex.load_of(dense, {**row, "osl": 8192}).flags)

    def test_rows_of_the_fit_are_labelled(self) -> None:
        import pandas as pd

        frame = pd.DataFrame(
            {
                "concurrency": [4.0, 8.0, 4.0, 4.0],
                "backend": ["vllm", "vllm", "vllm", "sglang"],
                "model_path": ["meta-llama/Llama-3.1-70B"] * 4,
                "system": ["h200_sxm", "h200_sxm", "l40s", "h200_sxm"],
                "gemm_quant_mode": ["fp8"] * 4,
                "moe_quant_mode": ["fp8"] * 4,
                "tp": [4.0] * 4,
            }
        ).assign(
            pp=1.0,
            dp=1.0,
            ep=1.0,
            isl=1024.0,
            osl=1024.0,
            stated=True,
            uniform=True,
            source_set="x.csv",
            ttft_ms=100.0,
            tpot_ms=10.0,
            backend_version=np.nan,
        )
        assert inferencex.fitted_rows(frame).tolist() == [True, False, False, False]


class TestServingLogs(ReaderContract):
    reader = staticmethod(llmservingsim.read)
    source = "llmservingsim_vllm_runs"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = [f"RTXPRO6000,Llama-3.1-8B,1,{300 + i},{100 + i},{i / 4},60,12,1500" for i in range(12)]
        head = "gpu,model,tp,input_toks,output_toks,arrival_s,ttft_ms,tpot_ms,e2e_ms\n"
        return write(tmp_path / "v", "requests.csv", head + "\n".join(rows) + "\n")

    def test_every_request_and_the_whole_run_are_answered(self, folder: Path) -> None:
        log = "".join(f"RTXPRO6000,Llama-3.1-8B,{t},{2 * t},0\n" for t in range(1, 4))
        write(folder, "timeseries_1s.csv", "gpu,model,t,running,waiting\n" + log)
        found = {c.metric: c for c in self.read(folder)}
        assert set(found) == {
            "tpot_s",
            "ttft_s",
            "e2e_s",
            "mean_ttft_s",
            "p99_ttft_s",
            "mean_e2e_s",
            "p99_e2e_s",
            "running",
        }
        steps = np.arange(12) + 99
        together = found["ttft_s"].predicted + steps * found["tpot_s"].predicted
        assert found["e2e_s"].predicted == pytest.approx(together)
        assert found["mean_e2e_s"].predicted[0] == pytest.approx(np.mean(together))
        assert np.all(np.diff(found["running"].predicted) >= 0)


class TestMlEnergy(ReaderContract):
    reader = staticmethod(ml_energy.read)
    source = "ml_energy_v3"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        head = (
            "model,task,gpu_model,weight_precision,num_gpus,par_tensor_parallel,par_data_parallel,par_expert_parallel,"
        )
        head += "max_num_seqs,avg_batch_size,avg_output_len,median_itl_ms,"
        head += "output_throughput_tokens_per_sec,energy_per_token_joules\n"
        rows = [
            "Qwen/Qwen3-8B,gpqa,H100,bfloat16,1,1,1,1,8,8,8000,10,800,0.6",
            "Qwen/Qwen3-8B,image-chat,H100,bfloat16,1,1,1,1,8,8,80,10,80,1",
        ]
        rows += ["Qwen/Qwen3-235B-A22B-Instruct-2507-FP8,lm-arena-chat,H100,fp8,8,1,1,8,64,64,600,20,3000,2"]
        return write(tmp_path / "m", "llm_energy_latency.csv", head + "\n".join(rows) + "\n")


class TestMlperf(ReaderContract):
    reader = staticmethod(mlperf_inference.read)
    source = "mlperf_inference"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = write(
            tmp_path / "p",
            "v4.1_results.csv",
            "division,benchmark,scenario,accelerator,accel_per_node,nodes,samples_per_s,completed_samples_per_s,tokens_per_s\n"
            "closed,llama2-70b-99,Offline,NVIDIA H100-SXM-80GB,8,1,83,,24000\n"
            "closed,llama2-70b-99,Server,NVIDIA H100-SXM-80GB,8,1,,80,23000\n"
            "closed,resnet50,Offline,NVIDIA H100-SXM-80GB,8,1,700000,,\nclosed,gptj-99,Offline,,8,1,100,,\n",
        )
        return write(
            folder,
            "v5.1_results.csv",
            "ID,Model,Scenario,Accelerator,accelerators_per_node,Nodes,Software,weight_data_types,Performance_Result,Performance_Units\n"
            "5.1-1,llama2-70b-interactive-99,Interactive,NVIDIA B200-SXM-180GB,8,1,x,fp4,60000,Tokens/s\n",
        )

    def test_other_networks_are_left_to_others_and_limits_cost_rate(self, folder: Path) -> None:
        old, new = self.read(folder)
        assert len(old) == 3 and len(new) == 1
        assert old.predicted[1] <= old.predicted[0]
        assert np.isnan(old.predicted[2]) and np.isfinite(new.predicted[0])


class TestDeepseek(ReaderContract):
    reader = staticmethod(deepseek_serving.read)
    source = "deepseek_serving"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write(
            tmp_path / "d",
            "published_serving_numbers.csv",
            "model,gpu,metric,value,unit\nDeepSeek-V3,H800-SXM-80GB,decode_tgs_profile_data,2300,tok/s/GPU\n"
            "DeepSeek-V3,H800-SXM-80GB,avg_nodes,226,nodes\nQwen3-8B-FP8,H20,decode_tgs,2600,tok/s/GPU\n",
        )


class TestTpu(ReaderContract):
    reader = staticmethod(tpu_serving.read)
    source = "tpu_published"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write(
            tmp_path / "u",
            "tpu_vllm_serving.csv",
            "tpu,model,n_chips,max_conc,isl_mean,osl_mean,successful,mean_tpot_ms,mean_ttft_ms,output_tput\n"
            "TPU v6e (Trillium),Llama-3.x-70B-Instruct (see recipe),8,64,999,1000,3000,25,250,2500\n",
        )


def test_a_broken_file_costs_its_own_rows_only(tmp_path: Path) -> None:
    folder = write(tmp_path / "b", "static_batch_x.csv", "version,model\n1,2\n")
    write(
        folder,
        "throughput_x.csv",
        "model,gpu,tp,pp,precision,isl,osl,throughput_tok_s\nLlama-3.1-8B,H100,1,1,fp8,128,128,1\n",
    )
    ask = Ask("trtllm_perf_overview")
    first, second = list(trtllm.read(folder, ask))
    assert "columns missing" in str(first.why[0]) and np.isfinite(second.predicted[0])
    assert any("columns missing" in w for w in ask.warnings)
