"""What is stored is sealed under keys that can change, and the trail shows whoever touched it."""

import base64
import json
import random
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet
from sqlalchemy import delete, select, text, update

from quarterhour.launch.issuers import load_issuers
from quarterhour.launch.keys import public_jwks
from quarterhour.plugin import audit, database
from quarterhour.plugin.cli import main
from quarterhour.plugin.vault import SealBroken, Vault

MUTATIONS = 10_000


def command(site, *words, keys=None):
    """A command of ours under the site's settings."""
    settings = site.installation.settings
    environment = {
        "QUARTERHOUR_PUBLIC_URL": settings.public_url,
        "QUARTERHOUR_ISSUERS_FILE": str(settings.issuers_file),
        "QUARTERHOUR_DATABASE_URL": settings.database_url,
        "QUARTERHOUR_SECRET_KEYS": keys or keys_of(site),
    }
    return CliRunner().invoke(main, words, env=environment, catch_exceptions=False)


def keys_of(site):
    return ",".join(key.get_secret_value() for key in site.installation.settings.secret_keys)


def sealed_values(site):
    return [
        value
        for table in database.metadata.sorted_tables
        for row in site.rows(table)
        for value in row
        if isinstance(value, bytes)
    ]


# --- rotation -------------------------------------------------------------------------------------------------


def test_after_a_rotation_the_old_key_opens_nothing_and_the_new_one_everything(site, person):
    person.sign(person.launch())
    old, new = keys_of(site), Fernet.generate_key().decode()
    before = sealed_values(site)
    done = command(site, "rotate-keys", keys=f"{new},{old}")
    assert done.exit_code == 0
    assert f"{len(before)} stored values" in done.output
    values = sealed_values(site)
    assert len(values) == len(before) + 1, "and the entry of the rotation"
    for value in values:
        assert Vault((new,)).open_bytes(value)
        with pytest.raises(SealBroken):
            Vault((old,)).open_bytes(value)


def test_after_a_rotation_the_trail_is_unbroken_and_work_goes_on(site, person):
    page = person.launch()
    old, new = keys_of(site), Fernet.generate_key().decode()
    command(site, "rotate-keys", keys=f"{new},{old}")
    verified = command(site, "audit", "verify", keys=new)
    assert verified.exit_code == 0
    assert "unbroken" in verified.output
    site.installation.vault.__init__((new, old))
    with site.installation.engine.begin() as connection:
        sealed = connection.scalar(select(database.keyring.c.sealed))
    site.installation.vault.use_index_key(site.installation.vault.open(sealed, bytes))
    assert person.get(page.url).status == 200


def test_a_rotation_without_the_old_key_changes_nothing(site, person):
    person.launch()
    before = sealed_values(site)
    with pytest.raises(SealBroken):
        command(site, "rotate-keys", keys=Fernet.generate_key().decode())
    assert sealed_values(site) == before


def test_what_is_written_while_keys_rotate_is_not_overwritten(site, person):
    from quarterhour.plugin.cli_keys import reseal  # noqa: PLC0415

    person.launch()
    here = site.installation
    with here.engine.begin() as connection:
        table = database.launch
        connection.execute(update(table).values(chart=here.vault.seal("newer")))
        assert reseal(connection, here.vault, table) == 3
        assert here.vault.open(connection.scalar(select(table.c.chart))) == "newer"


# --- the trail ------------------------------------------------------------------------------------------------


@pytest.fixture
def trail(site):
    """A trail of eight entries, and a connection whose changes are taken back."""
    here = site.installation
    with here.engine.begin() as connection:
        for number in range(8):
            audit.record(
                connection,
                here.vault,
                now=site.clock.now,
                action="signed" if number % 2 else "read",
                who=f"Practitioner/{number % 3}",
                issuer=f"https://ehr.example/{number % 2}" if number > 1 else None,
                visit=f"visit-{number % 2}",
                what={"patient": "p1", "units": number},
            )
    with here.engine.connect() as connection:
        transaction = connection.begin()
        yield connection, here.vault
        transaction.rollback()


def test_an_untouched_trail_is_whole_also_against_its_kept_head(trail):
    connection, vault = trail
    assert audit.broken_at(connection, vault, audit.head(connection)) is None


@pytest.mark.parametrize("kept", ["", "8", "x:y", "8:short", "-1:" + "0" * 64])
def test_what_is_no_head_is_said_to_be_none(trail, kept):
    connection, vault = trail
    if kept:
        with pytest.raises(ValueError, match="A head is a number"):
            audit.broken_at(connection, vault, kept)


def edited(rows, draw):
    row = draw.choice(rows)
    column = draw.choice(["action", "issuer", "visit", "hash", "sealed", "at", "number"])
    if column == "sealed":
        flipped = bytearray(row.sealed)
        flipped[draw.randrange(len(flipped))] ^= draw.randrange(1, 256)
        row.sealed = bytes(flipped)
    elif column == "at":
        row.at = row.at.replace(year=draw.randrange(1990, 2025))
    elif column == "number":
        row.number += draw.choice([-2, -1, 1, 2])
    else:
        setattr(row, column, "".join(draw.choices("abcdef0123456789", k=draw.randrange(1, 70))))


def exchanged(rows, draw):
    """Two entries change places, in whole or in part, keeping the numbers in order."""
    one, other = draw.sample(rows, 2)
    every = ["at", "action", "issuer", "visit", "sealed", "hash"]
    for name in draw.choice([every, *([each] for each in every)]):
        mine, theirs = getattr(one, name), getattr(other, name)
        setattr(one, name, theirs)
        setattr(other, name, mine)


def removed(rows, draw):
    rows.remove(draw.choice(rows))


def removed_and_renumbered(rows, draw):
    removed(rows, draw)
    for number, row in enumerate(rows, start=1):
        row.number = number


def cut(rows, draw):
    del rows[draw.randrange(len(rows)) :]


def copied(rows, draw):
    rows.append(SimpleNamespace(**vars(draw.choice(rows)) | {"number": len(rows) + 1}))


def forged(rows, draw):
    """A new entry with a hash of the right form, by somebody who has not the key."""
    place = draw.randrange(len(rows) + 1)
    rows.insert(place, SimpleNamespace(**vars(draw.choice(rows)) | {"hash": draw.randbytes(32).hex()}))
    for number, row in enumerate(rows, start=1):
        row.number = number


KINDS = (edited, exchanged, removed, removed_and_renumbered, cut, copied, forged)


def says(row):
    """What an entry says. The last letter of base64 has bits to spare: flipping those alone edits nothing."""
    try:
        sealed = base64.urlsafe_b64decode(row.sealed)
    except ValueError:
        sealed = None
    return row.number, row.at, row.action, row.issuer, row.visit, sealed, row.hash


def test_ten_thousand_edits_deletions_reorderings_and_cuts_are_all_found(trail):
    connection, vault = trail
    kept = audit.head(connection)
    stored = connection.execute(select(database.audit).order_by(database.audit.c.number)).all()
    honest = [says(row) for row in stored]
    draw = random.Random(20261121)
    made = dict.fromkeys(KINDS, 0)
    while sum(made.values()) < MUTATIONS:
        rows = [SimpleNamespace(**row._mapping) for row in stored]
        kind = draw.choice(KINDS)
        kind(rows, draw)
        rows.sort(key=lambda row: row.number)
        if [says(row) for row in rows] == honest:
            continue
        made[kind] += 1
        assert audit.broken_in(rows, vault, kept) is not None, kind.__name__
    assert min(made.values()) > 1000
    assert audit.broken_in(stored, vault, kept) is None


def test_a_cut_end_is_found_by_the_kept_head_alone(trail):
    connection, vault = trail
    kept = audit.head(connection)
    connection.execute(delete(database.audit).where(database.audit.c.number > 5))
    assert audit.broken_at(connection, vault) is None
    assert audit.broken_at(connection, vault, kept) == 6


def test_the_command_tells_a_whole_trail_from_a_broken_one(site, person):
    person.launch()
    kept = command(site, "audit", "head").output.strip()
    whole = command(site, "audit", "verify", "--head", kept)
    assert (whole.exit_code, "unbroken" in whole.output) == (0, True)
    with site.installation.engine.begin() as connection:
        connection.execute(text("UPDATE audit SET action = 'x' WHERE number = 1"))
    broken = command(site, "audit", "verify", "--head", kept)
    assert (broken.exit_code, broken.output.strip()) == (1, "Error: The trail is broken at entry 1.")


# --- keys that sign -------------------------------------------------------------------------------------------


def test_46_old_and_new_key_are_published_together_and_the_configured_one_signs(a_site):
    site = a_site(client="ES384", more='also_publish = ["rs384.pem"]')
    person = site.person()
    published = person.get("/.well-known/jwks.json").answer.json()["keys"]
    assert [key["kty"] for key in published] == ["EC", "RSA"]
    person.launch()
    header = site.asked("/oauth/token")[0].form["client_assertion"].split(".")[0]
    assert json.loads(base64.urlsafe_b64decode(header + "=="))["kid"] == published[0]["kid"]
    # The operator changes over: the new one signs, the old one stays published.
    text_ = (site.folder / "issuers.toml").read_text()
    changed = text_.replace('"RS384"', "").replace(
        'signing_alg = "ES384"\nkey_file = "es384.pem"', 'signing_alg = "RS384"\nkey_file = "rs384.pem"'
    )
    (site.folder / "changed.toml").write_text(
        changed.replace('also_publish = ["rs384.pem"]', 'also_publish = ["es384.pem"]')
    )
    (issuer,) = load_issuers(site.folder / "changed.toml")
    assert {key["kid"] for key in public_jwks(issuer.published_keys())["keys"]} == {
        key["kid"] for key in published
    }
    assert issuer.signing_key().kid == published[1]["kid"]


def test_45_the_command_prints_what_is_served(a_site):
    site = a_site(client="RS384")
    printed = CliRunner().invoke(main, ["keys", "jwks", str(site.folder / "issuers.toml")])
    assert json.loads(printed.output) == site.person().get("/.well-known/jwks.json").answer.json()
    assert not {"d", "p", "q"} & json.loads(printed.output)["keys"][0].keys()


def test_47_a_new_private_key_is_readable_by_its_owner_alone_and_never_overwritten(tmp_path):
    file = tmp_path / "new.pem"
    assert CliRunner().invoke(main, ["keys", "new", str(file)]).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    again = CliRunner().invoke(main, ["keys", "new", str(file)])
    assert (again.exit_code, file.read_text()) == (1, before)
