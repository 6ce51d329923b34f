"""``python docs/_make/gallery.py [NAME...]``: the pictures of the gallery, from the library's own answers.

Each function asks one question and draws its answer; its name is that of the page and of the picture. Two runs write
the same bytes. Colours are named in the picture, so that it follows the reader's light or dark.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

import steelyard as sy

IMAGES = Path(__file__).parents[1] / "gallery/img"
#: By the colour matplotlib draws: the name in the picture, and what it is on dark.
COLOURS = {
    "#1b2330": ("ink", "#e9edf3"),
    "#5b6575": ("soft", "#a3aebd"),
    "#dde2e9": ("line", "#303947"),
    "#fefefe": ("page", "#131820"),
    "#b3261e": ("bad", "#ff9a90"),
    "#1f6fb4": ("c0", "#6db3f2"),
    "#c8660a": ("c1", "#f2a65a"),
    "#2f7d4f": ("c2", "#74c795"),
    "#8a3fb0": ("c3", "#cf97ea"),
    "#a8324a": ("c4", "#f08a9c"),
}
INK, SOFT, LINE, PAGE, BAD, *SERIES = COLOURS
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "steelyard",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "figure.facecolor": PAGE,
    "axes.facecolor": PAGE,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
PLAIN = FuncFormatter(lambda x, _: f"{x:,.10g}")


def gpu_for_70b() -> Axes:
    """The cheapest deployment of each machine that holds an SLO, by the chance that it does."""
    machines = ("mi300x", "b200_sxm", "h200_sxm", "h100_sxm", "a100_sxm")
    ax = axes("Rent of the cheapest fleet that holds it, by the chance that it does", height=2.9)
    for i, machine in enumerate(machines):
        words = {"rate": "5/s", "isl": 2000, "osl": 300, "ttft": "p95:1s", "tpot": "p95:50ms", "formats": "any"}
        answer = sy.plan("llama-3.1-70b", machine, **words)
        rents = {chance: c.rent_usd_per_hour for chance, c in answer.certainty.items() if c}
        if not rents:
            ax.text(0.4, i, "does not hold it", va="center", color=SOFT)
            continue
        ax.plot([*rents.values()], [i] * len(rents), color=LINE, lw=5, solid_capstyle="round", zorder=1)
        for k, (chance, rent) in enumerate(rents.items()):
            ax.plot(rent, i, "o", color=SERIES[k], label=f"{chance:.0%}" if i == 0 else None)
    ax.set_yticks(range(len(machines)), machines)
    ax.invert_yaxis()
    ax.set(xlabel="USD per hour", xlim=(0, None))
    ax.grid(visible=False, axis="y")
    legend(ax)
    return ax


def my_laptop() -> Axes:
    """Tokens per second of one user on computers people have, with the interval."""
    where = {
        "m4 24GB": "MacBook, M4, 24 GB",
        "m4_pro": "MacBook Pro, M4 Pro",
        "m4_max": "MacBook Pro, M4 Max",
        "strix_halo": "Ryzen AI Max+ 395",
        "rtx_4070 --": "RTX 4070, experts in host memory",
    }
    ax = axes("Qwen3-30B-A3B in 4 bits: tokens/s for one user, 80 % interval", height=2.7)
    for i, on in enumerate(where):
        offload = {"offload": "experts:36"} if on.endswith("--") else {}
        e = sy.estimate("qwen3-30b-a3b", on.removesuffix(" --"), weights="q4_k_m", isl=2000, osl=500, **offload)
        low, high = (1 / x for x in reversed(e.interval["tpot_s"]))
        if not e.fits:
            ax.text(2, i, "does not fit", va="center", color=BAD)
            continue
        spread(ax, i, 1 / e.tpot_s, low, high, SERIES[0])
    ax.set_yticks(range(len(where)), where.values())
    ax.invert_yaxis()
    ax.set(xlim=(0, None), xlabel="tokens/s")
    ax.grid(visible=False, axis="y")
    return ax


def moe_on_8() -> Axes:
    """Speed for a user against tokens of a device over the batch."""
    ax = axes("DeepSeek-V3 on eight cards: the batch trades a user's speed for tokens", height=3.4)
    for i, on in enumerate(("b200_sxm:8", "mi300x:8", "h200_sxm:8")):
        rows = study(model="deepseek-v3", isl=2000, osl=500, on=on, grid={"batch": "1-256*2"})
        x = [row["tokens_per_s_per_user"] for row in rows]
        y = [row["tokens_per_s_per_device"] for row in rows]
        ax.plot(x, y, "o-", ms=3.5, color=SERIES[i], label=on)
        if i == 0:
            for k in (0, 4, 8):
                ax.annotate(f"batch {2**k}", (x[k], y[k]), (6, 4), textcoords="offset points", color=SOFT, fontsize=8)
    ax.set(xlabel="tokens/s of one user", ylabel="tokens/s of a device", xlim=(0, None), ylim=(0, None))
    legend(ax)
    return ax


def long_context() -> Axes:
    """Memory of a device by part over the batch, at two widths of the cache."""
    ax = axes("Llama-3.1-70B at 128,000 tokens on four H100: memory of a device", height=3.2)
    names = []
    parts = {"weights": SERIES[0], "kv_cache": SERIES[1], "activations": SERIES[2], "other": SERIES[3]}
    fixed = {"model": "llama-3.1-70b", "on": "h100_sxm:4", "tp": 4, "weights": "fp8", "isl": 128000, "osl": 500}
    rows = [(kv, row) for kv in ("bf16", "fp8") for row in study(**fixed, kv=kv, grid={"batch": "1-8*2"})]
    for i, (kv, row) in enumerate(rows):
        x, bottom = i + (i >= len(rows) / 2) * 0.6, 0.0
        for part, colour in parts.items():
            size = row[f"memory_{part}_bytes"] / 2**30
            label = part.replace("_", " ").replace("kv", "KV") if i == 0 else None
            ax.bar(x, size, 0.7, bottom, color=colour, label=label)
            bottom += size
        names.append((x, f"{row['batch']}\n{kv}"))
    usable = rows[0][1]["memory_capacity_bytes"] / 2**30
    ax.axhline(usable, color=BAD, lw=1.2)
    ax.text(0.0, usable, "usable", color=BAD, ha="left", va="bottom", transform=ax.get_yaxis_transform())
    ax.set_xticks(*zip(*names, strict=True))
    ax.set(ylabel="GiB", xlabel="requests at once, format of the cache")
    ax.grid(visible=False, axis="x")
    legend(ax)
    return ax


def speculation() -> Axes:
    """Time per token over the clients, with and without guesses."""
    ax = axes("Llama-3.1-70B on four H100: what guessing ahead brings, by load", height=3.2)
    clients = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    for i, (label, more) in enumerate({"plain": {}, "EAGLE, 4 guesses": {"speculate": "eagle:k=4"}}.items()):
        tpot = []
        for n in clients:
            words = {"on": "h100_sxm:4", "tp": 4, "weights": "fp8", "concurrency": n, "isl": 1000, "osl": 300}
            run = sy.simulate("llama-3.1-70b", **words, requests=4 * n, **more)
            tpot.append(1e3 * run.summary()["tpot_s"]["mean"])
        ax.plot(clients, tpot, "o-", ms=3.5, color=SERIES[i], label=label)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="clients at once", ylabel="time per token, ms", ylim=(0, None))
    plain(ax.xaxis, clients)
    legend(ax)
    return ax


def fp8_or_int4() -> Axes:
    """Tokens per second over the batch by the format of the weights."""
    ax = axes("Llama-3.1-8B on an L40S: tokens/s by format of the weights", height=3.2)
    for i, weights in enumerate(("bf16", "fp8", "int4")):
        rows = study(model="llama-3.1-8b", on="l40s", weights=weights, isl=1000, osl=300, grid={"batch": "1-128*2"})
        fits = [row for row in rows if row["fits"]]
        x = [row["batch"] for row in fits]
        ax.plot(x, [row["tokens_per_s"] for row in fits], "o-", ms=3.5, color=SERIES[i], label=weights)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="requests at once", ylabel="tokens/s", ylim=(0, None))
    plain(ax.xaxis, [2**k for k in range(8)])
    legend(ax)
    return ax


def train_8b() -> Axes:
    """Days and money of a run over the number of devices, with the spread of runs."""
    ax = axes("Llama-3.1-8B on a trillion tokens: when it ends, and what it costs", height=3.2)
    for i, machine in enumerate(("h100_sxm", "b200_sxm")):
        days, usd = [], []
        for count in (64, 128, 256, 512):
            t = sy.train("llama-3.1-8b", f"{machine}:{count}", gbs="4Mtok", seq=8192, tokens="1T", failures="llama3")
            run = t.to_dict()["run"]
            days.append(run["days"])
            usd.append(run["usd"]["p50"] / 1e3)
            ax.plot([run["days"]["p10"], run["days"]["p90"]], [usd[-1]] * 2, color=SERIES[i], lw=5, alpha=0.3)
        x = [d["p50"] for d in days]
        ax.plot(x, usd, "o-", ms=4, color=SERIES[i], label=machine)
        for k, count in enumerate((64, 128, 256, 512)):
            note(ax, f"{count}", x[k], usd[k])
    ax.set_xscale("log")
    ax.set(xlabel="days, 10 to 90 % of runs end within the band", ylabel="thousand USD", ylim=(0, None))
    plain(ax.xaxis, (1, 2, 5, 10, 20))
    legend(ax)
    return ax


def finetune_4090() -> Axes:
    """Memory by part of three ways to fine-tune."""
    ax = axes("Fine-tuning Llama-3.1-8B on one RTX 4090: memory by part", height=2.6)
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
    colours = [*SERIES, SOFT]
    tasks = {"sft": "all weights", "lora": "LoRA, weights in 16 bits", "qlora": "QLoRA, weights in 4 bits"}
    for i, task in enumerate(tasks):
        answer = sy.train("llama-3.1-8b", "rtx_4090", task=task, mbs=1, seq=2048)
        stage = answer.to_dict()["memory_bytes"][0]
        left = 0.0
        for part, colour in zip(parts, colours, strict=True):
            ax.barh(i, stage[part] / 2**30, 0.6, left, color=colour, label=part if i == 0 else None)
            left += stage[part] / 2**30
        rest = stage["reserved"] / 2**30 - left
        ax.barh(i, rest, 0.6, left, color=LINE, label="allocator, driver" if i == 0 else None)
        usable = stage["capacity"] / 2**30
    ax.axvline(usable, color=BAD, lw=1.2)
    ax.set_yticks(range(len(tasks)), tasks.values())
    ax.invert_yaxis()
    ax.set(xlabel="GiB; the line is what the card has")
    ax.grid(visible=False, axis="y")
    legend(ax, columns=4)
    return ax


def resnet50_npu() -> Axes:
    """Latency of one image with its interval on small devices."""
    where = (
        "snapdragon_8_elite",
        "snapdragon_8_gen_3",
        "snapdragon_8_gen_1",
        "apple_a17_pro",
        "hailo8",
        "rk3588",
        "hailo8l",
        "rk3568",
        "coral_edge_tpu",
    )
    ax = axes("ResNet-50, one image: latency and its 80 % interval", height=3.4)
    for i, on in enumerate(where):
        e = sy.estimate("resnet50", on, batch=1)
        spread(ax, i, 1e3 * e.latency_s, *(1e3 * x for x in e.interval["latency_s"]), SERIES[0])
    ax.set_yticks(range(len(where)), where)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set(xlabel="ms")
    plain(ax.xaxis, (0.5, 1, 2, 5, 10, 20, 50, 100, 200))
    ax.grid(visible=False, axis="y")
    return ax


def diffusion() -> Axes:
    """Time of one picture over the devices that share it."""
    ax = axes("FLUX.1-dev, 1024 x 1024, 28 steps: one picture on one to eight cards", height=3.2)
    counts = (1, 2, 4, 8)
    for i, machine in enumerate(("h100_sxm", "a100_sxm")):
        words = {"steps": 28, "size": "1024x1024"}
        shared = {n: {"techniques": ["patch-parallel"]} if n > 1 else {} for n in counts}
        answers = [sy.estimate("flux.1-dev", f"{machine}:{n}", **words, **shared[n]) for n in counts]
        y = [e.latency_s for e in answers]
        low, high = zip(*(e.interval["latency_s"] for e in answers), strict=True)
        ax.fill_between(counts, low, high, color=SERIES[i], alpha=0.15, lw=0)
        ax.plot(counts, y, "o-", ms=3.5, color=SERIES[i], label=machine)
        ax.plot(counts, [y[0] / n for n in counts], ":", color=SERIES[i], lw=1)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set(xlabel="cards on one picture; dotted: if they shared it perfectly", ylabel="s")
    plain(ax.xaxis, counts)
    plain(ax.yaxis, (1, 2, 5, 10, 20, 50))
    legend(ax)
    return ax


QUESTIONS = (
    gpu_for_70b,
    my_laptop,
    moe_on_8,
    long_context,
    speculation,
    fp8_or_int4,
    train_8b,
    finetune_4090,
    resnet50_npu,
    diffusion,
)


def study(*, grid: dict[str, str], **fixed: Any) -> list[dict[str, Any]]:
    """The rows of a study of static batches; refused ones are left out."""
    found = sy.study({"name": "gallery", "kind": "estimate", "fixed": fixed, "grid": grid})
    return [dict(row.values) for row in found.rows if row.status == "ok"]


def axes(title: str, *, height: float) -> Axes:
    """Empty axes below a title."""
    figure, ax = plt.subplots(figsize=(6.6, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    ax.margins(y=0.12)
    return ax


def legend(ax: Axes, columns: int = 5) -> None:
    """Below the axes, in one line."""
    ax.figure.legend(loc="outside lower left", ncols=columns, handlelength=1.2, columnspacing=1.2)  # type: ignore[call-arg]


def spread(ax: Axes, y: float, value: float, low: float, high: float, colour: str) -> None:
    """A value with its interval, on a row."""
    ax.plot([low, high], [y, y], color=colour, lw=5, alpha=0.3, solid_capstyle="round")
    ax.plot(value, y, "o", color=colour, ms=5)
    note(ax, f"{value:.3g}", value, y)


def note(ax: Axes, text: str, x: float, y: float) -> None:
    """A word above a point."""
    ax.annotate(text, (x, y), (0, 6), textcoords="offset points", ha="center", color=SOFT, fontsize=8)


def plain(axis: Any, ticks: Iterable[float]) -> None:
    """Ticks of a logarithmic axis as numbers."""
    axis.set_ticks(list(ticks))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(mpl.ticker.NullLocator())


def written(ax: Axes, name: str) -> str:
    """The picture as SVG whose colours have names."""
    path = IMAGES / f"{name}.svg"
    ax.figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close("all")
    text = path.read_text(encoding="utf-8")
    for colour, (variable, _) in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    light = "".join(f"--{v}:{c};" for c, (v, _) in COLOURS.items())
    dark = "".join(f"--{v}:{c};" for v, c in COLOURS.values())
    dark = f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    style = f"<style>:root{{{light}}}{dark}text{{font-family:system-ui,sans-serif}}</style>"
    text = re.sub(r"(<svg [^>]*>)", rf"\1{style}", text, count=1)
    return re.sub(r"font: (\w+ )?([\d.]+)px [^;\"]*", r"font: \1\2px system-ui, sans-serif", text)


def main(names: Sequence[str]) -> None:
    """Draw the pictures, or those named."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for question in QUESTIONS:
        name = question.__name__.replace("_", "-")
        if not names or name in names:
            with plt.rc_context(STYLE):
                text = written(question(), name)
            (IMAGES / f"{name}.svg").write_text(text, encoding="utf-8")
            print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
