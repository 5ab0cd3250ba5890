"""The commands that show policies and check a site's own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from ..core.library import Library, MistakesFound, UnknownPolicy, check_folder
from ..core.policy import Citation, NotInForce, Policy, Term

_site = click.option(
    "--site",
    envvar="QUARTERHOUR_POLICIES_DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder with the site's own policies; QUARTERHOUR_POLICIES_DIR where it is not said.",
)
_today = click.option("--today", type=click.DateTime(["%Y-%m-%d"]), hidden=True)


@click.group()
def policies() -> None:
    """Show the payers' policies, and check a site's own."""


@policies.command("list")
@_site
def list_(site: Path | None) -> None:
    """Show every policy."""
    library = _library(site)
    for policy_id in library.ids:
        policy = library.policy(policy_id)
        own = "  (the site's own)" if policy.site else ""
        click.echo(f"{policy.id:<22}  {policy.title}{own}")


@policies.command()
@click.argument("policy_id", metavar="ID")
@click.option("--on", type=click.DateTime(["%Y-%m-%d"]), help="The date of service; today where not said.")
@_site
@_today
def show(policy_id: str, on: datetime | None, site: Path | None, today: datetime | None) -> None:
    """Show the terms of policy ID in force on a date: value, since when, source, and how long ago read."""
    try:
        policy = _library(site).policy(policy_id)
    except UnknownPolicy as error:
        raise click.ClickException(str(error)) from error
    read_now = (today or datetime.now(UTC)).date()
    day = on.date() if on else read_now
    click.echo(_head(policy, day))
    absent: list[str] = []
    for name in policy.terms:
        try:
            term = policy.term(name, day)
        except NotInForce:
            absent.append(f"{name} (begins {policy.terms[name][0].since})")
            continue
        if term.value is None:
            absent.append(f"{name} (ended {term.since})")
        else:
            click.echo(_shown(term, read_now))
    if absent:
        click.echo(f"\nNot in force on {day}: {', '.join(absent)}")


@policies.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def check(folder: Path) -> None:
    """Tell every mistake in the policy files of FOLDER, at its line."""
    mistakes = check_folder(folder)
    for mistake in mistakes:
        click.echo(str(mistake))
    if mistakes:
        raise SystemExit(1)
    number = sum(path.suffix in {".yaml", ".yml"} for path in folder.iterdir())
    click.echo(f"{number} policy {'file' if number == 1 else 'files'} without a mistake.")


def ago(then: date, today: date) -> str:
    """How long ago something was read, in the largest whole unit."""
    days = (today - then).days
    months = (today.year - then.year) * 12 + today.month - then.month - (today.day < then.day)
    for number, unit in ((months // 12, "year"), (months, "month"), (days, "day")):
        if number > 0:
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    return "today" if days == 0 else f"on {then}, which is yet to come"


def _library(site: Path | None) -> Library:
    try:
        return Library.load(site)
    except MistakesFound as error:
        raise click.ClickException(str(error)) from error


def _head(policy: Policy, on: date) -> str:
    like = f", like {policy.like} where it says nothing else" if policy.like else ""
    own = " (the site's own)" if policy.site else ""
    return f"{policy.id}: {policy.title}{own}{like}\nOn {on}:"


def _shown(term: Term, today: date) -> str:
    return f"\n  {term.name}: {_value(term.value)}\n    since {term.since}; {_source(term.citation, today)}"


def _source(citation: Citation, today: date) -> str:
    doubt = "" if citation.verified else "; NOT VERIFIED"
    read = f"read {ago(citation.read_on, today)}{doubt}"
    return f"{citation.title}, {citation.section}; {read}\n    {citation.url}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return ", ".join(_value(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
