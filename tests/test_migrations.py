"""A store that was made before: what it has stays what it was when it is brought to the newest schema."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bursar.ledger.rows import OPENED_COLUMNS, SETTLED_COLUMNS
from bursar.ledger.verify import Verifier
from bursar.store import engine
from bursar.store.engine import Database
from bursar.store.ledger_sql import _begin as begin_sql
from bursar.store.ledger_sql import _settle as settle_sql
from bursar.store.proof import Proof
from bursar.store.queries import Queries
from bursar.store.schema import HEAD, STATEMENT_END, prepare, upgrade
from support.server import environment
from tools import schema as tool

_ANSWER = '{"choices":[{"message":{"content":"said"}}]}'


def _name(text: str) -> bytes:
    return hashlib.sha256(b"default\0" + text.encode()).digest()[:16]


def _entry(c: sqlite3.Connection, call_id: str, seq: int, **more: object) -> None:
    row: dict[str, object] = {
        "call_id": call_id, "attempt": 1, "seq": seq, "spool_id": "s", "created_at": "2026-01-01 00:00:00.000000",
        "completed_at": "2026-01-01 00:00:01.000000", "hour": 490896, "workspace": "default", "provider": "up",
        "provider_type": "openai", "provider_url": "http://x", "requested_model": "m", "model": "m", "reason": "named",
        "method_type": "chat_completion", "status": "completed", "usage_source": "none", "request_bytes": 1,
        "output_bytes": 4, **more,
    }  # fmt: skip
    c.execute(f"insert into ledger_entries ({', '.join(row)}) values ({', '.join('?' * len(row))})", [*row.values()])


async def test_a_new_store_is_what_the_migrations_make(tmp_path: Path) -> None:
    upgrade(tmp_path / "migrated.db")
    migrated = tool.dumped(tmp_path / "migrated.db")
    assert tool.TARGET.read_text(encoding="utf-8") == tool.HEADER + migrated, "run `make schema`"
    database = Database(f"sqlite:///{tmp_path / 'new.db'}")
    await prepare(database)
    await database.close()
    made = tool.dumped(tmp_path / "new.db").split(STATEMENT_END)
    assert [one for one in made if "('store_id'" not in one] == migrated.split(STATEMENT_END)
    with sqlite3.connect(tmp_path / "new.db") as c:
        assert c.execute("select version_num from alembic_version").fetchone() == (HEAD,)


def test_several_processes_make_one_new_store_and_one_of_them_makes_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'l.db'}"
    script = (
        "import asyncio, sys\n"
        "from bursar.store.engine import Database\n"
        "from bursar.store.schema import prepare\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        f"print(asyncio.run(prepare(Database({url!r}))), 'alembic' in sys.modules)\n"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.close()
    said = [maker.stdout.read().split() for maker in makers if maker.stdout is not None]
    assert [maker.wait() for maker in makers] == [0] * 4
    with sqlite3.connect(tmp_path / "l.db") as c:
        (store_id,) = c.execute("select value from ledger_meta where name = 'store_id'").fetchone()
    assert said == [[store_id, "False"]] * 4


async def test_a_file_with_tables_of_somebody_elses_gets_ours_beside_them(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "l.db") as c:
        c.execute("create table theirs (x)")
        c.execute("insert into theirs values (1)")
    database = Database(f"sqlite:///{tmp_path / 'l.db'}")
    assert await prepare(database)
    await database.close()
    with sqlite3.connect(tmp_path / "l.db") as c:
        assert c.execute("select x from theirs").fetchall() == [(1,)]
        assert c.execute("select count(*) from ledger_entries").fetchone() == (0,)


async def test_an_answer_that_was_altered_or_gone_before_is_still_found(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    database = Database(f"sqlite:///{path}")
    upgrade(path, "0003")
    with sqlite3.connect(path) as c:
        for n, text in enumerate(("good", "forged"), 1):
            name = _name("good") if text == "good" else _name("was")
            c.execute("insert into ledger_bodies values (?, 'default', ?, 'then')", (name, text))
            _entry(c, text, n, output_ref=name)
        _entry(c, "gone", 3, output_ref=_name("gone"))
        _entry(c, "good too", 4, output_ref=_name("good"), text_ref=_name("good"))
        c.execute("insert into ledger_spools values ('s', 10, 4, 4, 'closed', 10, 'then')")
    await prepare(database)

    async def altered() -> list[str]:
        report = await Verifier(Proof(database), tmp_path / "spool", "x").verify()
        return [f.where for f in report.findings if f.name == "body_altered"]

    assert await altered() == ["forged:1", "gone:1"]
    with sqlite3.connect(path) as c:
        c.execute("update ledger_entries set text = null where call_id = 'good too'")
    assert await altered() == ["forged:1", "gone:1", "good too:1"]
    await database.close()


async def test_answers_that_were_bodies_come_to_stand_in_their_entries(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    database = Database(f"sqlite:///{path}")
    upgrade(path, "0003")
    bodies = ['{"role":"user"}', "{}", _ANSWER, "apart", '{"a":1}']
    with sqlite3.connect(path) as c:
        c.executemany(
            "insert into ledger_bodies values (?, 'default', ?, 'then')", [(_name(text), text) for text in bodies]
        )
        asked = {"input_refs": _name(bodies[0]), "params_ref": _name("{}")}
        _entry(c, "plain", 1, **asked, output_ref=_name(_ANSWER), text_at="$.choices[0].message.content")
        _entry(c, "apart", 2, **asked, output_ref=_name('{"a":1}'), text_ref=_name("apart"))
        # What one call was answered with, another one asked, word for word, as its second message.
        _entry(c, "asks", 3, input_refs=_name(bodies[0]) + _name('{"a":1}'), params_ref=_name("{}"))
        _entry(c, "nothing", 4)
        c.execute("insert into ledger_meta (name, value) values ('store_id', 'x') on conflict do nothing")
        c.execute("insert into ledger_spools values ('s', 10, 4, 4, 'closed', 10, 'then')")
    await prepare(database)
    with sqlite3.connect(path) as c:
        shown = {
            row[0]: row[1:]
            for row in c.execute(
                "select call_id, input_messages, input_params, output_response, completion_text from llm_call_logs"
            )
        }
        left = {text for (text,) in c.execute("select body from ledger_bodies")}
    assert shown == {
        "plain": ('[{"role":"user"}]', "{}", _ANSWER, "said"),
        "apart": ('[{"role":"user"}]', "{}", '{"a":1}', "apart"),
        "asks": ('[{"role":"user"},{"a":1}]', "{}", None, None),
        "nothing": (None, None, None, None),
    }
    assert left == {'{"role":"user"}', "{}", '{"a":1}'}
    report = await Verifier(Proof(database), tmp_path / "spool", "x").verify()
    assert not [f for f in report.findings if f.name.startswith("body")]
    await database.close()


_WRONG = (
    {"status": "done"}, {"usage_source": "guessed"}, {"prompt_tokens": -1}, {"cost_nanos": 10**16 + 1},
    {"prompt_tokens": None, "response_time_ms": 10**12 + 1},
)  # fmt: skip


async def test_an_older_store_keeps_its_entries_and_is_checked_as_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    upgrade(path, "0004")
    with sqlite3.connect(path) as c:
        _entry(c, "before", 1, prompt_tokens=5)
    upgrade(path)
    upgrade(tmp_path / "new.db")
    schema = "select sql from sqlite_master where name = 'ledger_entries'"
    with sqlite3.connect(path) as c, sqlite3.connect(tmp_path / "new.db") as new:
        assert c.execute(schema).fetchall() == new.execute(schema).fetchall()
        assert c.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert c.execute("select call_id, prompt_tokens, total_tokens from ledger_entries").fetchall() == [
            ("before", 5, None)
        ]
        for n, status in enumerate(("started", "completed", "failed", "cancelled", "interrupted"), 10):
            _entry(c, status, n, status=status, prompt_tokens=10**12)
        for n, wrong in enumerate(_WRONG, 50):
            with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
                _entry(c, "wrong", n, **wrong)


def test_what_is_checked_of_an_entry_is_no_table(tmp_path: Path) -> None:
    upgrade(tmp_path / "l.db")
    columns = ("seq", *OPENED_COLUMNS, *SETTLED_COLUMNS)
    with sqlite3.connect(tmp_path / "l.db") as c:
        for sql in (begin_sql(columns, 2), settle_sql(("call_id", "attempt", *SETTLED_COLUMNS), 2)):
            steps = [step for _, step, *_ in c.execute(f"explain {sql}", [None] * sql.count("?"))]
            checks = steps[steps.index("HaltIfNull") :]
            assert checks.count("Halt") >= 3
            assert "OpenEphemeral" not in checks


@pytest.mark.parametrize("name", ["q?x=1.db", "a b%20c.db", "#1.db"])
async def test_a_store_of_any_name_is_one_file_to_all_who_open_it(tmp_path: Path, name: str) -> None:
    upgrade(tmp_path / name, "0003")
    database = Database(f"sqlite:///{tmp_path / name}")
    await prepare(database)
    assert await Queries(database).last_seq() == 0
    await database.close()
    assert [file.name for file in tmp_path.iterdir()] == [name]


async def test_what_an_administrator_deletes_is_overwritten_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is where SQLite is not built to overwrite everything.
    monkeypatch.setattr(engine, "set_journal", lambda connection: connection.execute("pragma secure_delete = off"))
    database = Database(f"sqlite:///{tmp_path / 'l.db'}")

    def overwrites(connection: sqlite3.Connection) -> bool:
        return connection.execute("pragma secure_delete").fetchone() == (1,)

    assert await database.change(overwrites)
    assert not await database.apply(overwrites), "what the drain writes is deleted by nobody"
    await database.close()
