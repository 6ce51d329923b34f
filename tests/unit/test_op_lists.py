"""Workloads written as counted ops, through the verbs a user types."""

from __future__ import annotations

from pathlib import Path

import pytest

from steelyard import InputError, estimate, explain
from steelyard.cli.main import main

RATED = """
name = "protocol"
title = "a protocol"
source = "by hand"
sizes = { limbs = 4 }

[[op]]
name = "ntt"
rate = "ntt"
number = "b * limbs * 2"
count = "3"

[rates.ntt]
work = 1e6
per_s = { a100_sxm = 1e5 }
source = "a test"
"""

_COUNTED = 'rate = "ntt"\nnumber = "b * limbs * 2"'


def _file(folder: Path, text: str = RATED) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_steps_of_softmax_move_what_they_read_and_write() -> None:
    found = explain("ops:softmax-unfused:h=8,n=2048,m=2048", "a100_sxm", batch=2).kernels["prefill"]
    whole, row = 2 * 8 * 2048 * 2048 * 2, 2 * 8 * 2048 * 2
    moved = {k["kernel"]: k["bytes"] for k in found if k["kind"] == "vector"}
    expected = {"max": whole + row, "exp": 2 * whole + row, "sum": whole + row, "divide": 2 * whole + row}
    assert moved == pytest.approx(expected)


def test_a_counted_op_takes_its_number_over_its_rate_and_elsewhere_its_work(tmp_path: Path) -> None:
    path = _file(tmp_path)

    def seconds(machine: str, batch: int) -> float:
        kernels = explain(path, machine, batch=batch, isl=1).kernels["prefill"]
        (one,) = [k for k in kernels if k["kind"] == "counted"]
        return float(one["time_s"])

    assert seconds("a100_sxm", 5) == pytest.approx(3 * 5 * 4 * 2 / 1e5)
    _file(tmp_path, RATED.replace("a100_sxm", "A100-SXM"))  # names of machines are spelled in many ways
    assert seconds("a100_sxm", 5) == pytest.approx(3 * 5 * 4 * 2 / 1e5)
    assert seconds("h100_sxm", 500) > 3 * 500 * 8 * 1e6 / 67e12  # not above the peak of its vector engine
    assert estimate(path, "a100_sxm", batch=5).ttft_s > seconds("a100_sxm", 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('rate = "ntt"', 'rate = "nt"'), "unknown rate 'nt'"),
        (('number = "b * limbs * 2"', 'number = "limbs + b"'), "proportional to b"),
        (('number = "b * limbs * 2"', 'number = "b * lims"'), "lims"),
        (("limbs = 4", "limbs = -4"), "above 0"),
        (('rate = "ntt"', 'einsum = "b x -> b"'), "no size for rank 'x'"),
        (("work = 1e6", "worth = 1e6"), "worth"),
        (('rate = "ntt"', 'einsum = "b -> b"\nroles = ["activtion", "activation"]'), "unknown role 'activtion'"),
        (("a100_sxm = 1e5", "a100_sxm = -1e5"), "above 0"),
        (("a100_sxm = 1e5", "a100_sxm = nan"), "finite"),
        ((_COUNTED, 'einsum = "b limbs -> b"\nbits = { in1 = 8 }'), "unknown operand 'in1'"),
        ((_COUNTED, 'einsum = "b limbs -> b"\nbits = { out = nan }'), "expected 0 to 4096 bits, got nan"),
        ((_COUNTED, 'einsum = "b limbs -> b"\niterative = ["limb"]'), "unknown rank 'limb'"),
    ],
)
def test_a_wrong_list_is_one_clear_line(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        estimate(_file(tmp_path, RATED.replace(*change)), "a100_sxm")


def test_names_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="softmax-unfused"):
        estimate("ops:softmax-unfusd", "a100_sxm")
    with pytest.raises(InputError, match="unknown size 'k'"):
        estimate("ops:softmax-unfused:k=3", "a100_sxm")
    with pytest.raises(InputError, match="above 0"):
        estimate("ops:softmax-unfused:n=-3", "a100_sxm")
    assert main(["ls", "oplists"]) == 0
    assert "ops:softmax-unfused" in capsys.readouterr().out


def test_ops_serve_no_request_and_answers_are_not_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("ops:softmax-unfused", "h100_sxm")
    whole, step = estimate(*asked).ttft_s, explain(*asked).to_dict()["prefill"]["time_s"]
    assert whole == pytest.approx(step)  # an API server's 8 ms were added to 2
    assert main(["estimate", asked[0], "--on", asked[1]]) == 0
    told = capsys.readouterr().out
    assert "answers/s" in told and "per million answers" in told and "per user" not in told
