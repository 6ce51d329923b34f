"""Every recipe of the catalogue, and those shown in the guide, keep the contract shipped to their authors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steelyard
from steelyard.cli.main import main
from steelyard.deployment.engine_config import EngineConfig
from steelyard.errors import InputError
from steelyard.scenario.recipes import find_recipe, recipes
from steelyard.simulation.client import seen_by_clients
from steelyard.simulation.kernel.state import REQUEST
from steelyard.testing.recipes import RecipeContract

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "recipes.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


class TestOfTheCatalogue(RecipeContract):
    @pytest.fixture(params=sorted(recipes()))
    def recipe(self, request: pytest.FixtureRequest) -> Any:
        return recipes()[request.param]


class TestOfTheGuide(RecipeContract):
    @pytest.fixture(params=range(len(EXAMPLES)))
    def recipe(self, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
        return find_recipe(str(written(tmp_path, EXAMPLES[request.param])))


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_stands_under_what_the_user_says() -> None:
    found = steelyard.Scenario.of(
        "simulate", "llama-3.1-70b", "h200_sxm:4", concurrency=16, isl=1024, recipe="inferencex-2026-02/trtllm-h200"
    )
    assert found.deployment is not None and found.trace is not None
    flags = found.deployment.pools[0].flags
    assert found.engine.name == "trtllm" and flags["max_num_batched_tokens"] == 1024 + 256 + 200
    assert flags["max_num_seqs"] == 16 and found.trace.isl.min() >= 819 and found.trace.isl.max() <= 1024
    assert found.trace.notes[0].startswith("recipe inferencex-2026-02/trtllm-hopper")
    own = steelyard.Scenario.of(
        "simulate",
        "llama-3.1-70b",
        "h200_sxm:4",
        rate=2.0,
        isl="uniform:100-200",
        engine="vllm",
        max_num_seqs=7,
        recipe="inferencex-2026-02/vllm-h200",
    )
    assert own.deployment is not None and own.trace is not None
    assert own.deployment.pools[0].flags["max_num_seqs"] == 7 and own.trace.isl.max() <= 200


def test_an_estimate_and_a_plan_take_what_they_have() -> None:
    asked = {"recipe": "inferencex-2026-02/vllm-h100"}
    found = steelyard.estimate("gpt-oss-120b", "h100_sxm:2", batch=8, **asked)
    assert found.scenario.skew == 1.01 and found.scenario.engine.memory_frac == 0.9
    assert any(words.startswith("recipe ") for words in found.ledger.assumptions)
    inputs = found.to_dict()["provenance"]["inputs"]
    assert inputs["recipe"] == asked["recipe"]
    from steelyard.search.api import read_question

    planned = read_question({"model": "gpt-oss-120b", "on": "h100_sxm", "rate": "1/s", "isl": 1000, **asked})
    assert planned.task.trace.isl.min() < 900 and planned.task.question.engines == ("vllm",)


def test_arithmetic_is_of_what_is_known() -> None:
    recipe = find_recipe("inferencex-2026-02/trtllm-b200")
    _, flags = recipe.said({"experts": True, "latent": True, "isl": 1000, "concurrency": 8192})
    assert flags["max_num_batched_tokens"] == (8192 + 1000 + 127) // 64 * 64
    assert "max_num_seqs" not in recipe.said({"isl": 10, "osl": 10})[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('flags = { max_num_seqs = "=__import__(1)" }', "expected arithmetic"),
        ('flags = { max_num_seqs = "=2**9**9" }', "expected arithmetic"),
        ('flags = { max_num_seqs = "=clients" }', "clients"),
        ('flags = { max_num_seqs = "=1//0" }', "division by zero"),
        ("words = { skw = 1 }", "did you mean 'skew'"),
        ("words = { tp = 1 }", "unknown field 'tp'"),
        ('lengths = "1.0-0.8"', "shares such as 0.8-1.0"),
        ("case = [{ when = { expert = true } }]", "did you mean 'experts'"),
        ('case = [{ when = { tp = "many" } }]', "a range such as"),
        ("case = [{ when = { experts = 1 } }]", "expected true or false"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(line: str, message: str, tmp_path: Path) -> None:
    text = f'[[recipe]]\nname = "x"\ntitle = "x"\nsource = "x"\n{line}\n'
    with pytest.raises(InputError, match=re.escape(message)):
        find_recipe(str(written(tmp_path, text)))


def test_an_unknown_recipe_has_its_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "qwen3-8b", "--on", "h100_sxm", "--rate", "1/s", "--recipe", "inferencex/vllm-h100"]) == 2
    assert "did you mean 'inferencex-2026-02/vllm-hopper'" in capsys.readouterr().err
    assert main(["show", "inferencex-2026-02/vllm-h100", "--json"]) == 0
    assert "max_num_seqs" in capsys.readouterr().out


def test_clients_wait_for_what_a_server_holds_back() -> None:
    requests = np.zeros(2, dtype=REQUEST)
    requests["arrived_at"], requests["first_at"], requests["last_at"] = 0.0, 1.0, 11.0
    requests["osl"] = [101, 101]
    base = steelyard.Scenario.of("simulate", "qwen3-8b", "h100_sxm", rate=1.0)
    from steelyard.deployment.engine_config import engine_config

    config: EngineConfig = engine_config(
        base.engine, base.cluster.machine, {"stream_interval": 11, "scheduler_recv_interval": 21}
    )
    seen_by_clients(requests, config)
    assert requests["first_at"] == pytest.approx([1.0 + 10 * 0.1 + 10 * 0.1] * 2)
    assert requests["last_at"] == pytest.approx([12.0] * 2)


def test_what_a_server_holds_back_has_options_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--engine", "sglang", "--concurrency", "1", "--isl", "100", "--osl", "20", "--requests", "2", "--json"]

    def first(*more: str) -> float:
        assert main(["simulate", "llama-3.1-8b", "--on", "h100_sxm", *load, *more]) == 0
        return float(json.loads(capsys.readouterr().out)["ttft_s"]["mean"])

    plain, held, polled = first(), first("--stream-interval", "10"), first("--scheduler-recv-interval", "20")
    assert held == first("--flag", "stream_interval=10") > plain
    assert polled == first("--flag", "scheduler_recv_interval=20") > plain
