"""The page at ``/`` in a real browser: what it shows, what it asks, and what it cannot be made to do."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import CONTRASTS, Browser
from tests.support.pet_model import COLUMNS as PET_COLUMNS
from tests.support.pet_model import ROWS as PET_ROWS
from tests.support.pet_model import VOCABULARIES, publish_pets
from tests.support.remote_store import fill_cache
from tests.support.service import RunningService, running_service
from tests.support.tiny_model import publish_mixed
from tests.support.wood_model import ATTACK, GOLDEN_ROWS, expect_krummholz, publish_wood
from timberline.registry.moments import write_row
from timberline.registry.store import open_store
from timberline.registry.version import Version

PHONE, DESKTOP = (360, 780), (1440, 1000)
ANSWERED = "(document.getElementById('answered')?.textContent ?? '') !== ''"
KRUMMHOLZ = "#bars li:nth-child(2) .figures-right"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with wood@1."""
    path = tmp_path_factory.mktemp("registry")
    publish_wood(open_store(path))
    return path


@pytest.fixture(scope="module")
def service(registry: Path) -> Iterator[RunningService]:
    """The service of wood@1."""
    with running_service(registry, "wood@1") as running:
        yield running


@pytest.fixture
def page(browser: Browser, service: RunningService) -> Browser:
    """The browser with the page opened anew, on a desktop's screen, the first test row predicted."""
    browser.resize(*DESKTOP)
    open_page(browser, service)
    return browser


def open_page(browser: Browser, service: RunningService) -> None:
    """Open the service's page and wait for its first prediction."""
    browser.requests.clear()
    browser.bodies.clear()
    browser.complaints.clear()
    browser.open(f"http://127.0.0.1:{service.port}/")
    browser.wait_for(ANSWERED)


def read_share(page: Browser) -> float:
    """The probability of Krummholz that the page shows."""
    return float(page.text(KRUMMHOLZ).strip("<>% ")) / 100


def wait_for_share(page: Browser, wanted: float) -> None:
    """Wait until the page shows this probability of Krummholz, in tenths of a percent."""
    page.wait_for(f"document.querySelector({json.dumps(KRUMMHOLZ)}).textContent === '{100 * wanted:.1f} %'")


def test_the_page_predicts_at_once_without_a_complaint_or_a_stranger(
    page: Browser, service: RunningService
) -> None:
    """A console error or a request to elsewhere would be the policy failing, or a page that needs the web."""
    page.wait_for("document.getElementById('dot').dataset.state === 'live'")
    row = dict(zip(["Elevation", "Shade", "Soil_Type1", "Area_1"], (2500, 0.25, 1, True), strict=True))
    assert page.bodies == [row]
    status, answer = service.predict(row)
    assert status == 200
    assert page.text("#class") == answer["label"] == "Spruce/Fir"
    assert page.text("#share") == "99.6 %"
    assert read_share(page) == pytest.approx(expect_krummholz(GOLDEN_ROWS[0]), abs=5e-4)
    assert page.complaints == []
    origin = f"http://127.0.0.1:{service.port}/"
    assert [url for url in page.requests if not url.startswith((origin, "data:"))] == []


def test_moving_a_slider_by_keyboard_changes_the_prediction(page: Browser) -> None:
    """The point of the page, and it must work without a mouse."""
    page.press("[data-field=Elevation] input[type=range]", "ArrowRight", times=450)
    wait_for_share(page, expect_krummholz((2950, *GOLDEN_ROWS[0][1:])))
    assert (
        page.evaluate("document.querySelector('[data-field=Elevation] input[type=number]').value") == "2950"
    )
    assert page.bodies[-1]["Elevation"] == 2950
    assert page.text("#truth") == "Your own row"
    assert len(page.bodies) <= 451, "asked more often than anything moved"


def test_a_typed_value_may_lie_outside_of_training_and_is_marked(page: Browser) -> None:
    """Such values are answered, as drift is no error; a person should know that it is a guess."""
    page.type("[data-field=Elevation] input[type=number]", "4500")
    page.wait_for("document.getElementById('class').textContent === 'Krummholz'")
    assert page.bodies[-1]["Elevation"] == 4500
    assert page.text("[data-field=Elevation] .note") == "outside of what training saw"


def test_a_random_test_row_shows_its_true_class_beside_the_prediction(page: Browser) -> None:
    """Whoever tries the model sees where it is wrong, too."""
    shown = set()
    for _ in range(50):
        before = page.text("#truth")
        page.click("#random")
        assert page.text("#truth") != before, "the same row again looks like a broken button"
        number = int(page.text("#truth").split()[2].rstrip(":"))
        wait_for_share(page, expect_krummholz(GOLDEN_ROWS[number - 1]))
        shown.add(number)
        if shown == {1, 2, 3}:
            break
    assert shown == {1, 2, 3}
    page.evaluate("document.getElementById('random').blur()")
    while not page.text("#truth").startswith("Test row 3"):
        page.click("#random")
    page.wait_for("document.getElementById('truth').dataset.kind === 'wrong'")
    assert page.text("#bars li:nth-child(1) .tag") == "true class"


@pytest.mark.parametrize(
    ("group", "steps", "wanted"),
    [
        ("Soil_Type", 2, {"Soil_Type1": 0, "Soil_Type2": 0, "Soil_Type10": 1}),
        ("Area", 1, {"Area_1": False, "Area_2": True}),
    ],
)
def test_choosing_in_a_group_sets_exactly_one_of_its_columns(
    page: Browser, group: str, steps: int, wanted: dict[str, int | bool]
) -> None:
    """A row with two soils or none is one that the model was never trained for."""
    chosen = next(name for name, value in wanted.items() if value)
    page.press(f"[data-field={group}] select", "ArrowDown", times=steps)
    page.wait_until(lambda: chosen in page.bodies[-1], f"{chosen} to be sent")
    sent = page.bodies[-1]  # what is left out is the column's default, 0 or false
    assert {name: sent.get(name, type(value)()) for name, value in wanted.items()} == wanted


def test_a_refusal_is_shown_in_place_and_goes_when_it_is_mended(page: Browser) -> None:
    """The service's own words say best what is wrong; the old prediction must not look current."""
    page.type("[data-field=Elevation] input[type=number]", "2500.5")
    page.wait_for("!document.getElementById('problem').hidden")
    assert "Elevation" in page.text("#problem")
    assert page.text("[data-field=Elevation] .note") == "refused by the service"
    assert page.evaluate("document.body.classList.contains('stale')")
    page.type("[data-field=Elevation] input[type=number]", "")
    page.wait_for(
        "document.querySelector('[data-field=Elevation] .note').textContent === 'a number is needed'"
    )
    page.type("[data-field=Elevation] input[type=number]", "2600")
    page.wait_for("document.getElementById('problem').hidden")
    wait_for_share(page, expect_krummholz((2600, *GOLDEN_ROWS[0][1:])))


def test_the_command_line_is_the_request_that_was_sent(page: Browser, service: RunningService) -> None:
    """What is copied must give the answer that is shown."""
    words = shlex.split(page.evaluate("document.getElementById('curl').textContent").replace("\\\n", ""))
    assert words[:3] == ["curl", "-s", f"http://127.0.0.1:{service.port}/predict"]
    assert words[3:6] == ["-H", "content-type: application/json", "-d"]
    assert json.loads(words[6]) == page.bodies[-1]


def test_a_title_that_is_markup_is_shown_and_does_nothing(page: Browser) -> None:
    """A manifest's texts come from whoever may publish; they must not run in an operator's browser."""
    assert page.text("h1") == ATTACK
    assert page.text(".lead") == "</script><script>window.hacked = 3</script>"
    assert page.evaluate(
        "[window.hacked === undefined, document.scripts.length, document.images.length]"
    ) == [
        True,
        2,
        0,
    ]
    assert page.evaluate("document.title").startswith(ATTACK)


def test_the_policy_keeps_out_what_the_page_did_not_bring(page: Browser, service: RunningService) -> None:
    """The second wall, should text ever become markup: no inline script, no handler, no other host."""
    page.evaluate(
        "document.addEventListener('securitypolicyviolation', e => "
        "(window.violations ??= []).push(e.effectiveDirective));"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 4\">');"
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 5';"
        "document.body.append(s);"
        "fetch('http://127.0.0.2:9/').catch(() => {});"
    )
    page.wait_for("window.violations?.length >= 4")
    assert page.evaluate("window.hacked") is None
    violations = ["connect-src", "img-src", "script-src-attr", "script-src-elem"]
    assert sorted(page.evaluate("window.violations")) == violations


@pytest.mark.parametrize("width", [360, 500, 768, 1024, 1440])
def test_nothing_sticks_out_of_the_screen(page: Browser, width: int) -> None:
    """A page that scrolls sideways on a phone looks broken."""
    page.resize(width, PHONE[1])
    page.wait_for(f"innerWidth === {width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_a_phone_the_prediction_stays_in_sight_while_values_change(page: Browser) -> None:
    """Moving a slider without seeing what it does is no playground."""
    page.resize(*PHONE)
    page.evaluate("document.querySelector('[data-field=Area] select').scrollIntoView({block: 'end'})")
    top, bottom = page.evaluate(
        "(b => [b.top, b.bottom])(document.getElementById('label').getBoundingClientRect())"
    )
    assert 0 <= top < bottom <= PHONE[1] / 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_against_what_is_behind_it(page: Browser, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5 to 1, in both schemes."""
    page.resize(*DESKTOP, scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.type("[data-field=Elevation] input[type=number]", "9000")  # shows the note in its colour
    page.wait_for("document.querySelector('[data-field=Elevation] .note').textContent !== ''")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}
    assert (ground == "rgb(245, 247, 245)") == (scheme == "light")


def test_every_control_has_a_name(page: Browser) -> None:
    """What has none is just "edit, blank" to who listens to the page."""
    roles = {"textbox", "spinbutton", "slider", "checkbox", "switch", "combobox", "button"}
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles
    ]
    assert len(controls) >= 10
    assert [control for control in controls if not control[1].strip()] == []
    assert ("slider", "Elevation, slider") in controls


def test_a_value_that_may_be_missing_can_be_left_empty(page: Browser) -> None:
    """NULL is a value of its own, and not the number 0."""
    assert "Slope" not in page.bodies[-1]
    page.click("[data-field=Slope] .empty input")
    page.type("[data-field=Slope] input[type=number]", "30")
    wait_for_share(page, expect_krummholz((2500, 0.25, 30.0, *GOLDEN_ROWS[0][3:])))
    page.click("[data-field=Slope] .empty input")
    wait_for_share(page, expect_krummholz(GOLDEN_ROWS[0]))
    assert "Slope" not in page.bodies[-1]


def test_texts_and_switches_are_sent_as_such(browser: Browser, tmp_path: Path) -> None:
    """Categories are offered and not enforced, and an apostrophe must not end the shell's quotes."""
    publish_mixed(open_store(tmp_path))
    with running_service(tmp_path, "tiny_text") as service:
        browser.resize(*DESKTOP)
        open_page(browser, service)
        assert browser.evaluate("[...document.querySelectorAll('datalist option')].map(o => o.value)") == [
            "clay",
            "sand",
        ]
        browser.type("[data-field=soil] input[type=text]", "it's")
        browser.click("[data-field=is_wet] input[type=checkbox]")
        browser.wait_until(lambda: browser.bodies[-1].get("is_wet") is True, "the switch to be sent")
        assert browser.bodies[-1] == {"soil": "it's", "height": 12.5, "rings": 40, "is_wet": True}
        assert browser.text("[data-field=soil] .note") == "not seen in training"
        line = browser.evaluate("document.getElementById('curl').textContent")
        assert json.loads(shlex.split(line.replace("\\\n", ""))[6]) == browser.bodies[-1]
        assert browser.complaints == []
        browser.open("about:blank")  # let go of the connection


def test_the_page_says_when_another_version_has_become_live(browser: Browser, tmp_path: Path) -> None:
    """A page left open must not show yesterday's metrics beside today's predictions."""
    store = open_store(tmp_path)
    publish_wood(store)
    with running_service(tmp_path, "wood@production", "--watch-s", "0.05") as service:
        open_page(browser, service)
        assert browser.evaluate("document.getElementById('moved').hidden")
        publish_wood(store)
        browser.wait_for("!document.getElementById('moved').hidden")
        assert browser.text("#moved p") == "wood@2 is live now. This page is about wood@1."
        browser.click("#reload")
        browser.wait_for("document.getElementById('state')?.textContent === 'wood@2'")
        browser.wait_for(ANSWERED)
        assert browser.text("#answered") == "by wood@2"
        assert browser.evaluate("document.getElementById('moved').hidden")
        browser.open("about:blank")


def test_the_page_says_that_its_version_comes_from_the_cache(browser: Browser, tmp_path: Path) -> None:
    """Whoever tries a model must know that another one may be in production by now."""
    url, endpoint = "s3://models/registry", "http://127.0.0.1:1"  # where nobody listens
    fill_cache(tmp_path / "cache", url, endpoint, open_wood(tmp_path / "registry"))
    account = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
    environment = {**account, "AWS_ENDPOINT_URL": endpoint}
    flags = ("--cache-dir", str(tmp_path / "cache"))
    with running_service(url, "wood@1", *flags, environment=environment) as service:
        open_page(browser, service)
        browser.wait_for("!document.getElementById('unconfirmed').hidden")
        shown = browser.text("#unconfirmed p")
        assert shown.startswith("The registry has not answered since ")
        assert shown.endswith(". wood@1 comes from the cache. A newer version may be in production.")
        assert browser.complaints == []
        browser.open("about:blank")


def open_wood(folder: Path) -> Version:
    """wood@1, in a folder."""
    store = open_store(folder)
    publish_wood(store)
    return store.open_version("wood", 1)


def test_the_traffic_on_the_page_is_what_was_asked(page: Browser, service: RunningService) -> None:
    """The page's own looks at the probe are no traffic; predictions of anybody are."""
    before = service.get_json("/")
    assert service.predict({"instances": [{"Elevation": 2500}] * 7})[0] == 200
    after = service.get_json("/")
    assert (after["requests"] - before["requests"], after["predictions"] - before["predictions"]) == (1, 7)
    page.wait_for(f"document.getElementById('predictions').textContent === '{after['predictions']}'")
    page.wait_for("document.querySelector('#spark .line').getAttribute('d') !== null")


def test_dates_are_chosen_in_a_calendar_and_text_among_what_is_known(
    browser: Browser, tmp_path: Path
) -> None:
    """What a field shows is what is sent; and a test row is sent as it was answered, to the microsecond."""
    publish_pets(open_store(tmp_path))
    with running_service(tmp_path, "pets") as service:
        browser.resize(*DESKTOP)
        open_page(browser, service)
        first = browser.bodies[-1]
        assert (first["born"], first["seen"]) == ("2013-05-01", "2013-05-01T12:30:00Z")
        fields = "[data-field=born] input, [data-field=seen] input"
        kinds = browser.evaluate(f"[...document.querySelectorAll('{fields}')].map(e => e.type)")
        assert kinds == ["date", "datetime-local", "checkbox"]
        offered = "[...document.querySelectorAll('[data-field=breed] datalist option')].map(e => e.value)"
        assert browser.evaluate(offered) == list(VOCABULARIES["kind_of_breed"])
        for field, value in (("born", "2031-12-24"), ("seen", "2014-06-07T08:09")):
            browser.evaluate(
                f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
                f"(document.querySelector('[data-field={field}] input'))"
            )
            browser.wait_until(lambda: browser.bodies[-1][field] == value, value)  # noqa: B023 - waited for here
        assert "outside of what training saw" in browser.text("[data-field=born] .note")
        browser.type("[data-field=breed] input[list]", "Dackel")
        browser.wait_until(lambda: browser.bodies[-1]["breed"] == "Dackel", "the breed")
        assert "not seen in training" in browser.text("[data-field=breed] .note")
        browser.wait_for("!document.body.classList.contains('stale')")
        for _ in range(30):
            browser.click("#random")
        browser.wait_until(lambda: browser.bodies[-1].get("seen") != "2014-06-07T08:09", "a test row")
        sent = {body.get("seen") for body in browser.bodies}
        assert sent <= {"2014-06-07T08:09", *(row["seen"] for row in golden_as_sent())}
        assert browser.complaints == []


def golden_as_sent() -> list[dict[str, object]]:
    """The golden rows of `publish_pets`, as clients send them; None where nothing is sent."""
    names = [column.name for column in PET_COLUMNS]
    return [dict(zip(names, write_row(row, PET_COLUMNS), strict=True)) for row in PET_ROWS]
