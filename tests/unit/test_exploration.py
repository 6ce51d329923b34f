"""Searches: fronts, solvers' logs, exact answers against listing, hostile words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import DoesNotFit, InputError
from steelyard.exploration.additive import Sum, best_within
from steelyard.exploration.explore import explore, front_kept, hypervolume
from steelyard.exploration.networks import search_network
from steelyard.exploration.predictors import search_predictor
from steelyard.search.missed import missed, nearer, nearest_of
from steelyard.studies.answers import Chunk, Priced, failed
from steelyard.testing.solvers import SIZES, prices
from steelyard.units import format_quantity
from steelyard.workload.networks.search_space import find_space


def test_hypervolume_is_the_volume_of_boxes() -> None:
    rng = np.random.default_rng(2)
    for figures in (1, 2, 3):
        points = rng.random((12, figures))
        grid = (np.stack(np.meshgrid(*[np.arange(40)] * figures, indexing="ij"), -1).reshape(-1, figures) + 0.5) / 40
        beaten = (points[:, None, :] <= grid[None]).all(axis=2).any(axis=0)
        assert hypervolume(points, np.ones(figures)) == pytest.approx(beaten.mean(), abs=0.04)


def test_a_search_that_is_killed_goes_on_without_loss(tmp_path: Path) -> None:
    log = tmp_path / "search.jsonl"
    whole = explore(prices, SIZES, 2, budget=640, seed=5)
    explore(prices, SIZES, 2, budget=320, seed=5, log=str(log))
    log.write_text(log.read_text()[:-40])  # killed while it wrote
    asked: list[int] = []

    def counted(codes: np.ndarray) -> object:
        asked.append(len(codes))
        return prices(codes)

    again = explore(counted, SIZES, 2, budget=640, seed=5, log=str(log))  # type: ignore[arg-type]
    assert np.array_equal(again.codes, whole.codes)
    assert np.array_equal(again.values, whole.values)
    assert sum(asked) == 640 - 256
    more: list[int] = []
    explore(lambda codes: more.append(len(codes)), SIZES, 2, budget=640, seed=5, log=str(log))  # type: ignore[arg-type,func-returns-value]
    assert not more


def test_the_log_of_another_search_is_refused_and_kept(tmp_path: Path) -> None:
    log = tmp_path / "search.jsonl"
    explore(prices, SIZES, 2, budget=64, seed=5, log=str(log))
    before = log.read_bytes()
    with pytest.raises(InputError, match="another search: its seed differs"):
        explore(prices, SIZES, 2, budget=64, seed=6, log=str(log))
    assert log.read_bytes() == before
    log.write_text("no log\n")
    with pytest.raises(InputError, match="is not the log of a search"):
        explore(prices, SIZES, 2, budget=64, seed=5, log=str(log))


@pytest.mark.parametrize("kept", [0, 9, 150, -1])
def test_a_log_cut_anywhere_goes_on_and_stays_a_log(kept: int, tmp_path: Path) -> None:
    log = tmp_path / "search.jsonl"
    explore(prices, SIZES, 2, budget=256, seed=5, log=str(log))
    whole = log.read_bytes()
    log.write_bytes(whole[:kept])
    for _ in range(2):
        explore(prices, SIZES, 2, budget=256, seed=5, log=str(log))
        assert log.read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:2], b"damaged\n", *lines[2:]]))
    explore(prices, SIZES, 2, budget=256, seed=5, log=str(log))
    assert log.read_bytes() == whole


def test_two_searches_do_not_write_one_log(tmp_path: Path) -> None:
    log = str(tmp_path / "search.jsonl")

    def another(codes: np.ndarray) -> object:
        if Path(log).exists():
            with pytest.raises(InputError, match="another search writes"):
                explore(prices, SIZES, 2, budget=512, seed=5, log=log)
        return prices(codes)

    explore(another, SIZES, 2, budget=128, seed=5, log=log)  # type: ignore[arg-type]
    assert Path(log).read_bytes().count(b"\n") == 3


def test_a_log_is_of_one_space_one_table_and_one_set_of_prices(tmp_path: Path) -> None:
    space, log, table = tmp_path / "mine.toml", tmp_path / "log.jsonl", tmp_path / "scores.csv"
    text = 'family = "mobile"\nsize = [64, 64]\n[[stage]]\nrow = "mb {c} s2"\nchoose = { c = [8, 16, 24] }\n'
    space.write_text(text)
    words = {"on": "snapdragon_8_gen_2", "solver": "random", "log": str(log)}
    search_network(str(space), **words)
    for change in ({"batch": 64}, {"precision": "int8"}, {"score": "macs"}):
        with pytest.raises(InputError, match="its question differs"):
            search_network(str(space), **words, **change)
    space.write_text(text.replace("24", "32"))
    with pytest.raises(InputError, match="its question differs"):
        search_network(str(space), **words)
    moved = tmp_path / "moved.toml"
    moved.write_text(text)
    search_network(str(moved), **words)
    log.unlink()
    for score in (1, 2):
        table.write_text(f"architecture,score\nstage1.c=8,{score}\n")
        if score == 2:
            with pytest.raises(InputError, match="its question differs"):
                search_network(str(moved), **words, score=str(table))
        else:
            search_network(str(moved), **words, score=str(table))


def test_history_grows_to_the_whole_front() -> None:
    found = explore(prices, SIZES, 2, budget=1000, seed=5)
    volumes = [v for _, v in found.history]
    assert volumes == sorted(volumes)
    assert volumes[-1] == 1.0
    assert found.history[-1][0] == len(found.codes)


def test_programs_equal_listing() -> None:
    pytest.importorskip("highspy")
    space = find_space("nb201")
    codes, rng = space.all(), np.random.default_rng(3)
    goal, cost = Sum(1.0, rng.random(len(space.features))), Sum(0.5, rng.random(len(space.features)))
    counts = space.counts(codes)
    goals, costs = goal.shared + counts @ goal.choices, cost.shared + counts @ cost.choices
    for share in (0.2, 0.5, 0.8):
        limit = float(np.quantile(costs, share))
        code = best_within(space, goal, [(cost, limit)])
        assert code is not None
        mine = space.counts(code[None])[0]
        assert cost.shared + mine @ cost.choices <= limit * (1 + 1e-9)
        assert goal.shared + mine @ goal.choices == pytest.approx(goals[costs <= limit].max(), rel=1e-9)
    assert best_within(space, goal, [(cost, float(costs.min()) * 0.9)]) is None


def test_a_front_is_that_of_every_cell_priced() -> None:
    found = search_network("nb201", on="rtx_3090", latency="6ms", score="macs")
    every = sy.estimate("nb201:all", on="rtx_3090")
    values = np.stack([-every.macs, every.latency_s], axis=1)
    front = front_kept(values, np.maximum(every.latency_s / 6e-3 - 1.0, 0.0))
    assert found.exact
    assert found.tried == 15625
    assert set(found.architectures) == {every.architectures[i] for i in front}
    assert found.score.tolist() == sorted(found.score.tolist(), reverse=True)


def test_programs_find_what_a_solver_does_not_beat() -> None:
    pytest.importorskip("highspy")
    exact = search_network("fbnet", on="snapdragon_8_gen_2", latency="0.9ms", score="macs")
    searched = search_network(
        "fbnet", on="snapdragon_8_gen_2", latency="0.9ms", score="macs", solver="evolution", budget=1500
    )
    assert exact.how == "integer programs"
    assert exact.score[0] >= searched.score[0]
    assert (exact.latency_s <= 0.9e-3 * (1 + 1e-9)).all()
    assert (searched.latency_s <= 0.9e-3 * (1 + 1e-9)).all()


def test_sure_keeps_the_limit_with_that_chance() -> None:
    plain = search_network("nb201", on="rtx_3090", latency="6ms", score="macs")
    sure = search_network("nb201", on="rtx_3090", latency="6ms", score="macs", sure="90%")
    assert plain.chance.max() <= 1.0
    assert (sure.chance >= 0.9 - 1e-6).all()
    assert sure.score[0] <= plain.score[0]


def test_scores_of_a_table_and_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = find_space("nb201")
    chosen = [space.spell(c) for c in space.draw(30, seed=8).tolist()]
    table = tmp_path / "scores.csv"
    table.write_text("architecture,score\n" + "".join(f"{a},{len(a)}\n" for a in chosen))
    found = search_network("nb201", on="rtx_3090,rk3588", score=str(table))
    assert set(found.architectures) <= set(chosen)
    assert found.tried == 30
    assert found.latency_s.shape == (len(found), 2)
    file = tmp_path / "mine.py"
    file.write_text("def score(architectures):\n    return [len(a) for a in architectures]\n")
    by_file = search_network("nb201", on="rtx_3090", score=f"{file}:score", budget=300, seed=1)
    assert by_file.how == "evolution"
    assert by_file.score.tolist() == [len(a) for a in by_file.architectures]
    monkeypatch.chdir(tmp_path)
    by_module = search_network("nb201", on="rtx_3090", score="mine:score", budget=300, seed=1)
    assert by_module.architectures == by_file.architectures
    with pytest.raises(InputError, match=r"no such module"):
        search_network("nb201", on="rtx_3090", score="nobodys:score")
    with pytest.raises(InputError, match=r"no function 'score' in textwrap"):
        search_network("nb201", on="rtx_3090", score="textwrap:score")
    for code, words in (
        ("1/0", "ZeroDivisionError"),
        ("return [1]", "one for each architecture"),
        ("return 'x'", "failed"),
    ):
        file.write_text(f"def score(architectures):\n    {code}\n")
        with pytest.raises(InputError, match=words):
            search_network("nb201", on="rtx_3090", score=f"{file}:score", budget=100)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda names: [float("nan")] * len(names), "is no finite number for any of 2 networks"),
        (lambda names: names.clear() or [], "expected 2 numbers, one for each architecture"),
        (lambda names: 1 / 0, "ZeroDivisionError"),
        ("size=64,1\nsize=64,2\n", "line 3: is of the architecture of line 2; give each once"),
        (f"{'x' * 200_000},1\n", "no CSV file"),
        ("\0,1\n", "score: .* is not a text file"),
    ],
)
def test_scores_that_are_none_are_told(score: object, said: str, tmp_path: Path) -> None:
    space, table = tmp_path / "mine.toml", tmp_path / "scores.csv"
    space.write_text('family = "mobile"\n[choose]\nsize = [32, 64]\n[[stage]]\nrow = "mb 8 s2"\n')
    if isinstance(score, str):
        table.write_text(f"architecture,score\n{score}")
    with pytest.raises(InputError, match=said):
        search_network(str(space), on="rtx_3090", score=str(table) if isinstance(score, str) else score)


def test_an_environment_of_a_space_is_one_of_gymnasium() -> None:
    checker = pytest.importorskip("gymnasium.utils.env_checker", reason="needs the gym extra")
    env = sy.network_env("nb201", on="rtx_3090", latency="6ms", score="macs", steps=3)
    checker.check_env(env, skip_render_check=True)
    env.reset(seed=1)
    seen, reward, ended, cut, told = env.step(np.zeros(6, dtype=np.int64))
    one = sy.estimate("nb201:" + told["architecture"], on="rtx_3090")
    assert told["score"] == one.macs
    assert told["latency_s"]["rtx_3090"] == pytest.approx(one.latency_s, rel=0.02)
    assert reward == pytest.approx(float(seen[0]) - told["broken"])
    assert (ended, cut, env.step(env.action_space.sample())[3], env.step(env.action_space.sample())[3]) == (0, 0, 0, 1)


def test_an_environment_without_gymnasium_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.exploration import learners

    learners._class.cache_clear()
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(InputError, match=r"steelyard\[gym\]"):
        sy.network_env("nb201", on="rtx_3090")


def test_a_score_is_called_by_processes_as_by_this_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(architectures):\n    return [len(set(a)) for a in architectures]\n")
    words = {"on": "rtx_3090", "score": f"{file}:score", "solver": "random", "budget": 60}
    here, there = search_network("nb201", **words), search_network("nb201", **words, executor="process:2")
    assert here.architectures == there.architectures
    assert here.score.tolist() == there.score.tolist()
    file.write_text("def score(architectures):\n    raise ValueError('mine')\n")
    with pytest.raises(InputError, match="ValueError: mine"):
        search_network("nb201", **words, executor="process:2")
    for executor, score in (("proces", f"{file}:score"), ("process:x", f"{file}:score"), ("process", "macs")):
        with pytest.raises(InputError, match="executor"):
            search_network("nb201", on="rtx_3090", score=score, executor=executor)


def test_a_score_that_ends_every_process_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(architectures):\n    return [1.0] * len(architectures)\n")

    def dying(name: str, chunks: list[Chunk], jobs: int, work: object) -> object:
        for chunk in chunks:
            priced = Priced(chunk.kind)
            for one in chunk.alone():
                priced.add(failed(one, "the process died"))
            yield chunk, priced

    monkeypatch.setattr("steelyard.exploration.scores.execute", dying)
    with pytest.raises(InputError, match=r"score of each of \d+ architectures: the process died"):
        search_network("nb201", on="rtx_3090", score=f"{file}:score", solver="random", executor="process:2")


def test_a_search_whose_process_is_killed_goes_on_without_loss(tmp_path: Path) -> None:
    file, log = tmp_path / "mine.py", tmp_path / "search.jsonl"
    slow = "def score(a):\n    import os, time\n    time.sleep(0.0 if os.environ.get('QUICK') else 0.1)\n"
    file.write_text(slow + "    return [len(set(x)) for x in a]\n")
    words = ["search", "network", "--space", "nb201", "--on", "rtx_3090", "--score", f"{file}:score"]
    words += ["--solver", "evolution", "--budget", "640", "--log", str(log), "--json", "--quiet"]
    command = [sys.executable, "-c", "from steelyard.cli.main import run; run()", *words]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while running.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 4):
        time.sleep(0.02)
    running.kill()
    running.wait()
    lines = log.read_bytes().count(b"\n")
    assert 4 <= lines < 11
    quick = {**os.environ, "QUICK": "1"}
    again = json.loads(subprocess.run(command, capture_output=True, check=True, env=quick).stdout)
    log.unlink()
    whole = json.loads(subprocess.run(command, capture_output=True, check=True, env=quick).stdout)
    assert again["front"] == whole["front"]
    assert again["tried"] == 640


def test_limits_that_nothing_keeps_say_what_would() -> None:
    every = sy.estimate("nb201:all", on="rtx_3090").latency_s.min()
    with pytest.raises(DoesNotFit, match=r"no network of 15,625 keeps .* latency on rtx_3090 is at least") as found:
        search_network("nb201", on="rtx_3090", latency="1us", macs=1e9)
    assert found.value.change == f"latency on rtx_3090 {format_quantity(float(every), 's')}"
    two = {"time": (np.array([1.0, 2.0, 4.0]), 1.5, "s"), "area": (np.array([4.0, 2.0, 1.0]), 1.5, "1")}
    assert missed("chip", nearest_of(two)).args[0].startswith("no chip keeps the limits: each is kept by some, all by")
    assert missed("chip", nearest_of(two)).change == "time 2.00 s, area 2"
    some = [{n: (v[part], most, unit) for n, (v, most, unit) in two.items()} for part in (slice(1), slice(1, 3))]
    assert nearer(nearer({}, nearest_of(some[0])), nearest_of(some[1])) == nearest_of(two)


def test_a_wrong_architecture_of_a_file_is_named_by_its_line(tmp_path: Path) -> None:
    table, good = tmp_path / "scores.csv", find_space("nb201").example
    table.write_text(f"# mine\narchitecture,score\n{good},1\n\n{good.replace('none', 'nun')},2\n")
    with pytest.raises(InputError, match="line 5: nb201: unknown operation 'nun'"):
        search_network("nb201", on="rtx_3090", score=str(table))
    table.write_text(f"# mine\narchitecture,score\n\n{good},one\n")
    with pytest.raises(InputError, match="line 4: expected a number, got 'one'"):
        search_network("nb201", on="rtx_3090", score=str(table))
    table.write_text(f"# mine\n\n{good}\n{good[3:]}\n")
    with pytest.raises(InputError, match="line 4: nb201"):
        sy.estimate(f"nb201:{table}", on="rtx_3090")


def test_networks_of_a_microcontroller_fit_its_flash() -> None:
    with pytest.raises(DoesNotFit, match=r"parameters held by stm32f746 is at least 4,6.* \(limit 1,048,576\)"):
        search_network("ofa", on="stm32f746", score="macs")
    found = search_network("nb201", on="nrf5340", score="parameters")
    largest = search_network("nb201", on="rtx_3090", score="parameters").parameters.max()
    assert found.parameters.max() <= 1024**2 < largest
    assert any("activations and code are not weighed" in text for text in found.ledger.assumptions)


def test_every_wrong_word_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = "search network --space ofo --on a100_sxm,a100_sxm --latency x --budget 0 --solver evo --sure 2 --seed -1"
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    for part in (
        "did you mean 'ofa'",
        "different devices",
        "--latency",
        "--budget",
        "did you mean 'evolution'",
        "--seed: expected a whole number from 0",
        "--sure",
    ):
        assert part in said
    assert main(["search"]) == 2
    assert "search network" in capsys.readouterr().err
    assert main(["search", "network", "--zzz"]) == 2
    assert "see `steelyard search network --help`" in capsys.readouterr().err
    words = "search predictor --measured x.csv --space nb201 --batch 0 --runtime nope"
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("--batch: expected 1", "--runtime: "))
    assert main(["search", "netwrk"]) == 2
    assert "did you mean 'network'" in capsys.readouterr().err


def test_the_json_form(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "network", "--space", "nb201", "--on", "rtx_3090"]
    assert main([*words, "--latency", "6ms", "--score", "macs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "steelyard.search/1"
    assert found["best"] == "nb201:" + found["front"][0]["architecture"]
    assert all(p["latency_s"]["rtx_3090"] <= 6e-3 for p in found["front"])
    one = sy.estimate(found["best"], on="rtx_3090")
    assert found["front"][0]["macs"] == pytest.approx(one.macs)


def test_other_devices_make_a_mix_and_a_proxy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space, rng = find_space("nb201"), np.random.default_rng(4)
    codes = rng.permutation(np.unique(space.draw(80, seed=2), axis=0))[:60]
    costs = rng.gamma(2.0, 1e-4, (3, 5))
    seconds = space.counts(codes) @ costs.T + 1e-4
    spelt = [space.spell(c) for c in codes.tolist()]
    table, ten, asked = tmp_path / "others.csv", tmp_path / "ten.csv", tmp_path / "asked.csv"
    rows = [f"{a},{s[0]},{s[1]},{s[2]}\n" for a, s in zip(spelt, seconds.tolist(), strict=True)]
    table.write_text("architecture,a,b,c\n" + "".join(rows))
    mine = 0.5 * seconds[:, 0] + 2.0 * seconds[:, 2]
    ten.write_text("architecture,seconds\n" + "".join(f"{a},{s}\n" for a, s in zip(spelt[:10], mine[:10], strict=True)))
    asked.write_text("architecture\n" + "\n".join(spelt[10:]) + "\n")
    found = search_predictor(str(ten), space="nb201", devices=str(table), predict=str(asked), predictors="mix,proxy")
    assert found.best.name == "mix"
    assert found.predicted["mix"][0] == pytest.approx(mine[10:], rel=1e-6)
    words = ["search", "predictor", "--measured", str(ten), "--space", "nb201", "--devices", str(table)]
    assert main([*words, "--predict", str(asked), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 51
    table.write_text("architecture,a,a,c\n" + "".join(rows).replace(f"{seconds[4, 1]}", "x") + rows[7])
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "expected seconds above 0" in said
    assert "two columns 'a'" in said
    assert "row 62: is the network of row 9; give each once" in said


def test_predictors_are_compared_on_measured_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = find_space("nb201")
    codes = space.draw(12, seed=1)
    seconds = 2e-3 + space.counts(codes) @ np.array([1e-5, 2e-5, 1e-4, 4e-4, 5e-5])
    file = tmp_path / "ten.csv"
    rows = zip((space.spell(c) for c in codes.tolist()), seconds, strict=True)
    file.write_text("architecture,seconds\n" + "".join(f"{a},{s}\n" for a, s in rows))
    found = search_predictor(str(file), space="nb201")
    assert {s.name for s in found.scored} >= {"hierarchical", "macs", "proxy", "counts"}
    assert {"priced", "mix"} <= set(found.absent)
    assert [s.median_ape for s in found.scored] == sorted(s.median_ape for s in found.scored)
    assert "expected a machine" in found.absent["priced"]
    assert len(set(found.measure_next)) == 5
    assert main(["search", "predictor", "--measured", str(file), "--space", "nb201", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictors"][0]["name"] == found.best.name
    with pytest.raises(InputError, match="at least four"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
        search_predictor(str(file), space="nb201")


def test_halving_asks_the_best_third_again_with_three_times_the_effort(tmp_path: Path) -> None:
    asked: list[tuple[float, tuple[str, ...]]] = []

    def score(architectures: list[str], effort: float) -> list[float]:
        asked.append((effort, tuple(architectures)))
        return [float(len(name)) for name in architectures]

    words = {"space": "ofa", "on": "pixel_3", "solver": "halving", "budget": 92, "seed": 3}
    log = str(tmp_path / "log.jsonl")
    found = search_network(score=score, log=log, **words)
    efforts = [effort for effort, _ in asked[:3]]
    assert efforts == [pytest.approx(1 / 9), pytest.approx(1 / 3), 1.0]
    rungs = [set(names) for _, names in asked[:3]]
    assert [len(names) for names in rungs] == [64, 22, 6] and rungs[0] > rungs[1] > rungs[2]
    assert found.tried == 92 and set(found.architectures) <= rungs[2]
    asked.clear()
    again = search_network(score=score, log=log, **words)
    assert again.architectures == found.architectures and len(asked) == 1  # the log has all rungs; the front is scored
    with pytest.raises(InputError, match="no function with a parameter 'effort'"):
        search_network(score=lambda names: [0.0] * len(names), **words)
