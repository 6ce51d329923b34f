"""Where a model can run, and what a machine can run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import steelyard as sy
from steelyard.calibrate.detected import detect, host_machine
from steelyard.calibrate.measure.host import Cache, Host
from steelyard.cli.main import main
from steelyard.deployment.engine_choice import check_engine
from steelyard.deployment.formats import find_format
from steelyard.errors import InputError
from steelyard.estimation.places import Wish, fit, runs_on
from steelyard.machine.cluster import parse_cluster
from steelyard.report.places import text
from steelyard.workload.protocol import encoder_type

FP8 = {"weights": "fp8"}
HOST = Host("Some CPU", "someone", "x86", "Linux x86_64", 8, 3e9, 64 * 2.0**30, (Cache(3, 32e6, 1),))


def test_fewest_devices_of_each_format() -> None:
    """70 B in bf16 need two H100; in 8 bits one: both are said, dearest last, and neither with more than it needs."""
    found = sy.fit("llama-3.1-70b", "h100_sxm,rtx_4090")
    rows = {(r["machine"], r["weights"]): r for r in (place.row() for place in found)}
    assert rows["h100_sxm", "bf16"]["count"] == 2
    assert rows["h100_sxm", "fp8"]["count"] == 1
    assert ("h100_sxm", "int4") not in rows, "no fewer devices than with fp8"
    assert rows["rtx_4090", "int4"]["count"] == 2
    usd = [place.usd_per_hour for place in found]
    assert usd == sorted(usd, key=lambda x: (x is None, x))
    for place in found:
        assert place.estimate.fits
        assert place.row()["tokens_per_s_low"] < place.tokens_per_s < place.row()["tokens_per_s_high"]
    again = sy.estimate("llama-3.1-70b", on="h100_sxm:2", isl=1024, osl=256)
    assert rows["h100_sxm", "bf16"]["tpot_s"] == again.tpot_s


def test_wishes_leave_out() -> None:
    everything = sy.fit("llama-3.1-8b", "h100_sxm,l4,rtx_4090", wish=Wish(FP8), sort="speed")
    speeds = [place.tokens_per_s for place in everything]
    assert len(speeds) == 3
    assert speeds == sorted(speeds, reverse=True)
    quick = sy.fit("llama-3.1-8b", "h100_sxm,l4,rtx_4090", wish=Wish(FP8, min_tokens_per_s=speeds[1]))
    assert {p.row()["machine"] for p in quick} == {p.row()["machine"] for p in everything.rows[:2]}
    cheap = sy.fit("llama-3.1-8b", "h100_sxm,l4,rtx_4090", wish=Wish(FP8, max_usd_per_hour=1.0))
    assert all((p.usd_per_hour or 9) <= 1.0 for p in cheap)
    assert {p.row()["machine"] for p in cheap} == {"l4", "rtx_4090"}
    long = sy.fit("llama-3.1-8b", "rtx_4090", wish=Wish(context=100_000))
    assert all(p.row()["count"] > 1 or p.row()["weights"] != "bf16" for p in long)
    assert not sy.fit("llama-3.1-70b", "rtx_4090:1"), "one and no more was asked for"


def test_a_processor_alone_is_no_cheapest_machine() -> None:
    found = sy.fit("qwen3-0.6b", "xeon_silver_4210r,h100_sxm,rtx_3060,dgx_spark")
    assert [p.row()["machine"] for p in found][-1] == "xeon_silver_4210r"
    assert [p.bare for p in found] == [False] * (len(found) - 1) + [True]
    assert "+ the processor alone" in text(found)
    assert [p.row()["machine"] for p in found if p.bought] == ["rtx_3060", "dgx_spark", "xeon_silver_4210r"]
    assert "' bought" in text(found)  # rent and purchases stood in one column without a word
    assert sy.fit("qwen3-0.6b", "xeon_silver_4210r,raspberry_pi_5", sort="speed").rows[0].bare


def test_nothing_is_offered_that_an_engine_has_no_kernels_for() -> None:
    machines = "v100_sxm_16gb,t4,rtx_2080_ti,b200_sxm,rtx_5090,p40,ryzen_9_7950x,m3_ultra"
    for model in ("qwen3-8b", "llama-3.3-70b", "gpt-oss-20b", "deepseek-r1", "t5-large", "whisper-small"):
        for place in sy.fit(model, machines):
            s = place.estimate.scenario
            kind = encoder_type(s.transformer)
            check_engine(s.engine, s.cluster.machine, s.plan.weights, encoder=kind, method=s.model.method)


def test_words_that_cannot_be() -> None:
    with pytest.raises(InputError, match="exceed the context") as wrong:
        sy.fit("llama-3.1-8b", "h100_sxm", wish=Wish(context=10**6))
    assert wrong.value.problems[0].field == "context"
    with pytest.raises(InputError) as wrong:
        sy.fit("llama-3.1-8b", wish=Wish({"isl": 0, "weights": "fp9", "x": 1}, min_tokens_per_s=float("nan")))
    assert {p.field for p in wrong.value.problems} == {"isl", "min_tokens_per_s", "weights", "x"}
    with pytest.raises(InputError, match="price, speed, cost"):
        sy.fit("llama-3.1-8b", sort="beauty")
    assert [p.row()["largest_context"] for p in sy.fit("bert-base-uncased", "l4")] == [512]


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "llama-3.1-8b", "--on", "h100_sxm", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "steelyard.fit/1"
    assert document["rows"][0]["machine"] == "h100_sxm"
    assert main(["fit", "llama-3.1-8b", "--on", "h100_sxm,l4", "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["fit", "llama-3.1-70b", "--on", "rtx_4090:1"]) == 3
    assert "nothing found" in capsys.readouterr().out
    assert main(["fit", "llama-3.1-8b", "--on", "nowhere"]) == 2
    assert main(["here", "--top", "0"]) == 2


def test_the_largest_that_are_quick_enough() -> None:
    """On 24 GB: the widest format that is quick; what is not is left out, and the first is the largest."""
    names = ["qwen3-32b", "llama-3.1-8b", "qwen3-0.6b", "llama-3.1-405b"]
    found = runs_on(parse_cluster("rtx_4090"), Wish(min_tokens_per_s=20), models=names)
    rows = [place.row() for place in found]
    assert [r["model"].rpartition("/")[2] for r in rows] == ["Qwen3-32B", "Llama-3.1-8B", "Qwen3-0.6B"]
    assert find_format(rows[0]["weights"]).bits < 8
    assert rows[1]["weights"] == "bf16"
    assert all(r["tokens_per_s"] >= 20 and r["count"] == 1 for r in rows)
    quicker = runs_on(parse_cluster("rtx_4090"), Wish(min_tokens_per_s=80), models=names)
    eight = {p.row()["model"].rpartition("/")[2]: p.row()["weights"] for p in quicker}["Llama-3.1-8B"]
    assert find_format(eight).bits <= 8, "bf16 gives less than 80 tokens/s"


def test_models_of_one_shape_are_one_row() -> None:
    names = ["Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3-30B-A3B-Instruct-2507", "llama-3.1-8b"]
    found = runs_on(parse_cluster("rtx_4090"), Wish({"engine": "llamacpp"}), models=names)
    assert [len(place.alike) for place in found] == [1, 0]
    assert found.rows[0].row()["model"] == "Qwen/Qwen3-VL-30B-A3B-Instruct"  # the shorter name
    assert "Instruct +1: the same figures have Qwen/Qwen3-30B-A3B-Instruct-2507" in text(found, 200)


def test_a_computer_is_told_from_its_drivers_and_files(tmp_path: Path) -> None:
    def smi(command: Sequence[str]) -> str:
        return "NVIDIA GeForce RTX 4090, 24564\n" * 2 if command[0] == "nvidia-smi" else ""

    found = detect(tmp_path, smi, HOST)
    assert [(m.name, n) for m, n in found.machines] == [("rtx_4090", 2), ("here", 1)]
    a100 = detect(tmp_path, lambda c: "NVIDIA A100-SXM4-40GB, 40960\n" if c[0] == "nvidia-smi" else "", HOST)
    assert a100.machines[0][0].name == "a100_sxm_40gb"

    card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    card.parent.mkdir(parents=True)
    card.write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n")
    assert detect(tmp_path, lambda _: "", HOST).machines[0][0].name == "h100_sxm"
    rocm = '{"card0": {"Card Series": "AMD Instinct MI300X", "VRAM Total Memory (B)": "206141652992"}}'
    amd = detect(tmp_path / "none", lambda c: rocm if c[0] == "rocm-smi" else "", HOST)
    assert amd.machines[0][0].name == "mi300x"
    strange = detect(tmp_path / "none", lambda c: "Quantum 9, 1\n" if c[0] == "nvidia-smi" else "not json", HOST)
    assert [m.name for m, _ in strange.machines] == ["here"]
    assert any("Quantum 9" in note for note in strange.notes)


def test_a_container_has_what_it_may_use(tmp_path: Path) -> None:
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text(f"{8 * 2**30}\n")
    found = detect(tmp_path, lambda _: "", HOST)
    assert found.memory_bytes == found.machines[-1][0].root.capacity_bytes == 8 * 2**30
    limit.write_text("max\n")
    assert detect(tmp_path, lambda _: "", HOST).memory_bytes == HOST.memory_bytes
    known = host_machine(
        Host("AMD Ryzen 9 7950X 16-Core Processor", "AMD", "x86", "Linux", 16, 4.5e9, 2.0**36, ()), 2.0**36
    )
    assert (known.name, known.root.capacity_bytes) == ("ryzen_9_7950x", 2.0**36)


def test_a_wish_is_also_a_mapping() -> None:
    wished = {"weights": "fp8", "context": 4000, "max_usd_per_hour": 8}
    (place,) = sy.fit("llama-3.1-8b", "h100_sxm", wish=wished)
    (same,) = sy.fit("llama-3.1-8b", "h100_sxm", wish=Wish({"weights": "fp8"}, 4000, 8.0))
    assert place.row() == same.row() and place.row()["weights"] == "fp8"


@pytest.mark.parametrize(
    ("field", "model", "on", "named"),
    [
        ("on", "llama-3.1-8b", 5, {}),
        ("on", "llama-3.1-8b", [5], {}),
        ("model", ["llama-3.1-8b"], "h100_sxm", {}),
        ("wish", "llama-3.1-8b", "h100_sxm", {"wish": 5}),
        ("context", "llama-3.1-8b", "h100_sxm", {"wish": {"context": "x"}}),
        ("max_usd_per_hour", "llama-3.1-8b", "h100_sxm", {"wish": {"max_usd_per_hour": "8"}}),
        ("batches", "llama-3.1-8b", "h100_sxm", {"wish": {"batches": 8}}),
        ("budget", "llama-3.1-8b", "h100_sxm", {"budget": 8}),
        ("sort", "llama-3.1-8b", "h100_sxm", {"sort": 5}),
    ],
)
def test_what_is_no_wish_is_refused_under_its_name(field: str, model: Any, on: Any, named: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        sy.fit(model, on, **named)
    assert caught.value.problems[0].field == field


def test_so_many_users_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Room for all of them, the speed of each, the price of what all of them get."""
    one, many = (sy.fit("llama-3.1-8b", "h100_sxm:1", wish={"weights": "fp8", "batch": n}).rows[0] for n in (1, 32))
    asked = sy.estimate("llama-3.1-8b", "h100_sxm", weights="fp8", batch=32)
    assert many.row()["users"] == 32 and "users" not in one.row()
    assert many.row()["memory_bytes"] == float(asked.memory.total) and many.tokens_per_s == 1 / asked.tpot_s
    assert many.row()["usd_per_million_tokens"] < one.row()["usd_per_million_tokens"] / 16
    assert main(["fit", "llama-3.1-8b", "--on", "h100_sxm:1", "--weights", "fp8", "--users", "32"]) == 0
    assert "room for 32 requests at once, speed of each" in capsys.readouterr().out
    for verb in (["fit", "llama-3.1-8b"], ["here"]):
        assert main([*verb, "--users", "0"]) == 2
        assert capsys.readouterr().err == "error: --users: expected at least 1, got 0\n"


def test_techniques_are_put_on_every_place() -> None:
    """A format they set needs fewer devices than the published one, and what they cost is said."""
    plain = {p.row()["machine"]: p.row() for p in fit("llama-3.1-70b", "h100_sxm", wish={"weights": "bf16"})}
    assert plain["h100_sxm"]["count"] == 2
    found = fit("llama-3.1-70b", "h100_sxm,a100_sxm", wish={"techniques": "int4-weights + kv-budget:0.2"})
    assert [(p.row()["count"], p.row()["weights"]) for p in found] == [(1, "int4"), (1, "int4")]
    assert "with int4-weights: a quarter of the weight bytes" in found.notes[0] and "with kv-budget: " in found.notes[1]
    streamed = fit("llama-3.1-70b", "h100_sxm", wish={"techniques": ("weight-streaming:0.2",), "weights": "bf16"})
    assert [p.row()["count"] for p in streamed] == [1] and "host memory" in streamed.notes[0]
    assert streamed.rows[0].tokens_per_s < plain["h100_sxm"]["tokens_per_s"] / 10
    for words, why in (
        ({"techniques": "llumnix"}, "llumnix: it acts while requests run"),
        ({"techniques": "int4-weights", "weights": "fp8"}, "weights: int4-weights sets it to int4"),
        ({"techniques": "wight-sparsity"}, "did you mean 'weight-sparsity'"),
    ):
        with pytest.raises(InputError, match=why):
            fit("llama-3.1-8b", "h100_sxm", wish=words)


def test_techniques_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "llama-3.1-8b", "--on", "h100_sxm", "--with", "weight-sparsity", "--with", "fp8-kv"]) == 0
    out = capsys.readouterr().out
    assert "bf16@9" in out and "with weight-sparsity: " in out and "with fp8-kv: " in out
