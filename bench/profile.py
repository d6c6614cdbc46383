"""Where the time of a call goes: `python -m bench.profile [chat|long|stream]`, by py-spy, under load.

Prints the functions of each busy thread, the event loop's and the store's above all, by their share of its time, with
and without what they call, and draws a flame graph into `.bench/`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench import gateways
from bench.gateways import CACHE, Running
from bench.measure import Bench
from bench.processes import end_when_told
from bench.workloads import CHAT, LONG, STREAM, Workload

_WORKLOADS = {"chat": CHAT, "long": LONG, "stream": STREAM}
_SECONDS = 10
_SHOWN, _SHOWN_OF_OTHERS = 60, 15
_BUSY = 0.02  # of all samples
_WARM_CALLS, _CALLS = 2000, 4000
_LOOP = "MainThread"
# A thread of a pool that waits for work: py-spy takes it for a busy one.
_WAITS = "_worker (concurrent/futures/"


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else "chat"
    if name not in _WORKLOADS:
        print(f"'{name}' is none of {', '.join(_WORKLOADS)}", file=sys.stderr)
        return 2
    end_when_told()
    with tempfile.TemporaryDirectory(prefix="bursar-profile-") as folder:
        bench = Bench(Path(folder), lambda text: print(text, file=sys.stderr))
        try:
            running = bench.begin(gateways.bursar())
            if running is None:
                return 1
            bench.calls(_WORKLOADS[name], running, _WARM_CALLS)
            stacks = Path(folder) / "stacks"
            calls, cpu_us = _record(bench, _WORKLOADS[name], running, ["--format", "raw"], stacks)
            graph = CACHE / f"profile-{name}.svg"
            CACHE.mkdir(exist_ok=True)
            _record(bench, _WORKLOADS[name], running, ["--format", "flamegraph"], graph)
        finally:
            bench.close()
        _print(stacks.read_text().splitlines())
    print(f"{calls} calls of {cpu_us / calls:.0f} µs, the profiler's own share among them; drawn in {graph}")
    return 0


def _record(bench: Bench, workload: Workload, running: Running, form: list[str], file: Path) -> tuple[int, float]:
    assert running.group is not None
    spy = Path(sys.executable).parent / "py-spy"
    command = [str(spy), "record", "--rate", "500", "--duration", str(_SECONDS), "--threads", "--function", *form]
    profiler = subprocess.Popen(
        [*command, "--output", str(file), "--pid", str(running.group.pid)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    calls, cpu_us = 0, 0.0
    ends = time.monotonic() + _SECONDS
    try:
        while time.monotonic() < ends:
            seen, used = bench.calls(workload, running, _CALLS)
            calls, cpu_us = calls + seen.calls, cpu_us + used
        if profiler.wait(60) != 0:
            raise RuntimeError("py-spy could not look into the process: it needs the right to trace it (ptrace)")
    finally:
        profiler.kill()
        profiler.wait()
    return calls, cpu_us


def _print(stacks: list[str]) -> None:
    threads: dict[str, list[tuple[list[str], int]]] = {}
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if frames and not frames[-1].startswith(_WAITS):
            threads.setdefault(_name_of(thread), []).append((frames, int(count)))
    sizes = {name: sum(count for _, count in seen) for name, seen in threads.items()}
    total = sum(sizes.values()) or 1
    for name, size in sorted(sizes.items(), key=lambda each: -each[1]):
        if size / total >= _BUSY:
            print(f"{name}: {size / total:.1%} of the time of all threads")
            _print_thread(threads[name], size, _SHOWN if name == _LOOP else _SHOWN_OF_OTHERS)


def _name_of(thread: str) -> str:
    """Of what py-spy writes before a thread's frames, `thread (0x7F…): NAME` or with its id, the name."""
    return thread.rpartition(": ")[2].strip('"') or thread


def _print_thread(seen: list[tuple[list[str], int]], size: int, shown: int) -> None:
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for frames, count in seen:
        own[frames[-1]] += count
        for frame in set(frames):
            whole[frame] += count
    print("  whole    own  function")
    for frame, samples in whole.most_common(shown):
        print(f"{samples / size:7.1%} {own[frame] / size:6.1%}  {frame}")


if __name__ == "__main__":
    sys.exit(main())
