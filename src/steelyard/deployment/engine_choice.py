"""Which engine runs a model on a machine, and which cannot: one place, from what engines say about themselves."""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.deployment.engine import Engine, default_engine, engines, find_engine
from steelyard.deployment.formats import find_format
from steelyard.errors import InputError
from steelyard.machine.component import Machine

__all__ = ["check_engine", "engine_for", "instead_of_usual", "keeps", "reads", "runs_on"]

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


def engine_for(
    machine: Machine,
    named: str = "",
    weights: str = "",
    files: str = "",
    native: str = "",
    *,
    encoder: str = "",
    method: str = "",
) -> Engine:
    """The engine of a question: the one named, else the usual one for the weights on the machine.

    Where the usual one has no kernels for them, or does not serve models of the kind, it is the first that does.

    Args:
        machine: the device.
        named: as the user named it; empty: none.
        weights: the format asked for; empty: as published.
        files: the engine whose form the model's files have; empty: any.
        native: the format the model is published in.
        encoder: the type of a model whose encoder reads before its decoder writes; empty: of another.
        method: how the published weights were quantised.

    Raises:
        UnknownName: no engine or format is called so.
    """
    if named:
        return _there(find_engine(named), machine)
    usual, wanted = _usual(machine, weights, files, native), weights or native
    needs = (machine, wanted, encoder, "" if weights else method)
    if (files and usual.name == find_engine(files).name) or not _lacking(usual, *needs):
        return usual
    return next((e for e in _existing(machine) if not _unread(e, wanted) and not _lacking(e, *needs)), usual)


def _usual(machine: Machine, weights: str, files: str, native: str) -> Engine:
    """The usual engine for weights on a machine. Arguments as of :func:`engine_for`."""
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


def _existing(machine: Machine) -> Iterator[Engine]:
    """The engines of today known to run on a machine that take files of others, then those that run anywhere."""
    yield from (e for e in engines().values() if _chosen(e, machine) and not e.own_files)
    yield from (e for e in engines().values() if not e.runs_on and not (e.generation_of or e.baseline))


def _chosen(engine: Engine, machine: Machine) -> bool:
    """Whether an engine is one to choose on a machine: of today, a server, known to run there."""
    if not engine.runs_on or engine.generation_of or engine.baseline or _there(engine, machine) is not engine:
        return False
    return engine.scheduler != "static" and runs_on(engine, machine)  # static: a benchmark, or one sequence


def _unread(engine: Engine, weights: str) -> bool:
    """Whether an engine reads no weights of a format, on any machine."""
    return bool(weights) and (_among(weights, engine.no_weights) or _only_by(weights, engine) is not None)


def reads(engine: Engine, machine: Machine, weights: str) -> bool:
    """Whether an engine reads weights of a format and has kernels for them on a machine."""
    return not _unread(engine, weights) and not _lacking(engine, machine, weights, "", "")


def instead_of_usual(engine: Engine, machine: Machine, weights: str, encoder: str, method: str) -> str:
    """Why another engine than the machine's usual one runs a model; empty where it does not, or could.

    Args:
        engine, machine: what runs, and where.
        weights: the format of the weights as they run.
        encoder, method: as of :func:`engine_for`.
    """
    usual = default_engine(machine)
    why = (
        "" if usual.name in (engine.name, engine.generation_of) else _lacking(usual, machine, weights, encoder, method)
    )
    return f"{usual.dated} {why}: {engine.title} runs it" if why else ""


def keeps(engine: Engine, machine: Machine, kv: str) -> bool:
    """Whether an engine has kernels for a cache of a format on a machine."""
    words = _words(machine)
    return not any(_among(kv, lack.kv) and (not lack.on or words & set(lack.on)) for lack in engine.lacks)


def _lacking(engine: Engine, machine: Machine, weights: str, encoder: str, method: str) -> str:
    """What an engine does not do of a model on a machine where it runs, in words; empty: nothing."""
    if encoder and not {"any", encoder} & set(engine.encoder_decoders):
        served = ", ".join(engine.encoder_decoders)
        return f"does not serve {encoder}: " + (f"of encoder-decoders {served}" if served else "no encoder-decoders")
    for lack in engine.lacks:
        there = not lack.on or bool(_words(machine) & set(lack.on))
        where = f" on {machine.title}" if lack.on else ""
        if there and method and method in lack.methods:
            return f"does not read weights quantised by {method}{where}"
        if there and weights and _among(weights, lack.formats):
            return f"has no kernels for {find_format(weights).name} weights{where}"
    return ""


def _there(engine: Engine, machine: Machine) -> Engine:
    """The entry that has an engine's figures on the stack of a machine."""
    return engines()[engine.variants.get(machine.launch, engine.name)]


def _claims(engine: Engine, machine: Machine, weights: str) -> bool:
    words = _words(machine)
    known = bool(words & set(engine.runs_on))
    return known and any(_among(weights, u.formats) and (not u.on or words & set(u.on)) for u in engine.usual)


def _maker(weights: str) -> Engine | None:
    """The one engine that reads a format, if there is one."""
    return next(
        (e for e in engines().values() if not (e.generation_of or e.baseline) and _among(weights, e.own_formats)), None
    )


def _only_by(weights: str, engine: Engine) -> Engine | None:
    """The one engine that reads a format, where it is another than this."""
    only = _maker(weights)
    return None if only is None or only.name in (engine.name, engine.generation_of) else only


def _among(name: str, names: tuple[str, ...]) -> bool:
    """Whether a format is one of ``names``."""
    entry = find_format(name)
    return entry.base in names or (entry.gguf and "gguf" in names)


def check_engine(
    engine: Engine,
    machine: Machine,
    weights: str = "",
    kv: str = "",
    files: str = "",
    *,
    encoder: str = "",
    method: str = "",
    named: bool = True,
) -> None:
    """Refuse an engine that does not exist on a machine, or that cannot read, keep or serve what is asked.

    Args:
        engine, machine: what was asked for.
        weights: the format of the weights, of the model's files or asked for.
        kv: the format of the cache asked for; empty: as published. With a stated width it is taken as it is.
        files: the engine whose form the weights have, when they are those of the files.
        encoder, method: as of :func:`engine_for`; no method where the weights are not as published.
        named: whether the user asked for the engine: the usual one may have files of others converted.

    Raises:
        InputError: with the engines that do.
    """
    if not runs_on(engine, machine):
        text = f"{engine.title} does not run on {machine.title}; {_others(machine, encoder=encoder)}"
        raise InputError(text, field="engine")
    if named and weights and _among(weights, engine.no_weights):
        others = _others(machine, weights, encoder, method)
        raise InputError(f"{engine.title} does not read {find_format(weights).name} weights; {others}", field="engine")
    if named and weights and (only := _only_by(weights, engine)) is not None:
        raise InputError(
            f"{engine.title} does not read {find_format(weights).name} weights; only {only.title} does", field="engine"
        )
    if files and find_engine(files).own_files and files not in (engine.name, engine.generation_of):
        maker = find_engine(files)
        there = "" if runs_on(maker, machine) else f", which does not run on {machine.title}"
        text = f"{engine.title} does not read files made for {maker.title}{there}; --weights names another format"
        raise InputError(text, field="engine")
    if lacking := _lacking(engine, machine, weights, encoder, method):
        others = _others(machine, weights, encoder, method)
        raise InputError(f"{engine.dated} {lacking}; {others}", field="engine")
    if "@" in kv:
        return  # so many bits are stated: a kernel of one's own
    if kv and engine.kv_formats and find_format(kv).bits < 16 and not _among(kv, engine.kv_formats):
        text = f"{engine.title} has no {find_format(kv).name} KV cache; it has 16 bits, {', '.join(engine.kv_formats)}"
        raise InputError(text, field="kv")
    if kv and not keeps(engine, machine, kv):
        kept = ", ".join(["16 bits", *(name for name in engine.kv_formats if keeps(engine, machine, name))])
        text = f"{engine.dated} has no {find_format(kv).name} KV cache on {machine.title}; it has {kept}"
        raise InputError(text, field="kv")


def _others(machine: Machine, weights: str = "", encoder: str = "", method: str = "") -> str:
    """The engines that do exist there, the usual one first; those for a format, a method, a kind of model."""
    usual = engine_for(machine, "", weights, native=weights, encoder=encoder, method=method)
    there = [usual, *(e for e in engines().values() if _chosen(e, machine))]
    there += _existing(machine) if encoder or method else []
    able = [
        engine.title
        for engine in there
        if not (weights and engine.own_files and engine is not usual)
        and not _unread(engine, weights)
        and not _lacking(engine, machine, weights, encoder, method)
    ]
    titles = [*dict.fromkeys(able)][:_MOST_NAMED]
    if not titles:
        return "no engine known here does" + ("; --weights names another format" if weights or method else "")
    named = " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)
    return f"{named} {'do' if len(titles) > 1 else 'does'}"
