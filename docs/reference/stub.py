"""``steelyard/__init__.pyi``: what editors and type checkers see of the package, from the fields of a question."""

from __future__ import annotations

import re

from steelyard import HOMES
from steelyard.scenario.fields import REQUIRED, Field
from steelyard.scenario.verbs import POSITIONAL, ordered

#: Where the types of the annotations are.
_TYPES = {
    "Any": "typing",
    "Autoscale": "steelyard.deployment.dynamics",
    "Callable": "collections.abc",
    "Cluster": "steelyard.machine.cluster",
    "Lengths": "steelyard.traffic.lengths",
    "Mapping": "collections.abc",
    "Model": "steelyard.workload.catalogue",
    "Outage": "steelyard.deployment.dynamics",
    "Path": "pathlib",
    "Policy": "steelyard.simulation.policies",
    "Sequence": "collections.abc",
    "Trace": "steelyard.traffic.trace",
    "overload": "typing",
}
#: The verbs that take fields: whose, and what they return.
_VERBS = {
    "estimate": ("estimate", "Estimate"),
    "explain": ("estimate", "Explanation"),
    "simulate": ("simulate", "Simulation"),
    "plan": ("plan", "Answer"),
}


def stub() -> str:
    """The text of the file."""
    body = "\n".join(_overloads(name, *found) for name, found in _VERBS.items())
    words = set(re.findall(r"\w+", body))
    known = {n: m for n, m in _TYPES.items() if n in words} | {n: m for n, m in HOMES.items() if n not in _VERBS}
    imports = sorted(f"from {module} import {name} as {name}" for name, module in known.items())
    head = '"""Written by docs/reference/generate.py from the fields of a question; change those instead."""'
    return "\n".join([head, "", *imports, "", "__version__: str", "HOMES: dict[str, str]", "", body, ""])


def _overloads(name: str, verb_name: str, returns: str) -> str:
    """A verb with its fields, and with a scenario in place of them."""
    known = ordered(verb_name)

    def lines(parameters: list[str]) -> str:
        return "".join(f"    {parameter},\n" for parameter in parameters)

    def written(f: Field) -> str:
        return f"{f.name}: {f.python}" + ("" if f.default is REQUIRED else f" = {f.default!r}")

    first = [written(f) for f in known if f.name in POSITIONAL]
    rest = [written(f) for f in known if f.name not in POSITIONAL]
    changed = ["scenario: Scenario", "/", "*", *(f"{f.name}: {f.python} = ..." for f in known)]
    return (
        f"@overload\ndef {name}(\n{lines([*first, '*', *rest])}) -> {returns}: ...\n"
        f"@overload\ndef {name}(\n{lines(changed)}) -> {returns}: ..."
    )
