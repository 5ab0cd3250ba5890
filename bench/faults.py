"""Every fault against every way out, again and again, with the naive way beside it: docs/faults.md.

    python bench/faults.py [FAULTS] [--database URL] [--minutes 45]

Runs until at least FAULTS (10,000) were injected, and writes the table of cells and outcomes. The other
side is the sandbox over real HTTP and TCP; processes are killed with SIGKILL; waiting for search lag and
leases is the clock's, not the wall's. Ends with 1 where a charge was lost or doubled, or time ran out.

About eight faults a second on two quiet cores: 10,000 take some 20 minutes, and 300 MB. A busy machine
makes it slower and nothing else (see Gate in tests/support/fault_matrix.py).
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import structlog

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import fault_matrix as matrix  # noqa: E402 - it lies beside the tests that use it too

NAIVE = (
    "ChargeItem, no conditional create",
    "Oracle $create",
    "Claim, no conditional create",
    "DFT over MLLP",
)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("faults", nargs="?", type=int, default=10_000)
    asked.add_argument("--database", default="")
    asked.add_argument("--seed", type=int, default=20261121)
    asked.add_argument("--minutes", type=float, default=45)
    asked.add_argument("--at-once", type=int, default=4, help="most of the time is spent waiting")
    given = asked.parse_args()
    began = time.monotonic()
    share_of = -(-given.faults // given.at_once)
    ours = {cell: matrix.Outcome() for cell in matrix.CELLS}
    naive: dict = {}
    with ProcessPoolExecutor(given.at_once, multiprocessing.get_context("spawn")) as pool:
        shares = [
            pool.submit(
                share, given.seed + number, share_of, given.database, number == 0, began + given.minutes * 60
            )
            for number in range(given.at_once)
        ]
        for each in shares:
            found, found_naively, dialect = each.result()
            for cell, outcome in found.items():
                ours[cell].add(outcome)
            naive |= found_naively
    whole, beside = summed(ours), summed(naive)
    text = table(ours, naive, dialect)
    (ROOT / "docs" / "faults.md").write_text(text, encoding="utf-8")
    print(text.split("## ")[0])
    print(f"{whole.injected:,} faults in {time.monotonic() - began:.0f} s")
    print(f"the outbox:    {whole.lost} lost, {whole.doubled} doubled of {whole.charges:,} charges")
    print(f"the naive way: {beside.lost} lost, {beside.doubled} doubled of {beside.charges:,} charges")
    if whole.injected < given.faults:
        print(f"Time ran out before {given.faults:,} faults were injected.")
    return int(whole.lost or whole.doubled or whole.injected < given.faults)


def summed(outcomes: dict) -> matrix.Outcome:
    whole = matrix.Outcome()
    for outcome in outcomes.values():
        whole.add(outcome)
    return whole


def share(seed: int, faults: int, database: str, with_naive: bool, until: float) -> tuple[dict, dict, str]:
    """One process's part: outcomes by cell, the naive way's beside them, and the kind of database.

    ``until`` is in seconds of the monotonic clock, which the processes of a machine share.
    """
    logging.getLogger("waitress").setLevel(logging.ERROR)  # answers are cut short on purpose
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(Path(os.devnull).open("w")))  # noqa: SIM115
    ours = {cell: matrix.Outcome() for cell in matrix.CELLS}
    naive = {cell: matrix.Outcome() for cell in matrix.CELLS if with_naive and cell[0].title in NAIVE}
    # A killed process loses nothing that it wrote, so the disk's own pace may be left out.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        url = database or f"sqlite:///{folder / 'faults.sqlite3'}"
        with matrix.a_bench(url, folder, seed) as bench:
            for cell, outcome in naive.items():
                for _ in range(2):
                    outcome.add(matrix.run(bench, *cell, naive=True))
            if with_naive:
                lost, doubled = matrix.many_visits(bench, visits=1000, users=20)
                print(f"1,000 visits signed off by 20 at once: {lost} lost, {doubled} doubled", flush=True)
                assert (lost, doubled) == (0, 0)
            while summed(ours).injected < faults and time.monotonic() < until:
                for cell, outcome in ours.items():
                    if time.monotonic() < until:
                        outcome.add(matrix.run(bench, *cell))
                print(f"{seed}: {summed(ours).injected:,} faults", flush=True)
            return ours, naive, bench.engine.dialect.name


def table(ours: dict, naive: dict, dialect: str) -> str:
    """docs/faults.md."""
    whole, beside = summed(ours), summed(naive)
    lines = [
        "# What faults do to charges",
        "",
        "Generated by `make faults`; what each fault and way is stands in `tests/support/fault_matrix.py`.",
        f"Database: {dialect}.",
        "",
        "| | faults | decisions | charges | lost | doubled | left to a person |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        _total("the outbox", whole),
        _total("the naive way, on the ways marked *", beside),
        "",
        "*Left to a person*: DFT over MLLP only, where the other side cannot be asked. One attempt was made",
        "that got no answer, and the line says that it is not known. The naive way sends each charge, tries three times",
        "whatever went wrong, and remembers nothing.",
        "",
        "## Cell by cell",
        "",
        "Faults injected / charges lost / doubled / left to a person, one line and three lines together.",
        "An empty cell cannot happen there.",
        "",
        "| fault | "
        + " | ".join(out.title + (" *" if out.title in NAIVE else "") for out in matrix.OUTS)
        + " |",
        "| --- |" + " --- |" * len(matrix.OUTS),
    ]
    for fault in matrix.FAULTS:
        cells = []
        for out in matrix.OUTS:
            cell = matrix.Outcome()
            for lines_of in (1, 3):
                if (out, fault, lines_of) in ours:
                    cell.add(ours[out, fault, lines_of])
            shown = f"{cell.injected} / {cell.lost} / {cell.doubled} / {cell.unknown}" if cell.runs else ""
            cells.append(shown)
        lines.append(f"| {fault} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _total(name: str, outcome: matrix.Outcome) -> str:
    return (
        f"| {name} | {outcome.injected:,} | {outcome.runs:,} | {outcome.charges:,} | {outcome.lost:,} | "
        f"{outcome.doubled:,} | {outcome.unknown:,} |"
    )


if __name__ == "__main__":
    sys.exit(main())
