"""Claim files, verdicts, the runner and its cache."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from steelyard.claims.ask import answer, command, figure, interval
from steelyard.claims.board import text
from steelyard.claims.paper import Claim, find_paper, papers
from steelyard.claims.run import Found, _Figure, _number, row_of, run_paper
from steelyard.claims.verdict import judge
from steelyard.cli.main import main
from steelyard.errors import InputError

MINE = """
id = "mine"
name = "Half the cache"
title = "A cache of 8 bit"
layer = "format"

[[assume]]
field = "isl"
values = [128]

[scenario.full]
verb = "estimate"
words = { model = "llama-3.1-8b", on = "a100_sxm", batch = 64, isl = 8192, osl = 64 }

[scenario.half]
like = "full"
words = { techniques = ["fp8-kv"] }

[[claim]]
n = 1
quantity = "cache"
unit = "%"
direction = "down"
published = 50
figure = "memory_bytes.kv_cache"
baseline = "full"
subject = "half"
form = "reduction"

[[claim]]
n = 2
quantity = "exponent of the cache in the prompt"
unit = "exponent"
direction = "none"
published = 1
figure = "memory_bytes.kv_cache"
subject = "full"
form = "exponent"
sweep = { isl = [4096, 8192, 16384] }

[[claim]]
n = 3
quantity = "decode speed-up"
published = 1.3
figure = "tpot_s"
baseline = "full"
subject = "half"
form = "inverse"
"""


def _file(folder: Path, text: str = MINE) -> str:
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_a_claim_is_a_pair_of_ordinary_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paper = find_paper(_file(tmp_path))
    cache, exponent, speed = run_paper(paper, sensitivity=True)
    assert cache.predicted == pytest.approx(50) and cache.verdict == "reproduced" and not cache.hangs_on
    assert exponent.predicted == pytest.approx(1, abs=0.02) and exponent.verdict == "reproduced"
    assert isinstance(speed.predicted, float) and 1.2 < speed.predicted < 1.6 and speed.verdict == "reproduced"
    assert speed.interval is not None and speed.interval[0] < speed.predicted < speed.interval[1]
    assert speed.hangs_on == ("isl=128: direction",)  # a short prompt has little cache to read
    row = row_of(paper, [cache, exponent, speed])
    assert row.runs and row.verdict == "reproduced"
    assert row.command.endswith("--batch 64 --isl 8192 --osl 64 --with fp8-kv")
    kept = list((tmp_path / "steelyard" / "claims").iterdir())
    assert len(kept) == 6
    monkeypatch.setattr("steelyard.claims.run._ANSWERS", {})
    for one in kept:
        one.write_text("[]")  # another program's
    assert run_paper(paper)[2].predicted == speed.predicted


def test_peaks_compares_each_scenario_at_its_own_best_load() -> None:
    def figures(*values: float) -> list[Any]:
        return [_Figure(v, 0.9 * v, 1.1 * v, "") for v in values]

    claim = Claim(n=1, quantity="goodput", figure="x", baseline="a", subject="b", pick="peaks")
    points = [{"concurrency": n} for n in (4, 8, 16)]
    pairs = list(zip(figures(2.0, 4.0, 1.0), figures(3.0, 5.0, 8.0), strict=True))
    value, (low, high) = _number(claim, points, pairs)
    assert value == 2.0 and low < 2.0 < high  # 8 over 4, and not 8 over the 1 beside it


def test_the_command_prints_rows_pages_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = _file(tmp_path)
    assert main(["claims", path, "--json", "--quiet", "--pages", str(tmp_path / "pages")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "steelyard.claims/1"
    assert [(c["id"], c["n"], c["verdict"]) for c in found["claims"]] == [("mine", n, "reproduced") for n in (1, 2, 3)]
    assert found["rows"][0]["runs"] is True
    page = (tmp_path / "pages" / "format.md").read_text()
    assert "| mine Half the cache | 1 | cache | % | 50 | 50 |" in page
    assert "<svg" in (tmp_path / "pages" / "published.svg").read_text()
    assert main(["claims", path, "--explain", "--quiet"]) == 0
    told = capsys.readouterr().out
    command = next(part for part in told.split("\n\n") if part.startswith("half:")).split("\n", 1)[1]
    assert main([*shlex.split(command.replace("\\\n", ""))[1:], "--quiet"]) == 0  # it can be pasted
    capsys.readouterr()
    assert "--with fp8-kv" in told and "hangs on isl=128: direction" in told
    assert main(["claims", path, "--sensitivity", "--quiet", "--pages", str(tmp_path / "pages")]) == 0
    capsys.readouterr()
    assert "hangs on isl=128: direction" in (tmp_path / "pages" / "format.md").read_text()
    assert main(["claims", path, "--sensitivity", "--quiet"]) == 0
    assert "hangs on isl=128: direction" in capsys.readouterr().out  # it was said by --explain alone
    assert main(["claims", path, path, "--quiet"]) == 2
    assert "mine asked for twice" in capsys.readouterr().err
    for right, wrong, why in (
        ("batch = 64", "bacth = 64", "cannot be asked: bacth: unknown field"),
        ('"fp8-kv"', '"fp8-kvv"', "cannot be asked: techniques: unknown technique 'fp8-kvv'; did you mean 'fp8-kv'"),
        ('"tpot_s"', '"tpot_z"', "cannot be asked: the answer has no figure 'tpot_z'; did you mean 'tpot_s'"),
    ):
        assert right in MINE
        assert main(["claims", _file(tmp_path, MINE.replace(right, wrong)), "--quiet"]) == 2  # a file of the user's
        out, err = capsys.readouterr()
        assert why in out.replace("\n", " ") and f"claim {3 if 'tpot' in wrong else 1}: {why}" in err
    assert main(["claims", "S14", "--layer", "moe"]) == 2
    assert "none of the papers asked for is of moe, but of serving" in capsys.readouterr().err
    assert main(["claims", "S999"]) == 2
    assert "unknown paper 'S999'" in capsys.readouterr().err
    assert main(["claims", "--layer", "none-such"]) == main(["techniques", "--layer", "none-such"]) == 2
    assert capsys.readouterr().err.count("kvcache") == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('subject = "half"', 'subject = "haf"'), "unknown scenario 'haf'"),
        (('like = "full"', 'like = "half"'), "a circle"),
        (('verb = "estimate"', 'verb = "estimat"'), "unknown verb 'estimat'"),
        (('form = "reduction"', 'form = "less"'), "unknown form 'less'"),
        (("published = 50", 'published = "half"'), "expected a number, a range or a list"),
        (("n = 2", "n = 1"), "claim 1 is there twice"),
        (("sweep = { isl = [4096, 8192, 16384] }", ""), "an exponent needs the field that grows"),
        (("sweep = { isl = [4096, 8192, 16384] }", "sweep = { isl = [] }"), "expected 1 to 100 values, got 0"),
        (("sweep = { isl = [4096, 8192, 16384] }", "sweep = { isl = [4096] }"), "two different numbers"),
        (("[4096, 8192, 16384] }", '["a100_sxm", "h100_sxm"] }'), "two different numbers"),
        (("published = 50", "published = []"), "expected a number, a range or a list"),
        (("published = 50", "published = nan"), "expected a number, a range or a list"),
        (("published = 50", "published = 1e300"), "expected a number, a range or a list"),
        (('layer = "format"', 'layer = "../format"'), "layer: expected lower-case letters"),
        (('field = "isl"', 'field = "islx"'), "unknown field 'islx'"),
        (('techniques = ["fp8-kv"]', "techniques = 5"), "expected a name or a list"),
        (('techniques = ["fp8-kv"]', 'flags = "x"'), "expected a table, got 'x'"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_paper(_file(tmp_path, MINE.replace(*change)))


@pytest.mark.parametrize(
    ("given", "predicted", "verdict"),
    [
        ({"published": 2.0}, 2.4, "reproduced"),
        ({"published": 2.0}, 2.6, "direction"),
        ({"published": 2.0}, 0.9, "missed"),
        ({"published": 0.5, "direction": "down"}, 0.45, "reproduced"),
        ({"published": 95.0, "unit": "%", "form": "reduction"}, 90.0, "direction"),  # a tenth is not a twentieth
        ({"published": 95.0, "unit": "%", "form": "reduction"}, 95.5, "reproduced"),
        ({"published": 30.0, "unit": "%", "form": "gain"}, 18.0, "reproduced"),
        ({"published": 30.0, "unit": "%", "form": "gain"}, 10.0, "direction"),
        ({"published": 13.0, "unit": "%", "form": "gain"}, -4.0, "missed"),
        ({"published": 30.0, "unit": "%", "form": "gain"}, -1.0, "missed"),
        ({"published": [2, 4]}, 3.0, "reproduced"),
        ({"published": [2, 4]}, 4.5, "direction"),
        ({"published": [2, 4], "pick": "each"}, [2.1, 3.9], "reproduced"),
        ({"published": [2, 4], "pick": "each"}, [2.1, 0.5], "missed"),
        ({"published": 10.0, "form": "value"}, 18.0, "direction"),
        ({"published": 10.0, "form": "value"}, 30.0, "missed"),
        ({"published": 1.0, "form": "exponent"}, 1.2, "reproduced"),
        ({"published": 80.0, "unit": "%", "form": "reduction", "bound": "least"}, 88.0, "reproduced"),
        ({"published": 80.0, "unit": "%", "form": "reduction", "bound": "least"}, 96.0, "direction"),
        ({"published": None, "held_back": True}, 1.7, "direction"),
        ({"published": 2.0, "verdict": "assumed"}, 2.0, "assumed"),
        ({"published": None}, 1.0000000000000002, "missed"),
        ({"published": 2}, 1.0000000000000002, "missed"),
    ],
)
def test_verdicts(given: dict[str, Any], predicted: Any, verdict: str) -> None:
    claim = Claim(1, "speed-up", figure="tpot_s", subject="it", baseline="was", **given)
    assert judge(claim, predicted) == verdict


def test_what_is_beyond_every_float_is_no_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = run_paper(find_paper(_file(tmp_path, MINE.replace('"tpot_s"', '"1e308 * 1e308"'))))[2]
    assert found.predicted is None and found.verdict == "missed" and "beyond every float" in found.why


def test_an_answer_about_a_file_that_changed_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ops = 'name = "o"\ntitle = "o"\nsource = "o"\nsizes = { n = 1e8 }\n[[op]]\nname = "x"\neinsum = "b n -> b n"\n'
    own = tmp_path / "own.toml"
    text = MINE.replace('"llama-3.1-8b"', f'"{own}"').replace('techniques = ["fp8-kv"]', "batch = 128")

    def seconds(ops: str) -> float:
        own.write_text(ops)
        found = run_paper(find_paper(_file(tmp_path, text.replace('form = "inverse"', 'form = "value"'))))[2].predicted
        assert isinstance(found, float)
        return found

    assert seconds(ops.replace("1e8", "1e10")) > 2 * seconds(ops)


def test_figures_are_paths_and_arithmetic_of_them() -> None:
    answer = {"tpot_s": 0.02, "interval": {"tpot_s": [0.01, 0.03]}, "pools": [{"devices": 8}]}
    assert figure(answer, "tpot_s * pools[0].devices") == pytest.approx(0.16)
    assert interval(answer, "1 / tpot_s") == pytest.approx((100 / 3, 100.0))
    with pytest.raises(InputError, match="ttft_s"):
        figure(answer, "ttft_s")
    with pytest.raises(InputError, match="expected arithmetic"):
        figure(answer, "__import__('os')")


def test_energies_of_kernels_are_summed_as_their_times() -> None:
    found = answer("explain", {"model": "llama-3.2-1b", "on": "a100_sxm", "batch": 1, "isl": 256, "osl": 2})["prefill"]
    sums = found["energy_by_kind"]
    kernels = [k for k in found["kernels"] if k["kind"] == "gemm"]
    assert sums["gemm"] == pytest.approx(sum(k["energy_j"] for k in kernels)) and sums["gemm"] > sums["vector"] > 0


def test_claims_ask_about_networks() -> None:
    words = {"model": "mobilenetv2_100", "on": "rtx_4090", "batch": 8, "runtime": "eager"}
    estimated, explained = answer("estimate", words), answer("explain", words)
    assert figure(estimated, "macs") == pytest.approx(300.8e6, rel=0.01)
    low, high = interval(estimated, "throughput_per_s")
    assert low < figure(estimated, "throughput_per_s") < high
    kernels = explained["kernels"]
    depthwise = sum(k["flops"] for k in kernels if k["class"] == "depthwise")
    assert figure(explained, "forward.flops_by_class.depthwise") == pytest.approx(depthwise) and depthwise > 0
    assert sum(explained["forward"]["by_op"].values()) == pytest.approx(sum(k["time_s"] for k in kernels))


def test_claims_ask_for_the_networks_of_a_space() -> None:
    words = {"space": "nb201", "on": "snapdragon_835", "score": "macs", "solver": "random", "budget": 30}
    found = answer("search_network", words)
    assert figure(found, "architectures") == 5**6
    assert figure(found, "best_score.score") >= figure(found, "fastest.macs")
    path = "best_score.latency_s.snapdragon_835"
    low, high = interval(found, path)
    assert low < figure(found, path) < high
    assert command("search_network", words).startswith("steelyard search network --space=nb201 --on=snapdragon_835")


def test_the_board_of_every_paper_keeps_its_words_whole() -> None:
    every = list(papers().values())
    told = text(every, {p.id: [Found(p, c, verdict="planned") for c in p.claim] for p in every})
    assert "Sarathi-Serve" in told and "training time" in told  # names of six letters a line
    assert max(map(len, told.splitlines())) <= 140


def test_a_file_that_cannot_be_read_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steelyard.claims import paper as module
    from steelyard.folders import catalogue_folders

    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "X1.toml").write_text('id = "X1"\nid = "X1"\n')
    (tmp_path / "claims" / "mine.toml").write_text(MINE)
    caches = (catalogue_folders, module._every)
    with monkeypatch.context() as patch:
        patch.setenv("STEELYARD_CATALOGUE", str(tmp_path))
        for cache in caches:
            cache.cache_clear()
        assert main(["claims", "mine", "--jobs", "1", "--quiet"]) == 0
    for cache in caches:
        cache.cache_clear()
    captured = capsys.readouterr()
    assert "not read: X1.toml" in captured.err and "Half the cache" in captured.out
    assert not module.broken_papers()


def test_an_exponent_over_a_figure_is_of_each_scenario_along_its_own_sweep(tmp_path: Path) -> None:
    words = 'words = { model = "mobilenetv2_100", on = "rtx_4090", runtime = "eager" }'
    (tmp_path / "scaled.toml").write_text(
        f"""
id = "scaled"
name = "Scaled"
title = "Larger images, wider maps"
layer = "architecture"
[scenario.larger]
verb = "estimate"
{words}
sweep = {{ size = ["128", "224", "320"] }}
[scenario.wider]
like = "larger"
sweep = {{ set = ["width=1", "width=2", "width=4"] }}
[[claim]]
n = 1
quantity = "exponent of activations in operations"
published = [1, 0.5]
figure = "activations"
over = "macs"
baseline = "larger"
subject = "wider"
form = "exponent"
"""
    )
    (found,) = run_paper(find_paper(str(tmp_path / "scaled.toml")))
    assert found.verdict == "reproduced" and found.predicted == pytest.approx([1, 0.5], abs=0.1)
