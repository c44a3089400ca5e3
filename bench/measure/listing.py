"""How long it takes to list many sandboxes that are recorded and do not run."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from statistics import median

import peers
from sandboxes import Program, milliseconds, programs, share
from tables import table

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "10"))
SANDBOXES = 1000


def measure(folder: Path) -> None:
    found = programs(folder)
    few: dict[str, list[float]] = {program.name: [] for program in found}
    many: dict[str, list[float]] = {program.name: [] for program in found}
    for program in found:
        program.create("listed")
        program.stop("listed")
    _measure(found, few)
    for program in found:
        _multiply(program)
    _measure(found, many)
    rows = []
    for program in found:
        name = program.name
        rows.append((name, [f"{1000 * median(few[name]):.1f}", *milliseconds(many[name]), share(many, name)]))
    columns = ["of 1, median ms", "min ms", "median ms", "max ms", "msb is"]
    table(f"msb ls of {SANDBOXES}, {ROUNDS} rounds", columns, rows)
    for program in found:
        _forget(program)
        program.remove("listed")


def _measure(found: list[Program], times: dict[str, list[float]]) -> None:
    for _ in range(ROUNDS):
        for program in found:
            times[program.name].append(program.run("ls"))


def _table(program: Program) -> str:
    return "sandboxes" if program.name == peers.MSB else "sandbox"


def _database(program: Program) -> sqlite3.Connection:
    return sqlite3.connect(program.home / "db/msb.db")


def _multiply(program: Program) -> None:
    """Records copies of the one sandbox, which has stopped, as if they had been created."""
    name = _table(program)
    with closing(_database(program)) as database, database:
        cursor = database.execute(f"SELECT * FROM {name} WHERE name = 'listed'")
        columns = [column[0] for column in cursor.description]
        row = dict(zip(columns, cursor.fetchone(), strict=True))
        for number in range(1, SANDBOXES):
            row["name"] = f"listed-{number}"
            row["id"] = f"{number:0{len(row['id'])}x}" if isinstance(row["id"], str) else 1000 + number
            places = ", ".join("?" * len(columns))
            database.execute(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({places})", list(row.values()))


def _forget(program: Program) -> None:
    with closing(_database(program)) as database, database:
        database.execute(f"DELETE FROM {_table(program)} WHERE name LIKE 'listed-%'")
