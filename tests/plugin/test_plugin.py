"""A plug-in, built and installed as a user would, adds one of everything without touching the library.

The folder beside this file is the plug-in. It is built as a wheel by its own build backend, installed offline into an
empty folder, and the command line runs with that folder on its path.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path(__file__).parent / "steelyard-example"
CLI = "from steelyard.cli.main import run; run()"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plug-in was installed."""
    target = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--target", str(target))
    subprocess.run([*pip, *offline, str(PLUGIN)], check=True, timeout=120)
    assert not (PLUGIN / "build").exists()
    return target


@pytest.fixture
def steelyard(installed: Path, tmp_path: Path) -> Any:
    """Run the command line with the plug-in installed; its output, or its error."""

    def run(*words: str, code: int = 0) -> str:
        made = subprocess.run(
            [sys.executable, "-c", CLI, *words],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
        )
        assert made.returncode == code, made.stderr
        return made.stderr if code else made.stdout

    return run


def test_without_it_nothing_is_known_of_it() -> None:
    made = subprocess.run(
        [sys.executable, "-c", CLI, "estimate", "llama-3.1-8b", "--on", "ring_one"], capture_output=True, text=True
    )
    assert made.returncode == 2
    assert "ring_one" in made.stderr


def test_a_machine_family_with_its_engine(steelyard: Any) -> None:
    found = json.loads(steelyard("estimate", "llama-3.1-8b", "--on", "ring 1", "--json"))
    assert found["machine"]["name"] == "ring_one"
    assert found["engine"] == "ringserve", "the kind of machine says what usually serves there"
    assert found["ttft_s"] > found["limit"]["ttft_s"] > 0
    assert "ring_one" in steelyard("ls", "machines")


def test_a_cost_model_replaces_a_built_in_on_the_machines_it_names(steelyard: Any) -> None:
    ours = json.loads(steelyard("explain", "llama-3.1-8b", "--on", "ring_one", "--json"))
    sources = {k["source"] for k in ours["prefill"]["kernels"] if k["kind"] == "gemm"}
    assert sources == {"steelyard-example: ring"}
    theirs = json.loads(steelyard("explain", "llama-3.1-8b", "--on", "h100_sxm", "--json"))
    assert {k["source"] for k in theirs["prefill"]["kernels"] if k["kind"] == "gemm"} == {"fitted: h100_sxm"}


def test_a_cost_model_of_a_new_kind(steelyard: Any) -> None:
    words = ("explain", "qwen3-next-80b-a3b", "--on", "h100_sxm:4", "--isl", "4096", "--json")
    (scan,) = (k for k in json.loads(steelyard(*words))["prefill"]["kernels"] if k["kind"] == "scan")
    assert scan["source"] == "steelyard-example: scan"
    assert scan["formula"] == "scan, steps 64"
    assert scan["time_s"] >= scan["count"] * 64 * 1e-6


def test_a_network_that_is_no_language_model(steelyard: Any, tmp_path: Path) -> None:
    config = {"model_type": "picture_net", "stages": 3, "channels": 64, "side": 56}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ("explain", "./config.json", "--on", "ring_one", "--batch", "8", "--isl", "1", "--json")
    found = json.loads(steelyard(*words))
    kernels = {k["kernel"]: k for k in found["prefill"]["kernels"] if k["kind"] == "gemm"}
    assert set(kernels) == {"stage0.conv", "stage1.conv", "stage2.conv", "classes"}
    assert kernels["stage0.conv"]["flops"] == 2 * 8 * 64 * 64 * 9 * 56 * 56
    assert kernels["stage0.conv"]["source"] == "steelyard-example: ring"


def test_an_engine_with_a_scheduler_and_a_policy(steelyard: Any) -> None:
    load = ("--rate", "4", "--isl", "500", "--osl", "60", "--requests", "60")
    words = ("simulate", "llama-3.1-8b", "--on", "ring_one", *load, "--policy", "example-fair")
    text = steelyard(*words, "--flag", "ring_slots=2")
    assert "Ringserve: prompts alone, whole, output reserved, policy example-fair" in text
    assert "60 of 60 completed" in text
    assert "at most 2;" in text, "its own name of a flag"
    error = steelyard(*words, "--flag", "ring_slot=2", code=2)
    assert "ring_slots" in error
    on_hopper = steelyard("simulate", "llama-3.1-8b", "--on", "h100_sxm", *load, "--engine", "ring-fill")
    assert "prompts alone" in on_hopper, "any engine may run with its scheduler"


def test_a_policy_with_state_while_requests_run(steelyard: Any, tmp_path: Path) -> None:
    """A session that sent a hundred requests at once does not keep one that sends few waiting."""
    rows = [("1", 0.0)] * 100 + [("2", 0.5 + i) for i in range(5)]
    lines = [f"{at},{session},1000,50,Conversation log" for session, at in rows]
    (tmp_path / "trace.csv").write_text(
        "Timestamp,Session ID,Request tokens,Response tokens,Log Type\n" + "\n".join(lines)
    )

    def waits(policy: str) -> float:
        words = ("--trace", "trace.csv", "--policy", policy, "--max-num-seqs", "4", "--records", f"{policy}.csv")
        steelyard("simulate", "llama-3.1-8b", "--on", "ring_one", *words)
        table = list(csv.DictReader((tmp_path / f"{policy}.csv").open()))
        return max(float(row["ttft_s"]) for row in table if float(row["arrived_at"]) > 0)

    assert waits("example-fair") < 0.5 * waits("fcfs")


def test_a_technique_on_every_verb(steelyard: Any) -> None:
    plain, small = (
        json.loads(steelyard("estimate", "llama-3.1-8b", "--on", "ring_one", *more, "--json"))
        for more in ((), ("--with", "example-small-cache"))
    )
    assert small["memory_bytes"]["kv_cache"] == 0.5 * plain["memory_bytes"]["kv_cache"]
    load = ("--concurrency", "32", "--isl", "200", "--osl", "50", "--requests", "64")
    text = steelyard("simulate", "llama-3.1-8b", "--on", "ring_one", *load, "--with", "example-small-cache:batch=5")
    assert "at most 5;" in text
    assert "example-small-cache" in steelyard("ls", "techniques")


def test_it_keeps_the_contracts_of_the_library(installed: Path, tmp_path: Path) -> None:
    tests = shutil.copytree(PLUGIN / "tests", tmp_path / "tests")
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stdout[-4000:]
    assert " passed" in made.stdout
