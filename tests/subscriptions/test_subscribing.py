"""Subscriptions made, looked after and taken back: of the kind that the EHR offers, and never believed to be well."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from quarterhour.fhir.errors import EhrError, Forbidden
from quarterhour.plugin import audit, subscriptions
from quarterhour.plugin.cli_subscriptions import subscriptions as command
from quarterhour.plugin.subscriptions import NotSubscribed
from quarterhour.sandbox.faults import Fault

TOPIC = "http://hl7.org/fhir/uv/subscriptions-backport/SubscriptionTopic/r4-encounter-complete"
CRITERIA = "Encounter?status=finished"


@pytest.fixture
def run(monkeypatch):
    """The command against one installation, as an operator runs it: exit code and what it printed."""

    def ran(made, *arguments):
        made.clock.now = datetime.now(UTC) + timedelta(seconds=5)  # the command goes by the wall clock
        settings = made.here.settings
        monkeypatch.setenv("QUARTERHOUR_PUBLIC_URL", settings.public_url)
        monkeypatch.setenv("QUARTERHOUR_ISSUERS_FILE", str(settings.issuers_file))
        monkeypatch.setenv("QUARTERHOUR_SECRET_KEYS", settings.secret_keys[0].get_secret_value())
        monkeypatch.setenv("QUARTERHOUR_DATABASE_URL", settings.database_url)
        answer = CliRunner().invoke(command, [*arguments, "--issuer", made.issuer.iss])
        assert made.sandbox.subscriptions.all_sent()
        return answer.exit_code, answer.output

    return ran


def at_the_ehr(made):
    return [filed.resource for filed in made.sandbox.store.all("Subscription")]


# Made


@pytest.mark.parametrize(
    ("offers", "kind", "criteria"),
    [("both", "topic", TOPIC), ("topic", "topic", TOPIC), ("criteria", "criteria", CRITERIA)],
)
def test_the_kind_follows_what_the_ehr_offers(between, offers, kind, criteria):
    made = between(subscriptions=offers)
    one = made.subscribe()
    assert (one.kind, one.criteria) == (kind, criteria)
    (resource,) = at_the_ehr(made)
    assert resource["status"] == "active"
    assert resource["criteria"] == criteria
    assert resource["id"] == one.ehr_id
    assert resource["channel"]["endpoint"] == made.endpoint
    assert resource["channel"]["header"] == [made.secrets.header]


def test_the_operators_word_stands_over_what_the_ehr_lists(between):
    made = between()
    one = made.subscribe("criteria", "Encounter?status=finished,cancelled")
    assert (one.kind, one.criteria) == ("criteria", "Encounter?status=finished,cancelled")


def test_only_the_id_of_a_visit_is_asked_for(between):
    made = between()
    made.subscribe()
    (resource,) = at_the_ehr(made)
    (content,) = resource["channel"]["_payload"]["extension"]
    assert content["valueCode"] == "id-only"


def test_r4s_own_kind_is_asked_for_without_any_payload(between):
    made = between(subscriptions="criteria")
    made.subscribe()
    (resource,) = at_the_ehr(made)
    assert "payload" not in resource["channel"]


def test_r4s_own_kind_only_says_that_something_changed(between):
    made = between(subscriptions="criteria")
    made.subscribe()
    made.forget_jobs()
    made.finish("open-visit")
    assert made.asked() == {"capture": [], "look": [made.issuer.iss], "catch-up": []}
    assert made.one.event_at == made.clock()


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_r4_with_a_payload_names_the_visit_in_the_address(between, method):
    made = between(subscriptions="criteria")
    made.subscribe()
    made.forget_jobs()
    made.tell({"resourceType": "Encounter", "id": "other"}, path="/Encounter/enc-cms-ex1", method=method)
    assert made.asked()["capture"] == ["cms-ex1"]


def test_r4_with_a_payload_posted_as_it_is_names_the_visit_in_the_body(between):
    made = between(subscriptions="criteria")
    made.subscribe()
    made.forget_jobs()
    made.tell({"resourceType": "Encounter", "id": "enc-cms-ex1", "status": "entered-in-error"})
    assert made.asked()["capture"] == ["cms-ex1"]


def test_what_ended_before_the_subscription_began_is_searched_for(between):
    made = between()
    made.subscribe()
    assert made.asked()["look"] == [made.issuer.iss]


def test_an_ehr_without_subscriptions_is_to_be_polled(between):
    made = between(subscriptions="none")
    with pytest.raises(NotSubscribed, match="poll_minutes"):
        made.subscribe()
    assert subscriptions.known(made.here) == ()


def test_a_topic_that_the_ehr_does_not_list_has_to_be_named(between):
    made = between(subscriptions="criteria")
    with pytest.raises(NotSubscribed, match="--topic"):
        made.subscribe("topic")


def test_a_subscription_that_the_ehr_refuses_leaves_nothing_behind(between):
    made = between()
    with pytest.raises(EhrError) as refused:
        made.subscribe("topic", "https://ehr.example/topic/of-its-own")
    assert "The EHR says: " in subscriptions.in_words(refused.value)
    assert subscriptions.known(made.here) == ()
    assert at_the_ehr(made) == []


def test_without_the_scope_nothing_is_made(between):
    made = between(withheld_scopes=("system/Subscription.cud",))
    with pytest.raises(Forbidden):
        made.subscribe()
    assert subscriptions.known(made.here) == ()


def test_without_asking_for_the_scope_nothing_is_made_and_the_setting_is_named(between):
    made = between(also_for="")
    with pytest.raises(NotSubscribed, match=r"also_for of \[issuers.sandbox.backend\]"):
        made.subscribe()


def test_there_is_one_active_subscription_at_an_ehr(between):
    made = between()
    made.subscribe()
    subscriptions.check(made.here, made.issuer, made.one)
    with pytest.raises(NotSubscribed, match="already"):
        made.subscribe()
    assert len(at_the_ehr(made)) == 1


def test_one_in_error_is_made_anew(between):
    made = between()
    old = made.subscribe()
    in_error = {**at_the_ehr(made)[0], "status": "error", "error": "the endpoint answered 503"}
    made.sandbox.store.put(in_error)
    subscriptions.check(made.here, made.issuer, made.one)
    new = made.subscribe()
    assert new.id != old.id
    (resource,) = at_the_ehr(made)
    assert (resource["id"], resource["status"]) == (new.ehr_id, "active")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("drop", "POST", "/fhir/Subscription", after=True),
        Fault("truncate", "POST", "/fhir/Subscription"),
    ],
    ids=["dropped", "cut short"],
)
def test_where_the_answer_was_lost_the_subscription_is_found_by_its_endpoint(between, fault):
    made = between()
    made.sandbox.faults.add(fault)
    one = made.subscribe()
    assert (one.status, one.ehr_id) == ("unknown", None)
    made.forget_jobs()
    made.finish("open-visit")  # it is there, so it tells
    assert made.asked()["capture"] == ["open-visit"]
    found = subscriptions.check(made.here, made.issuer, made.one)
    assert (found.status, found.ehr_id) == ("active", at_the_ehr(made)[0]["id"])
    subscriptions.unsubscribe(made.here, made.issuer, found)
    assert at_the_ehr(made) == []


def test_where_the_request_was_lost_it_is_said_that_the_ehr_knows_of_none(between):
    made = between()
    made.sandbox.faults.add(Fault("drop", "POST", "/fhir/Subscription"))
    made.subscribe()
    found = subscriptions.check(made.here, made.issuer, made.one)
    assert found.status == "gone"
    assert "does not know of the subscription" in found.problem
    assert found.needs_a_person(made.clock())
    assert made.subscribe().ehr_id == at_the_ehr(made)[0]["id"]


# Looked after


@pytest.mark.parametrize("status", ["error", "off"])
def test_one_that_does_not_tell_any_more_is_said_and_what_changed_is_searched_for(between, status):
    made = between()
    made.subscribe()
    made.forget_jobs()
    made.sandbox.store.put({**at_the_ehr(made)[0], "status": status, "error": "the endpoint answered 503"})
    made.clock.forward(minutes=6)
    subscriptions.ask_for_checks(made.here)
    made.catch_up()
    assert made.one.status == status
    assert made.one.problem == (
        f"The EHR says that the subscription is {status}. It says: the endpoint answered 503"
    )
    assert made.one.needs_a_person(made.clock())
    assert made.asked()["look"] == [made.issuer.iss]


def test_one_that_the_ehr_has_dropped_is_said_and_what_changed_is_searched_for(between):
    made = between()
    made.subscribe()
    made.forget_jobs()
    made.sandbox.subscriptions.delete(made.one.ehr_id)
    found = subscriptions.check(made.here, made.issuer, made.one)
    assert found.status == "gone"
    assert "no such subscription any more" in found.problem
    assert made.asked()["look"] == [made.issuer.iss]


def test_r4s_own_kind_counts_nothing_so_every_look_is_followed_by_a_search(between):
    made = between(subscriptions="criteria")
    made.subscribe()
    made.forget_jobs()
    made.clock.forward(minutes=6)
    subscriptions.ask_for_checks(made.here)
    made.catch_up()
    assert made.one.status == "active"
    assert made.asked()["look"] == [made.issuer.iss]


@pytest.mark.parametrize(("minutes", "silent"), [(15, False), (16, True)])
def test_three_heartbeats_missed_are_a_silence(between, minutes, silent):
    made = between()
    made.subscribe()
    made.clock.forward(minutes=minutes)
    assert made.one.is_silent(made.clock()) is silent


def test_an_ehr_that_cannot_be_asked_changes_nothing_here(between):
    made = between()
    made.subscribe()
    before = made.one
    made.sandbox.faults.add(Fault("status", "GET", "/fhir/Subscription/*", times=9, status=503))
    with pytest.raises(EhrError):
        subscriptions.check(made.here, made.issuer, made.one)
    assert made.one == before


def test_an_ehr_that_will_not_say_is_searched_each_time_and_that_is_said(between):
    made = between()
    made.subscribe()
    made.forget_jobs()
    for _ in range(2):
        made.sandbox.faults.add(Fault("status", "GET", "/fhir/Subscription/*", status=403))
        made.clock.forward(minutes=6)
        subscriptions.ask_for_checks(made.here)
        made.catch_up()
        assert made.asked() == {"capture": [], "look": [made.issuer.iss], "catch-up": []}
        assert made.one.problem.startswith("The EHR does not say how the subscription stands.")
        assert made.one.checked_at == made.clock()
        made.forget_jobs()
    made.clock.forward(minutes=6)
    subscriptions.ask_for_checks(made.here)
    made.catch_up()
    assert (made.one.status, made.one.problem) == ("active", None)


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 500}, {"status": 401, "times": 9}])
def test_an_ehr_that_fails_is_asked_again_and_searched_meanwhile(between, fault):
    made = between()
    made.subscribe()
    made.forget_jobs()
    made.sandbox.faults.add(Fault("status", "GET", "/fhir/Subscription/*", **{"times": 3} | fault))
    made.clock.forward(minutes=6)
    subscriptions.ask_for_checks(made.here)
    with pytest.raises(EhrError):
        made.catch_up()
    assert made.asked() == {"capture": [], "look": [made.issuer.iss], "catch-up": [made.one.id]}


# Taken back


def test_what_is_taken_back_is_gone_on_both_sides_and_on_the_trail(between):
    made = between()
    made.subscribe()
    made.tell(json.loads('{"resourceType": "Encounter", "id": "1"}'))
    subscriptions.unsubscribe(made.here, made.issuer, made.one)
    assert (subscriptions.known(made.here), at_the_ehr(made)) == ((), [])
    with made.here.engine.begin() as connection:
        trail = [entry.action for entry in audit.entries(connection, made.here.vault)]
    assert trail == ["subscription-made", "subscription-taken-back"]


def test_what_the_ehr_cannot_take_back_now_stays(between):
    made = between()
    made.subscribe()
    made.sandbox.faults.add(Fault("status", "DELETE", status=503))
    with pytest.raises(EhrError):
        subscriptions.unsubscribe(made.here, made.issuer, made.one)
    assert len(subscriptions.known(made.here)) == 1


def test_what_the_ehr_has_dropped_already_can_be_taken_back(between):
    made = between()
    made.subscribe()
    made.sandbox.subscriptions.delete(made.one.ehr_id)
    subscriptions.unsubscribe(made.here, made.issuer, made.one)
    assert subscriptions.known(made.here) == ()


# By the command


def test_an_operator_makes_looks_at_and_takes_back_a_subscription(between, run):
    made = between()
    code, shown = run(made, "create")
    assert code == 0
    assert f"Asked Sandbox EHR for a subscription by topic: {TOPIC}" in shown
    made.finish("open-visit")
    code, shown = run(made, "status")
    assert code == 0
    assert "active, asked 0 seconds ago" in shown
    assert "all up to number 1" in shown
    assert made.secrets.token not in shown
    assert made.secrets.path not in shown
    assert run(made, "delete") == (0, "1 subscription at Sandbox EHR taken back.\n")
    assert run(made, "status") == (1, "There is no subscription at Sandbox EHR.\n")


def test_the_command_says_what_is_wrong_and_ends_with_one(between, run):
    made = between()
    made.subscribe()
    made.sandbox.store.put({**at_the_ehr(made)[0], "status": "error", "error": "the endpoint answered 503"})
    code, shown = run(made, "status")
    assert code == 1
    assert "It says: the endpoint answered 503" in shown


def test_the_command_says_how_many_events_are_missing(between, run):
    made = between()
    made.subscribe()
    made.sandbox.subscriptions.spoil.append("lose")
    made.finish("cms-ex1", "cms-ex2")
    _, shown = run(made, "status", "--offline")
    assert "1 event before number 2" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "--topic", "x", "--criteria", "y"], "name one"),
        (["create", "--topic", "https://ehr.example/own"], "The EHR says"),
    ],
)
def test_what_cannot_be_made_is_said(between, run, arguments, says):
    code, shown = run(between(), *arguments)
    assert code != 0
    assert says in shown


def test_an_ehr_that_is_not_in_the_list_is_not_asked(between, run, monkeypatch):
    made = between()
    run(made, "status")  # sets the environment
    answer = CliRunner().invoke(command, ["create", "--issuer", "https://elsewhere.example/fhir"])
    assert answer.exit_code == 1
    assert "not known here" in answer.output
