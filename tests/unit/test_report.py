"""Reports: the JSON form, the explanation and the nearest change."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.estimation.estimate import Estimate
from steelyard.estimation.explanation import Explanation
from steelyard.estimation.infeasibility import changes, memory_of, nearest_change, shortfall
from steelyard.report import explain
from steelyard.report.estimate import flat, shares_of
from steelyard.report.plain import plain
from steelyard.report.schema import estimate_schema
from steelyard.report.text import report

#: What `steelyard.estimate/2` promises.
PROMISED = {
    "schema": None,
    "fits": None,
    "memory_bytes": {"weights", "kv_cache", "activations", "other", "total", "capacity"},
    "ttft_s": None,
    "tpot_s": None,
    "e2e_s": None,
    "tokens_per_s": None,
    "tokens_per_s_per_device": None,
    "energy_j_per_token": None,
    "usd_per_million_tokens": None,
    "limit": {"ttft_s", "tpot_s"},
    "interval": {"ttft_s", "tpot_s", "e2e_s"},
    "bound": {"prefill", "decode"},
    "parameters": {"total", "active"},
    "flops": {"prefill", "decode"},
    "assumptions": None,
    "sources": None,
    "provenance": {"version", "inputs", "hash"},
    "model": None,
    "machine": {"name", "count"},
    "plan": {"weights", "activations", "kv", "communication", "tp", "pp", "dp", "ep", "cp"},
    "engine": None,
    "batch": None,
    "isl": None,
    "osl": None,
    "largest_batch": None,
    "largest_context": None,
    "ttft_single_s": None,
}


@pytest.fixture(scope="module")
def dense() -> Estimate:
    return sy.estimate("llama-3.1-8b", on="h100_sxm", batch=8, isl=512, osl=64)


@pytest.fixture(scope="module")
def too_large() -> Estimate:
    return sy.estimate("llama-3.1-70b", on="rtx_4090", batch=4, isl=1024, osl=64)


def test_json_has_every_promised_key(dense: Estimate) -> None:
    document = dense.to_dict()
    for name, inner in PROMISED.items():
        assert name in document, name
        assert inner is None or inner <= set(document[name]), name


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in _numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in _numbers(v)]
    return [value] if isinstance(value, float) else []


def test_json_holds_finite_plain_values(dense: Estimate, too_large: Estimate) -> None:
    for found in (dense, too_large):
        document = found.to_dict()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
        assert all(math.isfinite(n) for n in _numbers(document))


def test_json_is_consistent(dense: Estimate) -> None:
    d = dense.to_dict()
    memory = d["memory_bytes"]
    assert memory["total"] == pytest.approx(sum(memory[k] for k in ("weights", "kv_cache", "activations", "other")))
    assert memory["headroom"] == pytest.approx(memory["capacity"] - memory["total"])
    assert d["tokens_per_s"] == pytest.approx(8 * 64 / d["e2e_s"])
    for name, (low, high) in d["interval"].items():
        assert low <= d[name] <= high
    for name, limit in d["limit"].items():
        assert 0 < limit <= d[name]
    for phase in ("prefill", "decode"):
        shares = d["bound_shares"][phase]
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares, key=shares.__getitem__) == d["bound"][phase]
    matmul = 2 * d["parameters"]["total"] * 8
    assert d["flops"]["decode"] == pytest.approx(matmul, rel=0.2)


def test_pipeline_hand_over_is_part_of_the_shares() -> None:
    found = sy.estimate("llama-3.1-8b", on="h100_sxm:4", tp=1, pp=4, batch=4, isl=64, osl=8)
    assert found.decode.hop_s > 0
    assert sum(shares_of(found, "decode").values()) == pytest.approx(1)
    rows = Explanation(found).kernels["decode"]
    assert any(r["kernel"] == "stage boundary" for r in rows)
    assert sum(r["time_s"] for r in rows) == pytest.approx(found.decode.time_s)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3"])
def test_explained_kernels_add_up(model: str) -> None:
    found = sy.estimate(model, on="h200_sxm:8", batch=8, isl=256, osl=8)
    document = explain.to_dict(Explanation(found))
    json.dumps(document, allow_nan=False)
    for name in ("prefill", "decode"):
        phase = getattr(found, name)
        rows = document[name]["kernels"]
        assert sum(r["time_s"] for r in rows) == pytest.approx(phase.time_s)
        assert sum(r["share"] for r in rows) == pytest.approx(1)
        assert sum(r.get("limit_s", 0) for r in rows) == pytest.approx(phase.limit_s)
        assert sum(r.get("flops", 0) for r in rows) == pytest.approx(float(phase.program.flops))
        for row in rows:
            assert row["formula"]
            if "utilisation" in row:
                assert 0 <= row["utilisation"] <= 1
                assert row["source"]
    kinds = {r["kind"] for r in document["decode"]["kernels"]}
    assert {"gemm", "attention", "collective"} <= kinds
    assert ("moe" in kinds) == (model != "llama-3.1-8b")


def test_explained_gemm_names_its_shape(dense: Estimate) -> None:
    row = next(r for r in explain.to_dict(Explanation(dense))["decode"]["kernels"] if r["kernel"].endswith("down"))
    assert row["formula"] == "m n k = 8 x 4,096 x 14,336; 2 m n k FLOP"
    assert row["einsum"] == ["t f, f d -> t d"]
    assert row["flops"] == 2 * 8 * 4096 * 14336 * 32
    assert row["bound"] == "memory"


def test_text_reports_stay_inside_the_terminal(dense: Estimate, too_large: Estimate) -> None:
    for found in (dense, too_large):
        for text in (report(found), explain.text(Explanation(found))):
            assert max(len(line) for line in text.splitlines()) <= 80
        assert report(found, 80).count("\x1b[") > 0


def test_summary_is_short_and_says_whether_it_fits(dense: Estimate, too_large: Estimate) -> None:
    assert "fits: " in repr(dense)
    assert "DOES NOT FIT" in repr(too_large)
    assert len(repr(dense).splitlines()) <= 8


def test_flat_row_is_flat(dense: Estimate) -> None:
    assert all(v is None or isinstance(v, str | int | float | bool) for v in flat(dense).values())


def test_plain_drops_what_json_cannot_hold() -> None:
    value = plain({"a": np.float64("nan"), "b": np.array([1.0, np.inf]), "c": (np.int64(3), True, None), "d": {1: "x"}})
    assert value == {"a": None, "b": [1.0, None], "c": [3, True, None], "d": {"1": "x"}}


# The nearest change


def test_shortfall_names_need_and_capacity(too_large: Estimate) -> None:
    words = shortfall(too_large.scenario)
    assert "GiB per device of" in words
    assert words.endswith("short")


def test_memory_is_what_the_estimate_used(dense: Estimate, too_large: Estimate) -> None:
    for found in (dense, too_large):
        assert float(memory_of(found.scenario).total) == float(found.memory.total)


def test_every_change_fits_when_asked_for(too_large: Estimate) -> None:
    found = list(changes(too_large.scenario))
    assert found
    for change in found:
        assert memory_of(change.scenario).fits
        again = {**too_large.to_dict()["provenance"]["inputs"], **change.arguments}
        if "weights" in change.arguments:
            again["activations"] = ""
        assert sy.estimate(**again).fits, change.text


def test_order_of_changes() -> None:
    kv = sy.estimate("llama-3.1-8b", on="l4", batch=1, isl=60_000, osl=64)
    assert not kv.fits
    change = nearest_change(kv.scenario)
    assert change is not None
    assert dict(change.arguments) in ({"kv": "fp8"}, {"weights": "fp8"})
    weights = sy.estimate("llama-3.1-70b", on="h100_sxm", batch=1, isl=128, osl=64)
    change = nearest_change(weights.scenario)
    assert change is not None
    assert "weights" in change.arguments
    batch = sy.estimate("llama-3.1-8b", on="h100_sxm", weights="int4", kv="fp8", batch=1000, isl=4096, osl=64)
    assert not batch.fits
    change = nearest_change(batch.scenario)
    assert change is not None
    largest = change.arguments["batch"]
    assert largest == batch.largest_batch
    assert not sy.estimate(
        "llama-3.1-8b", on="h100_sxm", weights="int4", kv="fp8", batch=largest + 1, isl=4096, osl=64
    ).fits


def test_more_devices_when_nothing_else_helps() -> None:
    found = sy.estimate("llama-3.1-405b", on="rtx_4090", batch=1, isl=128, osl=8, weights="int4", kv="fp8")
    change = nearest_change(found.scenario)
    assert change is not None
    assert "on" in change.arguments
    assert sy.estimate(
        "llama-3.1-405b", **{"isl": 128, "osl": 8, "weights": "int4", "kv": "fp8", **change.arguments}
    ).fits


def test_no_two_changes_where_one_is_enough() -> None:
    found = sy.estimate("llama-3.1-70b", on="h100_sxm", batch=1, isl=128, osl=8)
    for change in changes(found.scenario):
        assert not ("weights" in change.arguments and {"batch", "isl"} & set(change.arguments)), change.text


# Schema


def test_schema_describes_the_document(dense: Estimate, too_large: Estimate) -> None:
    schema = estimate_schema()
    json.dumps(schema)
    for found in (dense, too_large):
        _valid(found.to_dict(), schema, "estimate")


def _valid(value: Any, schema: dict[str, Any], path: str) -> None:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    python = {
        "object": dict,
        "array": list,
        "string": str,
        "number": int | float,
        "integer": int,
        "boolean": bool,
        "null": type(None),
    }
    assert any(isinstance(value, python[k]) for k in kinds), (path, value, kinds)
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= set(value), path
        assert set(value) <= set(schema["properties"]), (path, set(value) - set(schema["properties"]))
        for name, inner in schema["properties"].items():
            if name in value:
                _valid(value[name], inner, f"{path}.{name}")


def test_generated_reference_pages_are_up_to_date() -> None:
    import runpy
    from pathlib import Path

    script = Path(__file__).parents[2] / "docs" / "reference" / "generate.py"
    generated = runpy.run_path(str(script))
    assert generated["STUB"].read_text(encoding="utf-8") == generated["stub"](), f"run `python {script.name}`"
    assert generated["ACCURACY"].read_text(encoding="utf-8") == generated["accuracy"](), f"run `python {script.name}`"
    pages = generated["pages"]()
    for name, text in pages.items():
        assert (script.parent / name).read_text(encoding="utf-8") == text, (
            f"run `python {script.name}` in docs/reference"
        )
