"""Documents in, answers out: in order, one at a time, whatever stands between them."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from datetime import date

import pytest

from quarterhour.core.calculate import LONGEST_DOCUMENT, Answered, Refused, answer_json, calculate, documents
from quarterhour.core.library import Library, UnknownPolicy
from quarterhour.core.side_by_side import side_by_side
from quarterhour.core.text import COLUMNS, csv_head, csv_rows, text

LIBRARY = Library.load()


def document(name="v", policy="cms-part-b", minutes=(20, 20), **fields):
    services = [
        {"code": code, "minutes": spent} for code, spent in zip(("97110", "97140"), minutes, strict=True)
    ]
    return {"id": name, "policy": policy, "date_of_service": "2026-03-02", "discipline": "PT",
            "services": services, **fields}  # fmt: skip


def line(*args, **fields):
    return json.dumps(document(*args, **fields)).encode() + b"\n"


def answers(*lines, also=()):
    return list(calculate(lines, LIBRARY, also))


def test_a_line_that_cannot_be_read_is_refused_in_its_place():
    found = answers(
        line("a"),
        b"not json\n",
        line("b", minutes=(-1, 5)),
        line("c", policy="nobody"),
        line("d", date_of_service="1999-12-31"),
        line("e"),
    )
    assert [type(one) for one in found] == [Answered, Refused, Refused, Refused, Refused, Answered]
    assert [one.path for one in found[1:5]] == ["", "services[0].minutes", "policy", "date_of_service"]
    assert [one.id for one in found[1:5]] == [None, "b", "c", "d"]
    assert "known are ama-midpoint, cms-part-b" in found[3].message
    assert "it begins on 2000-04-01" in found[4].message
    assert json.loads(answer_json(found[2])) == {
        "id": "b",
        "error": {"message": "Expected a whole number >= 0.", "path": "services[0].minutes"},
    }


def test_one_document_over_many_lines_is_one_visit():
    pretty = json.dumps(document("a"), indent=2).encode().splitlines(keepends=True)
    (answer,) = answers(*pretty)
    assert answer.suggestion.id == "a"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([b"\n", b"  \n"], []),
        ([b'{"a":1}\n', b"\n", b'{"b":2}\n'], [b'{"a":1}\n', b'{"b":2}\n']),
        ([b'{"a":1}'], [b'{"a":1}']),
        ([b'\xef\xbb\xbf{"a":1}\n'], [b'{"a":1}\n']),
        ([b"{\n", b'"a":1\n', b"}\n"], [b'{\n"a":1\n}\n']),
        ([b'{"a": [1,\n', b"2]}\n"], [b'{"a": [1,\n2]}\n']),
        ([b'{"a": 1\n', b'{"b": 2}\n'], [b'{"a": 1\n', b'{"b": 2}\n']),
        ([b"nope\n", b'{"b": 2}\n'], [b"nope\n", b'{"b": 2}\n']),
        ([b'{"a":1}\n', b"nope\n"], [b'{"a":1}\n', b"nope\n"]),
        ([b"{\n"], [b"{\n"]),
        # a visit over many lines, whatever its second line begins with
        ([b'{"services": [\n', b'{"code": "1"}]}\n'], [b'{"services": [\n{"code": "1"}]}\n']),
        ([b'{"services": [\n', b'{"code": "1"}\n', b"]}\n"], [b'{"services": [\n{"code": "1"}\n]}\n']),
        # a broken one is one; two broken lines cost the third nothing
        ([b'{"services": [\n', b'{"code": "1"}\n', b"}\n"], [b'{"services": [\n{"code": "1"}\n}\n']),
        (
            [b'{"id":"1",\n', b"not json\n", b'{"id":"3"}\n'],
            [b'{"id":"1",\n', b"not json\n", b'{"id":"3"}\n'],
        ),
    ],
)
def test_documents_are_one_a_line_or_one_over_all(lines, expected):
    assert list(documents(lines)) == expected


def test_answers_come_as_the_lines_do():
    """Nothing is read ahead but the second line, so that a stream of any length needs no more memory."""
    read = []

    def lines():
        for number in itertools.count():
            read.append(number)
            yield line(str(number))

    stream = calculate(lines(), LIBRARY)
    for number in range(5):
        assert next(stream).suggestion.id == str(number)
        assert len(read) <= number + 2


def test_a_long_batch_needs_no_more_memory_than_a_short_one():
    def peak(number):
        days = itertools.cycle(date(2026, 1 + month, 1).isoformat() for month in range(12))
        tracemalloc.start()
        for answer in calculate((line(date_of_service=next(days)) for _ in range(number)), LIBRARY):
            answer_json(answer)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(50)
    assert peak(1_500) < peak(150) + 1_000_000  # 1,350 answers kept would be some 15 million bytes


# ---- other policies beside it ---------------------------------------------------------------------


def test_other_policies_stand_beside_it_with_the_difference_by_code():
    (answer,) = answers(line(minutes=(33, 7)), also=["ama-midpoint", "cms-part-b"])
    first, second = json.loads(answer_json(answer))["also"]
    assert first == {
        "policy": "ama-midpoint",
        "rule": "ama-midpoint",
        "total_timed_units": 2,
        "units": {"97110": 2, "97140": 0},
        "difference": {"97140": -1},
    }
    assert second["difference"] == {}


def test_a_tie_under_the_other_policy_is_shown_as_one():
    (answer,) = answers(line(policy="ama-midpoint"), also=["cms-part-b"])
    (other,) = json.loads(answer_json(answer))["also"]
    assert other["ties"] == [{"codes": ["97110", "97140"], "units": 1}]


def test_another_policy_that_is_not_in_force_says_so():
    (answer,) = answers(line(date_of_service="2017-05-01"), also=["hns"])
    (other,) = json.loads(answer_json(answer))["also"]
    assert set(other) == {"policy", "error"}
    assert "not in force on 2017-05-01" in other["error"]


def test_without_other_policies_the_field_is_not_there():
    (answer,) = answers(line())
    assert "also" not in json.loads(answer_json(answer))


def test_an_unknown_other_policy_stops_before_the_first_answer():
    with pytest.raises(UnknownPolicy):
        answers(line(), also=["nobody"])


def test_assistants_lines_are_one_code_beside_each_other(suggested):
    suggestion = suggested(("97110", 23, 22))
    (other,) = side_by_side(suggestion, ["ama-midpoint"], LIBRARY)
    assert (dict(other.units), dict(other.difference)) == ({"97110": 3}, {})


# ---- for people -----------------------------------------------------------------------------------


def test_the_text_has_the_table_the_tie_the_reasons_the_findings_and_their_sources():
    (answer,) = answers(line("v1"), also=["ama-midpoint"])
    shown = text(answer)
    assert "Visit v1, PT, 2026-03-02, under cms-part-b (cms-8-minute)" in shown
    assert "Timed minutes 40, timed units 3, total treatment minutes 40" in shown
    assert "  97110       1       1       20  GP" in shown
    assert "1 more to share among 97110, 97140, one each at most; the clinician chooses:" in shown
    assert "  97110 2, 97140 1" in shown
    assert "20 + 20 = 40 timed minutes; 38 to 52 make 3 units. [1]" in shown
    assert "not checked total-treatment-time" in shown
    assert "Under ama-midpoint (ama-midpoint): 2 timed units" in shown
    assert "  [1] Medicare Claims Processing Manual" in shown
    assert "(read 2026-11-21)" in shown
    assert shown.endswith("\n\n")


def test_the_text_of_a_tie_with_too_many_ways_says_how_many_codes_to_choose(library):
    tied = [code.code for code in library.codes if code.pools][:14]
    (answer,) = answers(line(modifiers={}, services=[{"code": code, "minutes": 4} for code in tied]))
    shown = text(answer)
    assert f"among {', '.join(tied)}, one each at most; the clinician chooses 4 of them.\n" in shown
    assert "info ways-not-listed: 4 units can be shared among 14 codes in 1,001 ways" in shown


def test_the_text_says_what_is_not_verified_and_what_is_unknown():
    (answer,) = answers(line(modifiers={"97110": ["59"]}, services=[{"code": "97110"}, {"code": "97110"}]))
    assert "Timed minutes unknown" in text(answer)
    (answer,) = answers(line(modifiers={"97110": ["59"]}))
    assert "not verified)" in text(answer)


def test_the_text_of_a_refusal_says_where():
    (answer,) = answers(line("v1", minutes=(-1, 5)))
    assert text(answer) == "Visit v1: not calculated. Expected a whole number >= 0. (services[0].minutes)\n\n"


def test_nothing_that_comes_in_moves_the_cursor():
    bad = "x\x1b[2J\r"
    visit = document(bad, services=[{"code": bad, "minutes": 5}], modifiers={})
    (answer,) = answers(json.dumps(visit).encode())
    assert "\x1b" not in text(answer)
    assert "\r" not in text(answer)


def test_the_rows_are_one_a_line_and_one_for_what_belongs_to_no_code():
    (answer,) = answers(line("v1"))
    assert csv_head() == ",".join(COLUMNS) + "\n"
    first, second, third = csv_rows(answer).splitlines()
    assert first.startswith("v1,cms-part-b,2026-03-02,PT,97110,1,1,20,GP,1,")
    assert second.startswith("v1,cms-part-b,2026-03-02,PT,97140,1,1,20,GP,1,")
    assert third.startswith("v1,cms-part-b,2026-03-02,PT,,,,,,,,")
    assert "total-treatment-time (not checked)" in third


def test_the_row_of_a_refusal_has_the_error():
    (answer,) = answers(line("v1", minutes=(-1, 5)))
    assert csv_rows(answer) == "v1,,,,,,,,,,,,services[0].minutes: Expected a whole number >= 0.\n"


def test_no_cell_is_a_formula():
    (answer,) = answers(line('=cmd|"calc"'))
    assert csv_rows(answer).startswith("\"'=cmd|")


def test_where_the_first_line_is_broken_no_more_is_collected_than_a_document_can_be_long():
    """The rest is answered line by line as it comes."""
    taken = []

    def lines():
        for number in range(40):
            taken.append(number)
            yield b'{"broken": "' + b"x" * (LONGEST_DOCUMENT // 16) + b"\n"

    next(documents(lines()))
    assert len(taken) == 16


def test_a_table_names_findings_about_codes_without_a_line_too():
    visit = document("v1") | {
        "services": [{"code": "97110", "minutes": 15}],
        "already_charged": [{"code": "97112", "units": 5}],
    }
    (answer,) = answers(json.dumps(visit).encode())
    *_, general = csv_rows(answer).splitlines()
    assert "already-charged (warning)" in general
    assert "mue (warning)" in general
