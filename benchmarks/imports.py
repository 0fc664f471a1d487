"""What an import costs beside reading its file: a million rows with e-mail and phone, half of them messy.

    python -m benchmarks.imports [--n 1000000] [--rounds 3] [--json]

Reading is the importer's own reader alone: bytes into text, records, cells, with broken rows told from good ones. The
import is all of it into a fresh home: reading, normalising, hashing, sorting, writing. Then the same file comes again, as it
was and with other addresses in one row of a hundred, and these rows alone as a file. DuckDB's scan of the same file, all
columns as text, without regard to quotes and without the rows of another width, is there to compare. Each measurement is
a process of its own, and begins after its modules are loaded and its home is made; CPU is user and system time of all its
threads, the median of the rounds. The same n gives the same file, byte for byte.
"""

import argparse
import base64
import hashlib
import json
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import phonenumbers  # noqa: F401 - loaded before the clock starts

import node.feeds.receiving.memberships  # noqa: F401 - so is what looks for new matches after an import
from node.imports.identity_columns import IdentityColumn
from node.inputs.sources import Source
from node.node import Node

from .meter import MIB, Meter

BESIDE = "beside reading per million"  # its ratio is to AIM; those of the phases are to reading
AIM = 4.0  # CPU seconds for a million rows, beside reading them
HEADER = ("id", "email", "phone", "email_hash")
IDENTITIES = ("email=email_sha256:raw:primary", "phone=phone_sha256:raw", "email_hash=email_sha256:hashed")
Row = dict[str, Any]


# The file


def clean(row: int) -> str:
    return f"{customer(row)},person.{row}@example.com,{number(row)},"


def customer(row: int) -> str:
    """Return the profile id of a row; rows do not come in order of ids."""
    return f"c{row * 7_368_787 % 10_000_000:07}"


def number(row: int) -> str:
    """Return the number of the person in a row, British or American, in E.164."""
    return f"+447{row:09}" if row % 4 else f"+1415{2_000_000 + row}"


def messy(row: int) -> str:
    """Return a line of one of ten kinds, all equally many, each with four variants."""
    kind, variant = row // 2 % 10, row // 20 % 4
    person, local, phone = customer(row), f"person.{row}", f"+447{row:09}"
    email = f"{local}@example.com"
    digest = hashlib.sha256(email.encode())
    a, b, c = phone[3:7], phone[7:10], phone[10:]
    if kind == 0:  # case, and letters beyond ASCII
        return f"{person},{(local.title(), local.upper(), f'Ärzte.{row}', local)[variant]}@Example.COM,{phone},"
    if kind == 1:  # white space around, the last of a kind that only Unicode knows
        space = (" ", "  ", "\t", "\u00a0")[variant]
        return f"{person},{space}{email}{space},{space}{phone} ,"
    if kind == 2:  # international numbers as people write them
        written = (f"+44 {a} {b}{c}", f"+44 (0){a} {b} {c}", f"tel:+44-{a}-{b}-{c}", f"+44.{a}.{b}{c}")
        return f"{person},{email},{written[variant]},"
    if kind == 3:  # national ones
        return f"{person},{email},{(f'0{a} {b}{c}', f'(0{a}) {b}-{c}', f'0{a}{b}{c}', f'0{a}-{b}-{c}')[variant]},"
    if kind == 4:  # hashes in hex
        text = digest.hexdigest()
        return f"{person},,,{(text, text.upper(), f'0x{text}', text)[variant]}"
    if kind == 5:  # hashes in Base64
        text = base64.b64encode(digest.digest()).decode()
        return f"{person},,,{(text, text.rstrip('='), text.translate(URL_SAFE), text)[variant]}"
    if kind == 6:  # the row before, once more
        return clean(row - 1)
    if kind == 7:  # the person of the row before, with another id, in quotes
        return f'"{person}","PERSON.{row - 1}@example.com","{number(row - 1)}",""'
    if kind == 8:  # cells that hold something else
        email = (f"{local}(at)example.com", digest.hexdigest(), "", f"{local}@localhost")[variant]
        return f"{person},{email},{('n/a', '12345', '', f'+999{row:09}')[variant]},{email[:40]}"
    return (  # rows that cannot be read
        f"{person},{email}",
        f"{person},{email},{phone},,more",
        f'{person},"{email},{phone},',
        f'{person},"{local}"@example.com,{phone},',
    )[variant]


URL_SAFE = str.maketrans("+/", "-_")


def changed(path: Path) -> Path:
    """Write the file with another address and number in one row of a hundred, and return its path."""
    found = path.with_name("changed.csv")
    with path.open(encoding="utf-8", newline="") as given, found.open("w", encoding="utf-8", newline="") as file:
        file.writelines(_other(line) if row % 100 == 1 else line for row, line in enumerate(given))
    return found


def alone(path: Path) -> Path:
    """Write these rows alone, and return the file's path."""
    found = path.with_name("alone.csv")
    with path.open(encoding="utf-8", newline="") as given, found.open("w", encoding="utf-8", newline="") as file:
        file.writelines(_other(line) if row else line for row, line in enumerate(given) if row % 100 == 1 or not row)
    return found


def _other(line: str) -> str:
    return line.replace("@", ".x@", 1).replace("+447", "+4479", 1)


def write(path: Path, n: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(HEADER) + "\n")
        file.writelines((messy(row) if row % 2 else clean(row)) + "\n" for row in range(n))


# What is measured


def duckdb_scan(path: Path, folder: Path) -> Callable[[], Row]:
    def work() -> Row:
        with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
            columns = ", ".join(f"{name}: 'VARCHAR'" for name in HEADER)
            options = f"delim=',', quote='', auto_detect=false, header=true, columns={{{columns}}}, ignore_errors=true"
            found = connection.execute(f"SELECT * FROM read_csv(?, {options})", [str(path)]).fetchnumpy()
        return {"accepted": len(found["id"])}

    return work


def reading(path: Path, folder: Path) -> Callable[[], Row]:
    return lambda: {"accepted": sum(len(batch.lines) for batch in Source.open(path, HEADER).batches())}


def importing(path: Path, folder: Path, *, before: Path | None = None) -> Callable[[], Row]:
    columns = [IdentityColumn.parse(text) for text in IDENTITIES]
    project = Node.create(folder / "home", "Benchmark").project()
    if before is not None:
        project.profiles.import_(before, dataset="crm", id_column="id", identities=columns, region="GB")

    def work() -> Row:
        report = project.profiles.import_(path, dataset="crm", id_column="id", identities=columns, region="GB")
        taken = {each.column: each.accepted for each in report.columns}
        return {"accepted": report.accepted, "identities": taken, "profiles": report.profiles_added}

    return work


def again(path: Path, folder: Path) -> Callable[[], Row]:
    return importing(path, folder, before=path)


def again_changed(path: Path, folder: Path) -> Callable[[], Row]:
    return importing(changed(path), folder, before=path)


def changes_alone(path: Path, folder: Path) -> Callable[[], Row]:
    return importing(alone(path), folder, before=path)


PHASES = {
    "DuckDB's scan": duckdb_scan,
    "reading": reading,
    "import": importing,
    "again": again,
    "again, 1 % changed": again_changed,
    "the 1 % alone": changes_alone,
}


def measure(phase: str, path: Path) -> Row:
    """Measure one phase in this process."""
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        work = PHASES[phase](path, Path(folder))
        meter.reset()
        before = meter.read()
        found = work()
        after = meter.read()
    return {"cpu": after.cpu - before.cpu, "wall": after.wall - before.wall, "peak": after.peak, **found}


def rows_of(n: int, rounds: int) -> list[Row]:
    """Return one row per phase, and what the import costs beside reading."""
    seen: dict[str, list[Row]] = {phase: [] for phase in PHASES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.csv"
        write(path, n)
        for _ in range(rounds):  # the phases take turns, so that a change of clock meets all of them alike
            for phase, measured in seen.items():
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    measured.append(pool.submit(measure, phase, path).result())
    result = []
    for phase, measured in seen.items():
        row = sorted(measured, key=lambda each: each["cpu"])[rounds // 2]
        pairs = zip(measured, seen["reading"], strict=True)
        ratio = statistics.median(each["cpu"] / read["cpu"] for each, read in pairs)
        result.append({"phase": phase, "rows": n, **row, "rows_per_second": n / row["cpu"], "ratio": ratio})
    pairs = zip(seen["import"], seen["reading"], strict=True)
    beside = statistics.median(each["cpu"] - read["cpu"] for each, read in pairs) / n * 1e6
    return [*result, {"phase": BESIDE, "rows": n, "cpu": beside, "aim": AIM, "ratio": beside / AIM}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="rows of the file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    rows = rows_of(arguments.n, arguments.rounds)
    if arguments.json:
        print(json.dumps(rows))
        return
    print("| phase | rows | CPU s | wall s | rows a CPU second | peak MiB | ratio |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for row in rows:
        figures = [""] * 3
        if "wall" in row:
            figures = [f"{row['wall']:.2f}", f"{row['rows_per_second']:,.0f}", f"{row['peak'] / MIB:.0f}"]
        print(f"| {row['phase']} | {row['rows']:,} | {row['cpu']:.2f} | {' | '.join(figures)} | {row['ratio']:.2f} |")


if __name__ == "__main__":
    main()
