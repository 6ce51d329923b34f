"""Every machine of the catalogue keeps the contract shipped to plug-in authors."""

from __future__ import annotations

import pytest

from steelyard.machine import Machine
from steelyard.machine.catalogue import find_machine, machine_names
from steelyard.testing.machines import MachineContract


class TestCatalogue(MachineContract):
    @pytest.fixture(params=machine_names())
    def machine(self, request: pytest.FixtureRequest) -> Machine:
        return find_machine(request.param)
