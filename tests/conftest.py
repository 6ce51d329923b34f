"""Shared fixtures: where the measured tables are, and which tests are slow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
os.environ.pop("COLUMNS", None)  # reports are as wide as it says

#: Pages whose blocks take more than a few seconds: plans, searches over the catalogue, contract suites.
SLOW_PAGES = (
    "README",
    "docs/for/deployer",
    "docs/for/researcher",
    "docs/gallery/gpu-for-70b",
    "docs/guide/add-a",
    "docs/guide/advise",
    "docs/guide/calibrate",
    "docs/guide/fit",
    "docs/guide/images",
    "docs/guide/plan",
    "docs/guide/recipes",
    "docs/guide/simulate",
    "docs/guide/sweep",
    "docs/index",
)
#: Files and tests of more than a few seconds each, left out of the fast part (``-m "not slow"``), by their path.
SLOW = (
    "tests/contract/test_conservation.py::test_nothing_is_lost",
    "tests/contract/test_one_description.py::test_a_field_is_declared_in_few_files",
    "tests/contract/test_one_description.py::test_no_function_of_the_public_interface",
    "tests/contract/test_one_description.py::test_a_scenario_stands_for_its_words",
    "tests/contract/test_one_description.py::test_no_module_hides_a_verb",
    "tests/contract/test_planner.py",
    "tests/contract/test_policies.py::TestShortestFirst::test_conservation",
    "tests/contract/test_serve_invariants.py",
    "tests/contract/test_step.py::test_many_steps_at_once",
    "tests/contract/test_techniques.py::test_any_two_compose",
    "tests/page",
    *(f"tests/docs/test_blocks.py::test_page[{page}" for page in SLOW_PAGES),
    "tests/plugin",
    "tests/unit/test_calibrate_engine.py",
    "tests/unit/test_help.py::test_the_examples_run",
    "tests/unit/test_kept_code.py",
    "tests/unit/test_readers_held.py",
    "tests/unit/test_readers_models.py",
    "tests/unit/test_report_plan.py",
    "tests/unit/test_search_fleet.py::test_a_mix_beats_one_type_on_the_azure_traces",
    "tests/unit/test_serve_twin.py",
    "tests/unit/test_speculation.py::test_the_length_chosen",
    "tests/unit/test_sweep.py::test_a_point_that_kills_its_process",
    "tests/unit/test_sweep_kill.py",
    "tests/unit/test_exploration.py::test_a_search_whose_process_is_killed",
    "tests/unit/test_exploration.py::test_a_score_is_called_by_processes",
    "tests/unit/test_uncompiled.py",
    "tests/validation",
    "tests/web",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests; those of measured tables go first, so that one worker gets them all and reads them once."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")
    items.sort(key=lambda item: not item.nodeid.startswith("tests/validation/"))


@pytest.fixture(scope="session")
def ray_nodes() -> Any:
    """A local Ray cluster of two nodes of one CPU each."""
    ray = pytest.importorskip("ray", reason="ray is not installed (the ray extra)")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    try:
        made = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "num_gpus": 0}
        )
        made.add_node(num_cpus=1, num_gpus=0)
        ray.init(address=made.address, log_to_driver=False)
    except Exception as error:
        pytest.skip(f"no local Ray cluster can be started here: {error}")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder that holds ``truth/`` and ``peers/``; the test is skipped when it is absent."""
    folder = Path(os.environ.get("STEELYARD_DATA", ROOT.parent / "shared"))
    if not (folder / "truth").is_dir():
        pytest.skip(f"measured tables not found at {folder} (set STEELYARD_DATA)")
    return folder
