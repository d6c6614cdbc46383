"""The whole benchmark, and the short one: what is measured, in which order, into one value that is saved."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from statistics import median

import msgspec

from bench import gateways as known
from bench.gateways import ROOT, Gateway, Running
from bench.measure import Bench, Figures, Told
from bench.processes import can_pin
from bench.upstream import frames_of
from bench.workloads import ALL, CHAT, QUICK, Workload
from bursar.wire import spec as specs
from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder
from bursar.wire.readers import Readers

ROUNDS, QUICK_ROUNDS = 7, 3
_STARTS = 5
_PIECES = 4
_IMPORTS = 15
_DECODED = 500
_FEW, _MANY = 10_000, 100_000
_LIBRARIES = ("uvicorn", "httptools", "uvloop", "msgspec", "sqlalchemy")


class Once(msgspec.Struct, kw_only=True):
    """What is measured of a gateway outside any workload: seconds and megabytes."""

    version: str = ""
    cold_start_s: float | None = None
    idle_mb: float | None = None
    after_mb: float | None = None


class Ledger(msgspec.Struct, kw_only=True):
    """What bursar's ledger has of the calls that were made, warming up and all; `failed` is what their callers saw."""

    calls: int
    failed: int = 0
    rows: int
    is_green: bool  # `verify` said so, and each of them had as many rows as there were calls

    def add(self, other: Ledger) -> None:
        """Adds what another ledger has."""
        self.calls += other.calls
        self.failed += other.failed
        self.rows += other.rows
        self.is_green = self.is_green and other.is_green


class Report(msgspec.Struct, kw_only=True):
    """One run of the benchmark. `figures` are by workload and gateway; `own` are bursar's other figures."""

    at: str
    machine: dict[str, str]
    pinned: bool
    rounds: int
    figures: dict[str, dict[str, Figures]]
    once: dict[str, Once]
    ledger: Ledger
    is_quick: bool = False
    own: dict[str, float] = {}
    missing: dict[str, str] = {}


def quick(bench: Bench) -> Report:
    """Chat, a long prompt and a stream, through the limit and bursar."""
    report = _measured(bench, [known.direct(), known.limit(), known.bursar()], QUICK, QUICK_ROUNDS)
    _registry(bench, report, QUICK_ROUNDS, pieces=1)
    report.own["decode_us"] = _decode_us()
    report.is_quick = True
    return report


def whole(bench: Bench, peers: Sequence[Gateway], rounds: int, told: Told) -> Report:
    """Everything: all workloads and peers, and what takes long of bursar's own."""
    gateways = [known.direct(), known.limit(), known.bursar(), known.litellm(), known.portkey(), *peers]
    report = _measured(bench, gateways, ALL, rounds)
    _memory(bench, report, told)
    _workers(bench, report, rounds)
    _registry(bench, report, rounds, _PIECES)
    _starts(bench, report, told)
    told("the time to import")
    report.own["import_ms"] = _import_ms()
    report.own["decode_us"] = _decode_us()
    return report


def _measured(bench: Bench, gateways: Sequence[Gateway], workloads: Sequence[Workload], rounds: int) -> Report:
    once: dict[str, Once] = {}
    idle_mb: dict[str, list[float]] = {}
    after_mb: dict[str, list[float]] = {}
    ledger = Ledger(calls=0, rows=0, is_green=True)

    def look(when: str, running: Running) -> None:
        version = next(g.version for g in gateways if g.name == running.name)
        of = once.setdefault(running.name, Once(version=version(), cold_start_s=running.cold_start_s))
        if running.group is not None and when != "lost":
            found = (idle_mb if when == "before" else after_mb).setdefault(running.name, [])
            found.append(running.group.memory_mb())
            if when == "before":
                of.idle_mb = median(found)
            else:
                of.after_mb = median(found)
        _check(ledger, when, running)

    figures = bench.rounds(gateways, workloads, rounds, look)
    return Report(
        at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=_machine(),
        pinned=can_pin(),
        rounds=rounds,
        figures=figures,
        once=once,
        ledger=ledger,
        missing=bench.missing,
    )


def _check(ledger: Ledger, when: str, running: Running) -> None:
    """Adds what a bursar's ledger has when all its workloads are behind it; one that was lost proves nothing."""
    if when == "lost" and running.drains:
        ledger.is_green = False
    if when == "behind" and running.drains:
        ledger.add(_ledger(running))


def _ledger(bursar: Running) -> Ledger:
    assert bursar.folder is not None
    bursar.drained()
    rows = bursar.rows("= 'completed'")
    config = str(bursar.folder / "bursar.toml")
    verify = subprocess.run(
        [sys.executable, "-m", "bursar", "verify", "--config", config], cwd=bursar.folder, capture_output=True,
        check=False,
    )  # fmt: skip
    # One that has a row too few must not be made up for by another that has one too many.
    is_green = verify.returncode == 0 and rows == bursar.calls
    return Ledger(calls=bursar.calls, failed=bursar.failed, rows=rows, is_green=is_green)


def _memory(bench: Bench, report: Report, told: Told) -> None:
    """Memory after many calls against memory after few: what grows with calls would show."""
    running = bench.begin(known.bursar())
    if running is None or running.group is None:
        return
    told(f"memory after {_FEW} calls")
    bench.calls(CHAT, running, _FEW)
    few = running.group.memory_mb()
    told(f"memory after {_MANY} calls")
    bench.calls(CHAT, running, _MANY - _FEW, within_s=600)
    report.own["memory_after_few_mb"], report.own["memory_after_many_mb"] = few, running.group.memory_mb()
    # What a call costs when so many are stored already: the store's indexes are larger than what a batch touches.
    rounds = [bench.calls(CHAT, running, CHAT.most)[1] / CHAT.most for _ in range(3)]
    report.own["grown cpu_us"] = median(rounds)
    report.ledger.add(_ledger(running))
    bench.end(running)


def _workers(bench: Bench, report: Report, rounds: int) -> None:
    """Two workers against one: on the gateways' core, where one of the two stands by, and with the load's core too,
    where the load is in the way of both."""
    look = partial(_check, report.ledger)
    for name, spread in (("two workers", False), ("two workers, two cores", True)):
        both = bench.compared(known.bursar(), known.bursar(2, spread=spread), CHAT, rounds, _PIECES, look)
        if both is None:
            continue
        one, two = both
        report.own[f"{name} cpu_us"], report.own[f"{name} beside cpu_us"] = two.cpu_us or 0.0, one.cpu_us or 0.0
        _keep(report, f"{name} ÷ one", two.ratios(one))


def _registry(bench: Bench, report: Report, rounds: int, pieces: int) -> None:
    """Chats beside a large registry against chats with one provider and one price, and how long it takes to start."""
    seconds: list[float] = []

    def look(when: str, running: Running) -> None:
        _check(report.ledger, when, running)
        if running.name == known.full().name and running.cold_start_s is not None:
            seconds.append(running.cold_start_s)

    both = bench.compared(known.bursar(priced=True), known.full(), CHAT, rounds, pieces, look)
    if both is None:
        return
    plain, full = both
    report.own["beside cpu_us"], report.own["full cpu_us"] = plain.cpu_us or 0.0, full.cpu_us or 0.0
    _keep(report, "full ÷ beside", full.ratios(plain))
    if full.loop_gap_ms is not None:
        report.own["full gap_ms"] = full.loop_gap_ms
    report.own["full cold_start_s"] = median(seconds)


def _keep(report: Report, name: str, ratios: list[float]) -> None:
    """Keeps the median of the pieces' ratios, and what they lie between."""
    if ratios:
        report.own[name] = median(ratios)
        report.own[f"{name}, least"], report.own[f"{name}, most"] = min(ratios), max(ratios)


def _starts(bench: Bench, report: Report, told: Told) -> None:
    for gateway in (known.bursar(), known.litellm(), known.portkey()):
        if gateway.name not in report.once:
            continue
        seconds = []
        for n in range(_STARTS if gateway.name == "bursar" else 2):
            told(f"cold start of {gateway.name}, {n + 1}")
            running = bench.begin(gateway)
            if running is not None and running.cold_start_s is not None:
                seconds.append(running.cold_start_s)
                bench.end(running)
        if seconds:
            report.once[gateway.name].cold_start_s = median(seconds)


def _import_ms() -> float:
    """`import bursar` above a bare interpreter: the difference of medians of alternating runs."""
    bare: list[float] = []
    with_it: list[float] = []
    for _ in range(_IMPORTS):
        for statement, times in (("pass", bare), ("import bursar", with_it)):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times.append(time.perf_counter() - began)
    return (median(with_it) - median(bare)) * 1000


def _decode_us() -> float:
    """What it costs to read one chunk of OpenAI's shape, each fed alone, and to fold it into its answer."""
    readers = Readers(specs.build("openai").operations["chat"])
    streams = [frames_of(b"chatcmpl-%06d" % n) for n in range(_DECODED)]
    took = []
    for _ in range(5):
        began = time.perf_counter()
        for frames in streams:
            decoder, answer = Decoder(readers, stream=True), Assembly()
            for frame in frames:
                for read in decoder.feed(frame):
                    answer.take(read.events)
        took.append((time.perf_counter() - began) / sum(map(len, streams)))
    return median(took) * 1e6


def _node() -> dict[str, str]:
    """The Node that runs Portkey's gateway, where there is one."""
    node = shutil.which("node")
    if node is None:
        return {}
    return {"node": subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()}


def _machine() -> dict[str, str]:
    model = platform.processor() or platform.machine()
    if platform.system() == "Linux":
        with open("/proc/cpuinfo") as info:
            model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), model)
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: metadata.version(name) for name in _LIBRARIES},
        **_node(),
    }


def save(report: Report, name: str) -> str:
    """Writes the report as JSON under `.bench/`; returns the file's path."""
    folder = ROOT / ".bench"
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return str(file)
