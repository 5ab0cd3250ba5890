"""Ten thousand visits captured while 1 % of all requests fail and workers are killed: bench/README.md.

    python bench/capture.py [ENCOUNTERS] [--kills N] [--workers N] [--database URL] [--seed N]

The EHR is the sandbox over real HTTP; workers are processes of their own and are killed with SIGKILL at
random. Waiting for leases and for the next attempt is the clock's, not the wall's. Ends with 1 where a visit
is lost, listed twice, unread, or listed with something else than its chart says.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import structlog

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from capture_process import Helper  # noqa: E402 - it lies beside the tests that use it too
from capture_run import Outcome, run  # noqa: E402

MOST_MEMORY = 250  # MB for a worker, however many visits there are


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("encounters", nargs="?", type=int, default=10_000)
    asked.add_argument("--kills", type=int, default=100)
    asked.add_argument("--workers", type=int, default=2)
    asked.add_argument("--database", default="")
    asked.add_argument("--seed", type=int, default=20261122)
    given = asked.parse_args()
    logging.getLogger("waitress").setLevel(logging.ERROR)  # answers are cut short on purpose
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(Path(os.devnull).open("w")))  # noqa: SIM115
    told_at = time.monotonic()

    def tell(so_far: Outcome) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > 30:
            told_at = time.monotonic()
            print(f"{so_far.listed:,} listed, {so_far.kills} killed", flush=True)

    # A killed process loses nothing that it wrote, so the disk's own pace may be left out.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as name, closing(Helper()) as helper:
        outcome = run(
            Path(name),
            helper,
            encounters=given.encounters,
            kills=given.kills,
            workers=given.workers,
            seed=given.seed,
            database_url=given.database,
            bare=True,
            progress=tell,
        )
    print(_said(outcome, given.workers))
    wrong = outcome.lost + outcome.doubled + outcome.unread + outcome.wrong + outcome.given_up
    return int(wrong > 0 or outcome.listed != outcome.encounters or outcome.memory > MOST_MEMORY)


def _said(outcome: Outcome, workers: int) -> str:
    own = outcome.seconds * workers / outcome.encounters
    load = " ".join(f"{each:.0f}" for each in os.getloadavg())
    return (
        f"{outcome.encounters:,} visits, {outcome.requests:,} requests, {outcome.faults:,} faults, "
        f"{outcome.kills} workers killed, {outcome.vanished} ended by themselves\n"
        f"lost {outcome.lost}, listed twice {outcome.doubled}, unread {outcome.unread}, "
        f"wrong {outcome.wrong}, given up {outcome.given_up}; {outcome.listed:,} lines\n"
        f"peak memory of a worker {outcome.memory:.0f} MB (bound {MOST_MEMORY})\n"
        f"{outcome.seconds:.0f} s with {workers} workers: {outcome.encounters / outcome.seconds:.1f} visits a second; "
        f"a worker takes {own / outcome.bare:.1f} times as long as the bare requests (load {load})"
    )


if __name__ == "__main__":
    sys.exit(main())
