"""From coverage to policy: by the site's rules in their order, else asked."""

import pytest

MEDICARE = {"policy": "cms-part-b", "payer": "Organization/medicare"}


def policy(ehr):
    ehr.procedure("97110")
    prepared = ehr.visit()
    return prepared.policy_id, prepared.policy_because


def test_the_primary_coverages_rule_decides(ehr):
    ehr.site = {"policies": [{"policy": "optum-0048", "payer": "Organization/optum"}, MEDICARE]}
    ehr.coverage("COV2", order=2, payor=[{"reference": "Organization/optum"}])
    ehr.coverage("COV1", order=1)
    policy_id, because = policy(ehr)
    assert policy_id == "cms-part-b"
    assert "Coverage/COV1" in because


def test_the_first_rule_that_fits_wins(ehr):
    ehr.site = {
        "policies": [{"policy": "advantage", "payer": "Organization/medicare", "type": "MA"}, MEDICARE]
    }
    coverage = ehr.coverage()
    assert policy(ehr)[0] == "cms-part-b"
    coverage["type"] = {"coding": [{"code": "MA"}]}
    assert ehr.visit().policy_id == "advantage"


def test_the_name_medicare_alone_decides_nothing(ehr):
    ehr.coverage(payor=[{"display": "Medicare"}])
    policy_id, because = policy(ehr)
    assert policy_id is None
    assert "Medicare" in because


def test_without_coverage_the_payer_is_asked(ehr):
    ehr.site = {"policies": [MEDICARE]}
    assert policy(ehr) == (None, "The chart shows no active coverage on 2026-11-20.")


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ({"start": "2026-11-20"}, "cms-part-b"),
        ({"start": "2026-11-21"}, None),
        ({"end": "2026-11-20"}, "cms-part-b"),
        ({"end": "2026-11-19"}, None),
        ({"start": "2026-11"}, "cms-part-b"),  # a partial date is all of its month, or year
        ({"start": "2026-12"}, None),
        ({"end": "2026-11"}, "cms-part-b"),
        ({"end": "2026-10"}, None),
        ({"start": "2026", "end": "2026"}, "cms-part-b"),
        ({"start": "2027"}, None),
        ({"end": "2025"}, None),
        ({"start": "0001-01-01", "end": "9999-12-31"}, "cms-part-b"),  # how many write "always"
        ({"start": "9999-12-31"}, None),
        ({"end": "0001-01-01"}, None),
        (None, "cms-part-b"),
    ],
)
def test_coverage_counts_on_the_days_that_it_is_in_force(ehr, period, expected):
    ehr.site = {"policies": [MEDICARE]}
    ehr.coverage(period=period)
    assert policy(ehr)[0] == expected


def test_the_payer_changes_with_the_year_where_the_old_coverage_ends_with_a_month(ehr):
    ehr.site = {"policies": [MEDICARE, {"policy": "ama-midpoint", "payer": "Organization/acme"}]}
    ehr.coverage("COV1", order=1, period={"end": "2026-10"})
    acme = [{"reference": "Organization/acme"}]
    ehr.coverage("COV2", order=2, payor=acme, period={"start": "2026-11-01"})
    assert policy(ehr)[0] == "ama-midpoint"


@pytest.mark.parametrize("period", [{"start": "lately"}, {"end": "20.11.2027"}, {"end": "2026-13"}])
def test_a_period_that_cannot_be_read_leaves_the_payer_to_be_asked(ehr, period):
    ehr.site = {"policies": [MEDICARE]}
    ehr.coverage("COV1", order=1, period=period)
    ehr.coverage("COV2", order=2)
    assert policy(ehr) == (
        None,
        "Coverage/COV1 has a period that we cannot read, so the chart does not say who pays on 2026-11-20.",
    )


@pytest.mark.parametrize(
    ("order", "period", "status", "expected"),
    [
        (3, {"end": "soon"}, "active", "cms-part-b"),  # not the primary one, whenever it ends
        (2, {"end": "soon"}, "active", None),
        (1, {"end": "soon"}, "active", None),
        (1, {"end": "soon"}, "cancelled", "cms-part-b"),
        (1, {"start": "lately", "end": "2026-11-19"}, "active", "cms-part-b"),  # over, whenever it began
    ],
)
def test_an_unreadable_period_is_asked_about_only_where_it_may_decide(ehr, order, period, status, expected):
    ehr.site = {"policies": [MEDICARE]}
    ehr.coverage("COV1", order=order, period=period, status=status)
    ehr.coverage("COV2", order=2)
    assert policy(ehr)[0] == expected


@pytest.mark.parametrize("status", ["cancelled", "draft", "entered-in-error"])
def test_coverage_that_is_not_active_does_not_count(ehr, status):
    ehr.site = {"policies": [MEDICARE]}
    ehr.coverage(status=status)
    assert policy(ehr)[0] is None


def test_two_that_could_be_primary_are_asked_unless_they_agree(ehr):
    ehr.site = {"policies": [MEDICARE, {"policy": "optum-0048", "payer": "Organization/optum"}]}
    ehr.coverage("COV1", order=None)
    second = ehr.coverage("COV2", order=None, payor=[{"reference": "Organization/optum"}])
    policy_id, because = policy(ehr)
    assert policy_id is None
    assert "which coverage is primary" in because
    second["payor"] = [{"reference": "Organization/medicare"}]
    assert ehr.visit().policy_id == "cms-part-b"


@pytest.mark.parametrize(
    "payor",
    [
        {"identifier": {"value": "00123"}},
        {"reference": "#payer"},
        {"reference": "Organization/payer"},
    ],
)
def test_a_payer_is_known_by_its_identifier_given_contained_or_read(ehr, payor):
    ehr.site = {"policies": [{"policy": "cms-part-b", "payer": "00123"}]}
    organization = {"resourceType": "Organization", "id": "payer", "identifier": [{"value": "00123"}]}
    ehr.resources.append(organization)
    ehr.coverage(payor=[payor], contained=[organization])
    assert policy(ehr)[0] == "cms-part-b"


def test_coverage_that_cannot_be_read_may_be_the_primary_one_so_the_payer_is_asked(ehr):
    ehr.site = {"policies": [MEDICARE]}
    ehr.coverage("COV1")
    ehr.coverage("COV2", order="first")
    assert policy(ehr)[0] is None


def test_where_coverage_may_not_be_read_the_payer_is_asked_with_the_reason(ehr):
    ehr.site = {"policies": [MEDICARE]}
    ehr.refused["Coverage"] = 403
    policy_id, because = policy(ehr)
    assert policy_id is None
    assert "does not allow" in because
