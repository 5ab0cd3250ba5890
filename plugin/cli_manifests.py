"""`quarterhour manifests`: how EHRs and operators know us, written from the code that it describes."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import msgspec

from ..launch.scopes import CONTEXT, IDENTITY, MINUTES, NEEDS, PAYER, REFRESH, SYSTEM_NEEDS, WRITING
from .cds import SERVICES
from .vendors import VENDORS, Vendor

EXAMPLE = "https://quarterhour.example"
LOST = {
    "no-review": "No visit can be reviewed.",
    "incomplete": "The review says what it could not see.",
    "read-only": "Charges are reviewed, exported and printed, not signed off.",
}
WITHHELD = {
    "no-review": "Nothing is captured.",
    "incomplete": "The suggestion says what it could not see.",
    "read-only": "That purpose falls away.",
}
PURPOSES = {
    "reading": "always",
    "planned-charges": 'with `also_for = ["planned-charges"]`',
    "subscriptions": 'with `also_for = ["subscriptions"]`',
}
CDS_HOOKS = """\
## CDS Hooks

For EHRs that are CDS Hooks clients (2.0; members of 3.0 are passed over). What is offered stands in
[cds-services.json](cds-services.json); the ids do not change.

- Each service is called at `{url}/cds-services/ID`, and told what became of its cards at
  `{url}/cds-services/ID/feedback`.
- Every call carries a JWT signed with ES384 or RS384 (RS256 by the operator's setting), with `kid`, `typ` JWT, `iss`,
  `aud` exactly the service's address, `exp` within the hour, `iat`, and a `jti` that is used once. The operator enters
  `iss`, the address of the key set and, where several clinics share an `iss`, the `tenant`.
- Of the EHR's data only the patient's Coverage is used, prefetched or read with the token in `fhirAuthorization`
  (`user/Coverage.read` or `.rs`); without it thresholds are not spoken of.
- Cards carry a link of type `smart` to the launch URL with an `appContext` that names a visit; it has to come back in
  the token response. There are no suggestions and no systemActions."""
GENERATED = "<!-- Written by `quarterhour manifests`; do not edit. -->"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--url", default=EXAMPLE, show_default=True, help="Where browsers reach Quarterhour.")
def manifests(folder: Path, url: str) -> None:
    """Write the documents that EHRs ask for when an app is registered into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents(url.rstrip("/")).items():
        (folder / name).write_text(text, encoding="utf-8")
        click.echo(folder / name)


def documents(url: str) -> dict[str, str]:
    """Every document by its file name, for an installation at ``url``."""
    registrations = {
        f"registration-{kind}.json": json.dumps(registration(url, kind), indent=2) + "\n"
        for kind in ("public", "confidential-symmetric", "confidential-asymmetric")
    }
    backend = json.dumps(backend_registration(url), indent=2) + "\n"
    registrations["registration-backend-services.json"] = backend
    offered = msgspec.json.format(msgspec.json.encode({"services": SERVICES}), indent=2).decode() + "\n"
    return {
        **registrations,
        "cds-services.json": offered,
        "scopes.md": scopes(),
        "registrations.md": vendors(url),
    }


def registration(url: str, kind: str) -> dict[str, Any]:
    """A request of dynamic client registration (https://www.rfc-editor.org/rfc/rfc7591#section-2)."""
    method: dict[str, Any] = {
        "public": {"token_endpoint_auth_method": "none"},
        "confidential-symmetric": {"token_endpoint_auth_method": "client_secret_basic"},
        "confidential-asymmetric": {
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "ES384",
            "jwks_uri": f"{url}/.well-known/jwks.json",
        },
    }[kind]
    return {
        "client_name": "Quarterhour",
        "client_uri": url,
        "software_id": "quarterhour",
        "software_version": version("quarterhour"),
        "initiate_login_uri": f"{url}/launch",
        "redirect_uris": [f"{url}/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        **method,
        "scope": " ".join([*CONTEXT, *IDENTITY, *REFRESH, *(need.v2 for need in NEEDS)]),
    }


def backend_registration(url: str) -> dict[str, Any]:
    """As ``registration``, for the client that Quarterhour is where no clinician is.

    https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html
    """
    return {
        "client_name": "Quarterhour (backend)",
        "client_uri": url,
        "software_id": "quarterhour-backend",
        "software_version": version("quarterhour"),
        "grant_types": ["client_credentials"],
        "response_types": [],
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "ES384",
        "jwks_uri": f"{url}/.well-known/backend-jwks.json",
        "scope": " ".join(need.v2 for needs in SYSTEM_NEEDS.values() for need in needs),
    }


def scopes() -> str:
    """The table of scopes, each with its reason and what is lost without it."""
    lines = [
        "# Scopes",
        "",
        GENERATED,
        "",
        "Nothing is asked for with a wildcard. A scope that an EHR withholds is named on the page before anybody works.",
        "",
        "| SMART 2 | SMART 1 | What for | Without it |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{need.v2}` | `{need.v1}` | {need.reason} | {LOST[need.without]} |" for need in NEEDS]
    lines += [
        "",
        "By the issuer's settings instead, or besides:",
        "",
        "| Setting | SMART 2 | SMART 1 | What for | Without it |",
        "| --- | --- | --- | --- | --- |",
    ]
    by_setting = {f'`way = "{way}"`': needs for way, needs in WRITING.items()}
    by_setting["`minutes_observations`"] = (MINUTES,)
    by_setting["`policies` by a payer's identifier"] = (PAYER,)
    lines += [
        f"| {setting} | `{need.v2}` | `{need.v1}` | {need.reason} | {LOST[need.without]} |"
        for setting, needs in by_setting.items()
        for need in needs
        if need not in NEEDS
    ]
    silent = ", ".join(f"`{way}`" for way, needs in WRITING.items() if not needs)
    lines += ["", f"Ways that write nothing into the EHR ({silent}) ask for no scope to write."]
    lines += ["", "| Other scopes | What for |", "| --- | --- |"]
    lines += [f"| `{scope}` | {reason} |" for scope, reason in (CONTEXT | IDENTITY | REFRESH).items()]
    lines += [
        "",
        (
            "One of `launch` and `launch/patient` is asked for, by the kind of launch; `launch/encounter` only where the "
            "EHR offers it; one of `online_access` and `offline_access`, by the issuer's `refresh`."
        ),
        "",
        "## Backend services",
        "",
        (
            "A second client, with a key of its own, for what is done where no clinician is: it reads what has ended, so "
            "that a suggestion waits on the worklist. It is given system scopes only, and never signs a charge off."
        ),
        "",
        "| SMART 2 | SMART 1 | What for | Asked for | Without it |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{need.v2}` | `{need.v1}` | {need.reason} | {PURPOSES[purpose]} | {WITHHELD[need.without]} |"
        for purpose, needs in SYSTEM_NEEDS.items()
        for need in needs
    ]
    lines += [
        "",
        "With the site's settings above, `system/Observation.rs` and `system/Organization.r` besides.",
    ]
    return "\n".join(lines) + "\n"


def vendors(url: str) -> str:
    """What is entered where an app is registered, and the issuer table that goes with it, by vendor."""
    lines = [
        "# Registrations",
        "",
        GENERATED,
        "",
        (
            "By vendor: what to enter where the app is registered, and the table for the issuers file. Words in capitals "
            "are the hospital's. Read from what vendors published in July and August 2026; run `quarterhour issuers "
            "check` against the system itself. Scopes with their reasons are in [scopes.md](scopes.md), requests for "
            "dynamic registration in `registration-*.json`."
        ),
        "",
        "Everywhere the same:",
        "",
        "| | |",
        "| --- | --- |",
        "| Name | Quarterhour |",
        "| Users | Clinicians (a provider's app) |",
        "| FHIR version | R4 (4.0.1) |",
        f"| Launch URL | {url}/launch |",
        f"| Redirect URL | {url}/callback |",
        f"| JWKS URL | {url}/.well-known/jwks.json (served without signing in) |",
        f"| JWKS URL of the backend client | {url}/.well-known/backend-jwks.json (a registration of its own) |",
        f"| CDS Hooks, discovery | {url}/cds-services (served without signing in; off until the operator turns it on) |",
        "",
        *CDS_HOOKS.format(url=url).splitlines(),
    ]
    for vendor in VENDORS:
        lines += ["", *_section(vendor)]
    return "\n".join(lines) + "\n"


def _section(vendor: Vendor) -> list[str]:
    syntax = vendor.settings.get("scope_syntax", "v2")
    asked = " ".join(need.v1 if syntax == "v1" else need.v2 for need in NEEDS)
    return [
        f"## {vendor.name}",
        "",
        f"Registered at: {vendor.where}. Client: `{vendor.auth}`. {vendor.charges}",
        *(["", *(f"- {note}" for note in vendor.notes)] if vendor.notes else []),
        "",
        f"Scopes: `launch openid fhirUser {asked}`",
        "",
        "```toml",
        *toml(vendor).splitlines(),
        "```",
    ]


def toml(vendor: Vendor) -> str:
    """The issuer's table."""
    issuer = {
        "iss": vendor.iss,
        "name": vendor.name,
        "time_zone": "America/New_York",
        "client_id": "CLIENT-ID",
        "client_auth": vendor.auth,
        **vendor.settings,
    }
    lines = [f"[issuers.{vendor.id}]", *(f"{key} = {_value(value)}" for key, value in issuer.items())]
    if vendor.site:
        lines += ["", f"[issuers.{vendor.id}.site]"]
        lines += [f"{key} = {_value(value)}" for key, value in vendor.site.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """TOML's strings, lists and booleans of these kinds are JSON's."""
    return json.dumps(value, ensure_ascii=False)
