"""One run: every gateway and every workload in turn, round by round, so that what the machine does besides
falls on all of them alike. Figures are medians over the rounds."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import msgspec

from bench.awake import Awake
from bench.away import Watch
from bench.gateways import ROOT, Gateway, PeerMissingError, Running, start
from bench.load import Job, Seen
from bench.processes import LOAD_CORE, pinned
from bench.workloads import CHAT, Workload

_WARM_CALLS = 128
_ROUND_S = 1.2
_SETTLED_S = 2.0
_OF_LATE_S = 9.0  # `/health` remembers ten seconds, the first of them in part
AWAY_MS = 5.0
"""A piece in which the machine took the core away for so long at a time says nothing of a loop's gap."""
_FEWEST = 3

Told = Callable[[str], None]
Look = Callable[[str, Running], None]


class LostError(Exception):
    """A gateway that cannot be measured any more."""


@dataclass(frozen=True)
class Pace:
    """How warm a gateway is when it is measured: how many chats it answers before its first workload of a round, within
    so many seconds, and for how long it answers what is then measured."""

    chats: int = 10_000
    chats_s: float = 10.0
    warm_s: float = 1.5


WHOLE, QUICK = Pace(), Pace(chats=1000, warm_s=0.5)
"""In the short run nobody's just-in-time compiler has to be waited for."""


class Figures(msgspec.Struct, kw_only=True):
    """What one gateway did under one workload: medians. `cpu_us` is None where its processes are not known."""

    requests_s: float
    cpu_us: float | None
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    first_p99_ms: float
    loop_gap_ms: float | None  # the longest of a piece, median of them
    gap_pieces_ms: list[float] = []
    away_pieces_ms: list[float | None] = []  # for how long the machine took the core away meanwhile
    slow_pieces: list[float | None] = []  # how often it was found slow while it was called, of all looks
    busy: float | None
    calls: int
    failed: int
    first_failure: str | None
    said: str | None = None  # of its log, where it failed
    cpu_pieces_us: list[list[float]] = []  # by round

    def cpu_over(self, other: Figures | None) -> float | None:
        """What a call takes of the processor for what it takes with the other: the median of `ratios`. A machine whose
        minutes differ by a half says nothing of a tenth otherwise."""
        ratios = self.ratios(other)
        return median(ratios) if ratios else None

    def ratios(self, other: Figures | None) -> list[float]:
        """Each piece against the other's of the same round, as many as both have; none where one of them failed."""
        if other is None or not (self.holds and other.holds):
            return []
        rounds = zip(self.cpu_pieces_us, other.cpu_pieces_us, strict=True)
        return [a / b for one, its in rounds for a, b in zip(one, its, strict=False) if b]

    @property
    def holds(self) -> bool:
        """Whether nearly all calls were answered well: what errors cost is nobody's figure."""
        return self.failed <= self.calls / 100


@dataclass
class _Series:
    """The rounds of one gateway under one workload."""

    seen: list[Seen] = field(default_factory=list)
    cpu_us: list[list[float]] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)
    away_ms: list[float | None] = field(default_factory=list)
    slow: list[float | None] = field(default_factory=list)
    rate: float = 0.0
    said: str | None = None

    def figures(self) -> Figures:
        seen = self.seen
        pieces = [piece for one in self.cpu_us for piece in one]
        cpu = median(pieces) if pieces else None
        rate = median((s.calls - s.failed) / s.seconds for s in seen)
        return Figures(
            requests_s=rate,
            cpu_us=cpu,
            p50_ms=median(s.p50_ms for s in seen),
            p99_ms=median(s.p99_ms for s in seen),
            first_p50_ms=median(s.first_p50_ms for s in seen),
            first_p99_ms=median(s.first_p99_ms for s in seen),
            loop_gap_ms=median(own_gaps(self.gaps_ms, self.away_ms)) if self.gaps_ms else None,
            gap_pieces_ms=self.gaps_ms,
            away_pieces_ms=self.away_ms,
            slow_pieces=self.slow,
            busy=cpu * rate / 1e6 if cpu is not None else None,
            calls=sum(s.calls for s in seen),
            failed=sum(s.failed for s in seen),
            first_failure=next((s.first_failure for s in seen if s.first_failure), None),
            said=self.said,
            cpu_pieces_us=self.cpu_us,
        )


def own_gaps(gaps_ms: Sequence[float], away_ms: Sequence[float | None]) -> list[float]:
    """The gaps of the pieces in which the machine left the core to whom it belongs; of all where these are too few to
    say anything."""
    own = [gap for gap, away in zip(gaps_ms, away_ms, strict=False) if away is None or away < AWAY_MS]
    return own if len(own) >= _FEWEST else list(gaps_ms)


def longest_ms(before: Mapping[float, float], behind: Mapping[float, float], of_late_ms: float) -> float:
    """The longest gap between two looks at how many there were up to each bound: that bound, or the longest of the
    last ten seconds, where it is less and those are all there were between the looks."""
    bounds = sorted(behind)
    new = [behind[bound] - before.get(bound, 0.0) for bound in bounds]
    up_to = next((bound for bound, count in zip(bounds, new, strict=True) if count == new[-1]), math.inf)
    return min(up_to * 1000, of_late_ms)


class Bench:
    """The upstream, and the gateways that could be started in front of it."""

    def __init__(self, folder: Path, told: Told, upstream_port: int = 0, pace: Pace = WHOLE) -> None:
        self.folder = folder
        self._told = told
        self._pace = pace
        folder.mkdir(parents=True, exist_ok=True)
        command = pinned([sys.executable, "-m", "bench.outside", str(upstream_port)], LOAD_CORE)
        # What a terminal says is for this program, which ends the others.
        self._outside = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.upstream_port = int(self._line())
        self._watch, self._awake = Watch(), Awake()
        self.gateways: list[Running] = []
        self.missing: dict[str, str] = {}
        self._round = self._started = 0

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.stop()
        self._watch.close()
        self._awake.close()
        self._outside.terminate()
        self._outside.wait(10)

    def begin(self, gateway: Gateway) -> Running | None:
        """Starts a gateway; None, with the reason kept, where it cannot be."""
        try:
            gateway.install(self._told)
            self._told(f"starting {gateway.name}")
            self._started += 1
            running = start(gateway, self.folder / f"gateway-{self._started}", self.upstream_port)
        except PeerMissingError as e:
            self.missing[gateway.name] = str(e)
            self._told(f"without {gateway.name}: {e}")
            return None
        self.gateways.append(running)
        return running

    def end(self, running: Running) -> None:
        """Stops a gateway, and removes what it has left in its folder."""
        running.stop()
        self.gateways.remove(running)
        if running.log is not None:
            shutil.rmtree(running.log.parent, ignore_errors=True)

    def rounds(
        self,
        gateways: Sequence[Gateway],
        workloads: Sequence[Workload],
        rounds: int,
        look: Look = lambda _when, _running: None,
    ) -> dict[str, dict[str, Figures]]:
        """Figures by workload and gateway. In every round each gateway is started anew, with nothing stored: two
        processes of one program differ by more than two rounds of one process do. Before its first workload each
        answers 10,000 chats, or as many as it can in ten seconds: a just-in-time compiler takes that long, and
        what is measured first would be measured in the middle of it.

        `look` is called with each gateway before its first workload of a round and behind its last one; with "lost" in
        the place of the latter where it failed so that it could not be measured, which ends it for the rounds to come.
        """
        series = self._in_turn(gateways, workloads, rounds, look)
        return {
            w.name: {g.name: s.figures() for g in gateways if (s := series[w.name, g.name]).seen} for w in workloads
        }

    def compared(
        self, one: Gateway, other: Gateway, workload: Workload, rounds: int, pieces: int, look: Look
    ) -> tuple[Figures, Figures] | None:
        """The figures of two, from several pieces a round, measured right after each other; None where one of them
        could not be measured."""
        series = self._in_turn([one, other], [workload], rounds, look, pieces)
        both = [series[workload.name, gateway.name] for gateway in (one, other)]
        return (both[0].figures(), both[1].figures()) if all(s.seen for s in both) else None

    def _in_turn(
        self, gateways: Sequence[Gateway], workloads: Sequence[Workload], rounds: int, look: Look, pieces: int = 1
    ) -> dict[tuple[str, str], _Series]:
        series = {(w.name, g.name): _Series() for w in workloads for g in gateways}
        for n in range(rounds):
            for one in series.values():
                one.cpu_us.append([])
            there = [g for g in gateways if g.name not in self.missing]
            running = [r for gateway in there if (r := self.begin(gateway)) is not None]
            time.sleep(_SETTLED_S)  # what they do after they have started is not their idleness yet
            for gateway in (*running,):
                look("before", gateway)
                self._told(f"round {n + 1} of {rounds}: {gateway.name} warms up")
                self._unless_lost(partial(self._warm_up, gateway), "warming up", gateway, running, look)
            for workload, piece in ((w, p) for w in workloads for p in range(max(pieces, w.pieces, w.own_pieces))):
                # What is held against a goal by a few parts in a hundred is measured more often, where it is cheap.
                of_goals = dict.fromkeys(("limit", "portkey"), workload.pieces)
                often = {**of_goals, "bursar": max(workload.pieces, workload.own_pieces)}
                these = [r for r in running if piece < max(pieces, often.get(r.name, 1))]
                # Each gateway is first in turn.
                first = (n + piece) % max(1, len(these))
                for gateway in (*these[first:], *these[:first]):
                    self._told(f"round {n + 1} of {rounds}: {workload.name}: {gateway.name}")
                    of = series[workload.name, gateway.name]
                    measure = partial(self._measure, of, workload, gateway)
                    self._unless_lost(measure, workload.name, gateway, running, look)
            for gateway in running:
                look("behind", gateway)
                self.end(gateway)
        return series

    def _unless_lost(
        self, done: Callable[[], None], doing: str, gateway: Running, running: list[Running], look: Look
    ) -> None:
        """Does it, and goes on without the gateway where it cannot be measured any more."""
        try:
            done()
        except (OSError, LostError) as e:  # a TimeoutError is one
            said = gateway.said()
            self.missing[gateway.name] = f"{doing}: {e}" + (f"; its log says `{said}`" if said else "")
            self._told(f"{gateway.name} is lost: {self.missing[gateway.name]}")
            look("lost", gateway)
            running.remove(gateway)
            self.end(gateway)

    def _warm_up(self, gateway: Running) -> None:
        left, left_s, few = self._pace.chats, self._pace.chats_s, _WARM_CALLS
        while left > 0 and left_s > 0:
            seen, _ = self.calls(CHAT, gateway, min(few, left))
            left, left_s = left - few, left_s - seen.seconds
            few = max(_WARM_CALLS, int(seen.answered / seen.seconds))

    def calls(self, workload: Workload, gateway: Running, calls: int, *, within_s: float = 120.0) -> tuple[Seen, float]:
        """So many calls: what the load saw, and the processor time they took until the spool was empty."""
        self._round += 1
        job = workload.job(
            port=gateway.port,
            base=gateway.base,
            model=gateway.model(workload.model),
            headers=gateway.headers,
            calls=calls,
            round=self._round,
        )
        job.within_s = within_s
        before = gateway.group.cpu_us() if gateway.group is not None else 0.0
        seen = self._perform(job)
        if seen.failed >= seen.calls and not seen.in_time:
            raise LostError(f"it answered none of {calls} calls within {within_s:g} s")
        if gateway.group is not None and gateway.group.ended:
            raise LostError("its process has ended")
        gateway.calls += seen.answered
        gateway.failed += seen.failed
        gateway.drained()
        after = gateway.group.cpu_us() if gateway.group is not None else 0.0
        return seen, after - before

    def _perform(self, job: Job) -> Seen:
        assert self._outside.stdin is not None
        self._outside.stdin.write(msgspec.json.encode(job) + b"\n")
        self._outside.stdin.flush()
        return msgspec.json.decode(self._line(), type=Seen)

    def _line(self) -> bytes:
        assert self._outside.stdout is not None
        line = self._outside.stdout.readline()
        if not line:
            raise RuntimeError("the load ended; what it said stands above")
        return line

    def _measure(self, series: _Series, workload: Workload, gateway: Running) -> None:
        # The first calls open connections and warm up what only this workload needs; they also tell how many fit into
        # a round.
        few = min(max(_WARM_CALLS, workload.connections * 2), workload.most)
        seen, _ = self.calls(workload, gateway, few)
        series.rate = series.rate or seen.answered / seen.seconds
        self.calls(workload, gateway, int(min(max(series.rate * self._pace.warm_s, few), workload.most // 2)))
        calls = int(min(max(series.rate * _ROUND_S, workload.connections * 2), workload.most))
        gaps = gateway.gaps() if gateway.drains else {}
        began_s = time.monotonic()
        seen, cpu_us = self.calls(workload, gateway, calls)
        left = self._watch.left(began_s, began_s + seen.seconds)
        series.slow.append(left.slow if left is not None else None)
        series.rate = seen.answered / seen.seconds
        series.seen.append(seen)
        if seen.failed:
            series.said = series.said or gateway.said()
        if gateway.group is not None:
            series.cpu_us[-1].append(cpu_us / max(1, seen.answered))
        if gateway.drains:
            behind, of_late_ms = gateway.gaps(), float(gateway.health()["loop_gap_ms"])
            if time.monotonic() - began_s > _OF_LATE_S:
                of_late_ms = math.inf
            series.gaps_ms.append(longest_ms(gaps, behind, of_late_ms))
            series.away_ms.append(left.away_ms if left is not None else None)
