"""A run of the benchmark as tables: for the terminal, and for `docs/BENCHMARKS.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import mean, median

from bench.away import SLOW
from bench.measure import AWAY_MS, Figures, own_gaps
from bench.run import Report
from bench.workloads import CHAT, LONG, OWN, PACED, SESSION, STREAM

Row = list[str]
_GOALS_HEAD = ["", "wanted", "seen", "least–most"]


@dataclass(frozen=True)
class Goal:
    """A figure that is to be reached: `seen` is None where it was not measured."""

    name: str
    wanted: str
    seen: float | None
    reached: bool
    spread: tuple[float, float] | None = None  # the least and the most of the pieces whose median `seen` is


def table(report: Report, workload: str) -> tuple[Row, list[Row]]:
    """One workload: head and rows, a gateway a row."""
    by = report.figures[workload]
    limit, direct, bursar = (f if (f := by.get(name)) and f.holds else None for name in ("limit", "direct", "bursar"))
    head = ["", "calls a second", "CPU µs a call", "÷ limit", "÷ bursar", "added p50 ms", "added p99 ms",
            "first token ms", "its p99", "failed"]  # fmt: skip
    rows = []
    for name, f in by.items():
        if not f.holds:
            rows.append([name, *["–"] * (len(head) - 2), f"{f.failed} of {f.calls}"])
            continue
        rows.append(
            [
                name,
                f"{f.requests_s:,.0f}",
                _number(f.cpu_us),
                _number(f.cpu_over(limit)),
                _number(f.cpu_over(bursar)),
                _number(f.p50_ms - direct.p50_ms, 2) if direct and name != "direct" else "–",
                _number(f.p99_ms - direct.p99_ms, 2) if direct and name != "direct" else "–",
                _number(f.first_p50_ms, 2),
                _number(f.first_p99_ms, 2),
                str(f.failed) if f.failed else "–",
            ]
        )
    return head, rows


def once_table(report: Report) -> tuple[Row, list[Row]]:
    """What was measured once a gateway."""
    head = ["", "version", "first 200 after s", "idle MB", "after the workloads MB"]
    rows = [
        [name, o.version or "–", _number(o.cold_start_s, 2), _number(o.idle_mb), _number(o.after_mb)]
        for name, o in report.once.items()
        if name != "direct"
    ]
    return head, rows


def goals(report: Report) -> list[Goal]:
    """What is to be reached, and what was seen."""

    def of(workload: str, name: str, figure: str) -> float | None:
        found = report.figures.get(workload, {}).get(name)
        return getattr(found, figure) if found is not None and found.holds else None

    def cpu(workload: str, above: str, below: str) -> list[float]:
        by = report.figures.get(workload, {})
        return by[above].ratios(by.get(below)) if above in by else []

    def compared(name: str) -> list[float]:
        three = [own.get(f"{name}{end}") for end in (", least", "", ", most")]
        return [one for one in three if one is not None]

    gaps = _gaps(report).values()
    starts = {name: once.cold_start_s for name, once in report.once.items()}
    own, ledger = report.own, report.ledger
    return [
        _at_most("chat, CPU: bursar ÷ limit", 6, cpu(CHAT.name, "bursar", "limit")),
        _at_least("chat, CPU: LiteLLM ÷ bursar", 70, cpu(CHAT.name, "litellm", "bursar")),
        _at_least("chat, CPU: Portkey ÷ bursar", 11, cpu(CHAT.name, "portkey", "bursar")),
        _at_most("chat, same 30 KB prompt, CPU: bursar ÷ limit", 4, cpu(LONG.name, "bursar", "limit")),
        _told("chat, own 30 KB prompt, CPU: bursar ÷ limit", cpu(OWN.name, "bursar", "limit")),
        _told("chat, own session, CPU: bursar ÷ limit", cpu(SESSION.name, "bursar", "limit")),
        _told("chat, own session, CPU: LiteLLM ÷ bursar", cpu(SESSION.name, "litellm", "bursar")),
        _told("chat, own session, CPU: Portkey ÷ bursar", cpu(SESSION.name, "portkey", "bursar")),
        _at_most("stream of 32, CPU: bursar ÷ limit", 2, cpu(STREAM.name, "bursar", "limit")),
        _at_least("stream of 32, CPU: LiteLLM ÷ bursar", 100, cpu(STREAM.name, "litellm", "bursar")),
        _at_least(
            "chat, requests/s: bursar ÷ LiteLLM", 70,
            _divided(of(CHAT.name, "bursar", "requests_s"), of(CHAT.name, "litellm", "requests_s")),
        ),
        Goal("rows ÷ calls, verify green", "exactly 1", _divided(ledger.rows, ledger.calls),
             ledger.rows == ledger.calls > 0 and ledger.is_green),
        Goal("bursar's calls that failed", "0", float(ledger.failed), ledger.failed == 0),
        _at_most("memory after 100,000 calls ÷ after 10,000", 1.1,
                 _divided(own.get("memory_after_many_mb"), own.get("memory_after_few_mb"))),
        _gap(gaps),
        _at_most("cold start to the first 200, s", 1.2, starts.get("bursar")),
        _at_least("cold start: LiteLLM ÷ bursar", 4, _divided(starts.get("litellm"), starts.get("bursar"))),
        _at_most("import bursar, ms above a bare interpreter", 60, own.get("import_ms")),
        _at_most("reading a chunk of a stream, µs", 6, own.get("decode_us")),
        _at_most("chat, CPU: 1,000 providers, 10,000 keys ÷ one", 1.1, compared("full ÷ beside")),
        _at_most("the same, longest gap of the loop, ms", 10, own.get("full gap_ms")),
        _at_most("the same, cold start to the first 200, s", 1.2, own.get("full cold_start_s")),
        _at_most("CPU: two workers ÷ one, one stands by", 1.15, compared("two workers ÷ one")),
        _told("CPU: two workers ÷ one, the load's core too", compared("two workers, two cores ÷ one")),
    ]  # fmt: skip


def missed(report: Report, *, whole: bool) -> list[str]:
    """What was not reached, a line each; of a whole run also what was not measured, but for missing peers."""
    lines = []
    for goal in goals(report):
        if goal.seen is not None and not goal.reached:
            lines.append(f"missed: {goal.name}")
        elif (
            goal.seen is None
            and whole
            and not any(peer in report.missing and peer in goal.name.lower() for peer in ("litellm", "portkey"))
        ):
            lines.append(f"not measured: {goal.name}")
    return lines


def markdown(report: Report) -> str:
    """`docs/BENCHMARKS.md`."""
    machine = " · ".join(f"{name} {value}" for name, value in report.machine.items())
    out = [
        "# Benchmarks",
        "",
        "Generated by `make bench`; do not edit. bursar runs as it is shipped: the ledger on, every row checked, a",
        "line in the log for every answer. The others log nothing. *limit* is the least a gateway in Python can do:",
        "read a request's JSON, pass it on, hand the answer back.",
        "",
        f"{report.at} · {machine}",
        "",
        _how(report),
        "",
        "## What is to be reached",
        "",
        *_lines(_GOALS_HEAD, [_goal_row(g) for g in goals(report)]),
        "",
    ]
    for workload in report.figures:
        connections = "200 connections" if workload == PACED.name else "64 connections"
        title = workload[0].upper() + workload[1:]
        out += [f"## {title}" + ("" if "at a time" in workload else f", {connections}"), ""]
        out += [*_lines(*table(report, workload)), ""]
        for name, figures in report.figures[workload].items():
            if figures.failed:
                out += [f"{name} failed {_failures(figures)}.", ""]
    out += ["## Starting, and memory", "", *_lines(*once_table(report)), ""]
    for name, why in report.missing.items():
        out += [f"Without {name}: {why.splitlines()[0]}", ""]
    state = "green" if report.ledger.is_green else "RED"
    rows, calls = f"{report.ledger.rows:,}", f"{report.ledger.calls:,}"
    own = report.own
    if "grown cpu_us" in own:
        out += [f"A chat with 100,000 calls in the store: {own['grown cpu_us']:.1f} µs.", ""]
    if "beside cpu_us" in own:
        out += [f"A chat whose model has a price, in pieces of its own: {own['beside cpu_us']:.1f} µs.", ""]
    for name, where in (
        ("two workers", "on the gateways' core, where one of them stands by"),
        ("two workers, two cores", "of which both serve, with the load's core too, where it is in their way"),
    ):
        if f"{name} ÷ one" in own:
            two, one, ratio = own[f"{name} cpu_us"], own[f"{name} beside cpu_us"], own[f"{name} ÷ one"]
            said = f"A chat with two workers {where}: {two:.1f} µs, and {one:.1f} with one beside them"
            out += [f"{said}; {ratio:.2f} ×, median of the pieces.", ""]
    gaps = _gaps(report)
    if gaps:
        shown = ", ".join(f"{name} {f.loop_gap_ms:.0f} ({max(f.gap_pieces_ms):.0f})" for name, f in gaps.items())
        said = f"Longest gap of bursar's loop in ms, as its metrics bound it, median of the pieces (longest): {shown}."
        out += [f"{said}{_away(gaps)}", ""]
    if slow := _slow(report):
        out += [slow, ""]
    out += [f"Ledger: {rows} rows for {calls} calls, `bursar verify` {state}.", ""]
    return "\n".join(out)


def show(report: Report) -> None:
    """The tables on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()

    def put(title: str, head: Row, rows: list[Row]) -> None:
        # Ten columns fit into a terminal of 80 only without lines between them.
        drawn = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for n, name in enumerate(head):
            drawn.add_column(name, justify="left" if n == 0 else "right", no_wrap=n == 0)
        for row in rows:
            drawn.add_row(*row)
        console.print(drawn)
        console.print()

    for workload in report.figures:
        put(workload, *table(report, workload))
    put("starting, and memory", *once_table(report))
    put("what is to be reached", _GOALS_HEAD, [_goal_row(g) for g in goals(report) if g.seen is not None])
    for by in report.figures.values():
        for name, f in by.items():
            if f.failed:
                console.print(f"[red]{name} failed {escape(_failures(f))}[/red]")


def _gaps(report: Report) -> dict[str, Figures]:
    """bursar's figures by workload, where the gap of its loop is known."""
    found = {name: by["bursar"] for name, by in report.figures.items() if "bursar" in by}
    return {name: f for name, f in found.items() if f.gap_pieces_ms}


def _away(gaps: Mapping[str, Figures]) -> str:
    """What the machine did to the loop's gaps, where it is known."""
    away = [ms for f in gaps.values() for ms in f.away_pieces_ms if ms is not None]
    much = [ms for ms in away if ms >= AWAY_MS]
    if not much:
        return ""
    return (
        f" In {len(much)} of {len(away)} pieces the machine took the core away for {AWAY_MS:.0f} ms or more, "
        f"up to {max(much):.0f} at a time; the medians are of the others, where there are three at least."
    )


def _slow(report: Report) -> str:
    """How much the machine let the gateways have of their core, where it is known."""
    found = {
        name: [
            slow for by in report.figures.values() if name in by for slow in by[name].slow_pieces if slow is not None
        ]
        for name in report.once
        if name != "direct"
    }
    shown = ", ".join(f"{name} {100 * mean(slow):.0f} %" for name, slow in found.items() if slow)
    if not shown:
        return ""
    return (
        f"How often the gateways' core took {SLOW:g} times its best or more for the same work, as it does where it "
        f"shares a core of the processor with another thread: {shown}. What a call takes there is more, for everybody."
    )


def _failures(figures: Figures) -> str:
    said = f"; its log says `{figures.said}`" if figures.said else ""
    first = (figures.first_failure or "")[:120]
    return f"{figures.failed} of {figures.calls} times, first with `{first}`{said}"


def _how(report: Report) -> str:
    pinned = (
        "Each gateway that was started here was held to one core, provider and clients to the other."
        if report.pinned
        else "Nothing was held to a core: there is no `taskset` here, or only one core."
    )
    awake = [
        "Behind all others a process that only counts keeps the gateways' core awake: of one that sleeps the",
        "host of a virtual machine makes other use, and gives it back slower.",
    ]
    return "\n".join(
        [
            pinned,
            *(awake if report.pinned else ()),
            f"Medians of {report.rounds} interleaved rounds, in each of which every gateway is started anew with",
            "nothing stored, and answers 10,000 chats, or as many as it can in ten seconds, before it is measured.",
            "CPU is user and system time of all a gateway's processes, as the operating system counts it, until its",
            "spool is empty; it is the figure that holds on a noisy machine. Requests a second are good answers",
            "from the first to the last, whatever is still to be drained. Requests are of differing lengths, with",
            "heads as OpenAI's SDK for Python writes them, and every other connection sends the head before the",
            "body, as many clients do; answers have heads as OpenAI's have. An answer is good if it is all of the",
            "one to its request, and no more. A 30 KB prompt is a system message, the same in every request,",
            "which bursar does not look through again; one *of its own* is in the last message. No model",
            "has a price where nothing is said of it, and no call a context, but with *a session of its own*, of which",
            "it is the first call. The ratios of CPU are medians too: each round's pieces are",
            "divided by each other's, for a machine's minutes differ; the limit, bursar and Portkey's gateway, whose",
            "goal is near, get three in a round of what is held against a goal, bursar of all else too, for the gaps",
            "of its loop. Least and most are those of single pieces. The first token is the first text of a stream,",
            "and of another answer the first byte of its body.",
            "What is said to be added is above `direct`, whose p99 is the wait for the one core of provider and",
            "clients: where it is below zero it says nothing.",
        ]
    )


def _seen(goal: Goal) -> str:
    if goal.seen is None:
        return "not measured"
    shown = f"{goal.seen:,.2f}" if goal.seen < 100 else f"{goal.seen:,.0f}"
    return shown if goal.reached else f"{shown} ✗"


def _goal_row(goal: Goal) -> Row:
    spread = "–".join(_number(one, 2) for one in goal.spread) if goal.spread is not None else ""
    return [goal.name, goal.wanted, _seen(goal), spread]


def _at_most(name: str, most: float, seen: float | list[float] | None) -> Goal:
    value, spread = _of_pieces(seen)
    return Goal(name, f"≤ {most:g}", value, value is not None and value <= most, spread)


def _at_least(name: str, least: float, seen: float | list[float] | None) -> Goal:
    value, spread = _of_pieces(seen)
    return Goal(name, f"≥ {least:g}", value, value is not None and value >= least, spread)


def _told(name: str, seen: list[float]) -> Goal:
    """A figure that stands beside those that are to be reached, for what they leave out."""
    value, spread = _of_pieces(seen)
    return Goal(name, "–", value, True, spread)


def _of_pieces(seen: float | list[float] | None) -> tuple[float | None, tuple[float, float] | None]:
    if not isinstance(seen, list):
        return seen, None
    return (median(seen), (min(seen), max(seen))) if seen else (None, None)


def _gap(gaps: Iterable[Figures]) -> Goal:
    """The gap of the workload whose median is the longest, among the least and the most of all workloads' pieces."""
    own = [own_gaps(f.gap_pieces_ms, f.away_pieces_ms) for f in gaps]
    goal = _at_most("longest gap of the loop, ms, worst median", 10, max(own, key=median, default=None))
    return replace(goal, spread=(min(map(min, own)), max(map(max, own))) if own else None)


def _divided(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    most = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else digits  # three digits are more than hold
    return f"{value:,.{min(digits, most)}f}"


def _lines(head: Row, rows: list[Row]) -> list[str]:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]
