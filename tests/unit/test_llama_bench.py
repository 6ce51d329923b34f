"""Results of llama-bench beside estimates."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from steelyard import simulate
from steelyard.cli import main as cli
from steelyard.errors import InputError
from steelyard.estimation.estimate import estimate
from steelyard.estimation.llama_bench import beside
from steelyard.traffic.llama_bench import is_llama_bench, read_llama_bench
from tests.fuzz.corpus import LLAMA_BENCH

_ROW: dict[str, Any] = {
    "build_commit": "abc1234",
    **LLAMA_BENCH[0],
    "model_filename": "models/Qwen3-8B-Q4_K_M.gguf",
    "model_type": "qwen3 8B Q4_K - Medium",
}
_GENERATED = {**_ROW, "n_prompt": 0, "n_gen": 128, "avg_ts": 140.0, "stddev_ts": 0.5}
_TABLE = """ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes
| model                          |       size |     params | backend    | ngl |            test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | --: | --------------: | -------------------: |
| qwen3 8B Q4_K - Medium         |   4.68 GiB |     8.19 B | CUDA       |  99 |           pp512 |     10000.00 ± 50.00 |
| qwen3 8B Q4_K - Medium         |   4.68 GiB |     8.19 B | CUDA       |  99 |           tg128 |        140.00 ± 0.50 |

build: abc1234 (6000)
"""


def _file(folder: Path, name: str, content: Any) -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def _csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().replace('"build_commit"', "build_commit", 1).replace('"avg_ts"', "avg_ts", 1)


def test_the_three_forms_say_the_same(tmp_path: Path) -> None:
    rows = [_ROW, _GENERATED]
    lines = "\n".join(json.dumps(row) for row in rows)
    for name, content in (("a.json", rows), ("a.jsonl", lines), ("a.csv", _csv(rows)), ("a.md", _TABLE)):
        source = _file(tmp_path, name, content)
        assert is_llama_bench(source), name
        (bench,) = read_llama_bench(source)
        assert [t.name for t in bench.tests] == ["pp512", "tg128"]
        assert [t.tokens_per_s for t in bench.tests] == [10000.0, 140.0]
        assert bench.tests[0].deviation == 50.0
        assert bench.devices == ("NVIDIA GeForce RTX 4090",)
    assert not is_llama_bench(_file(tmp_path, "b.json", {"completed": 4}))
    assert not is_llama_bench(str(tmp_path / "none.json"))


def test_rows_are_questions_of_llama_cpp(tmp_path: Path) -> None:
    found = beside(_file(tmp_path, "a.json", [_ROW, _GENERATED]), {})
    prompt, generated = found.rows
    s = prompt.estimate.scenario
    assert (s.model.name, str(s.cluster), s.plan.weights) == ("Qwen/Qwen3-8B", "rtx_4090", "q4_k_m")
    assert s.engine.name.startswith("llamacpp")
    same = estimate("Qwen3-8B-Q4_K_M", "rtx_4090", engine="llamacpp", isl=512, osl=1)
    assert prompt.predicted == pytest.approx(512 / (same.ttft_s - same.scenario.engine.request_s))
    answer = estimate("Qwen3-8B-Q4_K_M", "rtx_4090", engine="llamacpp", isl=1, osl=128)
    assert generated.predicted == pytest.approx(1 / answer.tpot_s)
    assert generated.low < generated.predicted < generated.high
    assert generated.inside == (generated.low <= 140.0 <= generated.high)
    assert found.to_dict()["kind"] == "llama_bench" and len(found.to_pandas()) == 2
    assert any("rtx_4090" in words for words in found.taken)


def test_depth_layers_and_formats_are_read(tmp_path: Path) -> None:
    deep = {**_ROW, "n_depth": 4096}
    host = {**_GENERATED, "n_gpu_layers": 20, "type_k": "q8_0"}
    both = {**_ROW, "n_gen": 128, "n_prompt": 512}
    far, slow, mixed = beside(_file(tmp_path, "a.json", [deep, host, both]), {}).rows
    plain, quick = beside(_file(tmp_path, "b.json", [_ROW, _GENERATED]), {}).rows
    assert far.test.name == "pp512 @ d4096" and far.predicted < plain.predicted
    assert slow.predicted < quick.predicted and slow.estimate.scenario.plan.kv == "q8_0"
    assert mixed.test.name == "pp512+tg128"
    parts = 512 / plain.predicted + 128 / quick.predicted
    assert parts < 640 / mixed.predicted < 1.1 * parts  # the answer comes after the prompt


def test_what_the_result_does_not_say_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _file(tmp_path, "a.md", _TABLE)
    assert cli.main(["compare", source]) == 2
    assert "--model" in capsys.readouterr().err
    assert cli.main(["compare", source, "--model", "qwen3-8b"]) == 0
    out = capsys.readouterr().out
    assert "weights q4_k_m" in out and "pp512" in out and "RTX 4090" in out
    unknown = _file(tmp_path, "b.json", [{**_ROW, "gpu_info": "Some Card 9"}])
    assert cli.main(["compare", unknown]) == 2
    assert "Some Card 9" in capsys.readouterr().err
    assert cli.main(["compare", unknown, "--on", "rtx_4090", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tests"][0]["measured"] == 10000.0
    assert cli.main(["compare", source, "--model", "qwen3-8b", "--rate", "3/s"]) == 2
    assert "no traffic" in capsys.readouterr().err


@pytest.mark.parametrize(
    "row",
    [
        {"avg_ts": 0},
        {"avg_ts": None},
        {"avg_ts": "x"},
        {"n_prompt": 0},
        {"n_prompt": -5},
        {"n_prompt": 1e300},
        {"n_depth": 10**12},
    ],
)
def test_rows_that_are_none_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="row 1"):
        read_llama_bench(_file(tmp_path, "a.json", [{**_ROW, **row}]))


@pytest.mark.parametrize(
    ("row", "machine"),
    [
        ({"gpu_info": "AMD Radeon RX 7900 XTX (RADV NAVI31)", "backends": "Vulkan"}, "rx_7900_xtx"),
        ({"gpu_info": "AMD Radeon Graphics (RADV GFX1151)", "backends": "Vulkan"}, "strix_halo"),
        ({"gpu_info": "Intel(R) Arc(TM) A770 Graphics", "backends": "SYCL"}, "arc_a770"),
        ({"gpu_info": "NVIDIA GeForce RTX 3090, NVIDIA GeForce RTX 3090"}, "rtx_3090:2"),
        ({"gpu_info": "NVIDIA GeForce RTX 4090, Tesla P40"}, "rtx_4090+p40"),
        ({"gpu_info": "", "backends": "CPU"}, "ryzen_9_7950x"),
        ({"n_gpu_layers": 0}, "ryzen_9_7950x"),
        ({"gpu_info": "Apple M2 Ultra", "cpu_info": "Apple M2 Ultra", "backends": "Metal,BLAS"}, "m2_ultra"),
    ],
)
def test_devices_are_known_by_their_drivers_names(tmp_path: Path, row: dict[str, Any], machine: str) -> None:
    (tested,) = beside(_file(tmp_path, "a.json", [{**_GENERATED, **row}]), {}).rows
    assert str(tested.estimate.scenario.cluster) == machine


def test_a_table_of_an_older_version_and_what_stands_before_it(tmp_path: Path) -> None:
    table = _TABLE.replace("  Device 0: NVIDIA GeForce RTX 4090, compute", "  Device 0: Tesla P40, compute")
    table = table.replace("          pp512", "         pp 512").replace("tg128", "pp64+tg8 @ d100")
    (bench,) = read_llama_bench(_file(tmp_path, "a.txt", table))
    assert bench.devices == ("Tesla P40",)
    assert [t.name for t in bench.tests] == ["pp512", "pp64+tg8 @ d100"]
    noisy = "loading [1/2]\n" + json.dumps([_ROW], indent=2)
    assert len(read_llama_bench(_file(tmp_path, "a.json", noisy))) == 1


def test_llama_cpp_computes_the_last_tokens_apart_where_it_comes_back_to_a_state() -> None:
    """A prompt of 30 tokens of Qwen3.6-27B in Q8 takes 0.4 to 0.5 s on Strix Halo, a token 0.155."""
    hybrid, attention = (
        estimate(m, "strix_halo", weights="q8_0", engine="llamacpp", isl=30, osl=32)
        for m in ("Qwen3.6-27B", "qwen3-32b")
    )
    assert hybrid.ttft_s > 2.2 * hybrid.tpot_s
    assert attention.ttft_s < 1.6 * attention.tpot_s
    played = simulate(
        "Qwen3.6-27B", on="strix_halo", weights="q8_0", engine="llamacpp", isl=30, osl=4, requests=1, concurrency=1
    )
    assert played.summary()["ttft_s"]["mean"] == pytest.approx(hybrid.ttft_s, rel=0.05)
