"""The apps that the sandbox knows, as an EHR's administrator would register them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Authentication = Literal["public", "client_secret_basic", "private_key_jwt"]


@dataclass(frozen=True)
class Client:
    """One registered app.

    ``jwks`` is the app's public keys: the key set itself, or the address to fetch it from. ``launch_url``
    and ``redirect_uris`` are compared as exact strings. A ``backend`` client has neither: it acts for nobody,
    gets system scopes by client credentials, and nothing else.
    """

    client_id: str
    name: str
    auth: Authentication
    launch_url: str = ""
    redirect_uris: tuple[str, ...] = ()
    secret: str | None = None
    jwks: Mapping[str, Any] | str | None = None
    backend: bool = False


DEMO_SECRET = "sandbox demo secret: 100% synthetic & worthless"


def demo_clients(app_url: str) -> tuple[Client, ...]:
    """Quarterhour three times over, once for each kind of client, and once as itself."""

    def client(kind: str, auth: Authentication, **credentials: Any) -> Client:
        return Client(
            client_id=f"quarterhour-{kind}",
            name="Quarterhour",
            auth=auth,
            launch_url=f"{app_url}/launch",
            redirect_uris=(f"{app_url}/callback",),
            **credentials,
        )

    return (
        client("public", "public"),
        client("basic", "client_secret_basic", secret=DEMO_SECRET),
        client("jwt", "private_key_jwt", jwks=f"{app_url}/.well-known/jwks.json"),
        backend_client(f"{app_url}/.well-known/backend-jwks.json"),
    )


def backend_client(jwks: Mapping[str, Any] | str) -> Client:
    """Quarterhour where no clinician is."""
    return Client("quarterhour-backend", "Quarterhour", "private_key_jwt", jwks=jwks, backend=True)
