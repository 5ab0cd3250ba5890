"""A sample of bench/capture.py: faults by chance, workers killed, and every visit is listed once."""

from capture_run import run


def test_every_visit_is_listed_once_and_right_whatever_fails_and_whoever_is_killed(tmp_path, helper):
    outcome = run(tmp_path, helper, encounters=60, kills=2, seed=20261122, share=0.03, read_timeout=0.5)
    assert (outcome.lost, outcome.doubled, outcome.unread, outcome.wrong, outcome.given_up) == (0, 0, 0, 0, 0)
    assert outcome.listed == 60
    assert (outcome.kills, outcome.vanished) == (2, 0)
    assert outcome.faults > 5
