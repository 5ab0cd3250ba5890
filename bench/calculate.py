"""What `quarterhour calculate` costs, in times of what orjson needs to parse its input and write its output.

    python bench/calculate.py [VISITS]

Makes visits of a realistic mix with a fixed seed, runs the engine over them with every check and
explanation, and prints the ratio of CPU times (the machine's speed falls out of it) and the memory.
"""

from __future__ import annotations

import itertools
import random
import resource
import sys
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone

import orjson

from quarterhour.core.calculate import answer_json, calculate
from quarterhour.core.library import Library

TIMED = ["97110", "97140", "97112", "97530", "97116", "97035", "97535", "97032", "97113", "97124"]
UNTIMED = ["97161", "97162", "97164", "97150", "97012", "G0283", "97010"]
POLICIES = ["cms-part-b"] * 5 + ["ama-midpoint", "optum-0048", "hns", "tufts-commercial-pt"]


def visits(number: int) -> Iterator[bytes]:
    """Visits of one to six services: by minutes or by the clock, some helped by an assistant."""
    chance = random.Random(20261121)
    known = set(Library.load().ids)
    policies = [policy for policy in POLICIES if policy in known]
    for place in range(number):
        yield orjson.dumps(visit(chance, place, chance.choice(policies))) + b"\n"


def visit(chance: random.Random, place: int, policy: str) -> dict:
    on = date(2026, 1, 2) + timedelta(days=chance.randrange(250))
    clock = datetime(on.year, on.month, on.day, 8 + chance.randrange(8), tzinfo=timezone(timedelta(hours=-5)))
    services = []
    by_clock = chance.random() < 0.3
    for code in chance.sample(TIMED, chance.choice([1, 2, 2, 3, 3, 4])):
        service: dict = {"code": code, "performer": f"Practitioner/{chance.randrange(40)}"}
        minutes = chance.choice([7, 8, 10, 12, 15, 15, 18, 20, 23, 25, 30])
        if by_clock:
            service["start"] = clock.isoformat()
            clock += timedelta(minutes=minutes)
            service["end"] = clock.isoformat()
        elif chance.random() > 0.01:
            service["minutes"] = minutes
        if chance.random() < 0.12:
            service["assistant_minutes"] = chance.choice([3, 8, 10, 15])
        services.append(service)
    untimed = chance.sample(UNTIMED, chance.choice([0, 0, 1, 1, 2]))
    services.extend({"code": code, "minutes": chance.choice([10, 15, 30])} for code in untimed)
    made: dict = {
        "id": f"visit-{place}",
        "policy": policy,
        "date_of_service": on.isoformat(),
        "discipline": chance.choice(["PT", "PT", "PT", "OT"]),
        "provider": {"tin": "12-3456789", "specialty": "PT"},
        "services": services,
    }
    if chance.random() < 0.5:
        made["total_treatment_minutes"] = 90
    if chance.random() < 0.4:
        made["history"] = {
            "therapy_amount": f"{chance.randrange(3500)}.50",
            "evaluations": 1,
            "treatment_visits": 4,
        }
    if chance.random() < 0.05:
        made["already_charged"] = [{"code": services[0]["code"], "units": 1}]
    if chance.random() < 0.1:
        made["modifiers"] = {services[0]["code"]: ["59"]}
    return made


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    library = Library.load()
    engine = parse = write = 0.0
    size = 0
    made = visits(number)
    # Turn about in small lots, so that a busy neighbour on the machine slows both sides alike.
    while lines := list(itertools.islice(made, 500)):
        started = time.process_time()
        written = [answer_json(answer) for answer in calculate(lines, library)]
        engine += time.process_time() - started
        started = time.process_time()
        for line in lines:
            orjson.loads(line)
        parse += time.process_time() - started
        outputs = [orjson.loads(document) for document in written]
        started = time.process_time()
        for output in outputs:
            orjson.dumps(output)
        write += time.process_time() - started
        size += sum(map(len, written))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{number:,} visits, {size / number:,.0f} bytes of output each; peak memory {memory:,.0f} MB")
    print(f"engine {engine / number * 1e6:.1f} us a visit")
    print(f"orjson {parse / number * 1e6:.2f} us to parse and {write / number * 1e6:.2f} us to write")
    print(f"ratio  {engine / (parse + write):.1f} (at most 25)")


if __name__ == "__main__":
    main()
