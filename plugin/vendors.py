"""What we know of EHRs: how each is registered with and what the issuers file says about it.

Read from CapabilityStatements and SMART configurations that were published in July and August 2026, and from
the vendors' documentation; a hospital's own system may differ, so `quarterhour issuers check` has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Auth = Literal["public", "client_secret_basic", "client_secret_post", "private_key_jwt"]


@dataclass(frozen=True)
class Vendor:
    """One line of the table. ``settings`` and ``site`` are keys of its issuer and site tables."""

    id: str
    name: str
    where: str  # where an app is registered
    iss: str  # what the FHIR base looks like
    auth: Auth
    charges: str  # what becomes of a signed charge
    settings: dict[str, Any] = field(default_factory=dict)
    site: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


REVIEW_ONLY = (
    "There is no ChargeItem: charges are reviewed, exported and printed, or leave by another way out."
)
BY_DATE = {"procedure_search": "date"}
NO_CHARGES = {"charge_search": "none"}
MINUTES = "Procedures may carry no minutes; then the reviewer is asked for each."

VENDORS = (
    Vendor(
        "epic",
        "Epic",
        "fhir.epic.com, Build Apps; each customer then downloads the client record",
        "https://HOSPITAL/api/FHIR/R4",
        "private_key_jwt",
        REVIEW_ONLY,
        {"signing_alg": "RS384", "key_file": "keys/epic.pem", "refresh": "offline"},
        {**BY_DATE, **NO_CHARGES},
        (
            "APIs are selected one by one: Patient, Encounter, Procedure, Coverage, Practitioner, PractitionerRole.",
            "Public clients get no refresh token; permission-online and a revocation endpoint are not offered.",
            MINUTES,
        ),
    ),
    Vendor(
        "oracle",
        "Oracle Health Millennium",
        "the code console; Oracle validates each app, each customer enables it by domain and role",
        "https://fhir-ehr.cerner.com/r4/TENANT",
        "private_key_jwt",
        "ChargeItem/$create takes charges in Oracle's own form; a plain create is not offered.",
        {
            "signing_alg": "RS384",
            "key_file": "keys/oracle.pem",
            "id_token_issuer": "https://authorization.cerner.com/tenants/TENANT",
            "endpoint_origins": ["https://authorization.cerner.com"],
        },
        {**BY_DATE, "charge_search": "context"},
        (
            "The id_token comes from authorization.cerner.com and not from the FHIR server.",
            "No conditional create: a repeated POST makes a second charge, so a doubtful one is searched for first.",
        ),
    ),
    Vendor(
        "athenahealth",
        "athenahealth",
        "the developer portal, category 3-legged",
        "https://api.platform.athenahealth.com/fhir/r4",
        "client_secret_basic",
        REVIEW_ONLY,
        {
            "client_secret_file": "secrets/athenahealth",
            "refresh": "offline",
            "id_token_issuer": "https://athena.okta.com/oauth2/SERVER",
            "endpoint_origins": ["https://api.platform.athenahealth.com", "https://athena.okta.com"],
        },
        NO_CHARGES,
        ("The id_token comes from an Okta server, whose address the portal gives.", MINUTES),
    ),
    Vendor(
        "meditech",
        "MEDITECH Expanse (Greenfield)",
        "Greenfield Workspace, also by dynamic client registration",
        "https://HOSPITAL/v2/uscore/STU6",
        "client_secret_basic",
        REVIEW_ONLY,
        {"client_secret_file": "secrets/meditech", "embedding_origins": []},
        {**BY_DATE, **NO_CHARGES},
        (
            "Signing in goes through Google, which refuses frames: open Quarterhour in a tab of its own.",
            MINUTES,
        ),
    ),
    Vendor(
        "nextgen",
        "NextGen Enterprise and Office",
        "NextGen's developer program",
        "https://HOSPITAL/nge/prod/fhir-api-r4/fhir/r4",
        "client_secret_basic",
        REVIEW_ONLY,
        {"client_secret_file": "secrets/nextgen", "refresh": "offline"},
        {**BY_DATE, **NO_CHARGES},
        ("Nothing can be written at all.", MINUTES),
    ),
    Vendor(
        "eclinicalworks",
        "eClinicalWorks",
        "the developer portal",
        "https://HOSPITAL/fhir/r4/SITE",
        "client_secret_basic",
        "ChargeItem can be read, not created: charges are reviewed, exported and printed.",
        {"client_secret_file": "secrets/eclinicalworks", "refresh": "offline"},
        {"charge_search": "context"},
        (MINUTES,),
    ),
    Vendor(
        "practice-fusion",
        "Practice Fusion",
        "the vendor's API team",
        "https://api.practicefusion.com/fhir/r4/v1/SITE",
        "client_secret_basic",
        "Not known: its CapabilityStatement was not read. Run `quarterhour issuers check` first.",
        {"client_secret_file": "secrets/practice-fusion", "refresh": "none"},
        {**BY_DATE, **NO_CHARGES},
    ),
    Vendor(
        "medplum",
        "Medplum",
        "the project's ClientApplication",
        "https://api.medplum.com/fhir/R4",
        "client_secret_basic",
        "Written as ChargeItem.",
        {"client_secret_file": "secrets/medplum", "refresh": "offline"},
    ),
    Vendor(
        "hapi",
        "HAPI FHIR",
        "the authorization server in front of it, for instance Smile's or Keycloak",
        "https://HOSPITAL/fhir",
        "private_key_jwt",
        "Written as ChargeItem.",
        {"signing_alg": "ES384", "key_file": "keys/hapi.pem"},
    ),
    Vendor(
        "aidbox",
        "Aidbox",
        "a Client resource",
        "https://HOSPITAL/fhir",
        "private_key_jwt",
        "Written as ChargeItem.",
        {"signing_alg": "RS384", "key_file": "keys/aidbox.pem", "refresh": "offline"},
        notes=("Assertions are accepted with RS384 only.",),
    ),
    Vendor(
        "azure",
        "Azure Health Data Services",
        "Microsoft Entra ID, App registrations",
        "https://WORKSPACE.fhir.azurehealthcareapis.com",
        "client_secret_post",
        "Written as ChargeItem.",
        {
            "client_secret_file": "secrets/azure",
            "refresh": "offline",
            "id_token_issuer": "https://login.microsoftonline.com/TENANT/v2.0",
            "endpoint_origins": ["https://login.microsoftonline.com"],
        },
        notes=("The id_token comes from Entra ID; a proxy may be needed for the launch context.",),
    ),
    Vendor(
        "google",
        "Google Cloud Healthcare API",
        "the authorization server of the deployment",
        "https://healthcare.googleapis.com/v1/projects/PROJECT/locations/PLACE/datasets/SET/fhirStores/STORE/fhir",
        "client_secret_basic",
        "Written as ChargeItem; conditional create works by identifier.",
        {"client_secret_file": "secrets/google", "scope_syntax": "v1", "refresh": "offline"},
        notes=("SMART 1: scopes are asked for as .read and .write.",),
    ),
)
