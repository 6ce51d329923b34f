"""The door for files: safe, limited, every problem named."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from steelyard.documents import MAX_BYTES, build, build_file, named, read_document
from steelyard.errors import InputError, UnknownName, normalise, suggest
from steelyard.folders import catalogue_folders
from steelyard.machine import Machine, load_machine, machine_from_dict
from steelyard.machine.catalogue import find_machine
from steelyard.machine.network import NodeFile
from steelyard.units import Quantity, format_quantity, parse_quantity

H100 = (
    next(f for f in catalogue_folders() if (f / "machines" / "h100_sxm.toml").is_file()) / "machines" / "h100_sxm.toml"
)


def table() -> dict[str, Any]:
    return tomllib.loads(H100.read_text())


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("80GiB", "B", 80 * 2**30),
        ("80 GB", "B", 80e9),
        ("3.35TB/s", "B/s", 3.35e12),
        ("400Gb/s", "B/s", 50e9),
        ("500ms", "s", 0.5),
        ("2 min", "s", 120),
        ("1.5us", "s", 1.5e-6),
        ("989.4TFLOP/s", "OP/s", 989.4e12),
        ("40%", "1", 0.4),
        ("70B", "1", 70e9),
        ("1_000", "1", 1000),
        (7, "W", 7),
    ],
)
def test_quantities_are_read(text: str | int, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "fast", "12 parsecs", "--3", "1e", True])
def test_bad_quantities_are_refused(text: Any) -> None:
    with pytest.raises(InputError, match="expected a number"):
        parse_quantity(text, "s")


def test_bounds_are_checked_and_nan_refused() -> None:
    share = Quantity("1", "a share", ge=0, le=1)
    assert share.parse("50%") == 0.5
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError):
            share.parse(bad)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0123, "s", "12.3 ms"), (80 * 2**30, "B", "80.0 GiB"), (989.4e12, "OP/s", "989 TOP/s")],
)
def test_quantities_are_written(value: float, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text


def test_a_file_of_ones_own_catalogue_is_named_in_full(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[node]]\nname = "n"\nmachine = "h100_sxm"\ndevices = "x"\n', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        build_file(NodeFile, path)
    assert str(path)[:40] in str(caught.value) and "mine.toml: node[0].devices" in str(caught.value)
    path.write_text("[[node", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        build_file(NodeFile, path)
    assert str(path)[:40] in str(caught.value)  # a long one loses its middle
    ours = next(iter(sorted((catalogue_folders()[-1] / "nodes").glob("*.toml"))))
    assert named(ours) == ours.name


def test_all_problems_are_listed_at_once_with_paths() -> None:
    data = table()
    data["machine"]["tdp"] = 3
    data["machine"]["memory"][0]["bandwith_bytes_per_s"] = 2
    data["machine"]["compute"][0]["units"] = -3
    del data["machine"]["title"]
    with pytest.raises(InputError) as caught:
        machine_from_dict(data, "mine.toml")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "compute[0].units: expected a number of at least 1, got -3" in text
    assert "did you mean 'bandwidth_bytes_per_s'" in text
    assert "did you mean 'tdp_w'" in text
    assert "title: required field is missing" in text


def test_a_machine_without_a_root_or_with_a_circle_is_refused() -> None:
    data = table()
    data["machine"]["memory"][0]["inside"] = "l2"
    with pytest.raises(InputError, match="root"):
        machine_from_dict(data)


def test_quick_and_careful_builders_agree() -> None:
    data = table()
    quick = machine_from_dict(data)
    careful = build(Machine, {**data["machine"], "sources": data["sources"], "guess": data["guess"], "notes": ""})
    assert quick == careful


def test_yaml_and_json_say_the_same_as_toml(tmp_path: Path) -> None:
    import json

    import yaml

    (tmp_path / "m.json").write_text(json.dumps(table()))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(table()))
    assert load_machine(tmp_path / "m.json") == load_machine(tmp_path / "m.yaml") == load_machine(H100)


def test_yaml_bomb_is_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    (tmp_path / "bomb.yaml").write_text(bomb)
    with pytest.raises(InputError, match="aliases"):
        read_document(tmp_path / "bomb.yaml")


def test_yaml_does_not_build_objects(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="malformed YAML"):
        read_document(tmp_path / "evil.yaml")


def test_large_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="at most"):
        read_document(huge)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text('{"a":' * 200_000)
    with pytest.raises(InputError, match="malformed JSON"):
        read_document(tmp_path / "deep.json")


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_missing_files_and_folders_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file|folder"):
        read_document(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("H100", "h100_sxm"),
        ("a100-80g", "a100_sxm"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("rtx4090", "rtx_4090"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("MI300X", "mi300x"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_machine_names_forgive(name: str, found: str) -> None:
    assert find_machine(name).name == found


def test_unknown_machine_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        find_machine("h1000_sxm")
    assert "h100_sxm" in caught.value.nearest


def test_suggestions_prefer_close_names() -> None:
    assert suggest("lama", ["llama", "mamba", "opt"])[0] == "llama"
    assert normalise("NVIDIA H100 80GB HBM3") == "nvidiah10080gbhbm3"
