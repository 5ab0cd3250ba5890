"""What a sign-off costs before the EHR hears of it: decision, charges and audit entry, durable in one go.

    python bench/sign_off.py [TIMES]

One client, three charges a decision, on SQLite (WAL, synchronous=FULL) and on a PostgreSQL that is
started for it (fsync on). The aim: 1 ms and 3 ms at the median. Beside it stands what this machine takes
to bring as many bytes to its disk and no more (write and fsync), which no database can be below: where
that alone is near the aim, or the machine is busy, the ratio and our own CPU time tell more.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import databases
import fault_matrix as matrix

from quarterhour.plugin import same_day, sign_off

AIMS = {"SQLite": 1.0, "PostgreSQL": 3.0}  # milliseconds
BYTES = 32 * 1024  # what a sign-off adds to the log of either database, roughly


def measure(name: str, url: str, folder: Path, times: int, floor: float) -> bool:
    """Prints one database's line; whether it is within its aim."""
    with matrix.a_bench(url, folder) as bench:
        taken, busy = [], []
        for number in range(times + 20):
            charges = matrix.some_charges(bench, 3)
            record = {"who": "Practitioner/t1", "suggestion": "x" * 4_000}
            row = {
                "id": f"{number:032}",
                "visit": f"{number:064}",
                "revision": 1,
                "issuer": "https://ehr.example/fhir",
                "person": "p" * 64,
                "signed_at": bench.clock(),
                "way": "charge-item",
                "replaces": None,
                "place": 1,
            }
            cpu, before = time.process_time(), time.perf_counter()
            row |= same_day.found_by(
                bench.vault,
                row["issuer"],
                f"Patient/{number}",
                f"Encounter/{number}",
                charges[0].date_of_service,
                charges,
            )
            made = sign_off.made_ready(bench.vault, row, record, charges, who="Practitioner/t1")
            with bench.engine.begin() as connection:
                sign_off.store(connection, bench.vault, made)
            taken.append((time.perf_counter() - before) * 1000)
            busy.append((time.process_time() - cpu) * 1000)
        taken = sorted(taken[20:])
    median = statistics.median(taken)
    print(
        f"{name:12} median {median:.2f} ms (aim {AIMS[name]:.0f}), p95 {taken[int(len(taken) * 0.95)]:.2f} ms; "
        f"{statistics.median(busy[20:]):.2f} ms of it our own CPU; {median / floor:.1f} times the disk's own; "
        f"{times} sign-offs"
    )
    return median <= AIMS[name]


def disk_s_own(folder: Path, times: int) -> float:
    """The median of writing and syncing a log's worth of bytes, in milliseconds."""
    taken = []
    with (folder / "floor").open("wb") as file:
        for _ in range(times):
            before = time.perf_counter()
            file.write(b"x" * BYTES)
            file.flush()
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - before) * 1000)
    return statistics.median(taken)


def main() -> int:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as name, databases.running_postgres() as socket_folder:
        folder = Path(name)
        floor = disk_s_own(folder, times)
        print(f"the disk's own: {floor:.2f} ms to write and sync {BYTES // 1024} kB")
        within = [
            measure("SQLite", f"sqlite:///{folder / 'q.sqlite3'}", folder, times, floor),
            measure("PostgreSQL", databases.new_database(socket_folder), folder, times, floor),
        ]
    return int(not all(within))


if __name__ == "__main__":
    sys.exit(main())
