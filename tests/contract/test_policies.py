"""The built-in policies, and the one shown in the guide, keep the contract shipped to policy authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.cli.main import main
from steelyard.errors import InputError, UnknownName
from steelyard.simulation.policies import POLICIES, find_policy, ordered
from steelyard.testing.policies import PolicyContract, traffic
from steelyard.traffic.trace import Trace
from tests.guides import python_blocks
from tests.serving import simulate

BLOCKS = python_blocks("add-a-policy")

_space: dict[str, Any] = {"__name__": __name__}
for _block in BLOCKS:
    exec(_block, _space)  # our own page

TestShortestFirst = _space["TestShortestFirst"]


class TestBuiltIn(PolicyContract):
    @pytest.fixture(params=["fcfs", "priority", "shortest", "deadline"])
    def policy(self, request: pytest.FixtureRequest) -> Any:
        return POLICIES.get(request.param)


def small(policy: Any) -> Any:
    trace = Trace(np.zeros(4), [100, 400, 300, 200], [5, 5, 5, 5])
    return simulate("llama-3.1-8b", "h100_sxm", trace, policy=policy, flags={"max_num_seqs": 1, "api_server_count": 0})


@pytest.fixture
def guide_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_policy.py"
    path.write_text(BLOCKS[0])
    return path


def test_the_contract_catches_a_policy_that_draws_lots() -> None:
    class Lottery:
        name = "lottery"

        def keys(self, trace: Trace) -> Any:
            return np.random.default_rng().random(len(trace))

    with pytest.raises(AssertionError):
        PolicyContract().test_same_trace_same_keys(Lottery, traffic(0))


def test_a_users_file_orders_the_queue(guide_file: Path) -> None:
    found = small(f"{guide_file}:ShortestFirst")
    assert list(np.argsort(found.records.ttft_s)) == [0, 3, 2, 1]
    assert found.policy == "shortest-first"
    assert not (guide_file.parent / "__pycache__").exists()
    from_class = small(_space["ShortestFirst"])
    assert np.array_equal(from_class.records.ttft_s, found.records.ttft_s)


def test_versions_of_a_policy_are_told_apart(guide_file: Path) -> None:
    where = f"{guide_file}:ShortestFirst"
    first, again = (small(where).summary()["provenance"]["hash"] for _ in range(2))
    guide_file.write_text(BLOCKS[0].replace("+ trace.isl", "- trace.isl"))
    changed = small(where)
    assert first == again != changed.summary()["provenance"]["hash"]
    assert list(np.argsort(changed.records.ttft_s)) == [1, 2, 3, 0]


def test_a_key_that_counts_from_arrival_is_added_to_it_in_a_closed_loop() -> None:
    trace = traffic(1, closed=True)
    order = ordered("deadline", trace)
    assert order.from_arrival and np.array_equal(order.keys, trace.deadline_s)
    assert not ordered("priority", trace).from_arrival


def test_names_are_forgiving_and_unknown_ones_suggest() -> None:
    assert find_policy("FCFS").name == "fcfs"
    with pytest.raises(UnknownName, match="did you mean 'shortest'"):
        find_policy("shortes")


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        (None, "A", "no file at"),
        ("class B:\n    name = 'b'\n    def keys(self, trace): return trace.isl\n", "A", "no class 'A' in .*it has B"),
        ("A = 3\n", "A", "A is no policy"),
        ("class A:\n    name = 'a'\n", "A", "A is no policy: expected a class with a name and keys"),
        ("class A:\n    def keys(self, trace): return trace.isl\n", "A", "A is no policy"),
        (
            "class A:\n    name = 'a'\n    def __init__(self, x): pass\n    def keys(self, t): pass\n",
            "A",
            "failed: Type",
        ),
        ("import nothing_of_this_name\n", "A", r"failed: ModuleNotFoundError.*my_policy.py, line 1\)"),
        ("def broken(:\n", "A", "SyntaxError"),
        ("", "", "expected a name or FILE.py:CLASS"),
        ("@return 3", "A", "expected 4, one per request, got a single number"),
        ("@return trace.isl[1:]", "A", "expected 4, one per request, got 3"),
        ("@return trace.isl[:, None]", "A", "got 4 x 1"),
        ("@return trace.isl * float('nan')", "A", "4 are NaN, the first of request 0"),
        ("@return ['soon'] * 4", "A", "expected 4 numbers"),
        ("@return None", "A", "keys of 'a'"),
        ("@return trace.lengths", "A", "keys of 'a' failed: AttributeError: .*my_policy.py, line 3"),
        ("@trace.isl[0] = 1", "A", "read-only"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, source: str | None, name: str, words: str) -> None:
    path = tmp_path / "my_policy.py"
    if source is not None:
        lead = "class A:\n    name = 'a'\n    def keys(self, trace): "
        path.write_text(lead + source[1:] + "\n" if source.startswith("@") else source)
    with pytest.raises(InputError, match=words) as caught:
        small(f"{path}:{name}")
    assert caught.value.exit_code == 2
    assert [p.field for p in caught.value.problems] == ["policy"]
    assert "\n" not in str(caught.value)


def test_the_command_line_runs_the_file_it_names(guide_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["simulate", "llama-3.1-8b", "--on", "h100_sxm", "--rate", "4/s", "--requests", "20", "--policy"]
    for where, code in ((f"{guide_file}:ShortestFirst", 0), (f"{guide_file}:Shortest", 2), (str(guide_file), 2)):
        assert main([*asked, where]) == code
        said = capsys.readouterr()
        if code:
            assert said.out == ""
            assert said.err.startswith("error: --policy: ") and said.err.count("\n") == 1
        else:
            assert "policy shortest-first" in said.out
