"""`python -m bench`: the benchmark. `make bench` runs all of it, `make bench-quick` what fits into two minutes."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from bench import report as tables
from bench.gateways import ROOT, named
from bench.measure import QUICK, WHOLE, Bench
from bench.processes import alone, end_when_told
from bench.run import ROUNDS, Report, quick, save, whole

_DOCUMENT = ROOT / "docs" / "BENCHMARKS.md"


def main() -> int:
    """Measures, shows, and saves; 1 where a goal was missed or a row of the ledger is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three workloads, the limit and bursar alone")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="interleaved rounds (default: %(default)s)")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=URL[,pid=PID][,header=K:V][,model=PREFIX]",
        help="another gateway, listening on this machine already",
    )  # fmt: skip
    parser.add_argument(
        "--upstream-port", type=int, default=0, metavar="PORT",
        help="where the provider listens on 127.0.0.1, for the peers to be pointed at (default: any free port)",
    )  # fmt: skip
    parser.add_argument("--from", dest="saved", metavar="FILE", help="write docs/BENCHMARKS.md from a saved run")
    given = parser.parse_args()
    if given.saved:
        if given.quick or given.peer or given.upstream_port or given.rounds != ROUNDS:
            parser.error("--from writes the document of a saved run: leave the other options away")
        return _from_saved(parser, given.saved)
    try:
        peers = [named(text) for text in given.peer]
    except ValueError as e:
        parser.error(str(e))
    names = [peer.name for peer in peers]
    if len(names) != len(set(names)):
        parser.error("two of the peers have the same name")
    if given.rounds < 1 or not 0 <= given.upstream_port < 65536:
        parser.error("--rounds is at least 1, and --upstream-port a port")
    if given.quick and (peers or given.rounds != ROUNDS):
        parser.error("--quick measures the limit and bursar alone: leave --peer and --rounds away")
    end_when_told()
    if not (lock := alone()):
        parser.error("another run of the benchmark is under way on this machine: two would measure each other")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as folder, console.status("starting") as status:
        told = status.update if console.is_terminal else lambda text: print(text, file=sys.stderr, flush=True)
        bench = Bench(Path(folder), told, given.upstream_port, QUICK if given.quick else WHOLE)
        if peers:
            print(f"the peers' provider: http://127.0.0.1:{bench.upstream_port}/v1", file=sys.stderr, flush=True)
        try:
            measured = quick(bench) if given.quick else whole(bench, peers, given.rounds, told)
        finally:
            bench.close()
    saved = save(measured, "quick" if given.quick else "whole")
    tables.show(measured)
    print(f"saved in {saved}")
    lock.close()
    if not given.quick and given.rounds < ROUNDS:
        print(f"{_DOCUMENT.relative_to(ROOT)} stays as it is, for it is of {ROUNDS} rounds or more")
    elif not given.quick:
        _DOCUMENT.write_text(tables.markdown(measured))
        print(f"written to {_DOCUMENT.relative_to(ROOT)}")
    missed = tables.missed(measured, whole=not given.quick)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


def _from_saved(parser: argparse.ArgumentParser, file: str) -> int:
    """The document anew, from a run that was saved."""
    try:
        saved = msgspec.json.decode(Path(file).read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError, UnicodeError) as e:
        parser.error(f"{file} cannot be read as a saved run: {e}")
    if saved.is_quick:
        parser.error(f"{file} is of a quick run, which the document is not of: take .bench/whole.json")
    _DOCUMENT.write_text(tables.markdown(saved))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
