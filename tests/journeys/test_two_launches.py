"""Two launches in two tabs of one browser never mix: everything is keyed by launch."""


def test_two_patients_in_two_tabs_step_by_step_never_mix(clinic, person):
    adams, castillo = person.launch("cms-ex1"), person.launch("cms-ex3")
    assert "Ruth Adams" in adams.text
    assert "Inés Castillo" in castillo.text
    adams = person.press(adams, "Sign off…")
    castillo = person.press(castillo, "Sign off…")
    assert ("Ruth Adams" in adams.text, "Ruth Adams" in castillo.text) == (True, False)
    castillo = person.press(castillo, "Sign off 2 charges")
    assert clinic.charged("cms-ex1") == {}
    adams = person.press(adams, "Sign off 2 charges")
    assert ("Castillo" in castillo.text, "Castillo" in adams.text) == (True, False)
    assert clinic.charged("cms-ex1") == {"97112": 2, "97110": 1}
    assert clinic.charged("cms-ex3") == {"97110": 2, "97140": 1}
    for visit in ("cms-ex1", "cms-ex3"):
        patient = f"Patient/{clinic.sandbox.scenario(visit).patient}"
        assert {item["subject"]["reference"] for item in clinic.written(visit)} == {patient}


def test_two_launches_that_overlap_at_the_authorization_page_never_mix(person):
    first, second = person.callback_of("cms-ex1"), person.callback_of("cms-ex3")
    castillo = person.open(second)
    adams = person.open(first)
    assert "Ruth Adams" in adams.text
    assert "Inés Castillo" in castillo.text
    assert "Ruth Adams" in person.open(adams.url).text


def test_what_is_settled_in_one_tab_stays_out_of_the_other(person):
    brennan, eze = person.launch("cms-ex2"), person.launch("tie-of-three")
    person.press(brennan, "Recalculate", {"tie": "97112=2 97110=1"})
    assert "1 unit is still to be placed." in person.open(eze.url).text


def test_a_tab_s_address_in_another_browser_belongs_to_no_session_there(clinic, person):
    page = person.launch("cms-ex1")
    for somebody in (clinic.person(), clinic.person()):
        stolen = somebody.open(page.url)
        assert stolen.status == 401
        assert "belongs to no session of this browser" in stolen.text
        assert "Adams" not in stolen.html
        somebody.launch("cms-ex3")  # then with a session of its own
        assert somebody.open(page.url).status == 401
    assert person.open(page.url).status == 200


def test_an_address_of_another_browser_and_one_that_never_was_look_the_same(clinic, person):
    page = person.launch("cms-ex1")
    launch_id = page.url.split("/launches/")[1].split("/")[0]
    other = clinic.person()
    other.launch("cms-ex3")
    stolen, invented = other.open(page.url), other.open(page.url.replace(launch_id, "x" * 32))
    assert stolen.status == invented.status == 401
    assert stolen.text.split("Reference")[0] == invented.text.split("Reference")[0]


def test_another_browser_can_neither_sign_nor_send(clinic, person):
    confirm = person.confirm("cms-ex1")
    address, _ = confirm.form_with("Sign off 2 charges")
    thief = clinic.person()
    own = thief.launch("cms-ex3")
    _, fields = own.form_with("Recalculate")
    for path in (address, address.replace("/sign", "/send"), address.removesuffix("/sign")):
        assert thief.http.post(path, data=fields, timeout=30).status_code == 401
    assert clinic.posts() == 0


def test_what_was_settled_is_there_after_a_relaunch(person):
    page = person.launch("cms-ex2")
    settled = person.press(page, "Recalculate", {"tie": "97112=1 97110=2"})
    assert "still to be placed" not in settled.text
    relaunched = person.launch("cms-ex2")
    assert relaunched.url != page.url
    assert "still to be placed" not in relaunched.text
    assert "Your work is kept." in relaunched.text
    assert ("tie", "97112=1 97110=2") in relaunched.forms[0]["fields"]


def test_a_draft_is_the_person_s_own(clinic):
    one, other = clinic.person(), clinic.person()
    one.press(one.launch("cms-ex2"), "Recalculate", {"tie": "97112=1 97110=2"})
    assert "still to be placed" in other.launch("cms-ex2", user="pr-osei").text
