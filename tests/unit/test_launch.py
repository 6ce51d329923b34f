"""Launch files: documented flags only, schemas of Kubernetes and compose, shell that means what it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.plan import Plan
from steelyard.deployment.plan_file import deployment_text, read_deployment
from steelyard.errors import InputError
from steelyard.launch import Load, launch_files, service, write_folder
from steelyard.launch.command import Flags, Var, compose_word, kubernetes_word, shell_word
from steelyard.launch.documents import comment
from steelyard.launch.folder import MANIFEST
from steelyard.launch.service import Service
from steelyard.scenario.slo import parse_target
from steelyard.writing import WriteError

TARGETS = (parse_target("p99:1s", "ttft_s"), parse_target("p95:50ms", "tpot_s"))
LOAD = Load(10.0, 4000, 500, in_flight=120.0, requests=400, words="10 requests/s", seed=7)
LIMITS = {"max_num_seqs": 96, "max_num_batched_tokens": 4096}
FLAGS = Path(__file__).parents[2] / "src" / "steelyard" / "launch" / "flags"


def pool(machine: str, replicas: int = 1, role: str = "both", **plan: Any) -> Pool:
    flags = {} if plan.get("engine") == "llamacpp" else LIMITS
    return Pool(machine, Plan(**plan), replicas, role, flags)


#: One of each engine, and of each shape: one node, several nodes, prompts apart, mixed machines, a small machine.
DEPLOYMENTS = {
    "vllm": Deployment("llama-3.1-70b", (pool("h100_sxm", 3, weights="fp8", kv="fp8", tp=4, engine="vllm"),)),
    "vllm-one": Deployment("llama-3.1-8b", (pool("l40s", engine="vllm"),)),
    "vllm-amd": Deployment("llama-3.1-8b", (pool("mi300x", 2, engine="vllm"),), "least-loaded"),
    "vllm-nodes": Deployment("deepseek-ai/DeepSeek-V3", (pool("h100_sxm", tp=1, dp=16, ep=16, engine="vllm"),)),
    "vllm-pd": Deployment(
        "qwen3-32b",
        (
            pool("h200_sxm", 2, "prefill", weights="fp8", tp=2, engine="vllm"),
            pool("h200_sxm", 1, "decode", weights="fp8", tp=4, engine="vllm"),
        ),
    ),
    "sglang": Deployment("qwen3-32b", (pool("h200_sxm", 2, tp=2, kv="fp8", engine="sglang"),), "prefix"),
    "sglang-nodes": Deployment("deepseek-ai/DeepSeek-V3", (pool("h200_sxm", 2, tp=1, dp=16, ep=16, engine="sglang"),)),
    "sglang-pd": Deployment(
        "llama-3.1-8b",
        (pool("h200_sxm", 2, "prefill", engine="sglang"), pool("h200_sxm", 3, "decode", engine="sglang")),
    ),
    "trtllm": Deployment("llama-3.1-8b", (pool("b200_sxm", 2, kv="fp8", engine="trtllm"),)),
    "trtllm-nodes": Deployment("deepseek-ai/DeepSeek-V3", (pool("h200_sxm", dp=16, ep=16, engine="trtllm"),)),
    "trtllm-pd": Deployment(
        "llama-3.1-8b",
        (pool("b200_sxm", 2, "prefill", engine="trtllm"), pool("b200_sxm", 3, "decode", engine="trtllm")),
    ),
    "llamacpp": Deployment("llama-3.1-8b", (pool("m2_max", weights="q4_k_m", engine="llamacpp"),)),
    "mixed": Deployment("llama-3.1-8b", (pool("h100_sxm"), pool("mi300x", 2), pool("l40s", 9))),
}


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    return {name: service(d, LOAD, TARGETS) for name, d in DEPLOYMENTS.items()}


@pytest.fixture(scope="module")
def written(services: dict[str, Service]) -> dict[str, dict[str, str]]:
    return {name: launch_files(s) for name, s in services.items()}


def _each(written: dict[str, dict[str, str]], ending: str) -> list[tuple[str, str, str]]:
    return [(d, n, text) for d, files in written.items() for n, text in files.items() if n.endswith(ending)]


def _words(script: str) -> list[str]:
    """The words of the command a script ends in, with its defaults filled in."""
    command = script[script.rindex("exec ") + 5 :]
    defaults = {n: shlex.split(v)[0] for n, v in re.findall(r"\|\| ([A-Z]+)=(.*)", script)}
    return [re.sub(r"\$\{(\w+)\}", lambda m: defaults.get(m[1], m[0]), w) for w in shlex.split(command)]


def _documented(words: list[str]) -> tuple[Flags, list[str]]:
    """The list a command belongs to, and its arguments."""
    names = [p.stem for p in FLAGS.glob("*.toml") if p.stem != "dynamo"]
    found = sorted((Flags.of(n) for n in names), key=lambda f: -len(f.program))
    if words[0] == "trtllm-llmapi-launch":
        words = words[1:]
    for flags in found:
        if tuple(words[: len(flags.program)]) == flags.program:
            return flags, words[len(flags.program) :]
    raise AssertionError(words[:3])


# flags


@pytest.mark.parametrize("path", sorted(FLAGS.glob("*.toml")), ids=lambda p: p.stem)
def test_flag_lists_say_version_and_source(path: Path) -> None:
    data = tomllib.loads(path.read_text())
    assert data["version"] and data["source"] and data["flags"]
    kinds = {"int", "float", "str", "json", "flag", "switch", "list"}
    for name, kind in data["flags"].items():
        assert name.startswith("--"), name
        assert kind in kinds if isinstance(kind, str) else all(isinstance(x, str) for x in kind), name


def test_every_flag_of_every_script_is_documented(written: dict[str, dict[str, str]]) -> None:
    seen = set()
    for deployment, name, text in _each(written, ".sh"):
        flags, words = _documented(_words(text))
        if words[:1] == ["disaggregated"]:
            continue
        seen.add(flags.name)
        bare = {f.replace("--", "--no-", 1): f for f, kind in flags.kinds.items() if kind == "switch"}
        for i, word in enumerate(words):
            if not word.startswith("--"):
                continue
            kind = flags.kinds.get(bare.get(word, word))
            assert kind is not None, (deployment, name, word)
            value = words[i + 1] if i + 1 < len(words) else "--"
            if kind in ("flag", "switch"):
                assert value.startswith("--") or word not in words[i + 1 :], (name, word)
            elif kind == "int":
                int(value) if "$" not in value else None
            elif kind == "float":
                float(value)
            elif kind == "json":
                json.loads(value)
            elif not isinstance(kind, str):
                assert value in kind, (deployment, name, word, value)
    assert seen == {
        "vllm",
        "sglang",
        "trtllm",
        "llamacpp",
        "vllm_router",
        "sglang_router",
        "vllm_bench",
        "aiperf",
        "guidellm",
    }


def test_undocumented_flags_and_values_of_another_kind_are_refused() -> None:
    flags = Flags.of("vllm")
    with pytest.raises(InputError, match="--max-num-seqs"):
        flags.line("--max-num-seq", 4)
    with pytest.raises(InputError, match="expected int"):
        flags.line("--max-num-seqs", "four")
    with pytest.raises(InputError, match="expected one of"):
        flags.line("--kv-cache-dtype", "q4_0")
    with pytest.raises(InputError, match="no option"):
        Flags.of("trtllm").option("kv_cache_config.size", 3)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "vllm",
            {
                "--tensor-parallel-size": "4",
                "--max-num-seqs": "96",
                "--max-num-batched-tokens": "4096",
                "--kv-cache-dtype": "fp8",
                "--quantization": "fp8",
                "--max-model-len": "4608",
                "--gpu-memory-utilization": "0.92",
            },
        ),
        (
            "sglang",
            {
                "--tp-size": "2",
                "--max-running-requests": "96",
                "--chunked-prefill-size": "4096",
                "--kv-cache-dtype": "fp8_e4m3",
                "--mem-fraction-static": "0.88",
                "--context-length": "4608",
            },
        ),
        ("trtllm", {"--tp_size": "1", "--max_batch_size": "96", "--max_num_tokens": "4096", "--max_seq_len": "4608"}),
        ("vllm-nodes", {"--data-parallel-size": "16", "--nnodes": "2", "--tensor-parallel-size": "1"}),
        ("sglang-nodes", {"--tp-size": "16", "--attn-dp-size": "16", "--ep-size": "16", "--nnodes": "2"}),
        ("llamacpp", {"--parallel": "64", "--cache-type-k": "f16", "--gpu-layers": "all"}),
    ],
)
def test_the_limits_of_the_plan_are_in_the_command(
    written: dict[str, dict[str, str]], name: str, wanted: dict[str, str]
) -> None:
    words = _words(written[name]["serve.sh"])
    for flag, value in wanted.items():
        assert words[words.index(flag) + 1] == value
    if name == "vllm-nodes":
        assert "--enable-expert-parallel" in words


@pytest.mark.parametrize(
    ("seqs", "context", "shared"), [(32, "147456", False), (256, None, True)], ids=["a part each", "one cache"]
)
def test_llamacpp_is_started_as_it_was_planned(seqs: int, context: str | None, shared: bool) -> None:
    """As many slots as were simulated, however few requests are in flight, and no more cache than there is."""
    plan = Plan("q4_k_m", kv="fp16", engine="llamacpp")
    deployment = Deployment("llama-3.1-8b", (Pool("m2_max", plan, flags={"max_num_seqs": seqs}),))
    words = _words(launch_files(service(deployment, replace(LOAD, rate_per_s=0.1, in_flight=0.2)))["serve.sh"])
    assert words[words.index("--parallel") + 1] == str(seqs)
    tokens = words[words.index("--ctx-size") + 1]
    assert tokens == context if context else 4608 < int(tokens) < 256 * 4608
    assert ("--kv-unified" in words) == shared


def test_options_file_of_trtllm_is_documented(written: dict[str, dict[str, str]]) -> None:
    known = Flags.of("trtllm").options

    def paths(table: dict[str, Any], before: str = "") -> list[str]:
        return [
            p for k, v in table.items() for p in (paths(v, f"{before}{k}.") if isinstance(v, dict) else [before + k])
        ]

    for deployment, name, text in _each(written, "options.yaml"):
        assert set(paths(yaml.safe_load(text))) <= set(known), (deployment, name)
    table = yaml.safe_load(written["trtllm"]["trtllm-options.yaml"])
    assert table["kv_cache_config"]["dtype"] == "fp8"
    assert yaml.safe_load(written["trtllm-nodes"]["trtllm-options.yaml"])["enable_attention_dp"] is True


def test_prompts_and_answers_find_each_other(written: dict[str, dict[str, str]]) -> None:
    prefill, decode = (_words(written["vllm-pd"][f"serve-{r}.sh"]) for r in ("prefill", "decode"))
    roles = [json.loads(w[w.index("--kv-transfer-config") + 1]) for w in (prefill, decode)]
    assert [r["kv_role"] for r in roles] == ["kv_producer", "kv_consumer"]
    assert {r["kv_connector"] for r in roles} == {"NixlConnector"}
    routed = _words(written["vllm-pd"]["router.sh"])
    assert routed.count("--prefill") == 2
    assert routed.count("--decode") == 1
    other = _words(written["sglang-pd"]["serve-decode.sh"])
    assert other[other.index("--disaggregation-mode") + 1] == "decode"
    servers = yaml.safe_load(written["trtllm-pd"]["trtllm-disaggregated.yaml"])
    assert servers["context_servers"]["num_instances"] == 2
    assert len(servers["generation_servers"]["urls"]) == 3


# shell


def test_scripts_are_bash(written: dict[str, dict[str, str]], tmp_path: Path) -> None:
    for deployment, name, text in _each(written, ".sh"):
        file = tmp_path / f"{deployment}-{name}"
        file.write_text(text)
        done = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (deployment, name, done.stderr)
        assert text.startswith("#!/usr/bin/env bash\n#")
        assert "set -euo pipefail" in text


ODD = [
    "my model",
    "o'hara/model",
    'quo"te',
    "$(touch owned)",
    "`touch owned`",
    "a;touch owned",
    "x\ntouch owned\n",
    "${HOME}",
    "back\\slash",
    "-rf",
    "ünï/côdé",
    "a && b | c > d",
    "!!",
    "$$(X)",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_reach_the_program_unchanged_and_nothing_runs(name: str, tmp_path: Path) -> None:
    """The real shell runs each script with a program in place of the engine that prints its arguments."""
    folder = tmp_path / "models" / name.replace("/", "_")
    folder.mkdir(parents=True)
    small = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(small))
    for engine in ("vllm", "sglang", "trtllm", "llamacpp"):
        weights = "q4_k_m" if engine == "llamacpp" else ""
        deployment = Deployment(str(folder), (Pool("l40s", Plan(weights=weights, engine=engine)),))
        files = launch_files(service(deployment, LOAD, TARGETS))
        out = tmp_path / engine
        write_folder(out, files)
        programs = tmp_path / "bin"
        programs.mkdir(exist_ok=True)
        for program in ("vllm", "python3", "trtllm-serve", "llama-server", "aiperf", "guidellm"):
            fake = programs / program
            fake.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
            fake.chmod(0o755)
        for script in sorted(out.glob("*.sh")):
            done = subprocess.run(
                ["bash", str(script)],
                capture_output=True,
                cwd=tmp_path,
                check=False,
                env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": "/nowhere"},
            )
            assert done.returncode == 0, done.stderr
            given = done.stdout.decode().split("\0")
            loaded = [w for w in given if w == str(folder) or w.endswith(f"model={folder}")]
            assert loaded or engine == "llamacpp", (script.name, given)
            assert any(str(folder) in word for word in given)
        for path in tmp_path.rglob("owned"):
            raise AssertionError(f"{path} was made")
        for text in (files["compose.yaml"], files.get("kubernetes.yaml", "")):
            list(yaml.safe_load_all(text))
        assert "\ntouch owned" not in "".join(files.values()).replace(str(folder), "")


def test_words_for_each_place() -> None:
    assert shlex.split(shell_word("a'b $X")) == ["a'b $X"]
    assert shell_word(Var("LEADER", after=":20000")) == '"${LEADER}:20000"'
    assert compose_word("$HOME") == "$$HOME"
    assert kubernetes_word("$(HOME)") == "$$(HOME)"
    assert kubernetes_word(Var("LEADER", after=":1"), {"LEADER": "LWS_LEADER_ADDRESS"}) == "$(LWS_LEADER_ADDRESS):1"


# load tests


def test_load_tests_send_the_traffic_of_the_plan(written: dict[str, dict[str, str]]) -> None:
    files = written["vllm"]
    bench = _words(files["check-vllm.sh"])
    for flag, value in (
        ("--request-rate", "10"),
        ("--random-input-len", "4000"),
        ("--random-output-len", "500"),
        ("--num-prompts", "400"),
        ("--seed", "7"),
    ):
        assert bench[bench.index(flag) + 1] == value
    at = bench.index("--goodput")
    assert bench[at + 1 : at + 3] == ["ttft:1000", "tpot:50"]
    other = _words(files["check-aiperf.sh"])
    assert other[other.index("--goodput") + 1] == "time_to_first_token:1000 inter_token_latency:50"
    last = _words(files["check-guidellm.sh"])
    assert "kind=poisson,rate=10" in last
    assert "kind=synthetic_text,prompt_tokens=4000,output_tokens=500" in last


# containers and clusters

#: Kinds that Kubernetes itself does not know, with the documented fields of their specification.
CUSTOM = {
    # leaderworkerset.sigs.k8s.io, v1: LeaderWorkerSetSpec, LeaderWorkerTemplate
    "LeaderWorkerSet": {
        "": {"replicas", "leaderWorkerTemplate", "rolloutStrategy", "startupPolicy", "networkConfig"},
        "leaderWorkerTemplate": {"size", "restartPolicy", "leaderTemplate", "workerTemplate", "subGroupPolicy"},
    },
    # ai-dynamo 1.6.1 nvidia.com/v1beta1: DynamoGraphDeploymentSpec
    "DynamoGraphDeployment": {"": {"backendFramework", "components", "env", "annotations", "labels"}},
}
COMPONENT = {"name", "type", "replicas", "podTemplate", "multinode"}


def _as_pod(template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}


def test_manifests_are_valid_kubernetes(written: dict[str, dict[str, str]]) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    version, seen = validator.latest_version(), set()

    def check(document: dict[str, Any]) -> None:
        validator.validate(document, version, strict=True)

    for deployment, name, text in [*_each(written, "kubernetes.yaml"), *_each(written, "dynamo.yaml")]:
        for document in yaml.safe_load_all(text):
            kind, spec = document["kind"], document.get("spec", {})
            seen.add(kind)
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", document["metadata"]["name"]), (deployment, name)
            if kind not in CUSTOM:
                check(document)
                continue
            for path, fields in CUSTOM[kind].items():
                assert set(spec[path] if path else spec) <= fields, (deployment, name, path)
            if kind == "LeaderWorkerSet":
                for part in ("leaderTemplate", "workerTemplate"):
                    check(_as_pod(spec["leaderWorkerTemplate"][part]))
            else:
                for component in spec["components"]:
                    assert set(component) <= COMPONENT
                    assert component["type"] in ("frontend", "worker", "prefill", "decode", "planner")
                    check(_as_pod(component["podTemplate"]))
    assert {
        "Deployment",
        "StatefulSet",
        "Service",
        "HorizontalPodAutoscaler",
        "ConfigMap",
        "LeaderWorkerSet",
        "DynamoGraphDeployment",
        "PodDisruptionBudget",
    } <= seen


def test_services_select_their_servers(written: dict[str, dict[str, str]]) -> None:
    for deployment, _, text in _each(written, "kubernetes.yaml"):
        documents = list(yaml.safe_load_all(text))
        pods = []
        for d in documents:
            spec = d.get("spec", {})
            templates = [spec.get("template"), spec.get("leaderWorkerTemplate", {}).get("leaderTemplate")]
            pods += [t["metadata"]["labels"] for t in templates if t]
        for d in documents:
            if d["kind"] == "Service":
                wanted = d["spec"]["selector"].items()
                chosen = [p for p in pods if wanted <= p.items()]
                assert chosen, (deployment, d["metadata"]["name"])
        public = next(d for d in documents if d["kind"] == "Service" and d["spec"].get("type") == "ClusterIP")
        takers = [p for p in pods if public["spec"]["selector"].items() <= p.items()]
        assert len(takers) == (1 if "pd" in deployment else len(DEPLOYMENTS[deployment].pools))


def test_servers_have_probes_and_ask_for_their_devices(written: dict[str, dict[str, str]]) -> None:
    document = list(yaml.safe_load_all(written["vllm"]["kubernetes.yaml"]))
    server = next(d for d in document if d["kind"] == "Deployment")
    inside = server["spec"]["template"]["spec"]["containers"][0]
    assert server["spec"]["replicas"] == 3
    assert inside["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert inside[probe]["httpGet"]["path"] == "/health"
    scaler = next(d for d in document if d["kind"] == "HorizontalPodAutoscaler")["spec"]
    assert scaler["minReplicas"] == 3
    assert scaler["metrics"][0]["pods"]["target"]["averageValue"] == "40"  # 120 in flight on 3 replicas
    other = list(yaml.safe_load_all(written["vllm-amd"]["kubernetes.yaml"]))
    server = next(d for d in other if d["kind"] == "Deployment")
    assert server["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"amd.com/gpu": "1"}


def test_nodes_of_a_replica_find_their_leader(written: dict[str, dict[str, str]]) -> None:
    for name in ("vllm-nodes", "sglang-nodes"):
        documents = yaml.safe_load_all(written[name]["kubernetes.yaml"])
        spec = next(d for d in documents if d["kind"] == "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
        assert spec["size"] == 2
        for part in ("leaderTemplate", "workerTemplate"):
            args = spec[part]["spec"]["containers"][0]["args"]
            assert args[args.index("--node-rank") + 1] == "$(LWS_WORKER_INDEX)"
            assert any(a.startswith("$(LWS_LEADER_ADDRESS)") for a in args)
        assert ("--headless" in args) == name.startswith("vllm")
        assert "ports" not in spec["workerTemplate"]["spec"]["containers"][0]


def test_compose_is_valid(written: dict[str, dict[str, str]]) -> None:
    check = pytest.importorskip("check_jsonschema", reason="needs check-jsonschema")
    jsonschema = pytest.importorskip("jsonschema")
    folder = Path(check.__file__).parent
    schema = json.loads(next(folder.rglob("compose-spec.json")).read_text())
    found = _each(written, "compose.yaml")
    assert len(found) >= 10
    for deployment, _, text in found:
        document = yaml.safe_load(text)
        jsonschema.Draft202012Validator(schema).validate(document)
        reserved = [
            i
            for s in document["services"].values()
            if "profiles" not in s
            for d in s.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
            for i in d["device_ids"]
        ]
        assert len(reserved) == len(set(reserved)), f"{deployment}: a device belongs to one replica"


def test_dynamo_and_llm_d_carry_the_limits(written: dict[str, dict[str, str]]) -> None:
    graph = next(iter(yaml.safe_load_all(written["vllm-pd"]["dynamo.yaml"])))["spec"]["components"]
    assert [(c["name"], c["replicas"]) for c in graph] == [("Frontend", 1), ("prefill", 2), ("decode", 1)]
    allowed = set(Flags.of("vllm").kinds) | set(Flags.of("dynamo").kinds)
    for component in graph:
        args = component["podTemplate"]["spec"]["containers"][0]["args"]
        assert {a for a in args if a.startswith("--")} <= allowed
    decode = graph[2]["podTemplate"]["spec"]["containers"][0]
    assert decode["args"][decode["args"].index("--max-num-seqs") + 1] == "96"
    assert decode["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    values = yaml.safe_load(written["vllm-pd"]["llm-d-values.yaml"])
    assert values["modelArtifacts"]["uri"] == "hf://Qwen/Qwen3-32B"
    assert values["prefill"]["replicas"] == 2
    assert values["decode"]["parallelism"]["tensor"] == 4
    args = values["decode"]["containers"][0]["args"]
    assert {a for a in args if a.startswith("--")} <= set(Flags.of("vllm").kinds)
    options = yaml.safe_load(
        next(iter(yaml.safe_load_all(written["trtllm-nodes"]["dynamo.yaml"])))["data"]["trtllm-options.yaml"]
    )
    assert options["tensor_parallel_size"] == 16


def test_no_file_holds_a_secret(services: dict[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_do_not_write_me")
    for found in services.values():
        assert "hf_do_not_write_me" not in "".join(launch_files(found).values())


def test_every_file_names_version_and_source(written: dict[str, dict[str, str]]) -> None:
    for deployment, files in written.items():
        for name, text in files.items():
            if name.endswith((".sh", "compose.yaml", "kubernetes.yaml", "dynamo.yaml", "values.yaml")):
                head = "\n".join(x for x in text.splitlines() if x.startswith("#"))
                assert re.search(r"[Ff]lags: .*\d", head), (deployment, name)
        for name in files:
            assert f"`{name}`" in files["README.md"] or name == "README.md"


def test_equal_input_gives_equal_bytes(services: dict[str, Service], written: dict[str, dict[str, str]]) -> None:
    assert launch_files(services["vllm-pd"]) == written["vllm-pd"]


def test_checkpoints_that_must_be_made_are_said() -> None:
    deployment = Deployment("llama-3.1-8b", (Pool("b200_sxm", Plan(weights="nvfp4", engine="vllm")),))
    found = service(deployment, LOAD, TARGETS)
    assert "nvfp4" in found.notes[0]
    assert "By hand" in launch_files(found)["README.md"]


def test_what_cannot_be_launched_is_refused() -> None:
    with pytest.raises(InputError, match="no launch files"):
        service(Deployment("llama-3.1-8b", (Pool("h100_sxm", Plan(engine="torch")),)), LOAD)
    with pytest.raises(InputError, match=r"pools\[0\]"):
        service(Deployment("llama-3.1-8b", (Pool("h100_sxm", flags={"max_num_sequences": 3}),)), LOAD)


# the folder and the plan file


def test_folder_is_written_whole_or_not_at_all(
    written: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deploy"
    write_folder(out, written["vllm"])
    assert {p.name for p in out.iterdir()} == {MANIFEST, *written["vllm"]}
    assert (out / "serve.sh").stat().st_mode & 0o111
    with pytest.raises(InputError, match="--force"):
        write_folder(out, written["vllm"])
    (out / "mine.txt").write_text("kept")
    write_folder(out, {"serve.sh": "new"}, force=True)
    assert (out / "serve.sh").read_text() == "new"
    assert (out / "mine.txt").read_text() == "kept"
    assert {p.name for p in out.iterdir()} == {MANIFEST, "serve.sh", "mine.txt"}  # what the first plan left is gone
    (out / "README.md").mkdir()
    with pytest.raises(InputError, match="a folder is where the file"):
        write_folder(out, {"serve.sh": "newer", "README.md": "x"}, force=True)
    assert (out / "serve.sh").read_text() == "new"  # nothing was replaced
    (out / "README.md").rmdir()
    write_folder(out, {"a.sh": "1", "b.sh": "2"}, force=True)
    (out / "b.sh").write_text("changed by hand")
    write_folder(out, {"serve.sh": "new"}, force=True)
    assert {p.name for p in out.iterdir()} == {MANIFEST, "serve.sh", "b.sh", "mine.txt"}
    with pytest.raises(InputError, match="no folder"):
        write_folder(tmp_path / "no" / "where", written["vllm"])

    def full(self: Path, *_: Any, **__: Any) -> int:
        if self.name == "kubernetes.yaml":
            raise OSError(28, "No space left on device")
        return self.write_bytes(b"half")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(WriteError, match="No space left"):
            write_folder(tmp_path / "other", written["vllm"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deploy"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_plan_file_reads_back_equal(name: str, tmp_path: Path) -> None:
    deployment = DEPLOYMENTS[name]
    asked = {"rate": "10/s", "isl": "4000", "osl": "lognormal:500", "requests": 400, "seed": 3, "trace": ""}
    text = comment("a note\nwith = 'an end'") + deployment_text(
        deployment, traffic=asked, promise={"ttft": "p99:1s"}, expected={"ttft_s": {"p99": 0.1 + 0.2}}
    )
    file = tmp_path / "plan.toml"
    file.write_text(text)
    back = read_deployment(file)
    assert back.deployment == deployment
    assert back.traffic == asked
    assert (back.promise.ttft, back.promise.tpot) == ("p99:1s", "")
    assert back.expected["ttft_s"]["p99"] == 0.1 + 0.2


def test_plan_files_with_odd_names_read_back(tmp_path: Path) -> None:
    for name in ODD:
        deployment = Deployment(name, (Pool("l40s", flags={"max_num_seqs": 3}),))
        file = tmp_path / "plan.toml"
        file.write_text(deployment_text(deployment), encoding="utf-8")
        assert read_deployment(file).deployment == deployment


def test_wrong_plan_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('schema = "steelyard.deployment/9"\n')
    with pytest.raises(InputError, match="expected the schema"):
        read_deployment(file)
    pools = '[[deployment.pools]]\nmachine = "l40s"\nreplica = 3\n'
    file.write_text(f'schema = "steelyard.deployment/1"\n[deployment]\nmodel = "x"\n{pools}')
    with pytest.raises(InputError, match="replica"):
        read_deployment(file)


def test_a_mounted_folder_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that a container mounts cannot be replaced by another."""
    out = tmp_path / "out"
    out.mkdir()
    inode = out.stat().st_ino
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    write_folder(out, {"serve.sh": "one"})
    write_folder(out, {"README.md": "two"}, force=True)
    assert out.stat().st_ino == inode
    assert sorted(p.name for p in out.iterdir()) == [MANIFEST, "README.md"]
