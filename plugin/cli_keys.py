"""Keys: of what is stored, of what signs our requests; made, published and changed for new ones."""

from __future__ import annotations

import json
from pathlib import Path

import click
from cryptography.fernet import Fernet
from sqlalchemy import Connection, LargeBinary, Table, and_, select, update

from ..launch.errors import IssuersInvalid
from ..launch.issuers import load_issuers
from ..launch.keys import SigningAlg, generate_key, public_jwks
from . import audit, database
from .cli_serve import installed
from .vault import SealBroken, Vault


@click.command()
def new_key() -> None:
    """Print a new key for QUARTERHOUR_SECRET_KEYS."""
    click.echo(Fernet.generate_key().decode())


@click.command()
def rotate_keys() -> None:
    """Seal all that is stored anew, under the first key of QUARTERHOUR_SECRET_KEYS.

    Put a new key in front, restart, run this; then the old key can be taken away. Safe while Quarterhour
    runs, and to run again.
    """
    here = installed()
    try:
        with here.engine.begin() as connection:
            count = sum(reseal(connection, here.vault, table) for table in database.metadata.sorted_tables)
            audit.record(
                connection,
                here.vault,
                now=here.clock(),
                action="keys-rotated",
                who="",
                issuer=None,
                what={"values": count},
            )
    except SealBroken as error:
        raise click.ClickException(f"Nothing was changed. {error}") from None
    finally:
        here.close()
    click.echo(f"{count} stored values are now sealed under the newest key.")


def reseal(connection: Connection, vault: Vault, table: Table) -> int:
    """Seals each sealed value of a table anew; how many. Raises ``SealBroken`` for one that opens with no key."""
    sealed = [column for column in table.columns if isinstance(column.type, LargeBinary)]
    if not sealed:
        return 0
    identity = list(table.primary_key.columns)
    count = 0
    for row in connection.execute(select(*identity, *sealed)).all():
        stored = {column: row._mapping[column] for column in sealed if row._mapping[column] is not None}  # noqa: SLF001
        # Only where nobody has written another value in the meantime; theirs is sealed under the newest key.
        unchanged = [column == value for column, value in stored.items()]
        this = [column == row._mapping[column] for column in identity]  # noqa: SLF001
        values = {column: vault.reseal(value) for column, value in stored.items()}
        if values:
            connection.execute(update(table).where(and_(*this, *unchanged)).values(values))
        count += len(values)
    return count


@click.group()
def keys() -> None:
    """Keys for EHRs that know Quarterhour by private_key_jwt."""


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--alg", type=click.Choice(["RS384", "ES384"]), default="ES384", show_default=True)
def new(file: Path, alg: SigningAlg) -> None:
    """Write a new private key to FILE, readable by its owner alone. Never overwrites.

    A backend client needs one of its own, for each EHR: name it in the table [issuers.NAME.backend].

    To change keys: name the new file in also_publish, wait until EHRs have fetched the key set, make it
    key_file and name the old one in also_publish, wait again, then take the old one away.
    """
    try:
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(generate_key(alg))
    except FileExistsError:
        raise click.ClickException(f"{file} is there already; a key is never overwritten.") from None


@keys.command()
@click.argument("issuers_file", type=click.Path(path_type=Path))
@click.option("--backend", is_flag=True, help="Of the backend clients: /.well-known/backend-jwks.json.")
def jwks(issuers_file: Path, *, backend: bool) -> None:
    """Print the public key set of an issuers file, as it is served at /.well-known/jwks.json."""
    try:
        issuers = load_issuers(issuers_file)
    except IssuersInvalid as error:
        raise click.ClickException(str(error)) from None
    published = [
        key
        for issuer in issuers
        for key in (issuer.backend_published_keys() if backend else issuer.published_keys())
    ]
    click.echo(json.dumps(public_jwks(published), indent=2))
