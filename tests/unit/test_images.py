"""Images and sounds of a question: their tokens, the time and memory of the towers that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard import Scenario, estimate, explain, plan, simulate, study
from steelyard.cli.main import main
from steelyard.cost.encode import tower_plan
from steelyard.deployment.plan import Plan
from steelyard.deployment.plan_file import read_deployment
from steelyard.errors import InputError
from steelyard.estimation.places import fit
from steelyard.machine.catalogue import find_machine
from steelyard.report.plan_files import plan_files
from steelyard.report.text import report
from steelyard.scenario.shown import numbers, parse_audio, parse_images
from steelyard.simulation.replay_plan import replay_plan
from steelyard.workload.catalogue import load_model

QWEN = {
    "model_type": "qwen2_5_vl",
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "vision_config": {"hidden_size": 1280, "depth": 32, "out_hidden_size": 256},
}


@pytest.fixture
def qwen(tmp_path: Path) -> str:
    """The tower of Qwen2.5-VL on a small language model."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1024x1024", [(1, (1024, 1024))]),
        ("2x1024x768", [(2, (1024, 768))]),
        ("1080p, 2 x 448 X 448", [(1, (1080, 1920)), (2, (448, 448))]),
        ("0.3x720p", [(0.3, (720, 1280))]),
    ],
)
def test_words_for_images(text: str, meant: Any) -> None:
    assert [(s.count, s.size) for s in parse_images(text)] == meant
    assert parse_images(",".join(s.text for s in parse_images(text))) == parse_images(text)


def test_words_for_sounds() -> None:
    assert [(s.count, s.size) for s in parse_audio("30s,2x1.5min")] == [(1, (30,)), (2, (90,))]


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("images", "big", "expected images as HEIGHTxWIDTH in pixels"),
        ("images", "2x3x4x5", "expected images as HEIGHTxWIDTH in pixels"),
        ("images", "1x0x9", "expected sides of 1 to 100,000 pixels, got '1x0x9'"),
        ("images", "0x9x9", "expected more than 0 and at most 10,000 of one size, got '0'"),
        ("images", "0.5x720p", "a static batch shows whole numbers, got 0.5 x 720x1280"),
        ("images", "9" * 400, "got '9999"),
        ("images", "9x9," * 200, "expected at most 100 sizes, got 201"),
        ("audio", "30kg", "expected sounds as a length"),
        ("audio", "0s", "expected sounds as a length"),
        ("audio", "30s", "google/gemma-3-4b-it has no tower for audio"),
    ],
)
def test_wrong_words_are_one_line(field: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        estimate("gemma-3-4b", "h100_sxm", **{field: text})
    assert [p.field for p in caught.value.problems] == [field]
    assert message in caught.value.message and len(caught.value.message) < 240


def test_a_model_without_a_tower_names_others() -> None:
    with pytest.raises(InputError, match=r"images: .*has no tower for images; models that have one: \S+, \S+"):
        estimate("llama-3.1-8b", "h100_sxm", images="720p")
    with pytest.raises(InputError, match=r"audio: .*has no tower for audio; models that have one: ") as caught:
        estimate("llama-3.1-8b", "h100_sxm", audio="30s")
    for name in caught.value.message.rpartition("have one: ")[2].split(", "):
        assert estimate(name, "h100_sxm", audio="30s").encode["time_s"] > 0


def test_tokens_time_and_memory_are_part_of_the_answer() -> None:
    """The rest is the answer for a prompt of text and image tokens."""
    shown = estimate("gemma-3-4b", "h100_sxm", batch=4, isl=200, images="2x896x896")
    text = estimate("gemma-3-4b", "h100_sxm", batch=4, isl=200 + 2 * 256)
    found, host_s = shown.to_dict(), 0.03 * 0.896**2
    assert found["encode"]["tokens"] == 512 and found["isl"] == 200 and found["images"] == "2x896x896"
    assert found["encode"]["seen"][0] == {
        "tower": "vision tower",
        "count": 2,
        "height": 896,
        "width": 896,
        "positions": 4096,
        "tokens": 256,
    }
    assert shown.ttft_s == pytest.approx(text.ttft_s + found["encode"]["time_s"] + found["encode"]["host_s"])
    assert shown.ttft_single_s == pytest.approx(text.ttft_single_s + found["encode"]["single_s"] + 2 * host_s)
    assert found["encode"]["host_s"] >= 2 * host_s
    assert shown.limit["ttft_s"] == pytest.approx(text.limit["ttft_s"] + found["encode"]["limit_s"])
    assert shown.tpot_s == text.tpot_s and shown.memory.kv_cache == text.memory.kv_cache
    assert shown.energy_j > text.energy_j and shown.memory.activations >= text.memory.activations
    assert 0 < found["encode"]["limit_s"] <= found["encode"]["time_s"] < shown.ttft_s
    assert shown.interval["ttft_s"][0] <= shown.ttft_s <= shown.interval["ttft_s"][1]
    assert "200 text + 2 x 256 image + 256 generated tokens" in report(shown)
    assert estimate(**found["provenance"]["inputs"]).ttft_s == shown.ttft_s
    plain = text.to_dict()
    assert "encode" not in plain and "images" not in plain and "images" not in plain["provenance"]["inputs"]


def test_time_grows_with_pixels_and_passes_are_shared(qwen: str) -> None:
    """Published: 1,369 tokens of 1024 x 1024 pixels. Large images are bound by arithmetic, small ones by launches."""

    def seen(images: str) -> dict[str, Any]:
        found: dict[str, Any] = estimate(qwen, "h100_sxm", images=images).to_dict()["encode"]
        return found

    sizes = [seen(f"{side}x{side}") for side in (224, 448, 1024, 2048)]
    assert [s["tokens"] for s in sizes] == [64, 256, 1369, 5329]
    times = [s["time_s"] for s in sizes]
    assert times[0] == times[1] and times == sorted(times)  # kernels are launched one by one
    assert times[3] > 3.6 * times[2]
    assert all(s["limit_s"] <= s["time_s"] for s in sizes)
    assert seen("10x224x224")["time_s"] < 3 * times[0] and seen("10x224x224")["flops"] == 10 * sizes[0]["flops"]
    both = seen("224x224,2x1024x1024")
    assert both["tokens"] == 64 + 2 * 1369 and both["time_s"] > seen("2x1024x1024")["time_s"]


def test_steps_of_prompts_have_a_pass_each(qwen: str) -> None:
    few, many = (estimate(qwen, "h100_sxm", batch=n, isl=100, osl=10, images="1024x1024") for n in (4, 40))
    assert many.encode["time_s"] == pytest.approx(10 * few.encode["time_s"], rel=0.25)
    assert many.memory.activations < 3 * few.memory.activations  # no more are read at once than a step has room for


def test_more_images_than_the_context_holds(qwen: str) -> None:
    noted = estimate(qwen, "h100_sxm", images="50x1024x1024").ledger.assumptions
    assert any(note.startswith("69,730 tokens are beyond the 32,768") for note in noted)


def test_towers_are_split_as_far_as_heads_divide() -> None:
    (tower,) = load_model("gemma-3-4b").transformer.towers
    machine = find_machine("h100_sxm")
    assert [tower_plan(tower, Plan(tp=tp), machine).tp for tp in (1, 2, 3, 8)] == [1, 2, 1, 8]
    assert tower_plan(tower, Plan(weights="fp8", tp=2), machine).weights == "bf16"
    one, two = (estimate("gemma-3-27b", f"h100_sxm:{n}", images="4x896x896", tp=n).encode for n in (1, 2))
    assert one["time_s"] / 2 < two["time_s"] < one["time_s"]


def test_kernels_of_the_tower_are_explained() -> None:
    found = explain("gemma-3-4b", "h100_sxm", images="896x896")
    rows = found.kernels["encode"]
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert sum(row["time_s"] for row in rows) == pytest.approx(found.estimate.encode["time_s"])
    assert {"encode", "prefill", "decode"} == set(found.kernels)


def test_each_request_of_a_mixture_shows_one() -> None:
    images = "0.2x512x512,0.3x720p,0.2x1024x1024,0.3x1080p,2x64x64"
    asked = Scenario.of("simulate", "gemma-3-4b", "h100_sxm", rate=1.0, requests=10_000, seed=3, images=images)
    assert asked.trace is not None
    count = np.array(list(numbers(asked.seen, asked.trace)))
    assert asked.trace.isl[:9] == pytest.approx(1024 + 256 * count.sum(axis=0)[:9])
    assert np.all(count[:4].sum(axis=0) == 1) and np.all(count[4] == 2)
    assert count[:4].mean(axis=1) == pytest.approx([0.2, 0.3, 0.2, 0.3], abs=0.02)


def test_a_request_alone_takes_what_an_estimate_says() -> None:
    words = {"isl": 200, "osl": 20, "images": "2x896x896"}
    one = estimate("gemma-3-4b", "h100_sxm", **words)
    sent = simulate("gemma-3-4b", "h100_sxm", concurrency=1, requests=3, **words)
    bare = simulate("gemma-3-4b", "h100_sxm", concurrency=1, requests=3, isl=200 + 512, osl=20)
    assert sent.records.ttft_s == pytest.approx(bare.records.ttft_s + one.encode["single_s"] + one.encode["host_s"])
    assert sent.records.ttft_s[1:] == pytest.approx(one.ttft_single_s, rel=0.02)
    assert sent.records.tpot_s == pytest.approx(bare.records.tpot_s) and sent.energy_j > bare.energy_j
    found = sent.to_dict()
    assert found["encode_s"]["mean"] == pytest.approx(one.encode["single_s"]) and "encode_s" not in bare.to_dict()
    assert np.all(sent.trace.isl == 712) and "each request shows 2 x 896x896 (256 tokens each)" in found["notes"][0]
    slow = sent.intervals()["ttft_s"]["mean"]
    assert slow[0] < found["ttft_s"]["mean"] < slow[1]


def test_requests_of_a_step_share_a_pass(qwen: str) -> None:
    """Small images are bound by launches, which a step has once."""
    words = {"isl": 10, "osl": 4, "images": "224x224,112x112"}
    one, many = (estimate(qwen, "h100_sxm", batch=n, **words) for n in (1, 20))
    assert many.encode["time_s"] < 3 * one.encode["time_s"]
    assert one.encode["time_s"] == pytest.approx(
        estimate(qwen, "h100_sxm", images="224x224").encode["time_s"], rel=0.01
    )
    sent = simulate(qwen, "h100_sxm", concurrency=20, requests=20, **words)
    assert many.encode["time_s"] < sent.records.ttft_s.max() < 0.5 * 20 * one.encode["time_s"]


def test_the_host_works_on_images_before_the_engine(qwen: str) -> None:
    """One after another in vLLM, four at once in SGLang; requests that decode do not wait for it."""
    words: dict[str, Any] = {"isl": 10, "osl": 4, "images": "1000x2000"}
    one, many = (estimate(qwen, "h100_sxm", batch=n, **words) for n in (1, 16))
    assert one.encode["host_s"] == pytest.approx(0.06) and 16 * 0.06 < many.ttft_s < 16 * 0.06 + one.ttft_s
    waits = {}
    for engine, each in (("vllm", 0.06), ("sglang", 0.03)):
        sent = simulate(qwen, "h100_sxm", engine=engine, concurrency=8, requests=8, **words)
        waits[engine] = np.sort(sent.records.queued_s)
        assert waits[engine][0] == pytest.approx(each)
    assert waits["vllm"][-1] > 8 * 0.06 - 1e-9 and waits["sglang"][-1] < 8 * 0.03
    low, high = sent.intervals()["ttft_s"]["mean"]
    assert low < sent.records.ttft_s.mean() < high
    assert any("decoded, resized and copied by the host in 60 ms" in note for note in one.ledger.assumptions)


def test_everybody_waits_for_images_in_a_step_and_not_for_encoders() -> None:
    """Decodes stand still while a new request's images are read, unless a pool of encoders does it."""
    words: dict[str, Any] = {"isl": 64, "osl": 200, "images": "2x896x896", "requests": 60, "seed": 1}
    alone = simulate("gemma-3-4b", "h100_sxm:2", rate=8.0, dp=2, **words)
    apart = simulate("gemma-3-4b", "h100_sxm:2", rate=8.0, disaggregate="1E:tp1,1M:tp1", **words)
    took = alone.to_dict()["encode_s"]["mean"]
    assert alone.to_dict()["itl_s"]["p99"] > took > 0
    assert apart.to_dict()["encode_s"]["mean"] == pytest.approx(took)
    assert apart.to_dict()["itl_s"]["p99"] < alone.to_dict()["itl_s"]["p99"]
    given = simulate("gemma-3-4b", "h100_sxm:2", rate=8.0, disaggregate="1E:tp1,1M:tp1", encode_s=2.0, **words)
    assert np.nanmin(given.records.ttft_s) > 2.0


def test_encoders_as_a_technique_take_what_the_images_do() -> None:
    words: dict[str, Any] = {"rate": 2.0, "requests": 10, "isl": 64, "osl": 8}
    shown = simulate("gemma-3-4b", "h100_sxm:2", techniques="epd:1E:tp1,1M:tp1", images="2x896x896", **words)
    pools = simulate("gemma-3-4b", "h100_sxm:2", disaggregate="1E:tp1,1M:tp1", images="2x896x896", **words)
    assert np.array_equal(shown.records.ttft_s, pools.records.ttft_s) and shown.encode_s is not None
    with pytest.raises(InputError, match="encode_s: encoders need what they read"):
        simulate("gemma-3-4b", "h100_sxm:2", techniques="epd:1E:tp1,1M:tp1", **words)


def test_encoders_share_the_images_of_a_request() -> None:
    """Each of several takes its share of the tiles, its host of the images; they hold the tower and nothing else."""
    words: dict[str, Any] = {"rate": "0.1/s", "requests": 4, "isl": 22, "osl": 4, "images": "4x2016x1512"}
    one, two, every = (
        simulate("minicpm-v-2_6", "a100_sxm:7", techniques=f"epd:5E:tp1,1P:tp1,1D:tp1{spread}", **words)
        for spread in (",spread=1", ",spread=2", "")
    )
    took = [x.encode_s.max() for x in (one, two, every) if x.encode_s is not None]
    assert took[1] == pytest.approx(took[0] / 2) and took[2] == pytest.approx(took[0] / 5, rel=0.05)
    saved = one.records.ttft_s[0] - two.records.ttft_s[0]
    host_s = 2 * 2016 * 1512e-6 * 0.03  # of two images less on each host
    assert saved == pytest.approx(took[0] - took[1] + host_s, rel=0.02)
    encoder, prompts, _ = every.to_dict()["pools"]
    whole = simulate("minicpm-v-2_6", "a100_sxm", **words).to_dict()["pools"][0]["memory_bytes"]
    assert encoder["memory_bytes"]["weights"] + prompts["memory_bytes"]["weights"] == pytest.approx(whole["weights"])
    assert whole["before_cache"] > 10 * encoder["memory_bytes"]["before_cache"]
    assert prompts["memory_bytes"]["kv_cache"] > whole["kv_cache"]
    given = [
        simulate("minicpm-v-2_6", "a100_sxm:4", disaggregate="3E:tp1,1M:tp1", encode_s=3.0, encode_spread=n, **words)
        for n in (1, 3)
    ]
    assert given[0].records.ttft_s[0] - given[1].records.ttft_s[0] == pytest.approx(2.0)
    with pytest.raises(InputError, match="encode_spread: encoders need a pool E of their own"):
        simulate("minicpm-v-2_6", "a100_sxm", encode_spread=2, **words)


def test_one_answer_per_prompt() -> None:
    with pytest.raises(InputError, match=r"images: .*one answer per prompt"):
        simulate("gemma-3-4b", "h100_sxm", rate=1.0, images="720p", best_of=2)


def test_the_encoder_of_llamacpp_has_no_fused_attention() -> None:
    """In the release its figures are of; the tower of a GGUF model is a file of its own, which is loaded."""
    words: dict[str, Any] = {"engine": "llamacpp", "weights": "q4_k_m"}
    text = estimate("gemma-3-4b", "rtx_4090", **words)
    shown = estimate("gemma-3-4b", "rtx_4090", images="896x896", **words)
    (tower,) = text.scenario.transformer.towers
    assert shown.memory.weights == pytest.approx(text.memory.weights + 2 * tower.parameters)
    fused = estimate("gemma-3-4b", "rtx_4090", images="896x896").encode["time_s"]
    assert shown.encode["time_s"] > 1.5 * fused


def test_layers_that_attend_to_an_image_beside_the_prompt() -> None:
    """Llama 3.2 Vision: tiles of 1,601 tokens which eight layers attend to; text alone skips them."""
    name, words = "llama-3.2-11b-vision", {"isl": 200, "osl": 20}
    text, one, four = (estimate(name, "h100_sxm", images=x, **words) for x in ("", "560x560", "1120p"))
    assert text.scenario.engine.name == "sglang"  # vLLM has left it
    parts = text.to_dict()["memory_parts_bytes"]["weights"]
    assert parts["cross-attention"] == four.to_dict()["memory_parts_bytes"]["weights"]["cross-attention"]
    assert parts["cross-attention"] == 2 * 8 * (4096 * 128 * 80 + 3 * 4096 * 14336 + 2 * 4096 + 2 * 128 + 2)
    model = text.scenario.transformer
    assert model.parameters() == 9_775_192_080 and model.active_parameters() < 0.85 * model.parameters()
    seen = [e.scenario.seen[0].read for e in (one, four)]
    assert [(r.tokens, r.beside, r.sequences) for r in seen] == [(1, n * 1601, ((1, 4 * 1608),)) for n in (1, 4)]
    kept = [float(e.scenario.transformer.kv_elements(220)) for e in (text, one, four)]
    assert [k - kept[0] for k in kept[1:]] == [8 * 2 * 1024 * n * 1601 for n in (1, 4)]
    assert text.tpot_s < one.tpot_s < four.tpot_s and one.encode["time_s"] > 0.9 * four.encode["time_s"]
    sent = simulate(name, "h100_sxm", concurrency=1, requests=2, images="1120p", **words)
    assert sent.records.ttft_s == pytest.approx(four.ttft_single_s, rel=0.01)
    assert sent.records.tpot_s == pytest.approx(four.tpot_s, rel=0.01)


def test_one_tower_reads_what_another_put_out() -> None:
    """DeepSeek-OCR: SAM over pages of 1,024 pixels and tiles of 640, then CLIP over a sixteenth of its patches."""
    small, page = (estimate("deepseek-ocr", "a100_sxm", images=x) for x in ("640x640", "1280x640"))
    reads = [(s.tokens, s.read.sequences, s.tower.before[0][1].sequences) for s in small.scenario.seen]
    assert reads == [(273, ((1, 257),), ((1, 4096),))]
    (seen,) = page.scenario.seen
    assert (seen.tokens, seen.read.sequences) == (273 + 20 * 11, ((1, 257), (2, 101)))
    assert seen.tower.before[0][1].sequences == ((1, 4096), (2, 1600)) and seen.positions == 4096 + 2 * 1600
    flops = [e.to_dict()["encode"]["flops"] for e in (small, page)]
    assert flops[0] > 2 * 4096 * 86e6 and flops[0] < flops[1] < 2 * flops[0]


def test_fit_holds_what_the_tower_needs() -> None:
    """Many large images: their tokens, and the working set of the pass over them."""
    on = "rtx_4060_ti_16gb:1"
    few, many = (fit("qwen3-vl-4b", on, wish={"images": f"{n}x2048x2048"}) for n in (1, 12))
    assert few.rows[0].estimate.scenario.seen_tokens == 4096 and few.rows[0].estimate.scenario.plan.weights == "bf16"
    assert all(row.estimate.scenario.plan.weights != "bf16" for row in many)
    with pytest.raises(InputError, match=r"images: \S+ has no tower for images"):
        fit("llama-3.1-8b", on, wish={"images": "720p"})


def test_a_log_of_requests_with_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its prompts are text; the images are said beside it."""
    log = {"backend": "vllm", "model_id": "google/gemma-3-4b-it", "max_concurrency": 1, "request_rate": "inf"}
    log |= {"input_lens": [200] * 3, "output_lens": [3] * 3, "ttfts": [0.1] * 3, "itls": [[0.01] * 2] * 3}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log | {"duration": 0.4, "completed": 3, "errors": [""] * 3}), encoding="utf-8")
    assert main(["compare", str(path), "--on", "h100_sxm", "--images", "2x896x896", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["ttft_s"]["p50"]["simulated"]
    one = estimate("gemma-3-4b", "h100_sxm", isl=200, osl=3, images="2x896x896")
    assert shown == pytest.approx(one.ttft_single_s, rel=0.02)


def test_a_plan_reads_images(tmp_path: Path) -> None:
    """As the simulator does: longer prompts, the time of the tower, its launch flags, the same numbers again."""
    words: dict[str, Any] = {"on": "h100_sxm", "rate": "4/s", "isl": 200, "osl": 20, "requests": 100, "ttft": "p95:3s"}
    words |= {"max_gpus": 4, "mode": "aggregated"}
    found = plan("gemma-3-4b", images="2x896x896", **words)
    text = plan("gemma-3-4b", **words | {"isl": 200 + 512})
    assert found.winner is not None and text.winner is not None
    took = estimate("gemma-3-4b", "h100_sxm", isl=200, osl=20, images="2x896x896").encode["single_s"]
    assert found.winner.percentiles["ttft_s"]["p50"] > text.winner.percentiles["ttft_s"]["p50"] + 0.7 * took
    assert found.winner.max_rate_per_s < text.winner.max_rate_per_s
    files = plan_files(found)
    assert """--limit-mm-per-prompt '{"image":2}'""" in files["serve.sh"]
    assert found.question.inputs["images"] == "2x896x896"
    path = tmp_path / "plan.toml"
    path.write_text(files["plan.toml"], encoding="utf-8")
    again = replay_plan(read_deployment(path)).summary()["ttft_s"]
    assert again["p95"] == pytest.approx(found.winner.percentiles["ttft_s"]["p95"])
    mixed = plan("gemma-3-4b", images="0.5x896x896,0.5x448x448", **words)
    assert mixed.winner is not None and mixed.winner.max_rate_per_s > found.winner.max_rate_per_s
    with pytest.raises(InputError, match=r"images: .*has no tower for images"):
        plan("llama-3.1-8b", images="720p", **words)


def test_points_of_a_study_differ_in_images(tmp_path: Path) -> None:
    table = {
        "name": "sizes",
        "kind": "estimate",
        "fixed": {"model": "gemma-3-4b", "on": "h100_sxm"},
        "grid": {"images": ["448x448", "2x1080p"], "batch": [1, 2]},
    }
    found = study(table).to_pandas()
    assert len(found) == 4 and found["ttft_s"].nunique() == 4
