"""Sealing, rotation of keys, and lookup keys that outlive both."""

from datetime import date
from decimal import Decimal

import pytest

from quarterhour.plugin.database import open_database
from quarterhour.plugin.review import Answers, Correction
from quarterhour.plugin.vault import SealBroken, Vault

SETTLED = Answers(
    tie={"97112": 2}, minutes={"Procedure/1": Correction(12, "Flow sheet")}, left_out={"a": "b"}
)


def test_what_is_sealed_opens_again_as_the_same_value(keys):
    vault = Vault(keys[:1])
    assert vault.open(vault.seal(SETTLED), Answers) == SETTLED
    assert vault.open(vault.seal({"on": date(2026, 3, 2), "much": Decimal("2.50")})) == {
        "on": "2026-03-02",
        "much": "2.50",
    }
    assert vault.open_bytes(vault.seal_bytes(b"\x00\xff")) == b"\x00\xff"


def test_a_sealed_value_says_nothing_and_never_looks_the_same_twice(keys):
    vault = Vault(keys[:1])
    one, other = vault.seal("Ruth Adams"), vault.seal("Ruth Adams")
    assert one != other
    assert b"Ruth" not in one


def test_a_new_key_in_front_seals_and_the_old_ones_still_open(keys):
    oldest, newer, newest = keys
    sealed = Vault((oldest,)).seal("kept")
    assert Vault((newest, newer, oldest)).open(sealed) == "kept"
    assert Vault((newest,)).open(Vault((newest, oldest)).seal("new")) == "new"


def test_a_value_resealed_opens_without_the_old_key(keys):
    oldest, _, newest = keys
    resealed = Vault((newest, oldest)).reseal(Vault((oldest,)).seal("kept"))
    assert Vault((newest,)).open(resealed) == "kept"


def test_without_the_key_it_was_sealed_with_the_error_says_what_to_put_back(keys):
    sealed = Vault(keys[:1]).seal("kept")
    with pytest.raises(SealBroken, match="QUARTERHOUR_SECRET_KEYS"):
        Vault(keys[1:]).open(sealed)


@pytest.mark.parametrize("spoil", [lambda s: s[:-1], lambda s: s[:40] + b"A" + s[41:], lambda _: b""])
def test_a_value_that_was_tampered_with_does_not_open(keys, spoil):
    vault = Vault(keys[:1])
    sealed = vault.seal("x" * 200)
    spoilt = spoil(sealed)
    assert spoilt != sealed
    with pytest.raises(SealBroken):
        vault.open(spoilt)


def test_an_index_is_the_same_each_time_and_tells_its_parts_apart(keys):
    vault = Vault(keys[:1])
    vault.use_index_key(b"k" * 32)
    assert vault.index("visit", "a") == vault.index("visit", "a")
    assert (
        len({vault.index("ab", "c"), vault.index("a", "bc"), vault.index("abc"), vault.index("ab", "", "c")})
        == 4
    )
    other = Vault(keys[:1])
    other.use_index_key(b"l" * 32)
    assert other.index("visit", "a") != vault.index("visit", "a")


def test_without_the_index_key_there_is_no_index(keys):
    with pytest.raises(SealBroken, match="open the database first"):
        Vault(keys[:1]).index("visit")


def test_an_index_stays_the_same_when_the_keys_are_rotated(keys, tmp_path):
    url = f"sqlite:///{tmp_path / 'kept.sqlite3'}"
    found = []
    for listed in (keys[:1], (keys[1], keys[0])):
        vault = Vault(listed)
        open_database(url, vault).dispose()
        found.append(vault.index("visit", "Patient/1"))
    assert found[0] == found[1]


def test_an_installation_started_without_its_old_key_stops_at_once(keys, tmp_path):
    url = f"sqlite:///{tmp_path / 'kept.sqlite3'}"
    open_database(url, Vault(keys[:1])).dispose()
    with pytest.raises(SealBroken):
        open_database(url, Vault(keys[1:]))


def test_each_installation_has_an_index_key_of_its_own(keys, tmp_path):
    found = set()
    for name in ("one", "other"):
        vault = Vault(keys[:1])
        open_database(f"sqlite:///{tmp_path / name}.sqlite3", vault).dispose()
        found.add(vault.index("visit"))
    assert len(found) == 2
