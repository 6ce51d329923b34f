"""Spaces of networks of one's own: what they hold, what they cost, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import steelyard as sy
from steelyard.choices import Choices
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.exploration.additive import Sum, best_within
from steelyard.exploration.networks import search_network
from steelyard.workload.networks.search_space import find_space

MOBILE = """
family = "mobile"
config = { stem = 16, head = 320, act = "relu" }

[choose]
size = [64, 96]

[[stage]]
row = "mb {channels} k{kernel} s2 x{expand} n{depth}"
each = ["kernel", "expand"]
choose = { channels = [16, 24], kernel = [3, 5], expand = [2, 4], depth = [1, 2] }

[[stage]]
row = "{kind} {channels} k{kernel} s2 x4 r{reduce}"
choose = { channels = { from = 32, to = 48, step = 8 }, kernel = [3, 5], kind = ["mb", "fused"] }

[[when]]
field = "stage2.kernel"
values = [5]
choose = { "stage2.reduce" = [4] }
"""


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("spaces") / "mine.toml"
    path.write_text(MOBILE)
    return str(path)


def test_a_space_holds_each_architecture_once(mobile: str) -> None:
    space = find_space(mobile)
    codes = space.all()
    # 2 sizes x 2 channels x (4 of one block + 4 x 4 of two) x 3 channels x 2 kernels x 2 kinds
    assert space.size == len(codes) == 2 * 2 * (4 + 16) * 12
    assert len(np.unique(codes, axis=0)) == len(codes)
    spelt = [space.spell(c) for c in codes[::37].tolist()]
    assert (space.codes(spelt) == codes[::37]).all()
    assert (space.settled(space.draw(200, 3)) == space.draw(200, 3)).all()


def test_sums_are_the_price_of_each_network_alone(mobile: str) -> None:
    space = find_space(mobile)
    codes = space.all()[:: space.all().shape[0] // 7]
    every = sy.estimate(f"{mobile}:all", on="snapdragon_8_gen_2")
    listed = {a: i for i, a in enumerate(every.architectures)}
    for code in codes.tolist():
        text = space.spell(code)
        one, i = sy.estimate(f"{mobile}:{text}", on="snapdragon_8_gen_2"), listed[text]
        assert every.latency_s[i] == pytest.approx(one.latency_s, rel=1e-9)
        assert every.macs[i] == one.macs
        assert every.parameters[i] == one.parameters


def test_programs_over_blocks_that_cost_together_equal_listing(mobile: str) -> None:
    pytest.importorskip("highspy")
    space = find_space(mobile)
    rng = np.random.default_rng(7)
    goal, cost = (Sum(0.1, rng.random(len(space.features))) for _ in range(2))
    codes = space.all()
    goals, costs = goal.of(space, codes), cost.of(space, codes)
    for share in (0.05, 0.5):
        limit = float(np.quantile(costs, share))
        code = best_within(space, goal, [(cost, limit)])
        assert code is not None
        assert (space.settled(code[None]) == code).all()
        assert goal.of(space, code[None])[0] == pytest.approx(goals[costs <= limit].max(), rel=1e-9)


def test_a_search_of_a_file_is_exact(mobile: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = search_network(mobile, on="snapdragon_8_gen_2", score="macs", latency="0.5ms")
    assert found.exact
    assert found.tried == find_space(mobile).size
    searched = search_network(mobile, on="snapdragon_8_gen_2", score="macs", solver="evolution", budget=400)
    assert searched.score[0] <= search_network(mobile, on="snapdragon_8_gen_2", score="macs").score[0]
    assert main(["estimate", found.best, "--on", "snapdragon_8_gen_2", "--json"]) == 0


def test_a_family_without_stages_is_a_table_of_its_parameters(tmp_path: Path) -> None:
    path = tmp_path / "wide.toml"
    config = 'family = "resnet"\nconfig = { depths = [1, 1, 1, 1] }\n'
    path.write_text(config + "[choose]\nsize = [64, 96]\nstem_width = [32, 64]\n")
    found = search_network(str(path), on="rtx_3090", score="parameters")
    assert found.tried == 4
    one = sy.estimate(found.best, on="rtx_3090")
    assert found.latency_s[0, 0] == pytest.approx(one.latency_s, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("k{kernel} s2 x{expand}", "k{kernl} s2 x{expand}"), "no values of {kernl}"),
        (("s2 x{expand}", "s{expand}"), "strides are stated"),
        (('family = "mobile"', 'family = "mobil"'), "did you mean 'mobile'"),
        (("size = [64, 96]", "sizes = [64]"), "did you mean 'size'"),
        (("kernel = [3, 5], expand", "kernel = [], expand"), "one to 1,000 values"),
        (("from = 32, to = 48", "from = 48, to = 32"), "from <= to"),
        (('kind = ["mb", "fused"]', 'kind = ["mbx"]'), "expected a row such as"),
        (("values = [5]", "values = [7]"), "when[0].values: '7' is no value of stage2.kernel"),
        (('field = "stage2.kernel"', 'field = "stage2.kernal"'), "did you mean 'stage2.kernel'"),
        (("depth = [1, 2]", "depth = [0, 99]"), "1 to 20"),
        (("size = [64, 96]", "size = { from = 32, to = 900 }"), "fewer values"),
        (("[choose]", 'colour = "red"\n[choose]'), "colour"),
    ],
)
def test_a_wrong_space_is_told(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    assert change[0] in MOBILE
    path.write_text(MOBILE.replace(*change))
    with pytest.raises(InputError) as found:
        search_network(str(path), on="rtx_3090")
    assert words in str(found.value)
    assert "wrong" in str(found.value)


def test_wrong_architectures_are_told(mobile: str) -> None:
    space = find_space(mobile)
    first = space.example
    for text, words in (
        (first.replace("size=64", "size=65"), "value of size"),
        (first.replace("size=64+", ""), "size is missing"),
        (first + "+stage2.reduce=4", "does not belong"),
        (first + "+stage9.x=4", "unknown field"),
    ):
        with pytest.raises(InputError, match=words):
            space.read(text)


def test_choices_settle_and_count() -> None:
    given = Choices(("a", "b", "c"), ((1, 2), (3, 4), (5, 6, 7)), (None, (0, (1,)), (1, (0,))))
    codes = given.listed()
    assert given.count == len(codes) == 1 + 3 + 1
    assert (given.settled(codes) == codes).all()
    every = np.stack(np.meshgrid(range(2), range(-1, 2), range(-1, 3), indexing="ij"), -1).reshape(-1, 3)
    assert {tuple(c) for c in given.settled(every).tolist()} == {tuple(c) for c in codes.tolist()}
