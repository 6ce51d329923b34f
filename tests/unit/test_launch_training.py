"""Launch files of training plans: documented flags only, the plan's degrees, files that parse, what is left out."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.launch.command import Flags
from steelyard.launch.training import training_files

FLAGS = Path(__file__).parents[2] / "src" / "steelyard" / "launch" / "flags" / "training"
#: What is launched, by framework.
_HEADS: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm:16", "tp": 1, "pp": 1, "mbs": 1, "gbs": 32}
ASKED: dict[str, dict[str, Any]] = {
    "megatron": {"model": "llama-3.1-8b", "on": "h100_sxm:64", "tp": 2, "pp": 4, "vp": 2, "cp": 2, "gbs": 128},
    "megatron-fsdp": {"model": "llama-3.1-8b", "on": "h100_sxm:16", "tp": 1, "pp": 1, "mbs": 1, "zero": 3, "shard": 8},
    "megatron-moe": {
        "model": "deepseek-v3",
        "on": "h100_sxm:256",
        "tp": 4,
        "pp": 8,
        "ep": 32,
        "gbs": 2048,
        "precision": "fp8_block",
        "recompute": "mla_up_proj,moe",
    },
    "megatron-sft": {"model": "qwen2.5-7b", "on": "h100_sxm:8", "task": "sft", "tp": 2, "pp": 1, "recompute": "full"},
    "bridge": {"model": "qwen3-30b-a3b", "on": "h100_sxm:32", "pp": 4, "ep": 8, "set": "dispatcher=deepep"},
    "bridge-lora": {"model": "qwen3-8b", "on": "h100_sxm:8", "tp": 2, "pp": 1, "task": "lora", "rank": 8},
    "torchtitan": {"model": "llama-3.1-70b", "on": "h100_sxm:64", "tp": 8, "pp": 1, "recompute": "full", "gbs": 64},
    "torchtitan-pp": {"model": "llama-3.1-70b", "on": "h100_sxm:64", "tp": 4, "pp": 4, "schedule": "gpipe", "gbs": 64},
    "fsdp": {"model": "qwen3-8b", "on": "h100_sxm:16", "tp": 1, "pp": 1, "dp": 16, "shard": 8, "mbs": 1, "gbs": 64},
    "deepspeed": {"model": "llama-3.1-8b", "on": "a100_sxm:16", "tp": 1, "pp": 1, "mbs": 1, "gbs": 64, "zero": 2},
    "transformers": {"model": "qwen3-0.6b", "on": "l4", "task": "qlora", "mbs": 1, "gbs": 4},
    "megatron-host": {**_HEADS, "cp": 8, "ring": 2, "offload": "optimizer,activations"},
    "bridge-heads": {**_HEADS, "cp": 4, "ring": 1, "offload": "optimizer"},
    "torchtitan-host": {**_HEADS, "cp": 4, "offload": "optimizer,parameters"},
    "fsdp-host": {**_HEADS, "offload": "optimizer,parameters", "loss": "fused"},
    "deepspeed-heads": {**_HEADS, "cp": 4, "zero": 3, "offload": "optimizer:nvme,parameters"},
    "transformers-host": {"model": "qwen3-0.6b", "on": "l4", "task": "lora", "mbs": 1, "offload": "activations"},
}


@pytest.fixture(scope="module")
def written() -> dict[str, dict[str, str]]:
    """The files of every plan."""
    found = {}
    for name, words in ASKED.items():
        given = {k: v for k, v in words.items() if k not in ("model", "on")}
        estimate = sy.train(words["model"], words["on"], framework=name.split("-")[0], seq=4096, **given)
        found[name] = training_files(estimate)
    return found


def _arguments(script: str) -> list[str]:
    """Every flag inside the arrays of a script, with its value behind."""
    inside = re.findall(r"=\(\n(.*?)\n\s*\)", script, re.DOTALL)
    return [word for block in inside for word in shlex.split(block)]


def _values(script: str) -> dict[str, str]:
    words = _arguments(script)
    return {a: b for a, b in zip(words, [*words[1:], ""], strict=True) if a.startswith("--")}


def _dotted(table: dict[str, Any], before: str = "") -> set[str]:
    found = set()
    for name, value in table.items():
        found |= _dotted(value, f"{before}{name}.") if isinstance(value, dict) else {before + name}
    return found


# flags


@pytest.mark.parametrize("path", sorted(FLAGS.glob("*.toml")), ids=lambda p: p.stem)
def test_lists_of_training_flags_say_version_and_source(path: Path) -> None:
    flags = Flags.of(f"training/{path.stem}")
    assert flags.version and flags.source
    assert flags.kinds or flags.options
    assert all(name.startswith("--") for name in flags.kinds)


def test_every_flag_of_a_training_script_is_documented(written: dict[str, dict[str, str]]) -> None:
    seen = set()
    for name, files in written.items():
        lists = {
            "megatron": ["megatron"],
            "bridge": [],
            "torchtitan": ["torchtitan"],
            "fsdp": ["accelerate", "trainer"],
            "deepspeed": ["trainer", *(["accelerate"] if name == "deepspeed-heads" else [])],
            "transformers": ["trainer"],
        }[name.split("-")[0]]
        kinds = {k: v for each in lists for k, v in Flags.of(f"training/{each}").kinds.items()}
        words = _arguments(files["train.sh"])
        for i, word in enumerate(words):
            if word.startswith("--"):
                assert word in kinds, (name, word)
                bare = i + 1 == len(words) or words[i + 1].startswith("--")
                assert bare == (kinds[word] == "flag"), (name, word)
                seen.add(word)
    assert len(seen) > 70


def test_every_field_of_a_training_file_is_documented(written: dict[str, dict[str, str]]) -> None:
    titan = Flags.of("training/torchtitan").options
    assert _dotted(tomllib.loads(written["torchtitan"]["train.toml"])) <= set(titan)
    assert _dotted(yaml.safe_load(written["fsdp"]["accelerate.yaml"])) <= set(Flags.of("training/accelerate").options)
    assert _dotted(json.loads(written["deepspeed"]["deepspeed.json"])) <= set(Flags.of("training/deepspeed").options)
    fields = re.findall(r'^    "([a-z_.]+)": ', written["bridge"]["train.py"], re.MULTILINE)
    assert fields and set(fields) <= set(Flags.of("training/bridge").options)


def test_fields_of_files_are_checked() -> None:
    flags = Flags.of("training/torchtitan")
    with pytest.raises(InputError, match="true or false"):
        flags.option("training.compile", "yes")
    with pytest.raises(InputError, match="a list"):
        flags.option("model.converters", "float8")
    with pytest.raises(InputError, match="no option"):
        flags.option("training.batch", 1)


# the plan is in the files


def test_heads_and_the_host_are_in_the_files(written: dict[str, dict[str, str]]) -> None:
    values = _values(written["megatron-host"]["train.sh"])
    words = _arguments(written["megatron-host"]["train.sh"])
    assert values["--cp-comm-type"] == "a2a+p2p"
    at = words.index("--hierarchical-context-parallel-sizes")
    assert words[at + 1 : at + 3] == ["4", "2"]
    assert {"--optimizer-cpu-offload", "--use-precision-aware-optimizer", "--offload-modules"} <= set(words)
    bridge = written["bridge-heads"]["train.py"]
    assert "\"model.cp_comm_type\": 'a2a'" in bridge
    assert '"optimizer.optimizer_cpu_offload": True' in bridge
    assert tomllib.loads(written["torchtitan-host"]["train.toml"])["training"]["enable_cpu_offload"]
    assert yaml.safe_load(written["fsdp-host"]["accelerate.yaml"])["fsdp_config"]["fsdp_offload_params"]
    assert _values(written["fsdp-host"]["train.sh"])["--use_liger_kernel"] == "True"
    assert _values(written["transformers-host"]["train.sh"])["--activation_offloading"] == "True"
    zero = json.loads(written["deepspeed-heads"]["deepspeed.json"])["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "nvme"
    assert zero["offload_param"] == {"device": "cpu", "pin_memory": True}
    shared = yaml.safe_load(written["deepspeed-heads"]["accelerate.yaml"])["parallelism_config"]
    assert shared["parallelism_config_sp_size"] == 4
    assert shared["parallelism_config_dp_shard_size"] == 4
    for name in ("megatron-host", "torchtitan-host", "fsdp-host", "deepspeed-heads"):
        assert "sequences a step of the plan" not in written[name]["README.md"]


def test_megatron_runs_the_layout_of_the_plan(written: dict[str, dict[str, str]]) -> None:
    values = _values(written["megatron"]["train.sh"])
    degrees = ("tensor-model-parallel-size", "pipeline-model-parallel-size", "context-parallel-size")
    assert [values[f"--{n}"] for n in degrees] == ["2", "4", "2"]
    assert values["--num-virtual-stages-per-pipeline-rank"] == "2"
    assert (values["--global-batch-size"], values["--seq-length"]) == ("128", "4096")
    assert (values["--num-layers"], values["--hidden-size"], values["--num-query-groups"]) == ("32", "4096", "8")
    assert {"--sequence-parallel", "--use-distributed-optimizer", "--swiglu", "--disable-bias-linear"} <= set(values)
    whole = _values(written["megatron-fsdp"]["train.sh"])
    assert whole["--data-parallel-sharding-strategy"] == "optim_grads_params"
    assert whole["--num-distributed-optimizer-instances"] == "2"


def test_megatron_says_experts_latent_attention_and_layers_of_every_stage(written: dict[str, dict[str, str]]) -> None:
    values = _values(written["megatron-moe"]["train.sh"])
    assert (values["--num-experts"], values["--moe-router-topk"], values["--moe-ffn-hidden-size"]) == (
        "256",
        "8",
        "2048",
    )
    assert values["--moe-layer-freq"] == "([0]*3+[1]*58)"
    assert (values["--kv-lora-rank"], values["--qk-head-dim"], values["--v-head-dim"]) == ("512", "128", "128")
    assert values["--fp8-recipe"] == "blockwise"
    stages = values["--pipeline-model-parallel-layout"].split("|")
    assert len(stages) == 8 and sum(s.count("t") for s in stages) == 61
    assert stages[0].startswith("E") and stages[-1].endswith("L")
    words = _arguments(written["megatron-moe"]["train.sh"])
    at = words.index("--recompute-modules")
    assert words[at + 1 : at + 3] == ["mla_up_proj", "moe"]


def test_tuning_starts_from_a_checkpoint(written: dict[str, dict[str, str]]) -> None:
    values = _values(written["megatron-sft"]["train.sh"])
    assert values["--tokenizer-type"] == "SFTTokenizer" and values["--pretrained-checkpoint"] == "${WEIGHTS}"
    assert values["--recompute-granularity"] == "full" and "--add-qkv-bias" in values
    assert '"peft.dim": 8' in written["bridge-lora"]["train.py"]
    small = _values(written["transformers"]["train.sh"])
    assert {"--use_peft", "--load_in_4bit"} <= set(small) and small["--gradient_accumulation_steps"] == "4"


def test_other_frameworks_run_the_layout_of_the_plan(written: dict[str, dict[str, str]]) -> None:
    titan = tomllib.loads(written["torchtitan"]["train.toml"])
    assert titan["model"] == {"name": "llama3", "flavor": "70B"}
    assert titan["parallelism"]["tensor_parallel_degree"] == 8
    assert titan["parallelism"]["data_parallel_shard_degree"] == 8
    assert titan["activation_checkpoint"]["mode"] == "full"
    piped = tomllib.loads(written["torchtitan-pp"]["train.toml"])
    assert piped["parallelism"]["pipeline_parallel_schedule"] == "GPipe"
    replicas = piped["parallelism"]["data_parallel_shard_degree"]
    assert piped["training"]["local_batch_size"] * replicas == piped["training"]["global_batch_size"] == 64
    cut = yaml.safe_load(written["fsdp"]["accelerate.yaml"])["parallelism_config"]
    assert cut["parallelism_config_dp_replicate_size"] * cut["parallelism_config_dp_shard_size"] == 16
    speed = json.loads(written["deepspeed"]["deepspeed.json"])
    micro, times = speed["train_micro_batch_size_per_gpu"], speed["gradient_accumulation_steps"]
    assert micro * times * 16 == speed["train_batch_size"] == 64
    assert speed["zero_optimization"]["stage"] == 2
    made = written["bridge"]["train.py"]
    assert '"model.expert_model_parallel_size": 8' in made and 'moe_flex_dispatcher_backend="deepep"' in made


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_scripts_are_shell_and_python(written: dict[str, dict[str, str]], tmp_path: Path) -> None:
    for name, files in written.items():
        for file in ("train.sh", "train.sbatch"):
            path = tmp_path / file
            path.write_text(files[file])
            made = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
            assert made.returncode == 0, (name, made.stderr)
        for file in ("train.py", "check.py"):
            if file in files:
                compile(files[file], file, "exec")


def test_jobs_of_clusters_have_the_nodes_and_devices_of_the_plan(written: dict[str, dict[str, str]]) -> None:
    several = list(yaml.safe_load_all(written["megatron"]["kubernetes.yaml"]))
    job = next(x for x in several if x["kind"] == "PyTorchJob")["spec"]["pytorchReplicaSpecs"]
    assert job["Master"]["replicas"] + job["Worker"]["replicas"] == 8
    inside = job["Worker"]["template"]["spec"]["containers"][0]
    assert inside["name"] == "pytorch" and inside["resources"]["limits"] == {"nvidia.com/gpu": 8}
    files = next(x for x in several if x["kind"] == "ConfigMap")["data"]
    assert files["train.sh"] == written["megatron"]["train.sh"]
    assert "#SBATCH --nodes=8\n" in written["megatron"]["train.sbatch"]
    alone = {x["kind"] for x in yaml.safe_load_all(written["megatron-sft"]["kubernetes.yaml"])}
    assert alone == {"ConfigMap", "Job"}


# what is not done is said


def test_what_a_framework_does_not_do_is_said() -> None:
    plan = {"on": "a100_sxm:16", "pp": 2, "tp": 1, "mbs": 1, "gbs": 64, "zero": 1, "schedule": "zb-h1", "seq": 4096}
    files = training_files(sy.train("llama-3.1-8b", framework="deepspeed", **plan))
    said = files["README.md"]
    assert "no pipeline: the plan's 2 stages" in said and "zb-h1" in said and "16 replicas train instead of 8" in said
    speed = json.loads(files["deepspeed.json"])
    assert speed["gradient_accumulation_steps"] * 16 == speed["train_batch_size"]
    mega = training_files(sy.train("llama-3.1-8b", framework="megatron", optimizer="lion", **plan))["README.md"]
    assert "no schedule zb-h1" in mega and "no Lion" in mega


def test_without_files_the_readme_names_who_has_some() -> None:
    lora = training_files(sy.train("qwen3-0.6b", "h100_sxm:8", framework="megatron", task="lora", tp=1, pp=1))
    assert set(lora) == {"README.md", "check.json", "check.py"}
    assert "--framework bridge" in lora["README.md"]


# the check


def _checked(tmp_path: Path, files: dict[str, str], log: str) -> subprocess.CompletedProcess[str]:
    for name in ("check.json", "check.py"):
        (tmp_path / name).write_text(files[name])
    (tmp_path / "train.log").write_text(log)
    words = [sys.executable, str(tmp_path / "check.py"), str(tmp_path / "train.log")]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_check_reads_logs_and_says_whether_a_run_is_as_planned(
    written: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    files = written["megatron"]
    plan = json.loads(files["check.json"])
    assert plan["step_s"]["low"] < plan["step_s"]["value"] < plan["step_s"]["high"]
    rate = plan["tokens_per_step"] / plan["devices"] / plan["step_s"]["value"]
    assert plan["tokens_per_s_per_device"]["value"] == pytest.approx(rate)
    step, memory = plan["step_s"]["value"], plan["peak_reserved_gib"]["value"]
    line = " iteration {0}/ 50 | elapsed time per iteration (ms): {1:.1f} | throughput per GPU (TFLOP/s/GPU): 400 |\n"
    held = f"[Rank 0] (after 1 iterations) memory (MB) | max allocated: 1.0 | max reserved: {memory * 1024:.1f}\n"
    slow = line.format(1, step * 9e3)
    good = _checked(tmp_path, files, held + slow + "".join(line.format(i, step * 1e3) for i in range(2, 12)))
    assert good.returncode == 0 and good.stdout.count("as planned") == 3, good.stdout
    late = _checked(tmp_path, files, "".join(line.format(i, step * 2e3) for i in range(12)))
    assert late.returncode == 1 and "above the interval" in late.stdout and "nvidia-smi" in late.stdout
    assert _checked(tmp_path, files, "nothing here").returncode == 2
    titan = f"\x1b[32mstep: 9  loss: 3.1  memory: {memory:.2f}GiB(80%)  tps: {rate:,.0f}  tflops: 400\x1b[39m\n"
    assert _checked(tmp_path, files, titan * 8).returncode == 0
    bar = "".join(f" 10/50 [00:35<02:20,  {step:.2f}s/it]\r" for _ in range(8))
    assert _checked(tmp_path, files, bar).returncode == 0


def test_files_of_train_and_of_a_plan_are_written_to_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["qwen3-0.6b", "--on", "h100_sxm:8", "--mbs", "1", "--gbs", "8", "--tp", "1", "--pp", "1"]
    run, plan = tmp_path / "run", tmp_path / "plan"
    assert main(["train", *small, "--out", str(run)]) == 0
    assert main(["plan", *small, "--train", "--out", str(plan)]) == 0
    for folder, answer in ((run, "train.json"), (plan, "train_plan.json")):
        names = {p.name for p in folder.iterdir()}
        assert {"README.md", "train.sh", "train.sbatch", "kubernetes.yaml", "check.json", answer} <= names
        assert (folder / "train.sh").stat().st_mode & 0o111
        assert f"`{answer}`" in (folder / "README.md").read_text()
    capsys.readouterr()
    assert main(["train", *small, "--out", str(run)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["train", *small, "--out", str(run), "--force"]) == 0
    assert main(["train", *small, "--json", "--out", str(tmp_path / "one.json")]) == 0
    assert json.loads((tmp_path / "one.json").read_text())["schema"] == "steelyard.train/1"


def test_networks_have_no_launch_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "resnet50", "--on", "h100_sxm:8", "--gbs", "256", "--out", str(tmp_path / "net")]) == 2
    assert "networks" in capsys.readouterr().err
    assert not (tmp_path / "net").exists()


# steps that learn from scored answers


def _overridden(script: str) -> dict[str, str]:
    inside = re.findall(r"options=\(\n(.*?)\n\)", script, re.DOTALL)
    return {key: value for key, _, value in (word.removeprefix("++").partition("=") for word in shlex.split(inside[0]))}


@pytest.fixture(scope="module")
def rewarded() -> dict[str, dict[str, str]]:
    few: dict[str, Any] = {"prompts": 16, "group": 4, "osl": "64", "isl": 128, "rollout_tp": 2}
    words: dict[str, Any] = {"framework": "fsdp", "tp": 1, "pp": 1, "cp": 2, "gbs": 32}
    turns = sy.train("qwen3-0.6b", "h100_sxm:8", task="grpo", **words, **few)
    few |= {"group": 1, "passes": 2, "rollout_on": "h100_sxm:4", "stale": 1}
    words = {"framework": "megatron", "tp": 2, "pp": 2, "recompute": "full:2", "reward": "qwen3-4b"}
    apart = sy.train("qwen3-0.6b", "h100_sxm:4", task="ppo", **words, **few)
    return {"turns": training_files(turns), "apart": training_files(apart)}


def test_verl_runs_the_step_of_the_plan(rewarded: dict[str, dict[str, str]]) -> None:
    script = rewarded["turns"]["train.sh"]
    found = _overridden(script)
    assert set(found) <= set(Flags.of("training/verl").options)
    assert "verl.trainer.main_ppo --config-name=ppo_trainer" in script
    assert found["algorithm.adv_estimator"] == "grpo"
    assert (found["data.train_batch_size"], found["actor_rollout_ref.rollout.n"]) == ("16", "4")
    assert found["actor_rollout_ref.actor.ppo_mini_batch_size"] == "8"  # 32 of 64 answers an update
    assert found["actor_rollout_ref.actor.ulysses_sequence_parallel_size"] == "2"
    assert found["actor_rollout_ref.rollout.tensor_model_parallel_size"] == "2"
    check = json.loads(rewarded["turns"]["check.json"])
    assert check["devices"] == 8
    assert check["tokens_per_step"] == 64 * 192
    assert check["step_s"]["low"] < check["step_s"]["value"] < check["step_s"]["high"]


def test_verl_has_devices_apart_and_a_critic(rewarded: dict[str, dict[str, str]]) -> None:
    script = rewarded["apart"]["train.sh"]
    found = _overridden(script)
    assert set(found) <= set(Flags.of("training/verl").options)
    assert "one_step_off_policy.main_ppo --config-path=config --config-name=one_step_off_ppo_megatron_trainer" in script
    devices = [found[f"{who}.{n}"] for who in ("trainer", "rollout") for n in ("nnodes", "n_gpus_per_node")]
    assert devices == ["1", "4", "1", "4"]
    assert found["algorithm.adv_estimator"] == "gae"
    assert found["critic.megatron.pipeline_model_parallel_size"] == "2"
    assert found["actor_rollout_ref.actor.ppo_epochs"] == "2"
    again = "actor_rollout_ref.actor.megatron.override_transformer_config.recompute"
    assert (found[f"{again}_method"], found[f"{again}_num_layers"]) == ("block", "2")
    assert found["reward_model.enable"] == "True"
    assert "#SBATCH --nodes=1" in rewarded["apart"]["train.sbatch"]
    assert "#SBATCH --gpus-per-node=8" in rewarded["apart"]["train.sbatch"]
