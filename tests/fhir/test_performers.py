"""The names of those who performed a service: the chart's own, read without asking for more."""

import pytest

from quarterhour.fhir.performers import LONGEST_NAME

T1 = {"reference": "Practitioner/T1"}
X1 = {"reference": "Practitioner/X1"}


def names(ehr) -> list[str | None]:
    (people,) = ehr.visit().people.values()
    return [one.name for one in people]


def performed(ehr, actor: dict) -> None:
    ehr.procedure(performer=[{"actor": actor}])


def test_a_performer_has_the_name_that_the_procedure_shows(ehr):
    performed(ehr, {**X1, "display": "Maria Reyes, PT"})
    assert names(ehr) == ["Maria Reyes, PT"]


def test_without_one_the_visits_participant_of_the_same_reference_names_it(ehr):
    encounter = next(each for each in ehr.resources if each["resourceType"] == "Encounter")
    encounter["participant"] = [
        {"individual": {"reference": "Practitioner/other", "display": "Somebody else"}},
        {"individual": {**X1, "display": "Jonas Cole, PTA"}},
    ]
    performed(ehr, X1)
    assert names(ehr) == ["Jonas Cole, PTA"]


def test_the_person_signed_in_is_named_by_the_record_of_them(ehr):
    performed(ehr, T1)
    assert names(ehr) == ["Terry Therapist"]


@pytest.mark.parametrize("display", [None, "", "  ", "\u200b\u0007"])
def test_a_name_that_nobody_could_read_is_none(ehr, display):
    performed(ehr, {**X1, "display": display} if display is not None else X1)
    assert names(ehr) == [None]


def test_a_name_is_one_line_of_letters_that_can_be_shown_and_of_bounded_length(ehr):
    performed(ehr, {**X1, "display": "Maria\u202e\n  Reyes " + "y" * 500})
    (name,) = names(ehr)
    assert name.startswith("Maria Reyes yyy")
    assert len(name) == LONGEST_NAME


def test_a_performer_without_a_reference_keeps_the_words_it_has(ehr):
    performed(ehr, {"display": "Maria Reyes, PT"})
    assert names(ehr) == ["Maria Reyes, PT"]
    assert ehr.visit().performers == {"97110": ()}


def test_whoever_is_not_known_to_be_a_therapist_is_named_with_name_and_reference(ehr):
    performed(ehr, {**X1, "display": "Maria Reyes"})
    said = " ".join(finding.message for finding in ehr.visit().findings)
    assert "whether Maria Reyes (Practitioner/X1) is a therapist or an assistant" in said
