"""What a sign-off costs before the EHR hears of it: decision, charges and audit entry, durable in one go.

    python bench/sign_off.py [TIMES]

One client, three charges a decision, on SQLite (WAL, synchronous=FULL) and on a PostgreSQL that is
started for it (fsync on). The aim: 1 ms and 3 ms at the median.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import databases
import fault_matrix as matrix

from quarterhour.plugin import audit, database, outbox


def measure(name: str, url: str, folder: Path, times: int) -> float:
    with matrix.a_bench(url, folder) as bench:
        taken, busy = [], []
        for number in range(times + 20):
            charges = matrix.some_charges(bench, 3)
            record = {"who": "Practitioner/t1", "suggestion": "x" * 4_000}
            cpu, before = time.process_time(), time.perf_counter()
            now = bench.clock()
            with bench.engine.begin() as connection:
                connection.execute(
                    database.decision.insert().values(
                        id=f"{number:032}",
                        visit=f"{number:064}",
                        revision=1,
                        issuer="https://ehr.example/fhir",
                        person="p" * 64,
                        signed_at=now,
                        way="charge-item",
                        sealed=bench.vault.seal(record),
                    )
                )
                outbox.intend(connection, bench.vault, f"{number:032}", charges, now)
                audit.record(
                    connection,
                    bench.vault,
                    now=now,
                    action="signed",
                    who="Practitioner/t1",
                    what={**record, "charges": charges},
                )
            taken.append((time.perf_counter() - before) * 1000)
            busy.append((time.process_time() - cpu) * 1000)
        taken = sorted(taken[20:])
    median = statistics.median(taken)
    print(
        f"{name:12} median {median:.2f} ms, p95 {taken[int(len(taken) * 0.95)]:.2f} ms, "
        f"of it {statistics.median(busy):.2f} ms of our own CPU; {times} sign-offs"
    )
    return median


def main() -> int:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as name, databases.running_postgres() as socket_folder:
        folder = Path(name)
        sqlite = measure("SQLite", f"sqlite:///{folder / 'q.sqlite3'}", folder, times)
        postgres = measure("PostgreSQL", databases.new_database(socket_folder), folder, times)
    return int(sqlite > 1.0 or postgres > 3.0)


if __name__ == "__main__":
    sys.exit(main())
