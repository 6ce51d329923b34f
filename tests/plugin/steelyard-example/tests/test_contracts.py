"""The contract suites of the library, run on what this plug-in adds."""

import pytest
from steelyard_example.fair import FairSessions
from steelyard_example.products import ring_gemm
from steelyard_example.scan import scan

from steelyard.machine.catalogue import find_machine
from steelyard.testing.cost_models import CostModelContract
from steelyard.testing.machines import MachineContract
from steelyard.testing.policies import PolicyContract
from steelyard.testing.techniques import TechniqueContract
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op

WEIGHT = ("activation", "weight", "activation")


class TestRingGemm(CostModelContract):
    @pytest.fixture
    def model(self):
        return ring_gemm

    @pytest.fixture
    def machine(self):
        return find_machine("ring_one")

    @pytest.fixture
    def graph(self):
        return lambda n: Graph("probe", (Op("up", "t d, d f -> t f", {"t": n, "d": 512, "f": 2048}, roles=WEIGHT),))


class TestScan(CostModelContract):
    @pytest.fixture
    def model(self):
        return scan

    @pytest.fixture
    def machine(self):
        return find_machine("h100_sxm")

    @pytest.fixture
    def graph(self):
        sizes = {"b": 8, "c": 128, "z": 128}
        return lambda n: Graph(
            "probe", (Op("read", "b n c, b c z -> b n z", {**sizes, "n": n}, iterative=("n",), block="attention"),)
        )


class TestRingOne(MachineContract):
    @pytest.fixture
    def machine(self):
        return find_machine("ring_one")


class TestFair(PolicyContract):
    @pytest.fixture
    def policy(self):
        return FairSessions


class TestSmallCache(TechniqueContract):
    name = "example-small-cache"
    texts = ("example-small-cache", "example-small-cache:4")
