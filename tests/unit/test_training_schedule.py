"""Pipeline schedules: tables that play, bubbles and memory as in the papers."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.errors import InputError, UnknownName
from steelyard.training.schedule import SCHEDULES, Played, Table, bubble_s, in_flight, play, schedule_table
from steelyard.training.schedule_tables import BOTH, FORWARD, INPUT, NONE, WEIGHT

#: Schedule, stages, micro-batches, chunks.
SIZES = [
    (name, p, 2 * p * k, v)
    for name, schedule in SCHEDULES.items()
    for p in (1, 2, 3, 4, 8)
    if not (schedule.even and p % 2)
    for k in (1, 2)
    for v in ((1, 3) if name == "interleaved" else (1,))
] + [("interleaved", 4, m, v) for m in (2, 5, 11) for v in (2, 3)]


def unequal(table: Table, seed: int = 0) -> Played:
    """A table played with times that have nothing in common."""
    rng = np.random.default_rng(seed)
    f, b, w = rng.uniform(0.5, 2.0, (3, table.positions))
    return play(table, f, b, w, rng.uniform(0.0, 0.3, max(table.positions - 1, 0)))


@pytest.mark.parametrize(("name", "p", "m", "v"), SIZES)
def test_every_micro_batch_passes_every_piece_once_in_each_direction(name: str, p: int, m: int, v: int) -> None:
    table = schedule_table(name, p, m, v)
    way = table.way[np.arange(p)[:, None], table.chunk]
    position = table.position[np.arange(p)[:, None], table.chunk]
    for kinds in ((FORWARD,), (INPUT, BOTH), (WEIGHT, BOTH)):
        mine = np.isin(table.kind, kinds)
        passes = np.stack([way[mine], position[mine], table.micro_batch[mine]])
        assert len(np.unique(passes, axis=1).T) == mine.sum() == m * table.positions


@pytest.mark.parametrize(("name", "p", "m", "v"), SIZES)
def test_no_pass_begins_before_its_input_nor_beside_another(name: str, p: int, m: int, v: int) -> None:
    table = schedule_table(name, p, m, v)
    played = unequal(table)
    rows = np.arange(p)[:, None]
    at = table.way[rows, table.chunk], table.position[rows, table.chunk], table.micro_batch
    begin, end = np.full((2, 4, table.copies, table.positions, m // table.copies), np.nan)
    for kind in (FORWARD, INPUT, WEIGHT, BOTH):
        mine = table.kind == kind
        where = tuple(x[mine] for x in at)
        begin[kind][where], end[kind][where] = played.begin_s[mine], played.end_s[mine]
    back_begin = np.where(np.isnan(begin[BOTH]), begin[INPUT], begin[BOTH])
    back_end = np.where(np.isnan(end[BOTH]), end[INPUT], end[BOTH])
    assert np.all(begin[FORWARD][:, 1:] >= end[FORWARD][:, :-1])
    assert np.all(back_begin[:, :-1] >= back_end[:, 1:])
    assert np.all(back_begin >= end[FORWARD])
    late = ~np.isnan(begin[WEIGHT])
    assert np.all(begin[WEIGHT][late] >= end[INPUT][late])
    for s in range(p):
        used = table.kind[s] != NONE
        first, last, joined = played.begin_s[s, used], played.end_s[s, used], table.joined[s, used]
        assert np.all(np.where(joined[:-1], first[1:] == first[:-1], first[1:] >= last[:-1]))


@pytest.mark.parametrize(("name", "p", "m", "v"), SIZES)
def test_stages_compute_what_they_have_to(name: str, p: int, m: int, v: int) -> None:
    played = play(schedule_table(name, p, m, v), 1.0, 1.5, 0.7)
    assert played.busy_s == pytest.approx(np.full(p, m * 3.2))
    assert np.all(played.idle_s >= -1e-9)
    assert played.makespan_s >= played.step_s >= m * 3.2 - 1e-9


@pytest.mark.parametrize(("name", "p", "m", "v"), SIZES)
@pytest.mark.parametrize("times", [(1.0, 1.0, 1.0), (1.9, 0.6, 1.3), (0.6, 1.8, 1.1), (1.0, 1.3, 0.6)])
def test_the_closed_form_is_what_is_played(
    name: str, p: int, m: int, v: int, times: tuple[float, float, float]
) -> None:
    played = play(schedule_table(name, p, m, v), *times)
    step_s = m * sum(times) + float(bubble_s(name, p, m, v, *times))
    exact = name in ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2") or (times == (1, 1, 1) and name != "chimera")
    assert step_s == pytest.approx(played.step_s, rel=1e-12 if exact else 0.1)


@pytest.mark.parametrize(("name", "p", "m", "v"), SIZES)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_what_a_stage_holds_is_that_of_its_table(name: str, p: int, m: int, v: int, share: float) -> None:
    table = schedule_table(name, p, m, v)
    assert table.in_flight(share) == pytest.approx(in_flight(name, p, m, v, np.arange(p), share))


def test_memory_and_bubbles_of_the_papers() -> None:
    p, m, f = 8, 32, 1.0
    one = play(schedule_table("1f1b", p, m), f, f, f)
    assert one.bubble_frac == pytest.approx((p - 1) / (m + p - 1))
    assert schedule_table("zb-h1", p, m).in_flight().max() == one.in_flight.max() == p
    assert play(schedule_table("zb-h1", p, m), f, f, f).idle_s == pytest.approx(np.full(p, one.idle_s[0] / 3))
    assert schedule_table("zb-h2", p, m).in_flight(1.0) == pytest.approx(np.full(p, 2 * p - 1))
    assert schedule_table("zb-v", p, m).in_flight(1.0) == pytest.approx(np.full(p, p))
    for name in ("zb-h2", "zb-v"):
        assert play(schedule_table(name, p, m), f, f, f).bubble_frac == pytest.approx(0.0, abs=1e-12)
    assert schedule_table("dualpipe", p, m).in_flight() == pytest.approx(np.full(p, p + 1))
    assert schedule_table("dualpipe", p, m).copies == 2


def test_chimera_of_one_group_has_the_bubble_of_its_paper() -> None:
    """D - 2 passes where both directions take as long; from D/2 + 1 micro-batches held to D."""
    for p in (2, 4, 8, 16):
        table = schedule_table("chimera", p, p)
        assert play(table, 1.0, 0.5, 0.5).makespan_s == 2 * p + p - 2
        assert play(table, 1.0, 1.0, 1.0).makespan_s == 3 * p + 2 * (p - 2)
        assert (table.in_flight().min(), table.in_flight().max()) == (p // 2 + 1, p)


def test_sends_are_paid_between_stages_and_not_on_one() -> None:
    flat = play(schedule_table("gpipe", 4, 1), 1.0, 1.0, 1.0, send_s=0.25)
    assert flat.makespan_s == 4 * 3 + 2 * 3 * 0.25
    folded = play(schedule_table("zb-v", 4, 1), 2.0, 1.0, 1.0, send_s=0.25)
    weights_s = 0.5 + 0.5  # of the middle stage's second half before its first, of the first stage at the end
    assert folded.makespan_s == pytest.approx(8 + 4 + weights_s + 2 * 6 * 0.25)


def test_unequal_stages_are_as_slow_as_the_slowest() -> None:
    stages = np.array([1.0, 1.0, 2.0, 1.0])
    played = play(schedule_table("1f1b", 4, 64), stages, stages, stages)
    assert played.busy_s == pytest.approx(64 * 3 * stages)
    assert 64 * 6 < played.makespan_s < 64 * 6 + 4 * 6
    by_position = play(schedule_table("interleaved", 2, 4, 2), [1.0, 2.0, 3.0, 4.0], 0.0)
    assert by_position.busy_s == pytest.approx([4 * (1 + 3), 4 * (2 + 4)])


def test_passes_side_by_side_take_what_is_said() -> None:
    table = schedule_table("dualpipe", 4, 16)
    apart, beside = play(table, 1.0, 1.0, 1.0), play(table, 1.0, 1.0, 1.0, both_s=2.4)
    assert beside.makespan_s < apart.makespan_s
    pairs = table.joined.sum(axis=1)
    assert apart.busy_s - beside.busy_s == pytest.approx(0.6 * pairs)


def test_layouts_are_priced_together() -> None:
    p, m = np.array([1, 2, 4, 8]), np.array([64, 64, 32, 16])
    assert bubble_s("1f1b", p, m, f=1.0, b=1.0, w=1.0) == pytest.approx(3.0 * (p - 1))
    assert in_flight("1f1b", p, m) == pytest.approx(p)
    assert in_flight("gpipe", p, m) == pytest.approx(m)


def test_a_table_that_does_not_exist_is_refused_in_one_message() -> None:
    with pytest.raises(UnknownName, match="1f1b"):
        schedule_table("1f1", 4, 8)
    with pytest.raises(InputError, match="even number of stages"):
        schedule_table("chimera", 3, 8)
    with pytest.raises(InputError, match="at least 8 micro-batches, got 6"):
        schedule_table("dualpipe", 4, 6)
    with pytest.raises(InputError, match="interleaved takes any"):
        schedule_table("1f1b", 4, 8, 3)
    with pytest.raises(InputError, match="fewer micro-batches"):
        schedule_table("1f1b", 64, 1_000_000)
    with pytest.raises(InputError, match="forward_s"):
        play(schedule_table("1f1b", 4, 8), [1.0, 2.0], 1.0)
    with pytest.raises(InputError, match="at least 0 s"):
        play(schedule_table("1f1b", 4, 8), -1.0, 1.0)
