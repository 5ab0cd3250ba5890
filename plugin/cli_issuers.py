"""`quarterhour issuers check`: what an EHR supports and what it needs, before a clinician finds out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import click
import msgspec

from ..fhir.site import ChartSettings
from ..fhir.subscriptions import TOPIC_LISTED, topic_of
from ..fhir.way import WritingSettings
from ..launch.backend import Tokens, access
from ..launch.discovery import Endpoints, discover
from ..launch.errors import IssuersInvalid, LaunchRefused
from ..launch.http import LARGEST_BODY, Http, ask, open_http, read_json
from ..launch.identity import signing_keys
from ..launch.issuers import Issuer, load_issuers
from ..launch.scopes import needs_of, resource_scope, scopes_for, system_scopes
from .charge_files import MARK
from .installation import utc_now
from .roles import settings_of


@dataclass(frozen=True, slots=True)
class Told:
    """One line about an EHR: it works, it needs a setting, or it will not work."""

    how: Literal["works", "needs", "fails"]
    says: str


class _Interaction(msgspec.Struct):
    code: str | None = None


class _Parameter(msgspec.Struct):
    name: str | None = None


class _Extension(msgspec.Struct, rename="camel"):
    url: str | None = None
    value_canonical: str | None = None
    value_uri: str | None = None


class _Resource(msgspec.Struct, rename="camel"):
    type: str | None = None
    interaction: list[_Interaction] | None = None
    search_param: list[_Parameter] | None = None
    search_include: list[str] | None = None
    conditional_create: bool | None = None
    versioning: str | None = None
    extension: list[_Extension] | None = None


class _Rest(msgspec.Struct):
    mode: str | None = None
    resource: list[_Resource] | None = None
    interaction: list[_Interaction] | None = None


class CapabilityStatement(msgspec.Struct, rename="camel"):
    """The elements that we look at (https://hl7.org/fhir/R4/capabilitystatement.html)."""

    resource_type: str | None = None
    fhir_version: str | None = None
    rest: list[_Rest] | None = None


@click.group()
def issuers() -> None:
    """The EHRs that may launch Quarterhour."""


@issuers.command()
@click.argument("url", required=False)
@click.option(
    "--file",
    "issuers_file",
    envvar="QUARTERHOUR_ISSUERS_FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The issuers file [QUARTERHOUR_ISSUERS_FILE].",
)
def check(url: str | None, issuers_file: Path) -> None:
    """Ask the EHRs of the issuers file, or the one at URL, what they support. Signs nobody in.

    Where a backend client is set up, a token is asked for with it, and thrown away.

    Exit status 1 where a launch, or a backend client that is set up, cannot work.
    """
    try:
        known = load_issuers(issuers_file)
        chosen = [known.match(url)] if url else list(known)
    except (IssuersInvalid, LaunchRefused) as error:
        raise click.ClickException(str(error)) from None
    failed = False
    for issuer in chosen:
        click.echo(f"{issuer.name} ({issuer.iss})")
        for told in checked(issuer, known, utc_now(), issuers_file.parent):
            click.echo(f"  {told.how:5}  {told.says}")
            failed = failed or told.how == "fails"
    if failed:
        raise click.exceptions.Exit(1)


def checked(issuer: Issuer, listed: Iterable[Issuer], now: datetime, folder: Path) -> Iterator[Told]:
    """All that can be told about an EHR of the list without a clinician. ``folder``: that of the issuers file."""
    http = open_http(issuer)
    try:
        settings_of(issuer)
        settings = ChartSettings.from_site(issuer.site, ZoneInfo(issuer.time_zone), folder)
        writing = WritingSettings.from_table(issuer.writing)
    except (IssuersInvalid, ValueError) as error:
        yield Told("fails", str(error))
        return
    try:
        endpoints = discover(issuer, http, now, {}, listed=listed)
    except LaunchRefused as error:
        yield Told("fails", error.message)
    else:
        yield from _of_launch(issuer, endpoints, http, now)
    try:
        answer = ask(http, "GET", f"{issuer.base}/metadata", headers={"Accept": "application/fhir+json"})
        statement = read_json(answer, CapabilityStatement, largest=LARGEST_BODY)
    except (LaunchRefused, ValueError) as error:
        yield Told("fails", f"The CapabilityStatement at {issuer.base}/metadata cannot be read: {error}")
    else:
        yield from _of_data(statement, settings)
        yield from _of_suggestions(statement, writing)
    finally:
        http.close()
    if writing.way in {"dft-file", "csv"} and writing.folder is not None:
        yield _of_folder(Path(writing.folder))


def _of_folder(folder: Path) -> Told:
    """Where charges leave as files: whether the folder is there, and is the right one."""
    try:
        marked = MARK in {path.name for path in folder.iterdir()}
    except OSError as error:
        return Told("needs", f"writing.folder cannot be read ({error.strerror}): until it can, charges wait")
    if not marked:
        return Told(
            "needs",
            f"writing.folder does not hold the file {MARK}: put an empty one there once, on the share itself; until "
            "then charges wait",
        )
    return Told("works", f"writing.folder is there, with its {MARK}")


def _of_launch(issuer: Issuer, endpoints: Endpoints, http: Http, now: datetime) -> Iterator[Told]:
    yield Told("works", f"SMART configuration; signing in at {endpoints.authorize}")
    if endpoints.code_challenge_methods is None:
        yield Told("works", "PKCE is not mentioned; S256 is sent all the same")
    elif "S256" in endpoints.code_challenge_methods:
        yield Told("works", "PKCE with S256")
    else:
        yield Told("needs", "PKCE with S256 is not offered; it goes on because pkce = legacy is set")
    yield Told("works", f"id_tokens are expected from {endpoints.id_token_issuer}")
    try:
        count = len(signing_keys(endpoints.jwks_uri, http=http, now=now).keys)
        yield Told("works", f"{count} signing key{'' if count == 1 else 's'} at {endpoints.jwks_uri}")
    except LaunchRefused as error:
        yield Told("fails", error.message)
    yield from _of_capabilities(issuer, set(endpoints.capabilities))
    yield from _of_scopes(issuer, endpoints)
    yield from _of_backend(issuer, endpoints, http, now)
    if endpoints.revocation is None:
        yield Told("works", "No revocation endpoint: signing out deletes the tokens here only")


def _of_capabilities(issuer: Issuer, offered: set[str]) -> Iterator[Told]:
    if not offered:
        yield Told("needs", "The EHR lists no capabilities; nothing can be told of launches and clients")
        return
    if "launch-ehr" not in offered:
        yield Told("needs", "launch-ehr is not listed: only signing in from Quarterhour's own page may work")
    client = {
        "public": "client-public",
        "client_secret_basic": "client-confidential-symmetric",
        "client_secret_post": "client-confidential-symmetric",
        "private_key_jwt": "client-confidential-asymmetric",
    }[issuer.client_auth]
    if client in offered:
        yield Told("works", f"client_auth = {issuer.client_auth}")
    else:
        others = ", ".join(sorted(each for each in offered if each.startswith("client-"))) or "none"
        yield Told("fails", f"client_auth = {issuer.client_auth} is not listed; the EHR lists {others}")
    if "sso-openid-connect" not in offered:
        yield Told("fails", "sso-openid-connect is not listed: nobody's identity can be verified")
    if "context-ehr-patient" not in offered:
        yield Told("needs", "context-ehr-patient is not listed: ask for the patient in the launch context")
    if "context-ehr-encounter" not in offered:
        yield Told("works", "No visit in the launch context: clinicians choose from the patient's visits")
    if issuer.refresh != "none" and f"permission-{issuer.refresh}" not in offered:
        other = "offline" if issuer.refresh == "online" else "online"
        better = other if f"permission-{other}" in offered else "none"
        yield Told("needs", f'permission-{issuer.refresh} is not listed: set refresh = "{better}"')
    syntaxes = {"v1", "v2"} & {each.removeprefix("permission-") for each in offered}
    if syntaxes and issuer.scope_syntax not in syntaxes:
        yield Told(
            "needs", f'Scopes of {issuer.scope_syntax} are not listed: set scope_syntax = "{syntaxes.pop()}"'
        )


def _of_backend(issuer: Issuer, endpoints: Endpoints, http: Http, now: datetime) -> Iterator[Told]:
    """Whether Quarterhour can have access of its own; where it is set up, by asking for it."""
    if issuer.backend is None:
        if endpoints.grant_types is None:
            yield Told("works", "Whether it offers backend services is not said; none is set up")
        elif "client_credentials" in endpoints.grant_types:
            yield Told(
                "works", "Backend services are offered, for what is done without a clinician; none is set up"
            )
        else:
            yield Told("works", "No backend services: nothing is read without a clinician")
        return
    try:
        granted = access(
            issuer,
            Tokens(),
            http=http,
            discovered={issuer.id: endpoints},
            listed=(issuer,),
            clock=lambda: now,
        )
    except LaunchRefused as error:
        offered = endpoints.grant_types is None or "client_credentials" in endpoints.grant_types
        yield Told(
            "fails", str(error) if offered else "backend is set up, but the EHR offers no client_credentials"
        )
        return
    yield Told("works", f"Backend services: a token for {len(granted.scopes)} scopes")
    for need in granted.lacks:
        yield Told("needs", f"{need.v2} was not granted to the backend client. {need.reason}")
    asked = set(system_scopes(issuer, issuer.backend))
    if wider := [scope for scope in granted.scopes if scope not in asked]:
        yield Told("needs", f"More was granted to the backend client than it asked for: {', '.join(wider)}")


def _of_scopes(issuer: Issuer, endpoints: Endpoints) -> Iterator[Told]:
    """Only where the EHR lists resource scopes: the list may be partial (SMART 2.2, scopes_supported)."""
    listed = [grant for grant in map(resource_scope, endpoints.scopes_supported) if grant]
    if not listed:
        return
    covered = {(grant.resource, letter) for grant in listed for letter in grant.interactions}
    asked = scopes_for(issuer, ehr_launch=True, capabilities=endpoints.capabilities)
    for scope in asked:
        grant = resource_scope(scope)
        if grant and not any({(grant.resource, each), ("*", each)} & covered for each in grant.interactions):
            reason = next((need.reason for need in needs_of(issuer) if need.resource == grant.resource), "")
            yield Told("needs", f"{scope} is not among scopes_supported. {reason}")


def _of_data(statement: CapabilityStatement, settings: ChartSettings) -> Iterator[Told]:
    if statement.resource_type != "CapabilityStatement":
        yield Told("fails", "/metadata is no CapabilityStatement")
        return
    if not (statement.fhir_version or "").startswith("4."):
        yield Told(
            "fails", f"FHIR {statement.fhir_version or 'of no named version'}; Quarterhour needs R4 (4.0.1)"
        )
    rests = [rest for rest in statement.rest or [] if rest.mode in {"server", None}]
    resources = {each.type: each for rest in rests for each in rest.resource or []}
    for need in ("Patient", "Encounter", "Procedure"):
        if need not in resources:
            yield Told("fails", f"{need} is not offered; without it no visit can be reviewed")
    for wish, loss in (
        ("Coverage", "the payer is asked of the reviewer"),
        ("PractitionerRole", "map users and practitioners in the issuers file"),
    ):
        if wish not in resources:
            yield Told("needs", f"{wish} is not offered: {loss}")
    if procedures := resources.get("Procedure"):
        yield from _of_procedures(procedures, settings)
    yield from _of_searches(resources, settings)
    yield from _of_charges(resources.get("ChargeItem"), settings)
    yield _of_subscriptions(resources.get("Subscription", _Resource()))
    codes = {each.code for rest in rests for each in rest.interaction or []}
    yield Told(
        "works", "transaction" if "transaction" in codes else "No transaction: charges are written one by one"
    )
    includes = sum(len(each.search_include or []) for each in resources.values())
    yield Told("works", f"{includes} _include{'' if includes == 1 else 's'} listed; Quarterhour uses none")


def _of_procedures(procedures: _Resource, settings: ChartSettings) -> Iterator[Told]:
    names = _names(procedures)
    if "patient" not in names:
        yield Told("needs", "Procedure's search by patient is not listed")
    best = (
        "date-and-encounter" if {"date", "encounter"} <= names else "date" if "date" in names else "patient"
    )
    asked = {"date-and-encounter": {"date", "encounter"}, "date": {"date"}, "patient": set[str]()}
    if not asked[settings.procedure_search] <= names:
        yield Told(
            "needs", f'Procedures cannot be searched as configured: set site.procedure_search = "{best}"'
        )
        return
    yield Told("works", f'procedure_search = "{settings.procedure_search}"')
    if best != settings.procedure_search:
        yield Told("works", f'Procedures can be searched better: site.procedure_search = "{best}"')


def _of_searches(resources: Mapping[str | None, _Resource], settings: ChartSettings) -> Iterator[Told]:
    """The searches beside those of Procedures and charges; a search that is not listed may still work."""
    asked = {
        "Encounter": ({"patient", "date"}, "the day's other visits may not be found"),
        "Coverage": ({"patient"}, "the payer is asked of the reviewer"),
        "PractitionerRole": ({"practitioner"}, "map practitioners in site.practitioners"),
    }
    if settings.minutes_observations:
        asked["Observation"] = ({"patient", "date", "code"}, "site.minutes_observations may find no minutes")
        if "Observation" not in resources:
            yield Told("needs", "Observation is not offered: take site.minutes_observations away")
    for kind, (names, loss) in asked.items():
        missing = sorted(names - _names(resources[kind])) if kind in resources else []
        if missing:
            yield Told("needs", f"{kind} is not said to be searched by {', '.join(missing)}: {loss}")


def _of_charges(charges: _Resource | None, settings: ChartSettings) -> Iterator[Told]:
    if charges is None:
        yield Told(
            "needs",
            "ChargeItem is not offered: charges can be reviewed, exported and printed, not signed off into this EHR"
            + ("" if settings.charge_search == "none" else '; set site.charge_search = "none"'),
        )
        return
    offered = {each.code for each in charges.interaction or []}
    if "create" not in offered:
        yield Told(
            "needs", "ChargeItem cannot be created: charges can be reviewed, exported and printed only"
        )
    else:
        yield Told("works", "ChargeItem create")
    if charges.conditional_create:
        yield Told("works", "conditional create: a repeated write is recognised by the EHR")
    else:
        yield Told("works", "No conditional create: after a doubtful write, charges are searched for first")
    names = _names(charges)
    if "identifier" not in names:
        yield Told(
            "needs", "ChargeItem cannot be searched by identifier: doubtful writes are settled by a person"
        )
    if settings.charge_search == "none":
        yield Told(
            "needs", "ChargeItem is offered: take site.charge_search away to see what is charged before"
        )
    lacks = {"patient", "occurrence"} - names if settings.charge_search == "patient" else set[str]()
    if lacks:
        better = "context" if "context" in names else "none"
        yield Told(
            "needs",
            f"Charges are not said to be searched by {' and '.join(sorted(lacks))}: "
            f'set site.charge_search = "{better}"',
        )


def _of_subscriptions(offered: _Resource) -> Told:
    """Whether we can be told of visits that end, and how (https://hl7.org/fhir/R4/subscription.html)."""
    topics = [
        topic
        for each in offered.extension or ()
        if each.url == TOPIC_LISTED and (topic := each.value_canonical or each.value_uri)
    ]
    if topic_of(topics):
        return Told("works", "Subscriptions by the topic of visits that end")
    if "create" in {each.code for each in offered.interaction or ()}:
        others = f"; of its topics we know none ({', '.join(topics)})" if topics else ""
        return Told("works", f"Subscriptions can be created, by R4's criteria{others}")
    return Told("works", "No subscriptions: visits that end are found by polling (capture.poll_minutes)")


def _of_suggestions(statement: CapabilityStatement, writing: WritingSettings) -> Iterator[Told]:
    """Where the site has suggestions written before they are reviewed."""
    if not writing.suggest:
        return
    charges = next(
        (each for rest in statement.rest or [] for each in rest.resource or [] if each.type == "ChargeItem"),
        _Resource(),
    )
    lacks = {"create", "update"} - {each.code or "" for each in charges.interaction or []}
    if lacks:
        yield Told(
            "needs",
            f"ChargeItem is not said to offer {' and '.join(sorted(lacks))}, so nothing can be suggested in the "
            "EHR before review: take writing.suggest away",
        )
    elif charges.versioning == "no-version":
        yield Told(
            "needs",
            "ChargeItem keeps no versions: a suggestion that others changed is told only by what it says",
        )
    else:
        yield Told("works", "Suggestions are written before review, as planned charges")


def _names(resource: _Resource) -> set[str]:
    return {each.name for each in resource.search_param or [] if each.name}
