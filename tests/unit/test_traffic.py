"""Traffic that is drawn: lengths, arrivals, conversations, workflows, and what can be done to a trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.traffic import Trace, Traffic, parse_arrivals, parse_lengths, traffic
from steelyard.traffic.arrivals import parse_rate
from steelyard.traffic.lengths import SIGMA
from steelyard.traffic.sessions import BLOCK_TOKENS, conversations, read_workflow, workflows


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


# Traces


def test_a_trace_sorts_and_says_so() -> None:
    t = Trace(
        np.array([2.0, 0.0, 1.0]),
        np.array([30, 10, 20]),
        np.array([3, 1, 2]),
        prefix_hashes=np.array([7, 8, 5, 6]),
        prefix_offsets=np.array([0, 2, 3, 4]),
        prefix_block_tokens=16,
    )
    assert t.arrived_at.tolist() == [0.0, 1.0, 2.0]
    assert (t.isl.tolist(), t.osl.tolist()) == ([10, 20, 30], [1, 2, 3])
    assert t.prefix_hashes is not None and t.prefix_offsets is not None
    assert (t.prefix_hashes.tolist(), t.prefix_offsets.tolist()) == ([5, 6, 7, 8], [0, 1, 2, 4])
    assert "sorted" in t.notes[0]


def test_every_problem_of_a_trace_is_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Trace(np.array([0.0, np.nan]), np.array([0, 5]), np.array([1.5, -2]), deadline_s=np.array([0.0, 1.0]))
    fields = [p.field for p in caught.value.problems]
    assert sorted(fields) == ["arrived_at", "deadline_s", "isl", "osl"]
    assert "got 0 (requests 0)" in str(caught.value)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), 1.5, 2e8])
def test_bad_lengths_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="isl"):
        Trace(np.zeros(2), np.array([5, bad]), np.array([1, 1]))


def test_empty_and_uneven_traces_are_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        Trace(np.zeros(0), np.zeros(0), np.zeros(0))
    with pytest.raises(InputError, match="2 entries for 3 requests"):
        Trace(np.zeros(2), np.ones(3), np.ones(3))
    with pytest.raises(InputError, match="waits for itself or a later one"):
        Trace(np.zeros(2), np.ones(2), np.ones(2), after=np.array([1]), after_offsets=np.array([0, 1, 1]))


def test_scaling_slicing_and_the_first_requests() -> None:
    t = Trace(np.arange(10.0) + 5, np.arange(1, 11), np.ones(10))
    assert np.allclose(np.diff(t.scaled(4).arrived_at), 0.25)
    cut = t.between(2, 5)
    assert cut.isl.tolist() == [3, 4, 5]
    assert cut.arrived_at.tolist() == [0.0, 1.0, 2.0]
    assert len(t.first(3)) == 3
    assert "has 10" in t.first(50).notes[0]
    with pytest.raises(InputError, match="no request arrives"):
        t.between(20, 30)
    with pytest.raises(InputError, match="factor above 0"):
        t.scaled(0)
    with pytest.raises(InputError, match="arrived_at"):  # and no warning of an overflow
        t.scaled(5e-324)
    closed = t.closed_loop(4, think_s=2.0)
    assert closed.closed and closed.concurrency == 4 and closed.delay_s is not None and closed.delay_s[0] == 2.0
    with pytest.raises(InputError, match="no arrival rate"):
        closed.scaled(2)


# Lengths


@pytest.mark.parametrize(
    ("text", "mean", "low", "high"),
    [
        ("2000", 2000, 2000, 2000),
        ("4k", 4000, 4000, 4000),
        ("uniform:2000-6000", 4000, 2000, 6000),
        ("uniform:0.8-1.0x4000", 3600, 3200, 4000),
        ("lognormal:600", 600, 1, 10**8),
        ("lognormal:600,sigma=0.3", 600, 1, 10**8),
        ("lognormal:600,0.3", 600, 1, 10**8),
        ("normal:600,sd=50", 600, 1, 1200),
    ],
)
def test_lengths_have_the_mean_asked_for(text: str, mean: float, low: int, high: int) -> None:
    drawn = parse_lengths(text, "isl").draw(200_000, _rng())
    assert drawn.dtype == np.int64
    assert drawn.min() >= low
    assert drawn.max() <= high
    assert abs(drawn.mean() / mean - 1) < 0.01


def test_the_default_sigma_of_the_lognormal() -> None:
    drawn = parse_lengths("lognormal:600", "osl").draw(200_000, _rng())
    assert np.log(drawn).std() == pytest.approx(SIGMA, abs=0.01)
    assert parse_lengths("lognormal:600,max=700").draw(1000, _rng()).max() == 700


def test_a_uniform_range_includes_both_ends() -> None:
    assert set(parse_lengths("uniform:3-5").draw(1000, _rng()).tolist()) == {3, 4, 5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected tokens"),
        ("0", "from 1 to"),
        ("-5", "from 1 to"),
        ("1.5", "from 1 to"),
        ("many", "expected tokens"),
        ("nan", "expected tokens"),
        ("unifrom:1-2", "did you mean 'uniform'"),
        ("uniform:5-2", "1 <= low <= high"),
        ("uniform:5", "uniform:LOW-HIGH"),
        ("uniform:1.0-0.8x4000", "empty"),
        ("lognormal:600,sigma=-1", "sigma from 0 to 5"),
        ("lognormal:600,median=3", "known: sigma, max"),
        ("normal:600", "sd=TOKENS"),
        ("file:nothing.csv", "no file"),
    ],
)
def test_bad_lengths_grammar(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_lengths(text, "isl")
    assert len(caught.value.problems) == 1


def test_lengths_from_a_column(tmp_path: Path) -> None:
    file = tmp_path / "l.csv"
    file.write_text("a,b\n10,1\n20,2\n")
    assert set(parse_lengths(f"file:{file}#a").draw(100, _rng()).tolist()) == {10, 20}
    with pytest.raises(InputError, match="no column 'c'"):
        parse_lengths(f"file:{file}#c")
    file.write_text("a,b\n10,1\n-20,2\n")
    with pytest.raises(InputError, match=r"line 3: expected a whole number of at least 1, got '-20'"):
        parse_lengths(f"file:{file}#a")
    file.write_text("a,b\n10,1\nx,2\n")
    with pytest.raises(InputError, match="line 3"):
        parse_lengths(f"file:{file}#a")


# Arrivals


@pytest.mark.parametrize(
    ("kind", "cv"),
    [("constant", 0.0), ("poisson", 1.0), ("gamma:cv=0.5", 0.5), ("gamma:cv=3", 3.0)],
)
def test_gaps_have_their_mean_and_variation(kind: str, cv: float) -> None:
    gaps = np.diff(parse_arrivals(kind, 4.0).draw(400_000, _rng()))
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.05)


@pytest.mark.parametrize("kind", ["onoff:on=10s,off=30s", "diurnal:peak=1.8,period=1000s"])
def test_phases_keep_the_mean_rate(kind: str) -> None:
    times = parse_arrivals(kind, 5.0).draw(300_000, _rng())
    assert np.all(np.diff(times) >= 0)
    assert len(times) / times[-1] == pytest.approx(5.0, rel=0.06)  # 1,500 on-off cycles: one sigma is 3 %


def test_onoff_is_silent_while_off_and_fast_while_on() -> None:
    times = parse_arrivals("onoff:on=10s,off=30s", 5.0).draw(100_000, _rng())
    gaps = np.diff(times)
    assert np.median(gaps) == pytest.approx(np.log(2) / 20, rel=0.05)  # 20/s while on
    assert gaps[gaps > 2].mean() == pytest.approx(30, rel=0.15)  # the pauses (an exponential beyond 2 s is 2 s longer)


def test_the_day_peaks_where_the_sine_does() -> None:
    times = parse_arrivals("diurnal:peak=1.8,period=1000s", 50.0).draw(200_000, _rng())
    phase = times % 1000
    crest, trough = (np.sum((phase > a) & (phase < a + 100)) for a in (200, 700))
    assert crest / trough == pytest.approx(1.8 / 0.2, rel=0.25)


def test_arrivals_for_a_duration_are_the_head_of_the_longer_draw() -> None:
    arrivals = parse_arrivals("poisson", 100.0)
    times = arrivals.draw_until(100.0, _rng())
    assert times[-1] < 100
    assert len(times) == pytest.approx(10_000, rel=0.05)
    with pytest.raises(InputError, match="no request arrives"):
        parse_arrivals("constant:", 1.0)  # a valid spelling
        parse_arrivals("poisson", 1e-9).draw_until(1.0, _rng())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("poison", "did you mean 'poisson'"),
        ("gamma", "needs cv="),
        ("gamma:cv=-1", "cv above 0"),
        ("onoff:on=10s", "needs off="),
        ("onoff:on=0s,off=1s", "on above 0"),
        ("diurnal:peak=3", "at most 2"),
        ("poisson:cv=2", "known: none"),
        ("gamma:cv=x", "number"),
    ],
)
def test_bad_arrivals(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_arrivals(text, 1.0)


@pytest.mark.parametrize(("text", "rate"), [("4/s", 4), ("4", 4), ("240/min", 4), ("3600/h", 1), ("2.5 rps", 2.5)])
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["0/s", "-1", "nan", "-inf", "fast", "4/day", "1e12"])
def test_bad_rates(text: str) -> None:
    with pytest.raises(InputError, match="rate"):
        parse_rate(text)


# Conversations and workflows


def test_conversations_grow_and_share_their_history() -> None:
    made = conversations(
        np.array([0.0, 1.0]),
        turns=parse_lengths("3"),
        prompt=parse_lengths("100"),
        output=parse_lengths("50"),
        think_s=5.0,
        rng=_rng(),
        system_tokens=256,
    )
    assert made.isl.tolist() == [356, 506, 656] * 2
    assert made.after is not None and made.after_offsets is not None and made.delay_s is not None
    assert made.after.tolist() == [0, 1, 3, 4]
    assert made.after_offsets.tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert made.delay_s[0] == 0 and made.delay_s[1] > 0
    assert made.session is not None and made.session.tolist() == [0, 0, 0, 1, 1, 1]
    assert made.prefix_hashes is not None and made.prefix_offsets is not None
    blocks = [
        set(made.prefix_hashes[a:b].tolist())
        for a, b in zip(made.prefix_offsets, made.prefix_offsets[1:], strict=False)
    ]
    assert [len(b) for b in blocks[:3]] == [356 // BLOCK_TOKENS, 506 // BLOCK_TOKENS, 656 // BLOCK_TOKENS]
    assert blocks[0] < blocks[1] < blocks[2]
    assert len(blocks[0] & blocks[3]) == 256 // BLOCK_TOKENS  # only the system prompt is common


def test_a_workflow_waits_for_its_calls(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(
        '[[call]]\nname="plan"\nisl=100\nosl=20\n'
        '[[call]]\nname="search"\nafter="plan"\ncount=2\ndelay="2s"\nisl=50\nosl=30\n'
        '[[call]]\nname="write"\nafter=["search"]\nisl=10\nosl=5\ncarry=true\n'
    )
    name, calls = read_workflow(file)
    made = workflows(np.array([0.0, 9.0]), calls, _rng(), name)
    assert made.isl.tolist() == [100, 50, 50, 10 + 60] * 2
    assert made.after is not None and made.after_offsets is not None and made.delay_s is not None
    assert made.after.tolist() == [0, 0, 1, 2, 4, 4, 5, 6]
    assert made.after_offsets.tolist() == [0, 0, 1, 2, 4, 4, 5, 6, 8]
    assert made.delay_s.tolist() == [0, 2, 2, 0] * 2
    half = made.first(6)
    assert half.after is not None and half.after.tolist() == [0, 0, 1, 2, 4]


def test_a_bad_workflow_names_every_field(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text('[[call]]\nname="a"\nisl=0\ncuont=2\n[[call]]\nname="b"\nafter=["c"]\nisl=1\nosl=1\ndelay="-1s"\n')
    with pytest.raises(InputError) as caught:
        read_workflow(file)
    text = str(caught.value)
    for words in (
        "call[0].cuont: unknown field; did you mean 'count'",
        "call[0].isl",
        "call[0].osl",
        "'c' is not an earlier call",
        "call[1].delay",
    ):
        assert words in text


# From words to a trace


def test_the_same_seed_gives_the_same_bytes() -> None:
    asked = Traffic(rate="4/s", isl="lognormal:500", osl="uniform:1-100", requests=500, burst=2.0, seed=3)
    a, b = traffic(asked), traffic(asked)
    assert a.arrived_at.tobytes() == b.arrived_at.tobytes()
    assert a.isl.tobytes() == b.isl.tobytes()
    other = traffic(Traffic(rate="4/s", isl="lognormal:500", requests=500, burst=2.0, seed=4))
    assert other.arrived_at.tobytes() != a.arrived_at.tobytes()


def test_defaults_and_closed_loops() -> None:
    assert len(traffic(Traffic(rate="4"))) == 1000
    loop = traffic(Traffic(concurrency=8, think="1s", isl="uniform:0.8-1.0x1000", osl=10))
    assert (len(loop), loop.concurrency) == (80, 8)
    assert loop.delay_s is not None and loop.delay_s[5] == 1.0


def test_duration_peak_and_conversations() -> None:
    made = traffic(Traffic(rate="10/s", duration="1min", peak="3x"))
    assert made.duration_s < 20
    assert made.rate_per_s == pytest.approx(30, rel=0.15)
    talk = traffic(Traffic(rate="1/s", turns="uniform:1-9", think="5s", requests=200))
    assert len(talk) == 200
    assert talk.after is not None


def test_a_trace_gives_only_its_lengths_when_a_rate_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,10\n1,200,20\n2,300,30\n")
    made = traffic(Traffic(trace=file, rate="100/s"))
    assert made.isl.tolist() == [100, 200, 300]
    assert made.duration_s < 1
    more = traffic(Traffic(trace=file, concurrency=2, requests=50))
    assert len(more) == 50
    assert np.array_equal(more.isl, more.osl * 10)  # pairs stay together
    assert "with replacement" in more.notes[0]
    assert traffic(Traffic(trace=file, start="1s")).isl.tolist() == [200, 300]
    assert traffic(Traffic(trace=file, duration="1.5s")).isl.tolist() == [100, 200]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Traffic(), "rate"),
        (Traffic(rate="0"), "rate"),
        (Traffic(rate="4", concurrency=3), "concurrency"),
        (Traffic(concurrency=0), "concurrency"),
        (Traffic(concurrency=3, duration="1s"), "duration"),
        (Traffic(concurrency=3, peak="2x"), "peak"),
        (Traffic(rate="4", peak="0x"), "peak"),
        (Traffic(rate="4", requests=0), "requests"),
        (Traffic(rate="4", duration="0s"), "duration"),
        (Traffic(rate="4", think="1s"), "think"),
        (Traffic(rate="4", burst=2.0, arrivals="diurnal"), "burst"),
        (Traffic(turns="4"), "rate"),
        (Traffic(workflow="x.toml"), "rate"),
        (Traffic(rate="4", seed=-1), "seed"),
        (Traffic(concurrency=3, burst=2.0), "burst"),
    ],
)
def test_options_that_make_no_sense(asked: Traffic, field: str) -> None:
    with pytest.raises(InputError) as caught:
        traffic(asked)
    assert field in [p.field for p in caught.value.problems] or caught.value.field == field


def test_all_problems_of_the_options_at_once() -> None:
    with pytest.raises(InputError) as caught:
        traffic(Traffic(rate="0", isl="many", osl="0", peak="-1x", requests=-3))
    assert {"rate", "isl", "osl", "peak", "requests"} <= {p.field for p in caught.value.problems}


def test_workflows_of_a_catalogue_go_by_their_names() -> None:
    name, calls = read_workflow("react")
    assert (name, len(calls), calls[-1].carry) == ("react", 9, "all")
    assert [c.name for c in read_workflow("plan-and-join")[1]] == ["plan", "join"]
    with pytest.raises(InputError, match="no file at"):
        read_workflow("no-such-workflow")
