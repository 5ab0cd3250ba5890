"""Settings of one installation: from the environment, with secrets also from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from pydantic import Field, IPvAnyNetwork, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class ConfigurationError(Exception):
    """The installation is not configured; the message names each setting and what it wants."""


class Settings(BaseSettings):
    """Each field is an environment variable with the prefix ``QUARTERHOUR_``.

    A field can also be a file of that name in the folder ``QUARTERHOUR_SECRETS_DIR`` names, as container
    platforms mount secrets.
    """

    model_config = SettingsConfigDict(env_prefix="QUARTERHOUR_", extra="forbid", frozen=True)

    public_url: str = Field(description="Where browsers reach Quarterhour, e.g. https://units.clinic.example")
    issuers_file: Path = Field(description="The TOML file of EHRs that may launch Quarterhour")
    secret_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        min_length=1,
        description="Keys for what is stored, newest first, separated by commas; "
        "`quarterhour new-key` makes one. To rotate, put a new one in front and keep the old",
    )
    database_url: str = Field(
        "sqlite:///quarterhour.sqlite3", description="SQLAlchemy address of the database"
    )
    policies_dir: Path | None = Field(None, description="A folder with the site's own policy files")
    edits_dir: Path | None = Field(None, description="Where `quarterhour edits import` keeps the quarters")
    idle_minutes: int = Field(30, ge=1, description="A session unused for so long must be launched again")
    launches_per_minute: int = Field(
        600, ge=1, description="Launches and callbacks taken from one address; a clinic may share one"
    )
    trusted_proxy: str | None = Field(
        None,
        description="The address of the proxy in front, whose X-Forwarded-For and X-Request-Id are believed",
    )
    rate_storage: str = Field(
        "memory://", description="Where requests are counted, if several processes share it (limits' address)"
    )
    metrics_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="A bearer token with which /metrics may be read",
    )
    metrics_from: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (),
        description="Addresses or networks that may read /metrics without it, separated by commas; off without either",
    )
    session_hours: int = Field(12, ge=1, description="A session ends after so long in any case")

    @field_validator("public_url")
    @classmethod
    def _an_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("wants an address such as https://units.clinic.example")
        if parts.path.rstrip("/"):
            raise ValueError("wants an address without a path: the cookie belongs to the whole host")
        if parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1"}:
            raise ValueError("wants https; http only for a demo on localhost")
        return f"{parts.scheme}://{parts.netloc}"

    @field_validator("secret_keys", "metrics_from", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [key.strip() for key in value.split(",") if key.strip()] if isinstance(value, str) else value

    @field_validator("secret_keys")
    @classmethod
    def _usable(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            try:
                Fernet(key.get_secret_value())
            except ValueError:
                raise ValueError("wants keys made by `quarterhour new-key`") from None
        return value


def read_settings() -> Settings:
    """The settings of this process. Raises ``ConfigurationError`` naming every variable at fault."""
    try:
        return Settings(_secrets_dir=os.environ.get("QUARTERHOUR_SECRETS_DIR"))
    except ValidationError as error:
        lines = [
            f"  QUARTERHOUR_{str(problem['loc'][0]).upper()}: {_plain(problem)}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigurationError("Quarterhour is not configured:\n" + "\n".join(lines)) from None


def _plain(problem: Any) -> str:
    if problem["type"] != "missing":
        return str(problem["msg"]).removeprefix("Value error, ")
    field = Settings.model_fields[str(problem["loc"][0])]
    return f"is not set. {field.description}."
