"""The house itself: what may read what, what was written twice, and that there is one way out."""

from __future__ import annotations

import ast
import asyncio
import inspect
import itertools
import re
import sqlite3
from importlib import metadata as metadata_of
from pathlib import Path

from packaging.requirements import Requirement

from bursar.store import ledger_sql
from bursar.store.engine import Database
from bursar.store.schema import prepare
from bursar.store.tables import metadata

SOURCE = Path(__file__).parent.parent / "src" / "bursar"
MODULES = sorted(SOURCE.rglob("*.py"))


def _floor(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0]


def test_only_runtime_and_the_command_line_read_the_environment() -> None:
    readers = {_floor(p) for p in MODULES if re.search(r"\bos\.(environ|getenv)\b", p.read_text())}
    assert readers <= {"runtime", "cli"}


def test_there_is_one_way_to_a_provider_and_one_end_of_an_entry() -> None:
    """Only `Running` sends what a model answers, and only its `_settle` settles; nothing else opens a connection."""

    def callers(attribute: str, of: str) -> list[str]:
        found = []
        for path in MODULES:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == attribute:
                    target = ast.unparse(node.func.value)
                    if target == of or target.endswith("." + of):
                        found.append(str(path.relative_to(SOURCE)))
        return found

    assert callers("settle", "ledger") == ["gateway/running.py"]
    assert callers("open", "ledger") == ["gateway/running.py"]
    assert callers("send", "transport") == ["gateway/credentials.py", "gateway/running.py"]  # the former for tokens
    assert callers("send", "client") == ["net/library.py"]
    assert callers("create_connection", "loop") == ["net/http1.py"]
    assert callers("create_connection", "asyncio.get_running_loop()") == []


def test_migrations_make_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    async def migrate() -> None:
        database = Database(f"sqlite:///{tmp_path}/m.db")
        first = await prepare(database)
        assert await prepare(database) == first
        await database.close()

    asyncio.run(migrate())
    with sqlite3.connect(tmp_path / "m.db") as migrated, sqlite3.connect(":memory:") as declared:
        from sqlalchemy.dialects import sqlite
        from sqlalchemy.schema import CreateIndex, CreateTable

        for table in metadata.sorted_tables:
            declared.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))
            for index in table.indexes:
                declared.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))
        assert _shape(migrated) == _shape(declared)


def test_what_the_drain_writes_beside_entries_has_all_the_columns_of_its_tables() -> None:
    for name, columns in ledger_sql._OTHERS.items():
        assert columns == tuple(column.name for column in metadata.tables[f"ledger_{name}"].columns)


def _shape(connection: sqlite3.Connection) -> dict[str, object]:
    names = [
        n for (n,) in connection.execute("select name from sqlite_master where type = 'table'") if n in metadata.tables
    ]
    shape: dict[str, object] = {}
    for name in names:
        columns = connection.execute(f"pragma table_info({name})").fetchall()
        indexes = connection.execute(f"pragma index_list({name})").fetchall()
        keyed = {
            (i[1] if not i[1].startswith("sqlite_") else "auto", i[2],
             tuple(c[2] for c in connection.execute(f"pragma index_info({i[1]})")))
            for i in indexes
        }  # fmt: skip
        shape[name] = (sorted(c[1:] for c in columns), sorted(keyed))
    return shape


def test_modules_stay_small() -> None:
    long = {str(p.relative_to(SOURCE)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 420}
    assert long == {}


# What answers without a vendor's interface: the simulated model, a function, a library.
IN_PROCESS = {"demo", "backend", "litellm"}


def test_locks_name_the_extras_that_are_asked_for() -> None:
    """Without them pip takes a lock for good only until what it pins has a newer release: then it finds that one
    for the name with extras, which no hash is there for, and installs nothing."""
    requirements = SOURCE.parent.parent / "requirements"
    asked = 0
    for lock in (requirements / "run.txt", requirements / "dev.txt"):
        locked = {r.name: r for r in map(Requirement, re.findall(r"^[^\s#][^;\\\n]*", lock.read_text(), re.MULTILINE))}
        for name in ("bursar", *locked):
            try:
                wanted = [Requirement(text) for text in metadata_of.requires(name) or ()]
            except metadata_of.PackageNotFoundError:  # one for another system
                continue
            extras = locked[name].extras if name in locked else set()
            for one in wanted:
                if one.extras and (one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras | {""})):
                    asked += 1
                    assert one.extras <= locked[one.name].extras, f"{lock.name}: {name} asks for {one}"
    assert asked >= 4


def test_no_vendor_is_named_outside_the_data() -> None:
    """A provider is described, not programmed: no condition, match or table is keyed by a vendor's name."""
    vendors = {p.stem for p in (SOURCE / "wire" / "providers").glob("*.toml")} - IN_PROCESS - {"custom"}
    vendors |= {"claude", "yandex", "amazon", "google"}
    assert len(vendors) > 15
    # `openai` is the provider there is where nothing is configured but its key, and whose client is shown.
    named = {name: {"openai"} for name in ("runtime/registry.py", "runtime/settings.py", "cli/serving.py")}
    named["gateway/google.py"] = {"google"}  # the name of the library
    for path in MODULES:
        tree = ast.parse(path.read_text())
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        allowed = named.get(str(path.relative_to(SOURCE)), set())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in documents:
                said = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                assert set(re.findall("[a-z]+", said.lower())) & vendors <= allowed, f"{path}:{node.lineno}"


def test_providers_are_short_and_name_their_vendors_pages() -> None:
    for path in (SOURCE / "wire" / "providers").glob("*.toml"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 40, path
        said = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
        assert "https://" in said or path.stem in {"custom", "demo", "backend"}, path
    for path in (SOURCE / "wire" / "shapes").glob("*.toml"):
        assert "https://" in path.read_text().split("url =")[0], path


def test_quirks_are_few_short_and_used() -> None:
    from bursar.wire import quirks

    text = "".join(
        p.read_text() for folder in ("providers", "shapes") for p in (SOURCE / "wire" / folder).glob("*.toml")
    )
    assert len(quirks.KNOWN) <= 10
    for name in quirks.KNOWN:
        assert len(inspect.getsource(getattr(quirks, name)).splitlines()) < 15, name
        assert f'"{name}"' in text, name


def test_rows_have_every_column_of_the_store() -> None:
    from bursar.ledger.rows import OPENED_COLUMNS, SETTLED_COLUMNS

    assert {"seq", *OPENED_COLUMNS, *SETTLED_COLUMNS} == {c.name for c in metadata.tables["ledger_entries"].columns}
