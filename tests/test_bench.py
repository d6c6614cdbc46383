"""The benchmark's parts, for a handful of calls: they count right, and what they saw becomes tables."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as program
from bench import gateways, profile, registry, report, run, upstream
from bench.awake import Awake
from bench.away import SLOW, Late, Left, Speed, Watch
from bench.gateways import ROOT, Gateway, PeerMissingError, Running
from bench.load import Job, Seen, _Run, body_of
from bench.measure import Bench, Figures, LostError, Pace, _Series, longest_ms, own_gaps
from bench.processes import Group, alone, can_pin, free_port, wait_for
from bench.upstream import REPLY
from bench.workloads import ALL, CHAT, PACED, SESSION, STREAM, Workload
from bursar.http.tally import GAP_SECONDS

FEW = [replace(workload, connections=4, most=8, pieces=1, own_pieces=1) for workload in ALL]
BRIEF = Pace(chats=16, warm_s=0.0)


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.measure._SETTLED_S", 0)


def test_every_workload_through_the_limit_and_bursar_is_counted_to_the_call(tmp_path: Path) -> None:
    told: list[str] = []
    bench = Bench(tmp_path, told.append, pace=BRIEF)
    try:
        made = run._measured(bench, [gateways.direct(), gateways.limit(), gateways.bursar()], FEW, 1)
    finally:
        bench.close()
    assert not made.missing
    for workload, by in made.figures.items():
        for name, figures in by.items():
            assert figures.failed == 0, (workload, name, figures.first_failure)
            assert figures.calls == 8
            assert (figures.cpu_us is None) is (name == "direct")
    assert made.ledger.is_green
    assert made.ledger.rows == made.ledger.calls > 10 * 8
    again = msgspec.json.decode(msgspec.json.encode(made), type=run.Report)
    text = report.markdown(again)
    for workload in made.figures:
        assert f"## {workload[0].upper()}{workload[1:]}" in text
    goals = {g.name: g for g in report.goals(again)}
    assert goals["rows ÷ calls, verify green"].reached
    assert goals["chat, CPU: LiteLLM ÷ bursar"].seen is None
    assert not goals["chat, CPU: LiteLLM ÷ bursar"].reached
    assert goals["bursar's calls that failed"].reached
    assert {name: once.cold_start_s is None for name, once in again.once.items()} == {
        "direct": True,  # it was there already
        "limit": False,
        "bursar": False,
    }
    # Of a whole run, what was not measured is missed too, unless the peer is known to be missing.
    assert not [line for line in report.missed(again, whole=False) if line.startswith("not measured")]
    again.missing = {"portkey": "there is no npm"}
    lines = report.missed(again, whole=True)
    assert "not measured: chat, CPU: LiteLLM ÷ bursar" in lines
    assert not [line for line in lines if "Portkey" in line]
    again.ledger.failed = 1
    assert "missed: bursar's calls that failed" in report.missed(again, whole=False)


def test_the_provider_listens_where_the_peers_were_told(tmp_path: Path) -> None:
    port = free_port()
    bench = Bench(tmp_path, lambda _text: None, port, pace=BRIEF)
    try:
        assert bench.upstream_port == port
        running = bench.begin(gateways.named(f"mine=http://127.0.0.1:{port}"))
        assert running is not None
        assert running.cold_start_s is None
        seen, _ = bench.calls(CHAT, running, 6)
        assert (seen.calls, seen.failed) == (6, 0)
    finally:
        bench.close()


def test_calls_with_a_session_of_their_own_each_have_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    try:
        running = bench.begin(gateways.bursar())
        assert running is not None
        for workload, calls in ((CHAT, 6), (SESSION, 6), (SESSION, 7)):
            seen, _ = bench.calls(workload, running, calls)
            assert (seen.calls, seen.failed) == (calls, 0)
        assert running.folder is not None
        with sqlite3.connect(running.folder / "data" / "bursar.db") as c:
            counted = c.execute("select count(session_id), count(distinct session_id) from ledger_entries").fetchone()
        assert counted == (13, 13)
    finally:
        bench.close()


def test_a_large_registry_is_filled_served_from_and_compared(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    try:
        running = bench.begin(gateways.full())
        assert running is not None
        seen, _ = bench.calls(CHAT, running, 8)
        assert (seen.calls, seen.failed) == (8, 0)
        assert running.folder is not None
        with sqlite3.connect(running.folder / "data" / "bursar.db") as c:
            counts = [
                c.execute(f"select count(*) from {t}").fetchone()[0]
                for t in ("llm_providers", "api_keys", "llm_prices")
            ]
            priced = c.execute(
                "select count(*) from ledger_entries where provider = 'p500' and cost_nanos is not null"
            ).fetchone()[0]
        assert counts == [registry.PROVIDERS, registry.KEYS + 1, registry.PRICES]  # and the one from the environment
        assert priced >= 8
    finally:
        bench.close()


def test_two_workers_are_measured_on_the_gateways_core_and_on_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.measure._ROUND_S", 0.0)
    monkeypatch.setattr(run, "_PIECES", 1)
    logs: dict[str, str] = {}

    def kept(bench: Bench, running: Running) -> None:
        assert running.log is not None
        logs[running.name] = running.log.read_text()
        ended(bench, running)

    ended = Bench.end
    monkeypatch.setattr(Bench, "end", kept)
    ledger = run.Ledger(calls=0, rows=0, is_green=True)
    made = run.Report(at="now", machine={}, pinned=True, rounds=1, figures={}, once={}, ledger=ledger)
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    try:
        run._workers(bench, made, 1)
    finally:
        bench.close()
    assert made.missing == bench.missing == {}
    assert ledger.is_green
    assert ledger.rows == ledger.calls > 4 * 64
    text = report.markdown(made)
    assert "A chat with two workers on the gateways' core, where one of them stands by: " in text
    assert "A chat with two workers of which both serve, with the load's core too, where it is in their way: " in text
    seen = {g.name: g.seen for g in report.goals(made)}
    assert seen["CPU: two workers ÷ one, one stands by"] == made.own["two workers ÷ one"] > 0
    assert seen["CPU: two workers ÷ one, the load's core too"] == made.own["two workers, two cores ÷ one"] > 0
    if can_pin():
        assert {name: "stand by" in log for name, log in logs.items()} == {
            "bursar": False,
            "bursar ×2": True,
            "bursar ×2, spread": False,
        }


def test_two_gateways_are_compared_in_pieces_right_after_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    bench = Bench(tmp_path, told.append, pace=BRIEF)
    seen: list[tuple[str, str]] = []
    cpu = iter([1.0, 8.0, 30.0, 2.0, 1.0, 3.0])  # limit, other; other, limit; limit, other
    measure = bench._measure

    def measured(series: _Series, workload: Workload, gateway: Running) -> None:
        measure(series, workload, gateway)
        series.cpu_us[-1][-1] = next(cpu)

    monkeypatch.setattr(bench, "_measure", measured)
    limit = gateways.limit()
    other = Gateway("other", lambda *where: replace(limit.start(*where), name="other"))
    try:
        both = bench.compared(limit, other, FEW[0], 1, 3, lambda when, running: seen.append((when, running.name)))
    finally:
        bench.close()
    assert both is not None
    one, two = both
    assert two.ratios(one) == [8.0, 15.0, 3.0]
    assert two.cpu_over(one) == 8.0  # of 8, 15 and 3: each pair by itself
    assert (one.cpu_us, two.cpu_us) == (1.0, 8.0)
    assert (one.calls, one.failed, two.calls, two.failed) == (24, 0, 24, 0)
    assert seen == [("before", "limit"), ("before", "other"), ("behind", "limit"), ("behind", "other")]
    in_turn = ["limit", "other", "other", "limit", "limit", "other"]
    where = f"round 1 of 1: {CHAT.name}: "
    assert [line for line in told if line.startswith(where)] == [where + n for n in in_turn]


@pytest.mark.parametrize(("calls", "seconds", "made"), [(200, 60.0, [128, 72]), (10_000, 0.0, []), (8, 60.0, [8])])
def test_what_answers_is_warm_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int, seconds: float, made: list[int]
) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=Pace(chats=calls, chats_s=seconds))
    perform = bench._perform
    jobs: list[Job] = []

    def slowly(job: Job) -> Seen:
        jobs.append(job)
        seen = perform(job)
        seen.seconds = seen.answered / 100  # as if it answered a hundred a second
        return seen

    monkeypatch.setattr(bench, "_perform", slowly)
    try:
        figures = bench.rounds([gateways.limit()], [replace(STREAM, most=4, pieces=1)], 1)[STREAM.name]["limit"]
    finally:
        bench.close()
    warming = [job for job in jobs if not job.stream]
    assert [job.calls for job in warming] == made
    assert jobs[: len(warming)] == warming
    assert figures.calls == 4


def test_what_is_held_against_a_goal_is_measured_more_often_and_paired_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    limit, often = gateways.limit(), replace(FEW[0], pieces=2, own_pieces=3)
    bursar, portkey = (
        Gateway(name, lambda *where, name=name: replace(limit.start(*where), name=name))
        for name in ("bursar", "portkey")
    )
    starts = iter([True, False, True])

    def now_and_then(*where: Any) -> Running:
        if not next(starts):
            raise PeerMissingError("not now")
        return replace(limit.start(*where), name="litellm")

    begin = bench.begin

    def begun(gateway: Gateway) -> Running | None:
        running = begin(gateway)
        bench.missing.clear()
        return running

    monkeypatch.setattr(bench, "begin", begun)
    try:
        by = bench.rounds([limit, bursar, portkey, Gateway("litellm", now_and_then)], [often], 3)[often.name]
    finally:
        bench.close()
    sizes = {name: [len(one) for one in figures.cpu_pieces_us] for name, figures in by.items()}
    assert sizes == {"limit": [2, 2, 2], "bursar": [3, 3, 3], "portkey": [2, 2, 2], "litellm": [1, 0, 1]}
    assert len(by["bursar"].ratios(by["limit"])) == 6
    first, third = by["bursar"].cpu_pieces_us[0][0], by["bursar"].cpu_pieces_us[2][0]
    peer = by["litellm"].cpu_pieces_us
    assert by["litellm"].ratios(by["bursar"]) == [peer[0][0] / first, peer[2][0] / third]


def test_what_the_load_says_is_what_was_answered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    try:
        (running,) = [bench.begin(gateways.direct())]
        assert running is not None
        running.base = "/nowhere"  # the provider answers everywhere; ids are still its own
        seen, cpu_us = bench.calls(CHAT, running, 6)
        assert (seen.calls, seen.failed, cpu_us) == (6, 0, 0.0)
        assert seen.p50_ms <= seen.p99_ms
        seen, _ = bench.calls(STREAM, running, 6)
        assert seen.failed == 0
        seen, _ = bench.calls(PACED, running, 3)
        assert seen.p50_ms > 30 * 5
        running.port = 1
        calls = running.calls
        seen, _ = bench.calls(CHAT, running, 6)
        assert (seen.calls, seen.answered, seen.failed) == (6, 0, 6)
        assert "no connection" in (seen.first_failure or "")
        assert running.calls == calls
    finally:
        bench.close()


_BROKEN = """
import http.server, sys
class Broken(http.server.BaseHTTPRequestHandler):
    protocol_version, done = "HTTP/1.1", 0
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        Broken.done += 1
        good = b'{"id": "chatcmpl-%d"}' % Broken.done
        status, body = (200, good) if Broken.done == 1 else (500, b"no")
        if status == 500: print("Error: it broke", flush=True)
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Broken).serve_forever()
"""


def scripted(name: str, script: str) -> Gateway:
    """A gateway that is this program, which is given its port."""

    def begin(folder: Path, port: int, _upstream: int) -> gateways.Running:
        command = [sys.executable, "-c", script, str(port), REPLY]
        group = Group.start(command, cwd=folder, log=folder / "log")
        return gateways.Running(name, port, {}, group)

    return Gateway(name, begin)


def test_a_gateway_that_fails_has_no_figures_but_a_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    try:
        made = run._measured(bench, [gateways.direct(), scripted("portkey", _BROKEN)], [FEW[0]], 1)
    finally:
        bench.close()
    assert made.figures["chat"]["portkey"].failed == made.figures["chat"]["portkey"].calls == 8
    text = report.markdown(made)
    assert "| portkey | – | – | – | – | – | – | – | – | 8 of 8 |" in text
    assert "its log says `Error: it broke`" in text
    assert {g.name: g for g in report.goals(made)}["chat, CPU: Portkey ÷ bursar"].seen is None


def test_the_tables_fit_into_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(slow: float, failed: int = 0) -> Figures:
        return Figures(
            requests_s=99_999 / slow, cpu_us=31.25 * slow, p50_ms=8.126 * slow, p99_ms=13.271 * slow,
            first_p50_ms=4.622 * slow, first_p99_ms=12.849 * slow, loop_gap_ms=5.0, busy=0.5, calls=99_999,
            failed=failed, first_failure="500: broken", cpu_pieces_us=[[31.25 * slow]],
        )  # fmt: skip

    by = {"direct": of(1), "limit": of(1), "bursar": of(6), "litellm": of(1_000), "portkey": of(20, failed=99_999)}
    ledger = run.Ledger(rows=9, calls=9, failed=0, is_green=True)
    once = {name: run.Once(version="1.106.2 (another 1.13.8)", cold_start_s=8.46, idle_mb=344.5) for name in by}
    made = run.Report(
        at="now", machine={}, pinned=True, rounds=7, figures={"chat": by}, once=once, ledger=ledger,
        own={"decode_us": 5.5, "full ÷ beside": 1.02},
    )  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    report.show(made)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for said in ("99,999", "31,250", "1,000", "13,258", "12,849", "litellm", "portkey", "chat, CPU: LiteLLM ÷ bursar"):
        assert said in shown


def test_gaps_are_those_of_pieces_in_which_the_machine_left_the_core_alone() -> None:
    assert own_gaps([4.0, 90.0, 6.0, 5.0, 7.0], [0.1, 88.0, 4.9, 0.2, 5.0]) == [4.0, 6.0, 5.0]
    assert own_gaps([4.0, 90.0, 6.0], [0.1, 88.0, 4.9]) == [4.0, 90.0, 6.0]  # too few are left
    assert own_gaps([4.0, 90.0, 6.0], [None, None, None]) == [4.0, 90.0, 6.0]
    assert own_gaps([4.0, 90.0, 6.0], []) == [4.0, 90.0, 6.0]
    series = _Series(
        seen=[Seen(calls=1, answered=1, failed=0, seconds=1, p50_ms=1, p99_ms=1, first_p50_ms=1, first_p99_ms=1)],
        gaps_ms=[4.0, 90.0, 6.0, 95.0, 5.0], away_ms=[0.1, 88.0, 4.9, 93.0, None], slow=[0.25, 0.5, None],
    )  # fmt: skip
    by = {"chat": {"bursar": series.figures()}}
    ledger = run.Ledger(rows=9, calls=9, failed=0, is_green=True)
    once = {name: run.Once(version="1", cold_start_s=None) for name in ("direct", "limit", "bursar")}
    made = run.Report(at="now", machine={}, pinned=True, rounds=1, figures=by, once=once, ledger=ledger, own={})
    goal = {g.name: g for g in report.goals(made)}["longest gap of the loop, ms, worst median"]
    assert (goal.seen, goal.spread, goal.reached) == (5.0, (4.0, 6.0), True)
    assert "chat 5 (95). In 2 of 4 pieces the machine took the core away for 5 ms or more, up to 93 at a time;" in (
        report.markdown(made)
    )
    assert "with another thread: bursar 38 %. What" in report.markdown(made)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 0.1)), min_size=1))
def test_the_longest_since_then_is_told(wakes: list[tuple[float, float]]) -> None:
    late, now, all_of_them = Late(), 0.0, []
    for passed, by in wakes:
        now += passed
        late.add(now, by)
        all_of_them.append((now, by))
        for since, _ in all_of_them[-20:]:
            assert late.longest_s(since) == max(b for at, b in all_of_them if at >= since)
    assert late.longest_s(now + 0.1) == 0.0
    late.add(now + 121, 0.001)
    assert late.longest_s(0.0) == 0.001  # it is not kept for ever


@given(st.lists(st.tuples(st.floats(0.001, 3), st.floats(0.001, 0.1)), min_size=1))
def test_the_share_of_slow_work_since_then_is_told(looks: list[tuple[float, float]]) -> None:
    speed, now, all_of_them = Speed(), 0.0, []
    for passed, took in looks:
        now += passed
        speed.add(now, took)
        all_of_them.append((now, took))
    best = min(took for _, took in all_of_them)
    for since, _ in all_of_them[-20:]:
        for until, _ in all_of_them[-5:]:
            these = [took > SLOW * best for at, took in all_of_them if since <= at <= until]
            assert speed.slow(since, until) == (sum(these) / len(these) if these else 0.0)
    assert speed.slow(now + 0.1, now + 1) == 0.0
    speed.add(now + 121, 1.0)
    assert speed.slow(0.0, now + 121) == 1.0  # the best is remembered, the rest is not kept for ever


@given(st.lists(st.floats(0, 3), max_size=30), st.lists(st.floats(0, 3), max_size=30))
def test_the_longest_gap_of_a_piece_is_told_by_what_was_counted_in_it(
    before: list[float], meanwhile: list[float]
) -> None:
    bounds = (*GAP_SECONDS, math.inf)

    def counted(gaps: list[float]) -> dict[float, float]:
        return {bound: float(sum(gap <= bound for gap in gaps)) for bound in bounds}

    longest = max(meanwhile, default=0.0)
    all_of_them = max([*before, *meanwhile], default=0.0)
    told = longest_ms(counted(before), counted([*before, *meanwhile]), all_of_them * 1000)
    assert told >= longest * 1000 or not meanwhile
    assert told <= all_of_them * 1000
    assert told <= next(bound for bound in bounds if bound >= longest) * 1000
    assert longest_ms({}, counted(meanwhile), 4_000.0) <= 4_000.0


def test_the_machine_is_watched_where_it_lets_itself_be() -> None:
    watch = Watch()
    try:
        began = time.monotonic()
        first = watch.left(began, began)
        assert first is None or (first.away_ms >= 0 and 0 <= first.slow <= 1)
        if first is not None:
            os.kill(watch._process.pid, signal.SIGSTOP)  # as if the core were away
            time.sleep(0.1)
            os.kill(watch._process.pid, signal.SIGCONT)
            wait_for(lambda: _left(watch, began).away_ms >= 90, 5, "it does not tell that it was late")
            assert _left(watch, time.monotonic()).away_ms < 90
    finally:
        watch.close()
    assert watch.left(0.0, 0.0) is None


def test_the_core_is_kept_awake_by_what_goes_behind_all_others_until_the_benchmark_ends() -> None:
    awake = Awake()
    ended = awake._process.poll
    try:
        if hasattr(os, "SCHED_IDLE"):
            pid = awake._process.pid
            wait_for(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE, 10, "it goes before others")
            used = psutil.Process(pid).cpu_times().user
            wait_for(lambda: psutil.Process(pid).cpu_times().user > used, 30, "it sleeps")
        else:
            wait_for(lambda: ended() is not None, 10, "it goes before others")
    finally:
        awake.close()
    assert ended() is not None


def test_what_keeps_the_core_awake_ends_with_who_began_it() -> None:
    began = "import time; from bench.awake import Awake; print(Awake()._process.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", began], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_for(lambda: Group(pid).ended or psutil.Process(pid).status() == "zombie", 30, "it counts for nobody")


def _left(watch: Watch, since_s: float) -> Left:
    left = watch.left(since_s, time.monotonic())
    assert left is not None
    return left


_MORTAL = """
import http.server, itertools, json, os, re, sys
class Mortal(http.server.BaseHTTPRequestHandler):
    protocol_version, left = "HTTP/1.1", itertools.count(20, -1)
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if next(Mortal.left) == 0:
            print("Error: it had enough", flush=True)
            os._exit(3)
        said = (re.findall("round ([0-9]+) request ([0-9]+)", str(asked)) or [("0", "0")])[0]
        body = json.dumps({"id": "chatcmpl-%06d%06d" % tuple(map(int, said)), "content": sys.argv[2]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Mortal).serve_forever()
"""


def test_a_gateway_that_dies_is_missing_from_then_on_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    mortal = scripted("portkey", _MORTAL)
    try:
        made = run._measured(bench, [gateways.limit(), mortal], FEW[:2], 2)
        assert "its process has ended" in made.missing["portkey"]
        assert "its log says `Error: it had enough`" in made.missing["portkey"]
        for workload in FEW[:2]:
            assert list(made.figures[workload.name]) == ["limit"]
            assert [len(one) for one in made.figures[workload.name]["limit"].cpu_pieces_us] == [1, 1]
        assert bench.compared(gateways.limit(), mortal, FEW[0], 1, 1, lambda _when, _running: None) is None
        assert bench.gateways == []
        assert list(tmp_path.iterdir()) == []
    finally:
        bench.close()


def test_of_a_bursar_that_dies_nothing_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    perform = bench._perform
    jobs: list[Job] = []

    def killing(job: Job) -> Seen:
        jobs.append(job)
        if len(jobs) == 2:
            (bursar,) = bench.gateways
            assert bursar.group is not None
            os.kill(bursar.group.pid, signal.SIGKILL)
            bursar.group._process.wait()  # type: ignore[union-attr]
        return perform(job)

    monkeypatch.setattr(bench, "_perform", killing)
    try:
        made = run._measured(bench, [gateways.bursar()], FEW[:2], 2)
    finally:
        bench.close()
    assert "its process has ended" in made.missing["bursar"]
    assert not made.ledger.is_green
    assert "not measured: rows ÷ calls, verify green" in report.missed(made, whole=True)
    assert "not measured: chat, CPU: bursar ÷ limit" in report.missed(made, whole=True)


def test_processes_below_a_gateway_are_counted_and_a_peer_that_has_ended_has_no_figures(tmp_path: Path) -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    group = Group.start([sys.executable, "-c", script], cwd=tmp_path, log=tmp_path / "log")
    try:
        wait_for(lambda: len(group._all()) == 2, 20, "no child")
        before = group.cpu_us()
        wait_for(lambda: group.cpu_us() > before + 200_000, 60, "its child's time is not counted")
        own = psutil.Process(group.pid).cpu_times()
        assert (own.user + own.system) * 1e6 < group.cpu_us()
        peer = gateways.named(f"other=http://127.0.0.1:4000,pid={group.pid}").start(Path(), 0, 0)
        assert peer.group is not None
        assert not peer.group.ended
    finally:
        group.stop()
    assert peer.group.ended
    with pytest.raises(ValueError, match="is not the id of a process"):
        gateways.named(f"other=http://127.0.0.1:4000,pid={group.pid}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rounds", "0"], "--rounds is at least 1"),
        (["--rounds=-1"], "--rounds is at least 1"),
        (["--upstream-port", "99999"], "--upstream-port a port"),
        (["--quick", "--rounds", "2"], "leave --peer and --rounds away"),
        (["--peer", "a=http://127.0.0.1:1", "--peer", "a=http://127.0.0.1:2"], "the same name"),
        (["--peer", "../a=http://127.0.0.1:1"], "is no name"),
        (["--peer", "..=http://127.0.0.1:1"], "is no name"),
        (["--peer", "a=http://127.0.0.1:1,header=name"], "is no header: header=NAME:VALUE"),
        (["--peer", "a=http://127.0.0.1:1,header=:value"], "is no header: header=NAME:VALUE"),
        (["--peer", "a=http://127.0.0.1:²"], "does not say the port"),
        (["--peer", "a=http://127.0.0.1:1,pid=²"], "is not the id of a process"),
        (["--from", "FOLDER/none.json"], "cannot be read"),
        (["--from", "FOLDER/text.json"], "cannot be read"),
        (["--from", "FOLDER/quick.json"], "is of a quick run"),
        (["--from", "FOLDER/quick.json", "--quick"], "leave the other options away"),
    ],
)
def test_options_that_make_no_sense_are_told_in_one_line_and_nothing_is_written(
    given: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "BENCHMARKS.md"
    monkeypatch.setattr("bench.__main__._DOCUMENT", document)
    (tmp_path / "text.json").write_text("no JSON")
    made = run.Report(
        at="now", machine={}, pinned=True, rounds=1, figures={}, once={}, is_quick=True,
        ledger=run.Ledger(rows=9, calls=9, is_green=True),
    )  # fmt: skip
    (tmp_path / "quick.json").write_bytes(msgspec.json.encode(made))
    monkeypatch.setattr(sys, "argv", ["bench", *(one.replace("FOLDER", str(tmp_path)) for one in given)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not document.exists()
    made.is_quick = False
    (tmp_path / "whole.json").write_bytes(msgspec.json.encode(made))
    monkeypatch.setattr(sys, "argv", ["bench", "--from", str(tmp_path / "whole.json")])
    assert program.main() == 0
    assert "# Benchmarks" in document.read_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_told_to_end_it_ends_what_it_has_started(how: signal.Signals, tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bench", "--quick"]
    with subprocess.Popen(
        command, cwd=gateways.ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round 1"):
                break
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 3  # provider and clients, the limit, bursar
        process.send_signal(how)
        process.stderr.read()
        assert process.wait(30) == 128 + how
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert list(tmp_path.glob("bursar-bench-*")) == []


def test_one_run_goes_on_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = alone()
    assert first is not None
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert "another run of the benchmark is under way on this machine" in capsys.readouterr().err
    first.close()
    again = alone()
    assert again is not None
    again.close()


def test_a_profile_tells_of_each_busy_thread(capsys: pytest.CaptureFixture[str]) -> None:
    profile._print(
        [
            "thread (0x7F01): MainThread;run (a.py);call (b.py) 60",
            "thread (0x7F01): MainThread;run (a.py) 20",
            "thread (0x7F02): bursar-store_0;work (c.py);write (d.py) 19",
            "thread (0x7F02): bursar-store_0;run (threading.py);_worker (concurrent/futures/thread.py:69) 70",
            "thread (0x7F03): idle;wait (e.py) 1",
        ]
    )
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "MainThread: 80.0% of the time of all threads"
    assert said[2:4] == [" 100.0%  25.0%  run (a.py)", "  75.0%  75.0%  call (b.py)"]
    assert said[4] == "bursar-store_0: 19.0% of the time of all threads"
    assert not any("idle" in line for line in said)


_UNTRUE = """
import http.server, json, re, sys
class Untrue(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        # To each it says what is the answer to the round's request 3.
        id = "chatcmpl-%06d000003" % int((re.findall("round ([0-9]+) ", str(asked)) or [0])[0])
        said = {"message": {"content": sys.argv[2]}, "finish_reason": "stop"}
        body = json.dumps({"id": id, "choices": [said], "usage": {"total_tokens": 51}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Untrue).serve_forever()
"""


def test_an_answer_to_another_request_is_a_failure(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    try:
        running = bench.begin(scripted("other", _UNTRUE))
        assert running is not None
        seen, _ = bench.calls(CHAT, running, 6)
        assert (seen.failed, running.failed) == (5, 5)
        assert "not the whole answer to this request" in (seen.first_failure or "")
    finally:
        bench.close()


def test_a_gateway_that_answers_nothing_in_time_is_given_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    try:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            running = Running("silent", silent.getsockname()[1], {}, None)
            with pytest.raises(LostError, match=r"it answered none of 6 calls within 0\.5 s"):
                bench.calls(CHAT, running, 6, within_s=0.5)
    finally:
        bench.close()


async def test_what_is_less_or_more_than_the_whole_answer_is_a_failure() -> None:
    def job(path: str, *, stream: bool = False) -> Job:
        return Job(port=1, path=path, model="m", calls=1, connections=1, stream=stream, round=7)

    id, other = b"chatcmpl-000007000003", b"chatcmpl-000007000004"
    chat = b'{"id":"' + id + upstream._CHAT_TAIL % 1
    run = _Run(job("/v1/chat/completions"))
    assert run.wrong(200, chat, 3) is None
    assert run.wrong(200, json.dumps(json.loads(chat)).encode(), 3) is None
    assert run.wrong(200, chat, 4) is not None
    assert run.wrong(500, chat, 3) is not None
    for wrong in (chat[:-1], chat + chat, chat.replace(b"token", b"taken", 1), chat.replace(b'"stop"', b"null"), b"{}"):
        assert run.wrong(200, wrong, 3) is not None, wrong

    frames = upstream.frames_of(id)
    run = _Run(job("/v1/chat/completions", stream=True))
    spaced = [b"data: %b\n\n" % json.dumps(json.loads(frame[6:])).encode() for frame in frames[:-1]]
    for right in (frames, frames[1:], [*frames[:-2], frames[-1]], [*spaced, frames[-1]]):
        assert run.wrong(200, b"".join(right), 3) is None, right
    few, twice, swapped, strange, cut, ends = (list(frames) for _ in range(6))
    del few[20]
    twice.insert(20, twice[20])
    swapped[20:22] = swapped[21], swapped[20]
    strange[20] = strange[20].replace(id, other)
    cut[20] = cut[20].partition(b'"},"logprobs"')[0] + b"\n\n"
    ends.insert(-2, ends[-3])
    for wrong_frames in (few, twice, swapped, strange, cut, ends, frames[:-1], frames[::-1], [*frames, *frames]):
        assert run.wrong(200, b"".join(wrong_frames), 3) is not None, wrong_frames

    vector = upstream._EMBEDDINGS % 7000003.0
    run = _Run(job("/v1/embeddings"))
    assert run.wrong(200, vector, 3) is None
    assert run.wrong(200, json.dumps(json.loads(vector)).encode(), 3) is None
    for wrong in (vector.replace(b"-0.10000000,", b""), vector.replace(b"7000003", b"7000004"), vector + vector):
        assert run.wrong(200, wrong, 3) is not None


_SLOW = """
import asyncio, sys
asked = 0
async def served(reader, writer):
    global asked
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\\r")[0]))
            asked += 1
            if asked > 1:  # the first is whether it is there
                await asyncio.sleep(0.5)
            print(asked, flush=True)
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
async def main():
    async with await asyncio.start_server(served, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def test_what_was_not_answered_in_time_is_left_and_nothing_more_of_it_is_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _text: None, pace=BRIEF)
    try:
        running = bench.begin(scripted("slow", _SLOW))
        assert running is not None
        with pytest.raises(LostError, match=r"it answered none of 1000 calls within 0\.1 s"):
            bench.calls(CHAT, running, 1000, within_s=0.1)
        # The next ones are answered behind those of before, of which there were as many as connections.
        seen, _ = bench.calls(CHAT, running, 2)
        assert seen.answered == 2
        assert running.log is not None
        assert int(running.log.read_text().split()[-1]) == 1 + CHAT.connections + 2
    finally:
        bench.close()


def test_every_request_is_its_own() -> None:
    job = Job(port=1, path="/v1/chat/completions", model="m", calls=2, connections=1, prompt_bytes=30_000, round=1)
    bodies = [body_of(job, n) for n in range(100)]
    assert len(set(bodies)) == 100
    assert all(30_000 < len(b) < 31_000 for b in bodies)
    assert len({len(b) for b in bodies}) > 50  # a head that says its length is seldom like another
    assert len({json.loads(b)["messages"][0]["content"] for b in bodies}) == 1


def test_peers_that_are_listening_are_named_on_the_command_line() -> None:
    gateway = gateways.named("other=http://127.0.0.1:4000/api/v1,pid=1,header=authorization:Bearer x:y,model=p/")
    running = gateway.start(Path(), 0, 0)
    assert (running.port, running.base, running.prefix) == (4000, "/api/v1", "p/")
    assert running.headers == {"authorization": "Bearer x:y"}
    assert running.group is not None
    for wrong in (
        "other",
        "=http://127.0.0.1:1",
        "a=http://example.com:80",
        "a=http://127.0.0.1:1,color=red",
        "a=https://127.0.0.1:1",
        "bursar=http://127.0.0.1:1",
    ):
        with pytest.raises(ValueError, match=r"'.*'"):
            gateways.named(wrong)
