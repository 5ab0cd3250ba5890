"""A chart is opened, the card appears in it, and its link opens the visit in Quarterhour."""

import pytest

from quarterhour.plugin.capture import ask
from quarterhour.plugin.cli_demo import demonstration
from quarterhour.plugin.worker import work_job


@pytest.mark.browser
def test_from_a_card_in_the_chart_to_the_visits_review(chromium):
    with demonstration() as shown:
        scenario = shown.sandbox.scenario("cms-ex1")
        (issuer,) = shown.installation.issuers
        with shown.installation.engine.begin() as connection:
            ask(connection, shown.installation, issuer.iss, f"Encounter/{scenario.encounter}")
        assert work_job(shown.installation) is not None
        context = chromium.new_context()
        page = context.new_page()
        page.goto(f"{shown.ehr_url}/visits/{scenario.encounter}")
        page.get_by_role("heading", name="1 visit has therapy units that nobody has reviewed.").wait_for()
        page.get_by_role("link", name="Review ").click()
        page.frame_locator("iframe").get_by_role("button", name="Sign off…").first.wait_for(timeout=15_000)
        context.close()
