"""Study files, their points, and sweeps: every problem at once, equal scenarios once, the same answers everywhere."""

from __future__ import annotations

import inspect
import json
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("duckdb", reason="needs the store extra")

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.estimation.estimate import estimate_batch
from steelyard.scenario.fields import study_fields
from steelyard.scenario.ranges import expand
from steelyard.studies.answers import BROKEN, OK, REFUSED, Chunk, Priced, chunks_of, failed, price_chunk
from steelyard.studies.executors import execute
from steelyard.studies.grid import estimate_grid
from steelyard.studies.points import Point, expand_study
from steelyard.studies.store_columns import ANSWERS, columns_of
from steelyard.studies.store_results import Store, StoreBusy, StoreError
from steelyard.studies.study import Study, parse_study, read_study
from steelyard.studies.sweep import Progress, preview, sweep

SMALL: dict[str, Any] = {
    "name": "small",
    "kind": "estimate",
    "fixed": {"model": "llama-3.1-8b", "osl": 64},
    "grid": {"on": "h100_sxm, l40s", "batch": "1-4*2", "isl": [100, "1000"]},
}


def study(**changes: Any) -> Study:
    return parse_study({**SMALL, **changes})


def store(folder: Path) -> Store:
    return Store(folder / "results.duckdb")


# ------------------------------------------------------------------ study files


def test_every_problem_is_told_at_once_with_its_path() -> None:
    with pytest.raises(InputError) as caught:
        parse_study(
            {
                "name": "x",
                "kind": "estimate",
                "grids": {},
                "fixed": {"model": "llama-3.1-8b", "batch": "1,2", "wieghts": "fp8", "tp": 0},
                "grid": {"on": "h100_sxm", "isl": "8-4", "osl": "1,1"},
                "zip": [{"kv": ["fp8"], "weights": ["fp8", "bf16"]}],
                "case": [{"kv": "fp8"}, {"name": "a"}, {"name": "a"}],
                "objective": [{"minimise": "tpot"}, {"maximise": "tokens_per_s", "where": ["ttft_s < 1 GB", "fitz"]}],
                "repeats": 3,
            }
        )
    found = {p.field: p.message for p in caught.value.problems}
    assert found["grids"] == "unknown field; did you mean 'grid'?"
    assert found["fixed.wieghts"] == "unknown field; did you mean 'weights'?"
    assert "several belong into [grid]" in found["fixed.batch"]
    assert found["fixed.tp"] == "expected at least 1, got 0"
    assert "empty" in found["grid.isl"]
    assert found["grid.osl"] == "the same value stands there twice"
    assert "kv has 1, weights has 2" in found["zip[0]"]
    assert found["case[0].name"] == "required field is missing"
    assert "kv of zip[0] without weights" in found["case[0]"]
    assert "another case" in found["case[2].name"]
    assert "did you mean 'tpot_s'" in found["objective[0].minimise"]
    assert "unknown unit" in found["objective[1].where[0]"]
    assert "objective[1].where[1]" in found
    assert "draws nothing" in found["repeats"]


def test_unknown_names_are_told_at_once_with_their_path() -> None:
    with pytest.raises(InputError) as caught:
        study(grid={"on": "h100_sxm, h100_sxn", "engine": "vlmm"}, case=[{"name": "a", "weights": "fp9"}])
    found = {p.field: p.message for p in caught.value.problems}
    assert set(found) == {"grid.on[1]", "grid.engine", "case[0].weights"}
    assert "did you mean 'h100_sxm'" in found["grid.on[1]"]


def test_required_fields_may_come_from_every_case() -> None:
    with pytest.raises(InputError, match=r"fixed\.model: required field is missing"):
        study(fixed={})
    cases = [{"name": "a", "model": "llama-3.1-8b"}, {"name": "b", "model": "qwen3-8b"}]
    assert len(expand_study(study(fixed={}, case=cases))) == 2 * 2 * 3 * 2


def test_toml_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SMALL))
    (tmp_path / "s.yaml").write_text(
        "name: small\nkind: estimate\nfixed: {model: llama-3.1-8b, osl: 64}\n"
        "grid:\n  on: h100_sxm, l40s\n  batch: 1-4*2\n  isl: [100, '1000']\n"
    )
    (tmp_path / "s.toml").write_text(
        'name = "small"\nkind = "estimate"\n[fixed]\nmodel = "llama-3.1-8b"\nosl = 64\n'
        '[grid]\non = "h100_sxm, l40s"\nbatch = "1-4*2"\nisl = [100, "1000"]\n'
    )
    found = [[p.hash for p in expand_study(read_study(tmp_path / f"s.{e}"))] for e in ("json", "yaml", "toml")]
    assert found[0] == found[1] == found[2]


def test_order_is_cases_then_zips_then_grid() -> None:
    asked = study(
        grid={"on": "h100_sxm,l40s", "batch": "1,2"},
        zip=[{"weights": ["bf16", "fp8"], "kv": ["bf16", "fp8"]}],
        case=[{"name": "long", "isl": 8000}, {"name": "fixed", "weights": "fp8", "kv": "bf16", "batch": 9}],
        exclude=[{"on": "l40s", "batch": "2, 9"}],
    )
    told = [tuple(p.axes.values()) for p in expand_study(asked)]
    assert told == [
        ("long", "bf16", "bf16", "h100_sxm", 1),
        ("long", "bf16", "bf16", "h100_sxm", 2),
        ("long", "bf16", "bf16", "l40s", 1),
        ("long", "fp8", "fp8", "h100_sxm", 1),
        ("long", "fp8", "fp8", "h100_sxm", 2),
        ("long", "fp8", "fp8", "l40s", 1),
        ("fixed", "fp8", "bf16", "h100_sxm", 9),
    ]


def test_fields_of_some_values_are_given_there_alone() -> None:
    when = [{"field": "on", "values": "h100_sxm:2", "choose": {"tp": "1,2"}}]
    when += [{"field": "tp", "values": [2], "choose": {"kv": "fp8,bf16"}}]
    asked = study(grid={"on": "h100_sxm:2,l40s", "batch": "1,2"}, when=when)
    told = [p.axes for p in expand_study(asked)]
    assert told[::2] == [
        {"on": "h100_sxm:2", "tp": 2, "kv": "fp8", "batch": 1},
        {"on": "h100_sxm:2", "tp": 2, "kv": "bf16", "batch": 1},
        {"on": "h100_sxm:2", "tp": 1, "batch": 1},
        {"on": "l40s", "batch": 1},
    ]
    table = estimate_grid(asked)
    assert table.axes["tp"].tolist()[::2] == [2, 2, 1, None]
    assert np.isfinite(np.array(table.values["tpot_s"].tolist(), dtype=float)).all()
    for wrong, words in (
        ({"field": "om"}, r"when\[0\].field: unknown field of the grid 'om'"),
        ({"values": "a100_sxm"}, r"when\[0\].values: 'a100_sxm' is no value of on"),
        ({"choose": {"batch": [4]}}, r"batch: given twice"),
    ):
        with pytest.raises(InputError, match=words):
            study(grid={"on": "h100_sxm:2,l40s", "batch": "1,2"}, when=[{**when[0], **wrong}])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 5))
def test_ranges_stay_inside_and_advance(first: int, more: int, step: int) -> None:
    for sign in "+*":
        found = expand(f"{first}-{first + more}{sign}{step}", "x")
        assert found[0] == first and found[-1] <= first + more and found == sorted(set(found))


def test_fields_are_those_of_the_functions() -> None:
    for kind, verb in (("estimate", sy.estimate), ("simulate", sy.simulate)):
        names = set(inspect.signature(verb).parameters) - {"flags", "inputs"}
        assert set(study_fields(kind)) == names
        assert study_fields(kind)["skew"].default == 0.0


def test_the_schema_knows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    kinds = {k["properties"]["kind"]["const"]: k["properties"] for k in schema["oneOf"]}
    assert set(study_fields("estimate")) == set(kinds["estimate"]["grid"]["properties"])
    assert {"flags", *study_fields("simulate")} == set(kinds["simulate"]["fixed"]["properties"])
    assert "repeats" in kinds["simulate"] and "repeats" not in kinds["estimate"]
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(SMALL, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**SMALL, "fixed": {"modell": "x"}}, schema)


# ------------------------------------------------------------------ points


def test_equal_scenarios_have_one_hash() -> None:
    """Defaults written out, aliases and the order of fields change nothing; every input that matters does."""
    base = {"model": "llama-3.1-8b", "on": "h100_sxm:2"}
    plain = _only(base)
    for same in (
        {"tp": 2},
        {"tp": 2, "pp": 1, "dp": 1},
        {"engine": "vllm"},
        {"isl": 1024, "batch": 1},
        {"kv": "bf16"},
        {"model": "meta-llama/Llama-3.1-8B"},
        {"skew": 0.0},
    ):
        assert _only({**base, **same}).hash == plain.hash, same
    for other in (
        {"tp": 1, "pp": 2},
        {"engine": "sglang"},
        {"isl": 1025},
        {"kv": "fp8"},
        {"usd_per_hour": 1.0},
        {"skew": 0.5},
        {"on": "h200_sxm:2"},
        {"osl": 255},
        {"batch": 2},
        {"model": "qwen3-8b"},
    ):
        assert _only({**base, **other}).hash != plain.hash, other


def _only(fixed: dict[str, Any], kind: str = "estimate", **more: Any) -> Point:
    folder = more.pop("folder", "")
    (point,) = expand_study(parse_study({"name": "one", "kind": kind, "fixed": fixed, **more}, folder))
    return point


def test_the_contents_of_a_trace_count_and_not_its_place(tmp_path: Path) -> None:
    rows = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,5\n1,20,5\n"
    hashes = []
    for folder, text in (("a", rows), ("b", rows), ("c", rows + "2,5,5\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.csv").write_text(text)
        fixed = {"model": "llama-3.1-8b", "on": "h100_sxm", "trace": "t.csv"}
        hashes.append(_only(fixed, "simulate", folder=str(tmp_path / folder)).hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_repeats_of_different_deployments_see_the_same_arrivals() -> None:
    asked = parse_study(
        {
            "name": "r",
            "kind": "simulate",
            "repeats": 3,
            "fixed": {"model": "llama-3.1-8b", "rate": "2/s"},
            "grid": {"on": "h100_sxm, l40s", "isl": 100},
        }
    )
    seeds = [p.values["seed"] for p in expand_study(asked)]
    assert seeds[:3] == seeds[3:] and len(set(seeds)) == 3
    other = _only({"model": "llama-3.1-8b", "rate": "3/s", "on": "l40s"}, "simulate", repeats=1)
    assert other.values["seed"] not in seeds


# ------------------------------------------------------------------ answers

MACHINES = st.sampled_from(["h100_sxm:8", "l40s", "mi300x:2", "a100_sxm:4", "m4_max"])
MODELS = st.sampled_from(["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gemma-3-27b", "gpt-oss-20b"])
SIZES = st.tuples(
    st.sampled_from([1, 2, 3, 17, 64, 300]), st.sampled_from([2, 7, 130, 1024, 9000]), st.sampled_from([1, 2, 50, 700])
)


@example("mixtral-8x7b", "m4_max", [(1, 2, 1), (64, 2, 1)], 1)  # experts that few rows meet beside those of many
@settings(max_examples=15, deadline=None)
@given(MODELS, MACHINES, st.lists(SIZES, min_size=2, max_size=6), st.sampled_from([1, 2]))
def test_points_priced_together_equal_single_estimates(
    model: str, on: str, sizes: list[tuple[int, int, int]], pp: int
) -> None:
    asked = [sy.load_model(model), on]
    singles: list[Any] = []
    for batch, isl, osl in sizes:
        try:
            singles.append(sy.estimate(*asked, batch=batch, isl=isl, osl=osl, pp=pp))
        except InputError as error:
            singles.append(str(error))
    answered = [s for s in singles if not isinstance(s, str)]
    if not answered:
        return
    together, problems = estimate_batch(answered[0].scenario.sized(*zip(*sizes, strict=True)))
    assert together is not None
    columns, place = together.columns(), 0
    for size, single, problem in zip(sizes, singles, problems, strict=True):
        if isinstance(single, str):
            assert "; ".join(str(p) for p in problem) == single
            continue
        alone, _ = estimate_batch(single.scenario.sized(*([s] for s in size)))
        assert alone is not None and not problem
        row = together.row(place)
        assert row.columns() == alone.row(0).columns(), "an answer depends on its neighbours"
        assert row.columns() == single.columns() and row.ledger.assumptions == single.ledger.assumptions
        assert row.ledger.sources == single.ledger.sources
        assert row.ttft_s == np.broadcast_to(columns["ttft_s"], len(together))[place]
        whole = single.prefill.time_s + (single.scenario.engine.request_s if row.ttft_s == row.ttft_single_s else 0)
        assert row.ttft_s >= whole * (1 - 1e-12)
        if single.scenario.transformer.causal:
            assert row.tpot_s == pytest.approx(float(single.decode.time_s), rel=1e-12)
            assert row.limit["tpot_s"] == pytest.approx(float(single.decode.limit_s), rel=1e-12)
        place += 1


def test_every_answer_has_its_column() -> None:
    found = price_chunk(chunks_of("estimate", "", expand_study(study()))[0])
    assert set(found.columns) == {c.name for c in ANSWERS["estimate"] if not c.asked}
    point = _only({"model": "llama-3.1-8b", "on": "h100_sxm", "rate": "5/s", "requests": 20, "ttft": "1s"}, "simulate")
    found = price_chunk(chunks_of("simulate", "", [point])[0])
    assert found.statuses == [OK]
    answers = {c.name for c in ANSWERS["simulate"] if not c.asked}
    assert answers <= set(found.columns) <= set(columns_of("simulate"))
    assert found.columns["promises_met"] == [True] and found.columns["sent"] == [20]


def test_a_point_that_cannot_run_is_a_row_with_the_reason(tmp_path: Path) -> None:
    asked = study(
        grid={"on": "h100_sxm:2", "tp": "1,2,3", "isl": "100, 200000"},
        fixed={"model": "llama-3.1-8b", "max_model_len": 131072},
    )
    done = sweep(asked, store(tmp_path), executor="serial")
    rows = store(tmp_path).rows(done.study)
    assert rows["status"] == [OK, REFUSED, OK, REFUSED, REFUSED, REFUSED]
    assert "exceeds max_model_len, 131072" in rows["problem"][1]
    assert done.problems == 4 and done.study.finished


def test_an_error_of_ours_spoils_one_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.estimation import estimate as estimates

    whole = estimates.estimate_batch

    def broken(scenario: Any) -> Any:
        if 2 in scenario.batch:
            raise ZeroDivisionError("no batch of two")
        return whole(scenario)

    monkeypatch.setattr(estimates, "estimate_batch", broken)
    points = [p for p in expand_study(study()) if p.inputs["on"] == "h100_sxm"]
    (chunk,) = chunks_of("estimate", "", points)
    found = price_chunk(chunk)
    assert found.hashes == [p.hash for p in points]
    assert [s == BROKEN for s in found.statuses] == [p.inputs["batch"] == 2 for p in points]
    assert "ZeroDivisionError: no batch of two" in found.problems


# ------------------------------------------------------------------ executors


def _dies_at_two(chunk: Chunk) -> Priced:
    """Kills its process when a batch of two is asked for."""
    if any(v["batch"] == 2 for v in chunk.values):
        os._exit(9)
    return price_chunk(chunk)


def test_a_point_that_kills_its_process_is_a_row_with_the_reason() -> None:
    points = expand_study(study())
    chunks = chunks_of("estimate", "", points)
    found = Priced("estimate")
    for _, priced in execute("process", chunks, 2, _dies_at_two):
        found.add(priced)
    told = dict(zip(found.hashes, found.statuses, strict=True))
    assert told == {p.hash: BROKEN if p.inputs["batch"] == 2 else OK for p in points}
    assert "died" in found.problems[found.statuses.index(BROKEN)]


def test_another_catalogue_where_it_is_priced_is_noticed() -> None:
    chunk = replace(chunks_of("estimate", "", expand_study(study()))[0], answered_by="other")
    found = price_chunk(chunk)
    assert set(found.statuses) == {BROKEN} and "catalogue was changed" in found.problems[0]


def test_an_executor_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'process'"):
        execute("proces", [], 1)


def test_pool_and_serial_store_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.studies.sweep.FEW_CHUNKS", 0)
    exported = []
    for executor, jobs in (("serial", 1), ("process", 2)):
        place = Store(tmp_path / f"{executor}.duckdb")
        done = sweep(study(), place, executor=executor, jobs=jobs)
        place.export(done.study, tmp_path / "rows.csv")
        exported.append((tmp_path / "rows.csv").read_bytes())
    assert exported[0] == exported[1]
    assert len(exported[0].splitlines()) == 1 + 12


# ------------------------------------------------------------------ sweeps


def test_equal_scenarios_are_priced_once_over_all_studies(tmp_path: Path) -> None:
    place = store(tmp_path)
    first = sweep(study(), place, executor="serial")
    assert (first.scenarios, first.priced, first.reused) == (12, 12, 0)
    wider = study(name="wider", grid={**SMALL["grid"], "batch": "1-8*2"}, case=[{"name": "a"}, {"name": "b", "tp": 1}])
    second = sweep(wider, place, executor="serial")
    assert (second.points, second.scenarios, second.priced, second.reused) == (32, 16, 4, 12)
    rows = place.rows(second.study)
    assert rows["ttft_s"][:16] == rows["ttft_s"][16:]


def test_a_study_goes_on_only_when_asked(tmp_path: Path) -> None:
    place = store(tmp_path)
    begun = sweep(study(), place, executor="serial", limit=5)
    assert (begun.priced, begun.left, begun.study.finished) == (5, 7, False)
    with pytest.raises(InputError, match="5 of 12 points are priced; go on with --resume"):
        sweep(study(), place, executor="serial")
    told: list[Progress] = []
    done = sweep(study(), place, executor="serial", resume=True, progress=told.append)
    assert (done.priced, done.reused, done.study.finished) == (7, 5, True)
    assert told[-1].done == told[-1].total == 7 and told[-1].left_s == 0
    again = sweep(study(), place, executor="serial")
    assert (again.priced, again.reused) == (0, 12)


def test_what_is_interrupted_is_kept(tmp_path: Path) -> None:
    place = store(tmp_path)

    def stop(p: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(study(), place, executor="serial", progress=stop)
    left = place.study("small")
    assert 0 < left.priced < left.points
    assert sweep(study(), place, executor="serial", resume=True).reused == left.priced


def test_failed_points_are_priced_again_when_asked(tmp_path: Path) -> None:
    place, asked = store(tmp_path), study()
    points = expand_study(asked)
    sweep(asked, place, executor="serial", limit=11)
    missing = next(p for p in points if p.hash not in place.known("estimate", [q.hash for q in points]))
    gone = failed(Chunk("estimate", "", (missing.hash,), (missing.values,)), "died")
    with place.writing():
        place.commit("estimate", gone.hashes, {"status": gone.statuses, "problem": gone.problems}, {}, "0")
    assert sweep(asked, place, executor="serial", resume=True).priced == 0
    assert sweep(asked, place, executor="serial", retry=True).priced == 1
    assert set(place.rows(place.study("small"))["status"]) == {OK}


def test_two_sweeps_do_not_write_one_store(tmp_path: Path) -> None:
    place = store(tmp_path)
    with place.writing(), pytest.raises(StoreBusy, match=f"being written by process {os.getpid()}"):
        sweep(study(), place, executor="serial")


def test_a_preview_writes_nothing(tmp_path: Path) -> None:
    found = preview(study(), store(tmp_path))
    assert len(found.points) == found.scenarios == 12 and found.reused == 0 and found.time_s > 0
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ command line


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.json").write_text(json.dumps(SMALL))
    assert main(["sweep", "s.json", "--dry-run"]) == 0
    assert "12 points, 12 scenarios" in capsys.readouterr().out
    assert main(["sweep", "s.json", "--limit", "6", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["priced"], document["left"]) == ("steelyard.sweep/1", 6, 6)
    assert main(["sweep", "s.json"]) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert main(["sweep", "s.json", "--resume", "--csv", "r.csv", "--parquet", "r.parquet"]) == 0
    assert "6 priced" in capsys.readouterr().out
    assert len(Path("r.csv").read_text().splitlines()) == 13 and Path("r.parquet").stat().st_size > 1000
    assert main(["sweep", "s.json", "--executor", "rai", "--csv", "r.txt"]) == 2
    assert main(["sweep"]) == 2
    assert "--schema" in capsys.readouterr().err


def test_a_study_in_which_nothing_can_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps({**SMALL, "grid": {"on": "h100_sxm", "tp": "3,5"}}))
    assert main(["sweep", str(file), "--store", str(tmp_path / "s.duckdb"), "--quiet"]) == 2
    assert "no point of the study can run" in capsys.readouterr().err


# ------------------------------------------------------------------ commits


def test_an_answer_is_committed_while_the_next_is_still_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By time, not when the next answer comes."""
    pytest.importorskip("duckdb")
    place, asked = store(tmp_path), study()
    hashes = [p.hash for p in expand_study(asked)]
    seen = []

    def kept() -> int:
        with suppress(StoreBusy):  # the commit itself
            return len(place.known("estimate", hashes))
        return 0

    def slow(name: str, chunks: Any, jobs: int) -> Any:
        for chunk in chunks:
            yield chunk, price_chunk(chunk)
            until, found = time.monotonic() + 30, kept()
            while not found and time.monotonic() < until:
                time.sleep(0.3)  # who looks all the time keeps the store from the commit
                found = kept()
            seen.append(found)

    monkeypatch.setattr("steelyard.studies.sweep.execute", slow)
    done = sweep(asked, place, commit_every_s=0.05)
    assert seen[0] > 0
    assert done.study.finished


def test_a_commit_that_fails_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb")

    def full(*_: Any, **__: Any) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(Store, "commit", full)
    for every_s in (0.0, 100.0):
        with pytest.raises(StoreError, match="no space left"):
            sweep(study(), store(tmp_path), executor="serial", resume=True, commit_every_s=every_s)


def test_the_interval_of_few_rows_of_experts_is_their_own_beside_many() -> None:
    two = [sy.estimate("mixtral-8x7b", "m4_max", batch=1, isl=n, osl=1) for n in (2, 130)]
    found, _ = estimate_batch(two[0].scenario.sized(np.array([1, 1]), np.array([2, 130]), np.array([1, 1])))
    assert found is not None
    for i, alone in enumerate(two):
        assert found.row(i).interval["ttft_s"] == pytest.approx(alone.interval["ttft_s"], rel=1e-12)
