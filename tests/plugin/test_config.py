"""Settings from the environment: each mistake is named, no secret is repeated."""

import pytest

from quarterhour.plugin.config import ConfigurationError, read_settings

KEY = "k" * 43 + "="
GOOD = {
    "PUBLIC_URL": "https://units.clinic.example",
    "ISSUERS_FILE": "issuers.toml",
    "SECRET_KEYS": KEY,
}


@pytest.fixture
def environment(monkeypatch):
    def given(**changed):
        for name, value in {**GOOD, **changed}.items():
            if value is None:
                monkeypatch.delenv(f"QUARTERHOUR_{name}", raising=False)
            else:
                monkeypatch.setenv(f"QUARTERHOUR_{name}", value)

    return given


def test_three_settings_are_enough(environment):
    environment()
    settings = read_settings()
    assert settings.public_url == "https://units.clinic.example"
    assert [key.get_secret_value() for key in settings.secret_keys] == [KEY]
    assert (settings.idle_minutes, settings.session_hours) == (30, 12)
    assert settings.database_url == "sqlite:///quarterhour.sqlite3"


def test_every_missing_setting_is_named_at_once_with_what_it_is(environment):
    environment(PUBLIC_URL=None, ISSUERS_FILE=None, SECRET_KEYS=None)
    with pytest.raises(ConfigurationError) as told:
        read_settings()
    for name in GOOD:
        assert f"QUARTERHOUR_{name}: is not set." in str(told.value)
    assert "quarterhour new-key" in str(told.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PUBLIC_URL", "units.clinic.example", "wants an address such as https://units.clinic.example"),
        ("PUBLIC_URL", "ftp://units.clinic.example", "wants an address such as"),
        ("PUBLIC_URL", "https://units.clinic.example?x=1", "wants an address such as"),
        ("PUBLIC_URL", "https://clinic.example/units", "without a path"),
        ("PUBLIC_URL", "http://units.clinic.example", "wants https; http only for a demo on localhost"),
        ("PUBLIC_URL", "http://localhost.evil.example", "wants https"),
        ("SECRET_KEYS", "", "QUARTERHOUR_SECRET_KEYS"),
        ("SECRET_KEYS", "too-short", "wants keys made by `quarterhour new-key`"),
        ("SECRET_KEYS", f"{KEY},too-short", "wants keys made by `quarterhour new-key`"),
        ("IDLE_MINUTES", "0", "greater than or equal to 1"),
        ("IDLE_MINUTES", "soon", "valid integer"),
        ("SESSION_HOURS", "0", "greater than or equal to 1"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_what_it_wants(environment, name, value, says):
    environment(**{name: value})
    with pytest.raises(ConfigurationError) as told:
        read_settings()
    assert f"QUARTERHOUR_{name}: " in str(told.value)
    assert says in str(told.value)


@pytest.mark.parametrize("url", ["https://u.example", "http://localhost:8000", "http://127.0.0.1:8000"])
def test_https_is_good_anywhere_and_http_on_this_machine(environment, url):
    environment(PUBLIC_URL=url + "/")
    assert read_settings().public_url == url


def test_a_key_that_cannot_be_used_is_not_repeated_in_the_message(environment):
    environment(SECRET_KEYS="almost-a-secret")
    with pytest.raises(ConfigurationError) as told:
        read_settings()
    assert "almost-a-secret" not in str(told.value)
    assert told.value.__cause__ is None


def test_secrets_are_not_shown_by_printing_the_settings(environment):
    environment()
    assert KEY not in repr(read_settings())


def test_a_secret_may_be_a_file_in_the_secrets_folder(environment, tmp_path):
    environment(SECRET_KEYS=None, SECRETS_DIR=str(tmp_path))
    (tmp_path / "quarterhour_secret_keys").write_text(f"{KEY}\n")
    settings = read_settings()
    assert [key.get_secret_value() for key in settings.secret_keys] == [KEY]
