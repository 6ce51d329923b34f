"""The help of the verbs: plain text, wrapped once, each with an example of its own."""

from __future__ import annotations

import textwrap
from typing import Any

from attrs import evolve
from cyclopts import Group, Parameter
from cyclopts.help.formatters import PlainFormatter

from steelyard.scenario.fields import TOPICS

__all__ = [
    "EXAMPLES",
    "FIRST",
    "HERE",
    "LOGS",
    "NETWORKS",
    "OUTPUT",
    "RUN",
    "RUNS",
    "TABLES",
    "WISHES",
    "Plain",
    "example",
    "group",
    "option",
    "switch",
]

#: Headings of the help beside those of the fields: what most lines have, what a verb alone has, and the answer.
FIRST, WISHES, RUN, OUTPUT = "Most used", "What a place must offer", "How it is run", "Output"
TABLES, HERE, LOGS = "From tables (--from) or a few samples", "From this computer (--here)", "From logs (--engine)"
RUNS = "From one measured run (--anchor)"
NETWORKS = "From a few measured networks (--networks)"
_TITLES = (FIRST, TABLES, HERE, LOGS, RUNS, NETWORKS, WISHES, *TOPICS, RUN, OUTPUT)
_GROUPS = {title: Group(title, sort_key=place) for place, title in enumerate(_TITLES)}

#: Longest line of an example.
_EXAMPLE = 56
#: A command line of each verb, shown below its help.
EXAMPLES = {
    "estimate": "steelyard estimate llama-3.1-70b --on h100_sxm:8 --batch 32 --isl 4000 --osl 500",
    "fit": "steelyard fit llama-3.3-70b --max-usd-per-hour 8 --min-tokens-per-s 20 --context 32000",
    "here": "steelyard here --min-tokens-per-s 10",
    "simulate": "steelyard simulate llama-3.1-8b --on h100_sxm --rate 4/s --isl lognormal:1000 --osl 200",
    "advise": "steelyard advise llama-3.1-70b --on h100_sxm:8 --tp 8 --rate 10/s --isl 2000 --osl 200 --ttft p99:1s",
    "techniques": "steelyard techniques --layer kvcache",
    "claims": "steelyard claims S014 --explain",
    "plan": "steelyard plan llama-3.1-8b --on h100_sxm,l40s --rate 10/s --isl 1000 --osl 200 --ttft p99:1s --out plan",
    "plan_train": "steelyard plan llama-3.1-70b --train --on h100_sxm,b200_sxm --gbs 4Mtok --tokens 2T --by 30d",
    "search_chip": "steelyard search chip --space npu.toml --workloads resnet50,bert-base --area 25mm2 --power 2W",
    "train": "steelyard train llama-3.1-70b --on h100_sxm:64 --gbs 512 --seq 8192 --tp 8 --pp 4",
    "search_network": "steelyard search network --space ofa --on snapdragon_8_gen_2 --latency 1ms",
    "search_predictor": "steelyard search predictor --measured ten.csv --space nb201",
    "search_bits": "steelyard search bits resnet18 --on rk3588 --bits w4a8,8,16 --latency 4ms",
    "search_prune": "steelyard search prune resnet18 --on rk3588 --latency 1ms",
    "search_placement": "steelyard search placement resnet50 --on rk3588,jetson_orin_nano --link 4GB/s",
    "search_cost": "steelyard search cost --space fbnet --on v100_sxm_16gb:8 --candidates 1000 --epochs 90",
    "study": "steelyard study study.toml --jobs 4",
    "report": "steelyard report my-study --html report.html",
    "explain": "steelyard explain llama-3.1-8b --on h100_sxm --batch 16",
    "ls": "steelyard ls machines nvidia",
    "show": "steelyard show h100_sxm",
    "compare": "steelyard compare measured.json --model llama-3.1-8b --on h100_sxm",
    "serve": "steelyard serve --export page",
    "calibrate": "steelyard calibrate --here --quick",
    "validate": "steelyard validate --help",
    "version": "steelyard version --json",
}


def example(verb: str) -> str:
    """The example of a verb, in lines that can be pasted into a shell."""
    lines = [""]
    for part in EXAMPLES[verb].replace(" --", "\n--").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) >= _EXAMPLE:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return "Example:\n  " + " \\\n  ".join(lines)


def group(title: str) -> Group:
    """A heading of the help: a topic of fields, or one of this module."""
    return _GROUPS[title]


def option(help: str, *names: str, topic: str = OUTPUT) -> Parameter:  # noqa: A002 - cyclopts' own word
    """An option whose default is not worth showing."""
    return Parameter(name=names or None, negative_iterable="", help=help, show_default=False, group=group(topic))


def switch(name: str, help: str, topic: str = OUTPUT) -> Parameter:  # noqa: A002
    """An option that is on or off."""
    return Parameter(name=name, negative="", show_default=False, help=help, group=group(topic))


class Plain(PlainFormatter):
    """Cyclopts' plain help, whose lines it wraps twice: once for the description, then with the option before it."""

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """The usage as it is typed: what can be searched for is a word of its own."""
        typed = str(usage).replace("steelyard search_", "steelyard search ") if usage else usage
        super().render_usage(console, options, typed)

    def _format_command_entry(self, names: Any, shorts: Any, desc: str, console: Any) -> None:
        typed = ", ".join(names).replace("search_", "search ")
        super()._format_command_entry((typed,) if names else (), shorts, desc, console)

    def _format_parameter_entry(self, options: Any, desc: str, console: Any, entry: Any) -> None:
        shown = evolve(entry, default=None) if entry.default == '""' else entry
        super()._format_parameter_entry(options, desc, console, shown)

    def _print_plain(self, console: Any, text: str) -> None:
        indent = text[: len(text) - len(text.lstrip(" "))]
        for i, paragraph in enumerate(text.split("\n\n")):
            lines = textwrap.fill(
                " ".join(paragraph.split()),
                max(40, console.width),
                initial_indent=indent,
                subsequent_indent=f"{indent}    " if indent else "",
                break_long_words=False,
                break_on_hyphens=False,
            )
            super()._print_plain(console, f"\n{lines}" if i else lines)
