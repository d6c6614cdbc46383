"""Proves the ledger: reads the store and the spools, writes nothing, and names what does not hold.

It may run beside a loaded server. What moves while it looks is looked at again, and only what stays wrong
is a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from bursar.ledger.adopt import read_header
from bursar.ledger.bodies import body_name, texts_crc
from bursar.ledger.locks import is_held
from bursar.ledger.records import walk
from bursar.ledger.spool import LOCK_SUFFIX, SUFFIX
from bursar.store.proof import Proof, SpoolRow

_LOOKS = 4
_BODIES_A_PAGE = 200
_BETWEEN_LOOKS_S = 0.25


class Finding(msgspec.Struct, frozen=True):
    """Something that does not hold: its name, where, and what was seen."""

    name: str
    where: str
    detail: str


class Report(msgspec.Struct):
    """What was looked at and what was found. `notes` are worth knowing and not wrong."""

    entries: int = 0
    spools: int = 0
    hours: int = 0
    findings: list[Finding] = []
    notes: list[str] = []

    @property
    def is_green(self) -> bool:
        return not self.findings


class Verifier:
    """Checks one store and the spool directory that goes with it."""

    def __init__(self, proof: Proof, directory: Path, store_id: str) -> None:
        self._proof = proof
        self._directory = directory
        self._store_id = store_id

    async def verify(self) -> Report:
        """The whole proof. Raises StoreError where the store cannot be read."""
        report = Report(findings=[], notes=[])
        async for finding in self._stored(report):
            report.findings.append(finding)
        for spool_id in await self._spool_ids():
            report.spools += 1
            report.findings.extend(await self._settled_look(spool_id, report))
        return report

    async def _stored(self, report: Report) -> AsyncIterator[Finding]:
        """What can be told from the store alone, a page of one hour at a time."""
        for call_id, attempt in await self._proof.doubled():
            yield Finding("duplicate_attempt", f"{call_id}:{attempt}", "this attempt stands in the ledger twice")
        for hour in await self._proof.hours():
            report.hours += 1
            page = await self._proof.compare(hour)
            report.entries += page.entries
            for key, measure, kept, true in page.differences:
                yield Finding(
                    "rollup_mismatch", key, f"{measure} in the sums is {kept}, in the entries and corrections {true}"
                )
        for ref in await self._proof.missing_bodies():
            yield Finding("body_missing", ref, "an entry points at a body that is not stored")
        async for finding in self._altered_bodies():
            yield finding
        for where, reason, detail in await self._proof.rejects():
            if reason == "torn":
                report.notes.append(f"{where}: a record was never written to its end (its process was killed)")
            else:
                yield Finding("reject", where, f"{reason}: {detail or 'kept raw in ledger_rejects'}")
        for where, count, first, last in await self._proof.gaps():
            yield Finding("gap", where, f"{count} attempts between {first} and {last} have no entry: there was no room")

    async def _altered_bodies(self) -> AsyncIterator[Finding]:
        after = b""
        while page := await self._proof.bodies(after, _BODIES_A_PAGE):
            for name, workspace, body in page:
                if body_name(workspace, body.encode("utf-8", "replace")) != name:
                    yield Finding("body_altered", f"{workspace}/{name.hex()}", "its content is not that of its name")
            after = page[-1][0]
        seq = 0
        while texts := await self._proof.texts(seq, _BODIES_A_PAGE):
            for t in texts:
                if t.asked_crc is not None and texts_crc(t.messages, t.params) != t.asked_crc:
                    yield Finding("body_altered", t.entry, "what was asked is not what was written of it")
                if t.answered_crc is not None and texts_crc(t.output, t.text) != t.answered_crc:
                    yield Finding("body_altered", t.entry, "its answer is not what was written of it")
            seq = texts[-1].seq

    async def _spool_ids(self) -> list[str]:
        on_disk = {p.name.removesuffix(SUFFIX) for p in self._directory.glob(f"*{SUFFIX}")}
        return sorted(on_disk | await self._proof.spool_ids())

    async def _settled_look(self, spool_id: str, report: Report) -> list[Finding]:
        """The findings about one spool that stay when it is looked at again."""
        findings: list[Finding] = []
        notes: list[str] = []
        for look in range(_LOOKS):
            if look:
                await asyncio.sleep(_BETWEEN_LOOKS_S)
            notes = []
            findings = await self._look(spool_id, notes)
            if not findings:
                break
        report.notes.extend(notes)
        return findings

    async def _look(self, spool_id: str, notes: list[str]) -> list[Finding]:
        path = self._directory / f"{spool_id}{SUFFIX}"
        held = is_held(self._directory / f"{spool_id}{LOCK_SUFFIX}")
        row = await self._proof.spool(spool_id)
        if row is None and await self._proof.names_spool(spool_id):
            return [Finding("spool_missing", spool_id, "entries came from it, but the store has no row of it")]
        findings = _counted(spool_id, row)
        if row is not None and row.state == "closed":
            return findings
        try:
            data = await asyncio.to_thread(path.read_bytes)
            header = read_header(path)
        except FileNotFoundError:
            if row is not None:
                findings.append(Finding("spool_missing", spool_id, "its row is open but its file is gone"))
            return findings
        if header is not None and header.store_id != self._store_id:
            notes.append(f"{spool_id}: belongs to another store")
            return []
        if not held:
            notes.append(f"{spool_id}: its process is gone; it waits to be adopted")
        return findings + _file_findings(spool_id, row, data, held, notes)


def _counted(spool_id: str, row: SpoolRow | None) -> list[Finding]:
    """Whether the entries of a spool are as many as were brought in from it, and none is open without it."""
    if row is None:
        return []
    findings = []
    if row.found != row.entries:
        name = "entry_missing" if row.found < row.entries else "entry_surplus"
        findings.append(Finding(name, spool_id, f"{row.entries} entries came from it, {row.found} are in the ledger"))
    if row.state == "closed" and row.open:
        findings.append(Finding("open_without_spool", spool_id, f"{row.open} entries are open and its spool is closed"))
    if row.state == "closed" and row.size != row.offset:
        findings.append(Finding("offset_moved", spool_id, f"closed at {row.size}, its offset is {row.offset}"))
    return findings


def _file_findings(spool_id: str, row: SpoolRow | None, data: bytes, held: bool, notes: list[str]) -> list[Finding]:
    offset = row.offset if row is not None else 0
    findings = []
    boundaries = {0: 0}
    count = 0
    for span in walk(data):
        if span.payload is not None:
            count += 1
        elif span.fault == "damaged" or held or span.start < offset:
            findings.append(
                Finding("spool_damaged", f"{spool_id}@{span.start}", f"{span.end - span.start} bytes are no record")
            )
        else:
            notes.append(f"{spool_id}@{span.start}: the last record was never written to its end")
        boundaries[span.end] = count
    if offset not in boundaries:
        findings.append(Finding("offset_moved", spool_id, f"the offset {offset} is no record's boundary"))
    elif row is not None and boundaries[offset] != row.records:
        findings.append(
            Finding(
                "offset_moved", spool_id, f"{row.records} records were brought in, {boundaries[offset]} lie before it"
            )
        )
    return findings
