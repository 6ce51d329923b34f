"""From what a user names to a policy: a registered name, a class of the user's own file, or a Python object."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, MappingProxyType, ModuleType

from steelyard.errors import InputError, suggest
from steelyard.registry import Registry
from steelyard.simulation.policies._base import Order, Policy, said, take_order
from steelyard.traffic.trace import Trace

__all__ = ["POLICIES", "find_policy", "ordered", "registered_policy"]

#: Policies by name.
POLICIES: Registry[type[Policy]] = Registry("policy", "steelyard.policies")


def registered_policy(name: str) -> Policy:
    """A policy by its registered name; no file is run. Raises :class:`UnknownName`."""
    return _made(POLICIES.get(name), name)


def find_policy(given: str | type[Policy] | Policy) -> Policy:
    """A policy by its name, by ``FILE.py:CLASS`` (this runs the file), as a class or as an object.

    Raises:
        InputError: no such name, file or class; the file fails; what is found keeps no contract.
    """
    if not isinstance(given, str):
        return _made(given, getattr(given, "__name__", type(given).__name__))
    path, colon, name = given.rpartition(":")
    if not colon and not given.endswith(".py"):
        return _made(POLICIES.get(given), given)
    if not path.endswith(".py") or not name:
        raise InputError(f"expected a name or FILE.py:CLASS, got {given!r}", field="policy")
    module = _run_file(Path(path).expanduser())
    if name not in vars(module):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and hasattr(v, "keys")]
        near = suggest(name, classes) or classes
        hint = f"; it has {', '.join(near)}" if near else ""
        raise InputError(f"no class {name!r} in {path}{hint}", field="policy")
    return _made(vars(module)[name], name)


def ordered(
    given: str | type[Policy] | Policy | Order, trace: Trace, slo: Mapping[str, float] = MappingProxyType({})
) -> Order:
    """What a policy says about a trace. Raises :class:`InputError` as :func:`find_policy` and for bad keys."""
    return given if isinstance(given, Order) else take_order(find_policy(given), trace, slo)


def _made(thing: object, what: str) -> Policy:
    if isinstance(thing, type):
        try:
            thing = thing()
        except (Exception, SystemExit) as error:
            raise InputError(f"{what}() failed: {said(error)}", field="policy") from error
    name = getattr(thing, "name", None)
    if not isinstance(thing, Policy) or not callable(thing.keys) or not isinstance(name, str) or not name.strip():
        raise InputError(f"{what} is no policy: expected a class with a name and keys(trace)", field="policy")
    return thing


class _Fresh(SourceFileLoader):
    """Reads the source every time and leaves no compiled file beside it."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"no file at {str(path)!r}", field="policy")
    name = f"steelyard_policy_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = spec_from_loader(name, _Fresh(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{path} failed: {said(error)}", field="policy") from error
    return module
