"""What is known of the vulnerabilities of what is pinned, and of how much of it anything could be learned.

`make audit-deps` runs pip-audit and gives its report to this. pip-audit says "No known vulnerabilities found" also where
it was told of no package at all; here that is a failure of its own:

    0   every package was checked, or looked up by a person; what is known is answered in audit-answers.toml
    1   something is known that is not answered, or no longer
    2   some packages could not be checked, and nothing unanswered is known of the others
"""

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ANSWERS = Path(__file__).with_name("audit-answers.toml")
CLEAN, FOUND, NOT_CHECKED = 0, 1, 2


def judged(
    report: Mapping[str, Any] | None,
    answers: Sequence[Mapping[str, Any]],
    today: date,
    looked_up: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[str], int]:
    """What is to be told of pip-audit's report, and the exit status. A report of None is one that was not made.

    ``looked_up`` is what a person looked up of a version that pip-audit could learn nothing of; it holds until its day.
    """
    packages = list((report or {}).get("dependencies", ()))
    if not packages:
        return ["NOT CHECKED: pip-audit gave no report, so nothing is known of any package."], NOT_CHECKED
    skipped = [each for each in packages if "skip_reason" in each]
    checked = [each for each in packages if "skip_reason" not in each]
    lines = [f"{len(checked)} of {len(packages)} packages were checked."]
    by_id = {(answer["id"], answer["package"]): answer for answer in answers}
    status = CLEAN
    known = list(_known(checked))
    for package, version, names, fixed in known:
        answer = next((by_id[name, package] for name in names if (name, package) in by_id), None)
        told = f"{names[0]} of {package} {version}" + (f" (mended in {fixed})" if fixed else "")
        if answer is None:
            lines.append(f"FOUND: {told}. Upgrade, or answer it in {ANSWERS.name}.")
            status = FOUND
        elif answer["until"] < today:
            lines.append(f"FOUND: {told}. Its answer held until {answer['until']}; look at it anew.")
            status = FOUND
        else:
            lines.append(f"answered until {answer['until']}: {told}. {answer['because']}")
    current = {(name, package) for package, _, names, _ in known for name in names}
    seen = {each["name"] for each in checked}
    lines += [
        f"The answer to {id_} of {package} is no longer needed; take it away."
        for id_, package in by_id
        if package in seen and (id_, package) not in current
    ]
    unknown = []
    for each in skipped:
        # pip-audit names the version of a package that it passed over in its reason alone.
        found = next(
            (
                one
                for one in looked_up
                if one["package"] == each["name"]
                and f"({one['version']})" in each["skip_reason"]
                and one["until"] >= today
            ),
            None,
        )
        if found is None:
            unknown.append(each)
        else:
            lines.append(
                f"looked up by hand on {found['on']}, holds until {found['until']}: "
                f"{found['package']} {found['version']}. {found['because']}"
            )
    if unknown:
        lines.append(
            f"NOT CHECKED: {len(unknown)} packages, of which nothing is known: "
            f"{', '.join(each['name'] for each in unknown)}. The first reason given: {unknown[0]['skip_reason']}"
        )
        status = status or NOT_CHECKED
    return lines, status


def _known(checked: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[str], str]]:
    """Package, version, the names of the finding, and the versions that mend it."""
    for each in checked:
        for finding in each.get("vulns", ()):
            names = [finding["id"], *finding.get("aliases", ())]
            yield each["name"], each["version"], names, ", ".join(finding.get("fix_versions", ()))


def main() -> int:
    """Judges the report on standard input."""
    try:
        report = json.load(sys.stdin)
    except ValueError:
        report = None
    kept = tomllib.loads(ANSWERS.read_text(encoding="utf-8"))
    lines, status = judged(
        report, kept.get("answer", []), datetime.now(UTC).date(), kept.get("looked_up", [])
    )
    sys.stdout.write("\n".join(lines) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
