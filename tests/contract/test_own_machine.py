"""A machine of one's own is carried from the door to the answer, never looked up again by its name."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import steelyard as sy
from steelyard.cli.asked import read
from steelyard.cli.main import app
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.plan import Plan
from steelyard.deployment.plan_file import deployment_text, read_deployment
from steelyard.errors import InputError, SteelyardError
from steelyard.launch import Load, launch_files, service, write_folder
from steelyard.machine.catalogue import catalogue_difference, find_machine
from steelyard.machine.cluster import parse_cluster
from steelyard.machine.loader import load_machine, machine_text
from steelyard.search.api import read_question
from steelyard.studies.checks import name_problems

ASKED = {"model": "llama-3.1-8b", "rate": "2/s", "isl": 500, "osl": 50, "ttft": "p99:2s"}


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    """The catalogue's l40s with ten times the bandwidth, under the same name."""
    path = tmp_path / "my fast.toml"
    path.write_text(machine_text(find_machine("l40s")).replace("864000000000.0", "8640000000000.0"), encoding="utf-8")
    return path


def test_every_door_takes_a_path_a_text_and_an_object(fast: Path) -> None:
    slow, own = sy.estimate("llama-3.1-8b", "l40s").tpot_s, load_machine(fast)
    for on in (str(fast), machine_text(own), own):
        found = sy.estimate("llama-3.1-8b", on)
        assert found.tpot_s < 0.5 * slow
        assert any("differs from the catalogue's" in a for a in found.to_dict()["assumptions"])
        again = sy.estimate(**found.to_dict()["provenance"]["inputs"])
        assert again.tpot_s == found.tpot_s


def test_the_planner_keeps_the_machine_it_was_given(fast: Path) -> None:
    own = load_machine(fast)
    for on in (str(fast), machine_text(own), own, [str(fast)]):
        task = read_question({**ASKED, "on": on}).task
        assert task.question.machine("l40s") == own != find_machine("l40s")
    with pytest.raises(InputError, match="two different machines are called 'l40s'"):
        read_question({**ASKED, "on": ["l40s", str(fast)]})


def test_a_study_knows_its_machine_in_pools(fast: Path) -> None:
    fast.write_text(fast.read_text(encoding="utf-8").replace('"l40s"', '"fast_box"'), encoding="utf-8")
    pools = "1P:tp1@fast_box, 1D:tp1@fast_box"
    assert not name_problems("simulate", "", [("on", "on", str(fast)), ("disaggregate", "disaggregate", pools)])
    found = name_problems("simulate", "", [("on", "on", "l40s"), ("disaggregate", "disaggregate", pools)])
    assert "fast_box" in found[0].message


def test_an_edited_file_is_read_again(fast: Path) -> None:
    before = load_machine(fast)
    fast.write_text(fast.read_text(encoding="utf-8").replace("8640000000000.0", "9640000000000.0"), encoding="utf-8")
    assert load_machine(fast).root.bandwidth_bytes_per_s > before.root.bandwidth_bytes_per_s


def test_a_plan_file_holds_the_whole_machine(fast: Path, tmp_path: Path) -> None:
    own = load_machine(fast)
    path = tmp_path / "plan.toml"
    deployment = Deployment("llama-3.1-8b", (Pool("l40s", description=own),))
    path.write_text(deployment_text(deployment, traffic={"rate": "2/s", "requests": 100}), encoding="utf-8")
    fast.unlink()
    found = read_deployment(path)
    assert found.deployment.pools[0].device == own
    assert "8.64e+12 instead of 8.64e+11" in catalogue_difference(found.deployment.pools[0].device)


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("simulation", {"rate_per_s": "x"}),
        ("simulation", {"seed": [1]}),
        ("simulation", {"sed": 1}),
        ("expected", {"ttft_s": {"mean": "x"}}),
        ("expected", {"ttft_s": 3}),
        ("expected", {"tfft_s": {"mean": 1.0}}),
        ("promise", {"ttft": 3}),
        ("traffic", {"requests": "x"}),
        ("traffic", {"rate": [1]}),
        ("traffic", {"rat": "1/s"}),
        ("machines", 3),
        ("machines", {"l40s": {"name": 3}}),
    ],
)
def test_wrong_words_of_a_plan_file_are_named(tmp_path: Path, table: str, value: object) -> None:
    import tomli_w

    from steelyard.documents import read_document
    from steelyard.simulation.replay_plan import replay_plan

    path = tmp_path / "plan.toml"
    path.write_text(deployment_text(Deployment("llama-3.1-8b", (Pool("l40s"),)), traffic={"rate": "2/s"}))
    path.write_text(tomli_w.dumps({**read_document(path), table: value}))
    with pytest.raises(SteelyardError, match=table):
        replay_plan(read_deployment(path))


@pytest.mark.parametrize(("name", "devices"), [("l40s", 1), ("fast box", 2), ("plan", 1), ("serve_it", 1)])
def test_the_launch_folder_holds_the_machine_and_names_its_file(
    fast: Path, name: str, devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast.write_text(fast.read_text(encoding="utf-8").replace('name = "l40s"', f'name = "{name}"', 1), encoding="utf-8")
    own = load_machine(fast)
    assert own.name == name
    pool = Pool(str(fast), Plan(tp=devices, engine="vllm"))
    files = launch_files(service(Deployment("llama-3.1-8b", (pool,)), Load(1.0, 100, 10)))
    write_folder(tmp_path / "deploy", files)
    monkeypatch.chdir(tmp_path / "deploy")
    said = files["README.md"]
    (command,) = [line for line in said.splitlines() if line.startswith("steelyard compare")]
    words = shlex.split(command)
    found = parse_cluster(words[words.index("--on") + 1])
    assert (found.machine, found.count) == (own, devices)
    assert load_machine(found.machine.file) == own and Path(found.machine.file).parent == Path()
    assert f"a machine of your own (`./{found.machine.file.removeprefix('./')}`, read from `{fast}`)" in said
    assert "./serve_it.toml\n" not in said
    Path("measured.json").write_text("{}")
    with pytest.raises(SteelyardError) as refused:
        read(app, words[1:]).run()
    assert "machine" not in str(refused.value) and "--on" not in str(refused.value)


def test_the_launch_folder_of_a_catalogue_machine_names_it() -> None:
    files = launch_files(service(Deployment("llama-3.1-8b", (Pool("l40s"),)), Load(1.0, 100, 10)))
    assert not any(name.endswith(".toml") for name in files)
    assert "--on l40s" in files["README.md"] and "of your own" not in files["README.md"]
