"""A site's ConceptMap is looked for beside the issuers file, and a mistake in it stops the start."""

import json
from contextlib import closing

import pytest
from cryptography.fernet import Fernet

from quarterhour.launch.errors import IssuersInvalid
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import install

ISSUERS = """\
[issuers.riverside]
iss = "https://ehr.example/fhir"
name = "Riverside"
time_zone = "America/New_York"
client_id = "quarterhour"
client_auth = "public"

[issuers.riverside.site]
concept_map = "maps/codes.json"
"""


@pytest.fixture
def installed_with(tmp_path):
    def start(equivalence):
        target = {"code": "97110", "equivalence": equivalence}
        group = {
            "source": "urn:local",
            "target": "http://www.ama-assn.org/go/cpt",
            "element": [{"code": "EX", "target": [target]}],
        }
        (tmp_path / "maps").mkdir()
        (tmp_path / "maps" / "codes.json").write_text(
            json.dumps({"resourceType": "ConceptMap", "status": "active", "group": [group]})
        )
        (tmp_path / "issuers.toml").write_text(ISSUERS)
        settings = Settings(
            public_url="https://quarterhour.example",
            issuers_file=tmp_path / "issuers.toml",
            secret_keys=Fernet.generate_key().decode(),
            database_url=f"sqlite:///{tmp_path / 'quarterhour.sqlite3'}",
        )
        return install(settings)

    return start


def test_a_map_beside_the_issuers_file_is_read_at_start(installed_with):
    with closing(installed_with("equal")) as installation:
        assert installation.charts["riverside"].codes == {"urn:local|EX": "97110"}


def test_a_mistake_in_the_map_stops_the_start_with_its_place(installed_with):
    place = r"issuers\.riverside\.site: .*group\[0\]\.element\[0\]\.target\[0\]\.equivalence: 'wider'"
    with pytest.raises(IssuersInvalid, match=place):
        installed_with("wider")
