"""Which engine runs a model on a machine, and which cannot: one place, from what engines say about themselves."""

from __future__ import annotations

from steelyard.deployment.engine import Engine, default_engine, engines, find_engine
from steelyard.deployment.formats import find_format
from steelyard.errors import InputError
from steelyard.machine.component import Machine

__all__ = ["check_engine", "engine_for", "runs_on"]

#: Engines named in a refusal.
_MOST_NAMED = 4


def runs_on(engine: Engine, machine: Machine) -> bool:
    """Whether an engine exists for a machine. The usual engine of a machine does, and any where none is known to."""
    if not engine.runs_on or engine.name == default_engine(machine).name:
        return True
    words = _words(machine)
    if words & set(engine.runs_on):
        return not words & set(engine.not_on)
    return not any(words & set(other.runs_on) for other in engines().values())


def _words(machine: Machine) -> set[str]:
    """What classes a machine belongs to."""
    return {machine.vendor.lower(), machine.kind, machine.launch, machine.family} - {""}


def engine_for(machine: Machine, named: str = "", weights: str = "", files: str = "", native: str = "") -> Engine:
    """The engine of a question: the one named, else the usual one for the weights on the machine.

    Args:
        machine: the device.
        named: as the user named it; empty: none.
        weights: the format asked for; empty: as published.
        files: the engine whose form the model's files have; empty: any.
        native: the format the model is published in.

    Raises:
        UnknownName: no engine or format is called so.
    """
    if named:
        return _there(find_engine(named), machine)
    if files and not weights:
        own = _there(find_engine(files), machine)
        if runs_on(own, machine):
            return own
    usual = default_engine(machine)
    if weights and (maker := _maker(weights)) is not None:
        return _there(maker, machine)
    wanted = weights or native
    for engine in engines().values() if wanted else ():
        skipped = engine.own_files and not weights  # what is published for others is not in its form
        if not skipped and engine.name != usual.name and runs_on(engine, machine) and _claims(engine, machine, wanted):
            return _there(engine, machine)
    return usual


def _there(engine: Engine, machine: Machine) -> Engine:
    """The entry that has an engine's figures on the stack of a machine."""
    return engines()[engine.variants.get(machine.launch, engine.name)]


def _claims(engine: Engine, machine: Machine, weights: str) -> bool:
    words = _words(machine)
    known = bool(words & set(engine.runs_on))
    return known and any(_among(weights, u.formats) and (not u.on or words & set(u.on)) for u in engine.usual)


def _maker(weights: str) -> Engine | None:
    """The one engine that reads a format, if there is one."""
    return next((e for e in engines().values() if not e.generation_of and _among(weights, e.own_formats)), None)


def _among(name: str, names: tuple[str, ...]) -> bool:
    """Whether a format is one of ``names``."""
    entry = find_format(name)
    return entry.base in names or (entry.gguf and "gguf" in names)


def check_engine(engine: Engine, machine: Machine, weights: str = "", kv: str = "", files: str = "") -> None:
    """Refuse an engine that does not exist on a machine, or that cannot read or keep a format.

    Args:
        engine, machine: what was asked for.
        weights: the format of the weights, of the model's files or asked for.
        kv: the format of the cache asked for; empty: as published.
        files: the engine whose form the weights have, when they are those of the files.

    Raises:
        InputError: with the engines that do.
    """
    if not runs_on(engine, machine):
        raise InputError(f"{engine.title} does not run on {machine.title}; {_others(machine)}", field="engine")
    if weights and _among(weights, engine.no_weights):
        text = f"{engine.title} does not read {find_format(weights).name} weights; {_others(machine, weights)}"
        raise InputError(text, field="engine")
    if weights and (only := _maker(weights)) is not None and only.name not in (engine.name, engine.generation_of):
        raise InputError(
            f"{engine.title} does not read {find_format(weights).name} weights; only {only.title} does", field="engine"
        )
    if files and find_engine(files).own_files and files not in (engine.name, engine.generation_of):
        maker = find_engine(files)
        there = "" if runs_on(maker, machine) else f", which does not run on {machine.title}"
        text = f"{engine.title} does not read files made for {maker.title}{there}; --weights names another format"
        raise InputError(text, field="engine")
    if kv and engine.kv_formats and find_format(kv).bits < 16 and not _among(kv, engine.kv_formats):
        text = f"{engine.title} has no {find_format(kv).name} KV cache; it has 16 bits, {', '.join(engine.kv_formats)}"
        raise InputError(text, field="kv")


def _others(machine: Machine, weights: str = "") -> str:
    """The engines that do exist there, the usual one first; the usual one for a format."""
    usual = engine_for(machine, "", weights)
    titles = [usual.title] if not weights or not _among(weights, usual.no_weights) else ["no engine known here"]
    for engine in engines().values() if not weights else ():
        own = engine.runs_on and not engine.generation_of and _there(engine, machine) is engine
        own = own and engine.scheduler != "static"  # a benchmark or a runtime of one sequence, not named as a choice
        if own and runs_on(engine, machine) and engine.title not in titles:
            titles.append(engine.title)
    titles = titles[:_MOST_NAMED]
    named = " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)
    return f"{named} {'do' if len(titles) > 1 else 'does'}"
