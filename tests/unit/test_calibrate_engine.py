"""``steelyard calibrate --engine``: known overheads, simulated and written as a benchmark's log, come back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import steelyard
from steelyard.calibrate.engine_logs import calibrate_engine, write_engine
from steelyard.calibrate.fit_engine import fit_engine, tuned, values_of
from steelyard.cli.main import main
from steelyard.deployment import engine as plan_engine
from steelyard.deployment.engine import engines, find_engine, reload_engines
from steelyard.errors import InputError
from steelyard.folders import catalogue_folders
from steelyard.report.records import vllm_bench

TRUE = {"step_s": 2.5e-3, "step_s_per_sequence": 40e-6, "request_s": 45e-3}
MODEL, MACHINE = "qwen3-8b", "h100_sxm"
WORDS = {"model": MODEL, "on": MACHINE, "engine": "vllm"}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Logs of an engine with :data:`TRUE` overheads under 2, 8 and 32 clients."""
    folder = tmp_path_factory.mktemp("logs")
    known = engines()
    slow = {**known, "vllm": replace(known["vllm"], **TRUE)}
    files = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan_engine, "engines", lambda: slow)
        for clients in (2, 8, 32):
            run = steelyard.simulate(
                MODEL,
                MACHINE,
                concurrency=clients,
                isl="uniform:300-900",
                osl="uniform:60-120",
                requests=6 * clients,
                engine="vllm",
                seed=3,
            )
            path = folder / f"c{clients}.json"
            path.write_text(json.dumps(vllm_bench(run)))
            files.append(str(path))
    return files


def test_recovers_known_overheads(logs: list[str]) -> None:
    found = calibrate_engine(WORDS, logs)
    for name, value in TRUE.items():
        assert found.after[name] == pytest.approx(value, rel=0.06), name
    assert [s.left_out for s in found.logs] == [False, False, True]
    for score in found.logs:
        assert abs(score.tpot_before) > 0.15
        assert abs(score.tpot_after) < 0.03
        assert abs(score.ttft_after) < 0.05


def test_entry_is_written_and_wins(logs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calibrate_engine(WORDS, logs[:1])
    shipped = find_engine("vllm")
    monkeypatch.setenv("STEELYARD_CATALOGUE", str(tmp_path))
    catalogue_folders.cache_clear()
    try:
        path = write_engine(found, "c2.json")
        assert path == tmp_path / "engines" / "vllm.toml"
        now = find_engine("vllm")
        assert now.step_s == pytest.approx(found.engine.step_s, rel=1e-4)
        assert now.kernels == shipped.kernels
        assert now.title == shipped.title
        assert find_engine("sglang") == engines()["sglang"]
    finally:
        catalogue_folders.cache_clear()
        monkeypatch.undo()
        catalogue_folders.cache_clear()
        reload_engines()
    assert find_engine("vllm") == shipped


def test_command(logs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", "--engine", "vllm", logs[0], logs[1], "--model", MODEL, "--on", MACHINE]
    main([*arguments, "--out", str(tmp_path), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "steelyard.calibrate_engine/1"
    assert set(document["after"]) == set(TRUE)
    assert [r["left_out"] for r in document["logs"]] == [False, False]
    assert (tmp_path / "engines" / "vllm.toml").read_text().startswith("# step_s")


def test_what_is_missing_is_said(logs: list[str]) -> None:
    with pytest.raises(InputError, match="logs of one or more"):
        calibrate_engine(WORDS, [])
    with pytest.raises(InputError, match="devices"):
        calibrate_engine({**WORDS, "tp": 2}, logs)


def test_figures_of_kernels_have_names() -> None:
    engine = tuned(find_engine("vllm"), {"step_s": 1e-3, "gemm.stream:hopper:fp8": 1.1, "moe.saved_s:volta": 5e-6})
    assert engine.step_s == 1e-3
    speed = engine.speed("gemm", "hopper", "fp8")
    assert speed is not None
    assert speed.stream == 1.1
    names = ["gemm.stream:hopper:fp8", "moe.saved_s:volta", "gemm.stream:volta:bf16"]
    assert values_of(engine, names) == {names[0]: 1.1, names[1]: 5e-6, names[2]: 1.0}
    assert engine.speed("moe", "volta", "mxfp4") is engine.speed("moe", "volta", "")


def test_fit_keeps_what_rows_do_not_tell() -> None:
    engine = find_engine("vllm")
    load = np.array([1.0, 4.0, 16.0, 64.0])

    def predict(e: plan_engine.Engine) -> tuple[np.ndarray, np.ndarray]:
        return 5e-3 + e.step_s + e.step_s_per_sequence * load, np.full(4, 0.05) + e.request_s

    truth = replace(engine, step_s=3e-3, step_s_per_sequence=50e-6)
    tpot, ttft = predict(truth)
    found = fit_engine(engine, ["step_s", "step_s_per_sequence", "layer_s"], predict, tpot, ttft, noise=(0.01, 0.02))
    assert found.values["step_s"] == pytest.approx(3e-3, rel=0.03)
    assert found.values["step_s_per_sequence"] == pytest.approx(50e-6, rel=0.05)
    assert found.values["layer_s"] == pytest.approx(engine.layer_s, abs=1e-9)
    assert found.after["tpot"] < 1.0
