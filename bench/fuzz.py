"""Anything at all, 120,000 times: tests/access/test_fuzz.py in parts, each with a seed of its own.

    python bench/fuzz.py [INPUTS] [--folder DIR] [--part-size N]

Each part is a process, so memory stays bounded, and is not done again when the command is stopped and started anew on
the same commit. DIR (var/fuzz) holds what was done and what each part said. Ends with 1 where a part failed, after all
were run; a part that failed is run again the next time, with the same seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PART = 20_000


def main() -> int:
    """Runs what is left to do, and prints how many inputs were made of each kind."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("inputs", nargs="?", type=int, default=120_000)
    asked.add_argument("--folder", type=Path, default=ROOT / "var" / "fuzz")
    asked.add_argument("--part-size", type=int, default=PART)
    given = asked.parse_args()
    folder = given.folder / _version()
    folder.mkdir(parents=True, exist_ok=True)
    done: Counter[str] = Counter()
    failed = []
    for number in range(1, -(-given.inputs // given.part_size) + 1):
        counts = folder / f"part-{number}-of-{given.part_size}.json"
        if not counts.exists():
            begun = time.monotonic()
            outcome = _run(number, given.part_size, counts)
            print(f"part {number}: {outcome}, {time.monotonic() - begun:.0f} s", flush=True)
        if counts.exists():
            done.update(json.loads(counts.read_text(encoding="utf-8")))
        else:
            failed.append(number)
    for kind, count in sorted(done.items()):
        print(f"{count:8,} {kind}")
    print(f"{done.total():8,} inputs in parts that passed")
    if failed:
        print(f"FAILED: parts {', '.join(map(str, failed))}; see {folder}")
    return 1 if failed else 0


def _run(number: int, size: int, counts: Path) -> str:
    """One part; ``counts`` is there afterwards if it passed."""
    under_way = counts.with_suffix(".under-way")
    under_way.unlink(missing_ok=True)
    environment = os.environ | {"QUARTERHOUR_FUZZ": str(size), "QUARTERHOUR_FUZZ_COUNTS": str(under_way)}
    command = [sys.executable, "-m", "pytest", "tests/access/test_fuzz.py", f"--hypothesis-seed={number}"]
    with counts.with_suffix(".log").open("w", encoding="utf-8") as log:
        status = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status != 0:
        return "FAILED"
    kinds = [json.loads(line) for line in under_way.read_text(encoding="utf-8").splitlines()]
    counts.write_text(json.dumps({each["kind"]: each["inputs"] for each in kinds}), encoding="utf-8")
    under_way.unlink()
    return f"{sum(each['inputs'] for each in kinds):,} inputs"


def _version() -> str:
    """What was tested: the commit, marked where the tree differs from it."""
    asked = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
