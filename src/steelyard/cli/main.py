"""``steelyard``: the verbs, and how each kind of error leaves the process.

Exit codes: 0 answered (also when whoever reads the answer leaves early), 1 the disk, the memory or a stream failed,
2 bad input (one line per problem), 3 the workload does not fit, 130 interrupted. An error that is ours keeps its
traceback unless ``--quiet`` is given.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

from cyclopts import App

from steelyard._version import __version__
from steelyard.cli.asked import read
from steelyard.cli.help import Plain, example
from steelyard.errors import InputError, SteelyardError, UnknownName, bounded
from steelyard.folders import missing_catalogue

__all__ = ["app", "main", "run"]

app = App(
    name="steelyard",
    help="What running any AI model on any machine costs: time, memory, energy and money.",
    version=__version__,
    suppress_keyboard_interrupt=False,
    help_formatter=Plain(),
    help_format="plaintext",
    help_epilogue=example("estimate"),
)
#: Modules of commands that are not called as they are.
_MODULES = {"plan_train": "plan_training"}
#: The verbs, and what each is for.
_HELP = {
    "estimate": "Weigh a model on one or several machines.",
    "fit": "Where can I run a model, how fast, for how much: every machine that holds it.",
    "here": "What can I run on this machine: detect it, and list the models that fit.",
    "simulate": "Send traffic through a serving engine: what its users see, and what it costs.",
    "plan": "Find the cheapest deployment that meets the SLOs, and write the files to launch it.",
    "plan_train": "Find machines, their number and the layout of a training run: plan --train.",
    "train": "Weigh training: step time, memory of every stage, energy, money, and the run with its failures.",
    "search_network": "Find the networks of a space that score best within limits.",
    "search_chip": "Find the chips of a space that run given workloads best within limits.",
    "search_predictor": "Compare predictors of a device on a few measured networks.",
    "search_bits": "Find the bits of every layer that lose least within limits.",
    "search_prune": "Find the channels of every layer that lose least within limits.",
    "search_placement": "Find the device of every layer of a network.",
    "search_cost": "Weigh a search of networks itself, by how candidates are rated.",
    "study": "Price every point of a study file, in parallel, and never twice.",
    "report": "Show a study of a results store: best points, Pareto front, what each axis does.",
    "explain": "Show every kernel of an estimate: formula, work, limit, what bounds it, source.",
    "ls": "List models, machines, formats, engines, networks, nodes, systems, prices, policies or techniques.",
    "show": "Show one machine, model, format, engine, network, node, policy or technique.",
    "compare": "Put two machines, models or saved estimates side by side, or a benchmark log beside its simulation.",
    "advise": "Try every published technique that applies on your scenario, ranked by what it gains.",
    "techniques": "List published techniques: what each changes, its paper, where it applies.",
    "claims": "Check what papers claim: published, predicted, interval, verdict.",
    "serve": "Open a local page over the same library: look, move a slider, understand.",
    "calibrate": "Fit a machine's parameters: from tables, from this computer, or from a few samples.",
    "validate": "Compare predictions with measured tables.",
    "version": "Print the versions that matter in a report of a problem.",
}
for _name, _help in _HELP.items():
    app.command(
        f"steelyard.cli.{_MODULES.get(_name, _name)}:{_MODULES.get(_name, _name)}",
        name=_name,
        help=_help,
        help_epilogue=example(_name),
        alias=("sweep",) if _name == "study" else None,
    )
app.register_install_completion_command(help="Install completion for your shell.")


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors a user can act on become one line each on stderr."""
    arguments = list(sys.argv[1:] if tokens is None else tokens)
    if arguments[:1] == ["plan"] and "--train" in arguments:
        arguments = ["plan_train", *(a for a in arguments[1:] if a != "--train")]
    try:
        if arguments[:1] == ["search"]:
            arguments = _search(arguments)
            if not arguments:
                return 0
        if arguments[:1] != ["calibrate"] and (note := missing_catalogue()):  # which makes the folder
            print(f"note: {note}", file=sys.stderr)
        with described(arguments[0]) if {"--help", "-h"} & {*arguments[1:]} else nullcontext():
            read(app, arguments).run()
    except InputError as error:
        for problem in error.problems:
            print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
        return error.exit_code
    except SteelyardError as error:
        print(f"{'error: ' if error.exit_code == 1 else ''}{' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as error:  # of the library that prints the help, when the reader of a pipe left
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return _failed(error.__context__)
    except MemoryError:
        print("error: there is not enough memory for this", file=sys.stderr)
        return 1
    except OSError as error:
        return _failed(error)
    except Exception as error:
        if "--quiet" not in arguments:
            raise
        print(f"internal error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


#: What can be searched for: ``search WHAT``.
_SEARCHED = ("network", "predictor", "chip", "bits", "prune", "placement", "cost")


def _search(arguments: Sequence[str]) -> list[str]:
    """``search network`` as the verb ``search_network``; of ``search --help`` nothing is left to run.

    Raises:
        InputError: there is no such search.
    """
    given = arguments[1] if len(arguments) > 1 else ""
    if given in _SEARCHED:
        return [f"search_{given}", *arguments[2:]]
    if given in ("--help", "-h"):
        print("Usage: steelyard search WHAT [OPTIONS]\n\nWhat can be searched for (`steelyard search WHAT --help`):")
        for what in _SEARCHED:
            print(f"  {what}: {_HELP[f'search_{what}']}")
        return []
    known = ", ".join(f"search {what}" for what in _SEARCHED)
    if not given or given.startswith("-"):
        raise InputError(f"expected what to search for: {known}", field="search")
    raise UnknownName("search", given, _SEARCHED, hint=known)


@contextmanager
def described(*verbs: str) -> Iterator[None]:
    """Have the help of verbs say all that their functions say; the list of verbs has one line of each."""
    from inspect import cleandoc

    commands = [app[verb] for verb in verbs if not verb.startswith("-") and verb in app]
    before = [command.help for command in commands]
    for command in commands:
        command.help = cleandoc(getattr(command.default_command, "__doc__", "") or "") or command.help
    try:
        yield
    finally:
        for command, text in zip(commands, before, strict=True):
            command.help = text


class _Closed(io.TextIOBase):
    """A standard stream that the caller has closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "stdout is closed")


def _streams() -> None:
    """Have all three standard streams, whatever the caller left open; characters they cannot write become ``?``."""
    sys.stdin = sys.stdin or io.StringIO()
    sys.stdout = sys.stdout or _Closed()
    sys.stderr = sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    columns = os.environ.get("COLUMNS", "")
    if columns:  # what a terminal may have; a line of help is as long as this says
        known = int(columns) if columns.isascii() and columns.isdigit() and len(columns) < 10 else 80
        os.environ["COLUMNS"] = str(min(max(known, 40), 400))


def _mute() -> None:
    """Nothing more is written to standard output, not even on leaving: nobody reads it, or it is full."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.__stdout__.fileno() if sys.__stdout__ else 1)
        os.close(nowhere)


def _failed(error: OSError) -> int:
    """The exit code of a full disk or a closed stream, which is said; 0 where the reader of a pipe left."""
    _mute()
    if isinstance(error, BrokenPipeError):  # `steelyard ls models | head`
        return 0
    where = f" {error.filename!r}" if error.filename else ""
    print(bounded(f"error: cannot read or write{where}: {error.strerror or error}"), file=sys.stderr)
    return 1


def _end(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


#: Time after which a signal is sent again whose exception got lost, s.
_AGAIN_S = 0.02


def _again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception came where Python ignores them: locks of modules, ends of objects."""
    if lost.exc_type is KeyboardInterrupt:
        number: int = signal.SIGINT
    elif isinstance(lost.exc_value, SystemExit) and isinstance(lost.exc_value.code, int) and lost.exc_value.code > 128:
        number = lost.exc_value.code - 128
    else:
        sys.__unraisablehook__(lost)
        return
    later = threading.Timer(_AGAIN_S, signal.raise_signal, (number,))
    later.daemon = True
    later.start()


def run() -> None:
    """The ``steelyard`` program. SIGTERM and SIGHUP end it as Ctrl-C does: half-written files go, with 128 + signal."""
    _streams()
    sys.unraisablehook = _again
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in the background of a shell
    for number in (signal.SIGTERM, signal.SIGHUP, *(() if ignored else (signal.SIGINT,))):
        with suppress(ValueError):  # not the main thread
            signal.signal(number, _end)
    code = main()
    try:
        sys.stdout.flush()
    except OSError as error:
        failed = _failed(error)
        code = code or failed
    sys.exit(code)


if __name__ == "__main__":
    run()
