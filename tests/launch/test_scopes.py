"""What we ask for, and what we do without."""

from typing import get_args

import pytest

from quarterhour.fhir.way import WayName
from quarterhour.launch.scopes import (
    CONTEXT,
    IDENTITY,
    NEEDS,
    REFRESH,
    WRITING,
    missing,
    needs_of,
    resource_scope,
    scopes_for,
)
from quarterhour.plugin.ways import WITHOUT_EHR


def asked(issuer, *, ehr_launch=True, capabilities=()):
    return scopes_for(issuer, ehr_launch=ehr_launch, capabilities=capabilities)


def test_29_every_scope_has_a_reason_and_none_is_a_wildcard(an_issuer):
    reasons = IDENTITY | CONTEXT | REFRESH | {need.v2: need.reason for need in NEEDS}
    for scope in asked(an_issuer()):
        assert reasons[scope].endswith(".")
        assert "*" not in scope


def test_29_the_two_syntaxes_say_the_same(an_issuer):
    v2 = asked(an_issuer(scope_syntax="v2"))
    v1 = asked(an_issuer(scope_syntax="v1"))
    assert "patient/Procedure.rs" in v2
    assert "user/ChargeItem.cu" in v2
    assert "patient/Procedure.read" in v1
    assert "user/ChargeItem.write" in v1
    assert missing(v1) == missing(v2) == ()


def test_24_an_ehr_launch_asks_for_launch_and_a_standalone_one_for_a_patient(an_issuer):
    assert asked(an_issuer())[0] == "launch"
    standalone = asked(an_issuer(), ehr_launch=False)
    assert "launch/patient" in standalone
    assert "launch" not in standalone


def test_30_an_encounter_is_asked_for_only_where_the_ehr_offers_it(an_issuer):
    assert "launch/encounter" not in asked(an_issuer(), ehr_launch=False)
    offered = asked(an_issuer(), ehr_launch=False, capabilities=["context-standalone-encounter"])
    assert "launch/encounter" in offered


@pytest.mark.parametrize(
    ("refresh", "scope"), [("online", {"online_access"}), ("offline", {"offline_access"}), ("none", set())]
)
def test_68_refresh_is_what_the_operator_chose(an_issuer, refresh, scope):
    assert set(asked(an_issuer(refresh=refresh))) & {"online_access", "offline_access"} == scope


def test_29_the_operators_own_list_is_taken_as_it_is_but_for_the_launch_scope(an_issuer):
    issuer = an_issuer(scopes=("openid", "launch", "user/Procedure.read"))
    assert asked(issuer) == ("launch", "openid", "user/Procedure.read")
    assert asked(issuer, ehr_launch=False) == ("launch/patient", "openid", "user/Procedure.read")


@pytest.mark.parametrize(
    ("way", "v2", "v1"),
    [
        ("auto", {"user/ChargeItem.cu"}, {"user/ChargeItem.write"}),
        ("transaction", {"user/ChargeItem.cu"}, {"user/ChargeItem.write"}),
        ("oracle", {"user/ChargeItem.c"}, {"user/ChargeItem.write"}),
        ("claim", {"user/Claim.rs", "user/Claim.cu"}, {"user/Claim.read", "user/Claim.write"}),
        ("dft", set(), set()),
        ("dft-file", set(), set()),
        ("csv", set(), set()),
        ("ticket", set(), set()),
    ],
)
def test_29_what_is_asked_for_to_write_follows_from_the_way_out(an_issuer, way, v2, v1):
    for syntax, expected in (("v2", v2), ("v1", v1)):
        issuer = an_issuer(writing={"way": way}, scope_syntax=syntax)
        scopes = set(asked(issuer))
        assert {scope for scope in scopes if "/ChargeItem." in scope or "/Claim." in scope} == expected | {
            "patient/ChargeItem.rs" if syntax == "v2" else "patient/ChargeItem.read"
        }
        assert missing(scopes, needs_of(issuer)) == ()
        assert any(set("cud") & grant.interactions for grant in map(resource_scope, scopes) if grant) == bool(
            expected
        )


def test_29_every_way_out_is_in_the_table_and_those_without_the_ehr_ask_for_nothing():
    assert WRITING.keys() == {*get_args(WayName), "auto"}
    assert {way for way, needs in WRITING.items() if not needs} == WITHOUT_EHR


def test_29_observations_are_asked_for_where_minutes_are_kept_in_them(an_issuer):
    assert "patient/Observation.rs" not in asked(an_issuer())
    issuer = an_issuer(site={"minutes_observations": {"urn:oid:1.2|MIN": "97110"}})
    assert "patient/Observation.rs" in asked(issuer)


@pytest.mark.parametrize(
    ("payer", "needs_it"),
    [({"payer": "60054"}, True), ({"payer": "Organization/medicare"}, False), ({"plan": "Gold"}, False)],
)
def test_29_payers_are_asked_for_where_a_rule_goes_by_their_identifier(an_issuer, payer, needs_it):
    issuer = an_issuer(site={"policies": [{"policy": "cms-part-b", **payer}]})
    assert ("user/Organization.r" in asked(issuer)) is needs_it


def needed(resource, interactions):
    return tuple(n for n in NEEDS if n.resource == resource and n.interactions == interactions)


@pytest.mark.parametrize(
    "granted",
    ["user/ChargeItem.cu", "user/ChargeItem.cruds", "patient/ChargeItem.cud", "user/*.cruds", "user/*.*"],
)
def test_57_what_is_granted_in_other_words_is_granted(granted):
    assert missing([granted], needed("ChargeItem", "cu")) == ()


@pytest.mark.parametrize(
    "granted",
    [
        "user/ChargeItem.rs",
        "user/ChargeItem.c",
        "user/ChargeItem.read",
        "user/ChargeItemDefinition.cu",
        "system/ChargeItem.cu",
        "user/chargeitem.cu",
        "user/ChargeItem.",
        "user/ChargeItem.uc",
        "user/ChargeItem.cu ",
        "ChargeItem.cu",
        "openid",
        "",
    ],
)
def test_57_what_is_not_granted_is_missing_and_says_what_is_lost(granted):
    (need,) = missing([granted], needed("ChargeItem", "cu"))
    assert need.without == "read-only"


def test_57_two_grants_together_cover_a_need():
    assert missing(["user/ChargeItem.c", "user/ChargeItem.u"], needed("ChargeItem", "cu")) == ()


def test_33_a_fine_grained_scope_is_understood_but_covers_only_its_part():
    scope = "patient/Procedure.rs?category=http://snomed.info/sct|91251008"
    assert resource_scope(scope).query == "category=http://snomed.info/sct|91251008"
    assert len(missing([scope], needed("Procedure", "rs"))) == 1
    assert missing([scope, "patient/Procedure.rs"], needed("Procedure", "rs")) == ()


def test_33_scopes_that_are_no_resource_scopes_are_left_alone():
    for scope in ("openid", "launch/patient", "patient/Procedure.rs?", "https://vendor.example/scope"):
        grant = resource_scope(scope)
        assert grant is None or grant.query == ""
