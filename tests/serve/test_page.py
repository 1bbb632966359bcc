"""The page: its marks for those who do not see it, its colours, and what it does in a real browser."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Press
from selenium.webdriver.support.ui import WebDriverWait
from starlette.testclient import TestClient

from chromium import chromium, window
from deltagram.serve.app import create_app
from deltagram.serve.app_keys import Keys
from deltagram.serve.app_page import FILES
from fakeservice import FakeService, about, classified, pieces
from liveserver import live

FOLDER = files("deltagram.serve") / "page"
HTML = (FOLDER / "index.html").read_text("utf-8")
STYLE = (FOLDER / "style.css").read_text("utf-8")
NAMES = ("reviews-harsh", "reviews-kind", "legal-lora", "support-tickets", "tweets")
KEY = "the-key-to-ask"
SMALL = """
return [...document.querySelectorAll("button, select, textarea, .tasks span")]
    .filter((shown) => shown.checkVisibility() && shown.offsetHeight < 44).map((shown) => shown.id)
"""


class Elements(HTMLParser):
    """Start tags with their attributes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(HTML)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def test_fields_have_labels_and_references_lead_somewhere() -> None:
    elements = Elements()
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes.get("for") for attributes in elements.all("label")}
    for field in elements.all("input", "select", "textarea"):
        assert field.get("type") == "radio" or field["id"] in labelled, field
    for _, attributes in elements.found:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name) is None or set(str(attributes[name]).split()) <= set(ids)
        assert str(attributes.get("href", "")).removeprefix("#") in ids or not str(
            attributes.get("href", "")
        ).startswith("#")


def test_landmarks_and_headings() -> None:
    elements = Elements()
    assert elements.all("html")[0]["lang"] == "en"
    for landmark in ("header", "main", "footer", "h1", "title"):
        assert len(elements.all(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    status = next(attributes for _, attributes in elements.found if attributes.get("id") == "verdict")
    assert (status["role"], status["aria-live"]) == ("status", "polite")


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    for _, name, _ in FILES:
        text = (FOLDER / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]|@import|innerHTML|outerHTML|insertAdjacent|\beval\(", text), name
    for tag, attributes in Elements().found:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "script" or attributes["src"]


def test_files_are_those_of_the_package_and_no_other() -> None:
    held = {entry.name for entry in FOLDER.iterdir() if entry.name != "__pycache__"}
    assert held == {name for _, name, _ in FILES}
    with TestClient(create_app(FakeService(), about=about), base_url="http://localhost") as client:
        for path, name, kind in FILES:
            answer = client.get(path)
            assert (answer.content, answer.headers["content-type"]) == ((FOLDER / name).read_bytes(), kind)
            assert client.head(path).status_code == 200


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[scheme]
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for ground in ("paper", "card"):
        for text in ("ink", "soft", "good", "bad"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        for shape in ("left", "right", "base", "field"):
            assert contrast(colour[shape], colour[ground]) >= 3, (shape, ground)
    assert contrast(colour["on-accent"], colour["accent"]) >= 4.5
    assert contrast(colour["ink"], colour["left-wash"]) >= 4.5
    assert contrast(colour["ink"], colour["right-wash"]) >= 4.5


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def service() -> FakeService:
    return FakeService(*NAMES)


@pytest.fixture(scope="module")
def address(service: FakeService) -> Iterator[str]:
    with live(service) as found:
        yield found


def text(browser: Any, name: str) -> str:
    return str(browser.find_element(By.ID, name).text)


def opened(browser: Any, address: str, width: int = 1280, *, dark: bool = False) -> Any:
    """The page when it has read the library; its log is checked by `quiet`."""
    window(browser, width, dark=dark)
    browser.get_log("browser")
    browser.get(address)
    WebDriverWait(browser, 10).until(lambda b: b.find_element(By.ID, "go").is_displayed())
    return browser


def asked(browser: Any, task: str) -> str:
    """What the page says of the two answers."""
    browser.find_element(By.CSS_SELECTOR, f"input[value={task}]").click()
    browser.find_element(By.ID, "go").click()
    WebDriverWait(browser, 10).until(lambda b: text(b, "verdict") and b.find_element(By.ID, "go").is_enabled())
    return text(browser, "verdict")


def quiet(browser: Any) -> None:
    assert browser.get_log("browser") == []


def test_the_library_is_shown(browser: Any, address: str) -> None:
    opened(browser, address)
    assert browser.find_element(By.TAG_NAME, "h1").text == "One base, 5 variants"
    rows = browser.find_elements(By.CSS_SELECTOR, "#rows tr")
    assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == list(NAMES)
    assert rows[0].text.split("\n")[0] == "reviews-harsh 620 kB 147\u00d7 1 % random f32 on disk accuracy 0.913"
    told = about(*NAMES)
    assert f"{told['full_bytes'] / told['stored_bytes']:.1f} times as much" in text(browser, "picture-text")
    widths = [
        sum(block.size["width"] for block in bar.find_elements(By.CLASS_NAME, "block"))
        for bar in browser.find_elements(By.CLASS_NAME, "bar")
    ]
    assert widths[1] / widths[0] == pytest.approx(told["full_bytes"] / told["stored_bytes"], rel=0.05)
    quiet(browser)


def test_two_variants_classify(browser: Any, address: str) -> None:
    opened(browser, address)
    given = browser.find_element(By.ID, "text").get_attribute("value")
    said = asked(browser, "classify")
    one, two = (classified(name, given) for name in NAMES[:2])
    same = f"Both say {one.label}." if one.label == two.label else f"They disagree: {one.label} against {two.label}."
    assert said.startswith(same)
    gap, name = max((abs(one.scores[n] - two.scores[n]), n) for n in one.scores)
    assert f"most on {name}, by {100 * gap:.1f} points" in said
    for side, found in (("left", one), ("right", two)):
        assert f"{100 * found.scores[found.label]:.1f} %" in text(browser, f"{side}-answer")
    quiet(browser)


def test_two_variants_go_on_and_their_differences_are_marked(browser: Any, address: str) -> None:
    opened(browser, address)
    said = asked(browser, "generate")
    prompt = browser.find_element(By.ID, "text").get_attribute("value")
    for side, name in (("left", NAMES[0]), ("right", NAMES[1])):
        whole = browser.find_element(By.CSS_SELECTOR, f"#{side}-answer .text").get_property("textContent")
        assert whole == prompt + "".join(pieces(name, prompt, 40))
        marks = [mark.text for mark in browser.find_elements(By.CSS_SELECTOR, f"#{side}-answer mark")]
        assert name in " ".join(marks).split()
        assert f"{sum(len(mark.split()) for mark in marks)} of 18" in said
    quiet(browser)


def test_two_variants_compare_texts(browser: Any, address: str) -> None:
    opened(browser, address)
    assert re.fullmatch(r"reviews-\w+ sees them as more alike, by 0\.\d{3}\.", asked(browser, "embed"))
    quiet(browser)


def test_a_variant_that_fails_says_why_beside_one_that_answers(browser: Any, address: str) -> None:
    opened(browser, address)
    field = browser.find_element(By.ID, "text")
    field.clear()
    field.send_keys("!too_long")
    assert asked(browser, "classify") == "There is nothing to compare: not both variants answered."
    assert text(browser, "left-answer") == "reviews-harsh: was asked to be refused (too_long)"


def test_text_is_text_and_never_markup(browser: Any, address: str) -> None:
    opened(browser, address)
    field = browser.find_element(By.ID, "text")
    field.clear()
    field.send_keys("<img src=x onerror=document.title=1><b>bold</b>")
    asked(browser, "generate")
    assert browser.find_elements(By.CSS_SELECTOR, "#answers img, #answers b") == []
    assert "<b>bold</b>" in text(browser, "left-answer")
    quiet(browser)


def test_it_is_usable_with_the_keyboard_alone(browser: Any, address: str) -> None:
    opened(browser, address)
    seen: list[str] = []
    for _ in range(12):
        browser.switch_to.active_element.send_keys(Press.TAB)
        current = browser.switch_to.active_element
        seen.append(current.get_attribute("id") or current.get_attribute("value") or current.get_attribute("class"))
        shown = browser.execute_script(
            "const e = document.activeElement; const s = e.type === 'radio' ? e.nextElementSibling : e;"
            "return getComputedStyle(s).outlineWidth + ' ' + getComputedStyle(s).outlineStyle"
        )
        assert shown == "3px solid", seen
        if seen[-1] == "go":
            break
    assert seen == ["skip", "classify", "text", "left", "right", "go"]
    browser.switch_to.active_element.send_keys(Press.ENTER)
    WebDriverWait(browser, 10).until(lambda b: text(b, "verdict"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 360])
def test_it_fits_every_width(browser: Any, address: str, width: int, dark: bool) -> None:
    opened(browser, address, width, dark=dark)
    for task in ("classify", "generate", "embed"):
        asked(browser, task)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(250, 249, 246)")
    assert browser.execute_script(SMALL) == []
    quiet(browser)


def test_the_key_is_asked_for_and_kept_in_memory_alone(browser: Any) -> None:
    with live(FakeService(*NAMES), keys=Keys(api=KEY)) as address:
        window(browser, 768)
        browser.get(address)
        WebDriverWait(browser, 10).until(lambda b: b.find_element(By.ID, "key").is_displayed())
        assert browser.switch_to.active_element.get_attribute("id") == "key"
        assert not browser.find_element(By.ID, "library").is_displayed()
        browser.switch_to.active_element.send_keys("a-wrong-one" + Press.ENTER)
        WebDriverWait(browser, 10).until(lambda b: text(b, "gate-fault") == "This is not the server's key.")
        field = browser.find_element(By.ID, "key")
        field.clear()
        field.send_keys(KEY + Press.ENTER)
        WebDriverWait(browser, 10).until(lambda b: b.find_element(By.ID, "go").is_displayed())
        assert asked(browser, "classify")
        assert (
            browser.execute_script("return localStorage.length + sessionStorage.length + document.cookie.length") == 0
        )
        browser.refresh()
        WebDriverWait(browser, 10).until(lambda b: b.find_element(By.ID, "key").is_displayed())


@pytest.mark.parametrize(
    ("tasks", "chosen", "off"),
    [(("generate", "embed"), "generate", ["classify"]), (("embed",), "embed", ["classify", "generate"])],
)
def test_what_no_variant_can_do_is_not_offered(browser: Any, tasks: Any, chosen: str, off: list[str]) -> None:
    with live(FakeService(*NAMES, tasks=tasks)) as address:
        opened(browser, address)
        radios = browser.find_elements(By.CSS_SELECTOR, "input[name=task]")
        assert [radio.get_attribute("value") for radio in radios if radio.is_selected()] == [chosen]
        assert [radio.get_attribute("value") for radio in radios if not radio.is_enabled()] == off


def test_many_variants_and_none(browser: Any) -> None:
    with live(FakeService(*(f"variant-{i:02}" for i in range(50)))) as address:
        opened(browser, address)
        shown = "return [...document.querySelectorAll('#rows tr')].filter(row => row.checkVisibility()).length"
        assert browser.execute_script(shown) == 12
        browser.find_element(By.ID, "all").click()
        assert browser.execute_script(shown) == 50
        asked(browser, "classify")
        assert browser.execute_script(shown) == 50
    with live(FakeService()) as address:
        opened(browser, address, 360)
        assert "holds no variants yet" in text(browser, "empty")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        assert asked(browser, "classify").startswith("Both say")
