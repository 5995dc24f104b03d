"""The page in a real browser: type, drop, click, hear, go back; on a phone and in the dark. Skips without Chromium."""

import base64
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import showroom

from isogram.inference import Bank

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no Chromium with chromedriver here (Debian: chromium, chromium-driver)"
)


@pytest.fixture(scope="module")
def address(room):
    """Of the command as people start it; ended as they end it."""
    banks = [str(room / f"{modality}s.parquet") for modality in showroom.ENCODERS]
    isogram = Path(sys.executable).with_name("isogram")
    command = [isogram, "serve", room / "model.safetensors", *banks, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert " is at http://127.0.0.1:" in line, server.stderr.read()
        yield line.split(" is at ")[1].split()[0]
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=20)
        assert server.returncode == 0 and out == "ended\n" and err == ""


class Page:
    """A browser that shows the page; what it finds it waits for."""

    def __init__(self, width=1200, height=900, dark=False):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        # A microphone that beeps once a second, and is allowed.
        heard = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--mute-audio")
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *heard):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        if dark:
            scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)

    def until(self, seen, what):
        """What `seen` returns, once it is something."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                if found := seen():
                    return found
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not seen: {what}")

    def all(self, css):
        return [one for one in self.driver.find_elements("css selector", css) if one.is_displayed()]

    def one(self, css):
        return self.until(lambda: self.all(css), css)[0]

    def asked(self, title):
        self.until(lambda: [t for t in self.all(".asked .title") if t.text == title], f"{title} is asked")

    def hits(self, bank):
        """Titles of a bank's hits, best first."""
        return [one.text for one in self.all(f"section[aria-label='{bank}'] .hit .title")]

    def choose(self, node):
        label = self.until(lambda: [one for one in self.all("#nodes label") if one.text == node], node)[0]
        label.click()

    def run(self, script, *given):
        return self.driver.execute_script(script, *given)


@pytest.fixture(scope="module")
def opened(address):
    page = Page()
    yield page
    page.driver.quit()


@pytest.fixture
def page(opened, address):
    opened.driver.get("about:blank")
    opened.driver.get(address)
    opened.one("#shelf li")
    yield opened
    wrong = [entry["message"] for entry in opened.driver.get_log("browser")]
    assert wrong == [], "the console is silent: no error, nothing that the policy had to stop"
    loaded = opened.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert loaded and [name for name in loaded if not name.startswith((address, "blob:"))] == []


def nearest(room, node, row, bank):
    """Ids that the library itself finds for an item."""
    query = Bank.load(room / f"{node}.parquet").coordinates[row]
    held = Bank.load(room / f"{bank}.parquet")
    return [held[hit.position].id for hit in held.search(query)]


def test_what_is_typed_is_answered_and_a_hit_leads_onward(page, room):
    page.choose("notes")
    notes = Bank.load(room / "notes.parquet")
    page.one("#text").send_keys(notes[4].text, "\ue007")  # the key Enter
    page.asked(notes[4].text)
    assert page.hits("photos") == nearest(room, "notes", 4, "photos")
    assert page.run("return document.activeElement.id") == "answers"
    pictures = page.all("section[aria-label='photos'] img")
    page.until(lambda: all(page.run("return arguments[0].naturalWidth", one) > 0 for one in pictures), "pictures")

    first = page.hits("photos")[0]
    page.all("section[aria-label='photos'] .hit")[0].click()
    page.asked(first)
    photos = Bank.load(room / "photos.parquet")
    row = next(i for i in range(len(photos)) if photos[i].id == first)
    assert page.driver.current_url.endswith(f"#0/{row}")
    assert page.hits("sounds") == nearest(room, "photos", row, "sounds")

    page.driver.back()
    page.asked(notes[4].text)
    page.driver.back()
    page.until(lambda: page.one("#answers-title").text == "What is here", "the beginning")
    page.driver.forward()
    page.driver.forward()
    page.asked(first)
    page.driver.refresh()
    page.asked(first)


def test_a_file_is_dropped_or_chosen(page, room):
    photos = Bank.load(room / "photos.parquet")
    page.choose("photos")
    drop = """const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], arguments[1]));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: files }));"""
    page.run(drop, base64.b64encode(Path(photos[2].path).read_bytes()).decode(), "mine.png")
    page.asked("mine.png")
    assert page.hits("notes") == [notes_id(room, name) for name in nearest(room, "photos", 2, "notes")]
    page.until(lambda: page.run("return arguments[0].naturalWidth", page.one(".asked img")) > 0, "the dropped picture")

    sounds = Bank.load(room / "sounds.parquet")
    page.choose("sounds")
    page.run("document.getElementById('file').hidden = false")
    page.one("#file").send_keys(sounds[7].path)
    page.asked(Path(sounds[7].path).name)
    assert page.hits("photos") == nearest(room, "sounds", 7, "photos")
    page.run("document.getElementById('file').hidden = true")


def notes_id(room, name):
    """The text of the note with an id: a note is called by what it says."""
    notes = Bank.load(room / "notes.parquet")
    return next(notes[i].text for i in range(len(notes)) if notes[i].id == name)


def test_what_goes_wrong_is_told(page):
    page.choose("photos")
    drop = """const files = new DataTransfer();
        files.items.add(new File([arguments[0]], "x.png"));
        document.dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: files }));"""
    page.run(drop, "no picture")
    page.until(lambda: "your file: is no picture" in page.one("#error").text, "the error")
    page.driver.get_log("browser")  # the browser notes an answer that is an error, too
    page.run(drop, "x" * 10_000_001)
    page.until(lambda: "more than 10 MB" in page.one("#error").text, "the error")
    page.choose("notes")
    page.run(drop, "a picture")
    page.until(lambda: "notes takes no files" in page.one("#error").text, "the error")
    page.one("#text").send_keys("a red disc")
    page.one("#type button").click()
    page.asked("a red disc")
    assert not page.all("#error")


def test_a_sound_is_heard_to_its_end(page):
    page.choose("sounds")
    button = page.one("#shelf .play")
    assert button.get_attribute("aria-label").startswith("Play ")
    button.click()
    page.until(lambda: button.get_attribute("aria-pressed") == "true", "it plays")
    page.until(lambda: button.get_attribute("aria-pressed") == "false", "it has ended")
    assert not page.all("#error")


def test_a_recording_is_searched_with(page):
    page.choose("sounds")
    page.one("#record").click()
    page.until(lambda: page.one("#record").text == "Stop and search", "it records")
    time.sleep(1.3)
    page.one("#record").click()
    page.asked("your recording")
    seconds = float(page.one(".asked .small").text.split(" · ")[1].split(" s")[0])
    assert 0.8 < seconds < 5 and len(page.hits("photos")) == 10
    assert page.one("#record").text == "Record"


def test_items_are_found_by_words_and_by_the_map(page, room):
    page.choose("photos")
    page.one("#find").send_keys("disc")
    names = [bank_id for bank_id in ids(room, "photos") if "disc" in bank_id]
    page.until(lambda: [one.text for one in page.all("#shelf .title")] == names, "those with the word")
    page.one("#shelf .hit").click()
    page.asked(names[0])

    from selenium.webdriver import ActionChains

    canvas, size = page.one("#points"), page.one("#points").rect
    assert size["width"] == size["height"] > 250
    page.run("arguments[0].scrollIntoView({ block: 'center' })", canvas)
    for step in range(200):
        x, y = (step * 37 % 100 - 50) / 110 * size["width"], (step * 61 % 100 - 50) / 110 * size["width"]
        ActionChains(page.driver, duration=20).move_to_element_with_offset(canvas, int(x), int(y)).perform()
        if told := page.one("#map-at").text.strip():
            break
    page.until(lambda: ": " in page.one("#map-at").text, "the name of the dot under the pointer")
    ActionChains(page.driver).click().perform()
    page.asked(page.one("#map-at").text.partition(": ")[2])
    assert told and page.driver.current_url.partition("#")[2].count("/") == 1


def ids(room, node):
    bank = Bank.load(room / f"{node}.parquet")
    return [bank[i].id for i in range(len(bank))]


def test_all_can_be_done_by_keys(page):
    page.run("document.body.focus()")
    seen = []
    for _ in range(40):
        page.driver.switch_to.active_element.send_keys("\ue004")  # Tab
        active = page.driver.switch_to.active_element
        seen.append(active.get_attribute("id") or active.get_attribute("class") or active.tag_name)
        if "hit" in seen[-1]:
            break
    assert seen[0] == "skip" and "text" in seen and "find" in seen and seen[-1] == "hit"
    outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.driver.switch_to.active_element.send_keys("\ue007")
    page.one(".asked")

    page.run("document.querySelector('#nodes :checked').focus()")
    for _ in range(3):
        page.driver.switch_to.active_element.send_keys("\ue012")  # Left: another node
    assert page.one("#nodes label:has(:checked)").text == "notes", "round and back"
    page.driver.switch_to.active_element.send_keys("\ue014", "\ue004")  # Right, then Tab
    assert page.driver.switch_to.active_element.get_attribute("id") == "choose"


def test_whoever_begins_to_type_asks(page, room):
    """The node of text is chosen, and no click is needed; what is no letter does what it does on any page."""
    from selenium.webdriver import ActionChains

    assert page.one("#nodes label:has(:checked)").text == "notes"
    ActionChains(page.driver).send_keys(" ").perform()
    assert page.run("return document.activeElement === document.body")
    text = Bank.load(room / "notes.parquet")[4].text
    ActionChains(page.driver).send_keys(text, "\ue007").perform()
    page.asked(text)


def test_files_that_were_shown_are_let_go(page, room):
    """One address of a file at a time, and none once something else is shown; "back" shows it again all the same."""
    page.run(
        """window.made = new Set();
        const make = URL.createObjectURL.bind(URL), drop = URL.revokeObjectURL.bind(URL);
        URL.createObjectURL = (file) => { const made = make(file); window.made.add(made); return made; };
        URL.revokeObjectURL = (made) => { window.made.delete(made); drop(made); };"""
    )
    photos = Bank.load(room / "photos.parquet")
    page.choose("photos")
    page.run("document.getElementById('file').hidden = false")
    for row in (2, 5):
        page.one("#file").send_keys(photos[row].path)
        page.asked(Path(photos[row].path).name)
        page.until(lambda: page.run("return arguments[0].naturalWidth", page.one(".asked img")) > 0, "the picture")
        assert page.run("return window.made.size") == 1
    page.all("section[aria-label='notes'] .hit")[0].click()
    page.until(lambda: page.run("return window.made.size") == 0, "it is let go")
    page.driver.back()
    page.asked(Path(photos[5].path).name)
    page.until(lambda: page.run("return arguments[0].naturalWidth", page.one(".asked img")) > 0, "the picture again")
    page.run("document.getElementById('file').hidden = true")


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_by_day_and_night(address, dark):
    page = Page(width=360, height=740, dark=dark)
    try:
        page.driver.get(f"{address}#0/3")
        page.one(".asked")
        page.until(lambda: len(page.all(".group")) == 3, "answers")
        assert page.run("return document.documentElement.scrollWidth") == 360
        light = page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert all(value < 60 for value in light) if dark else light == [255, 255, 255]
        folded = page.all("section[aria-label='photos'] .hit")
        assert len(folded) == 6
        page.one("section[aria-label='photos'] .fold").click()
        page.until(lambda: len(page.all("section[aria-label='photos'] .hit")) == 10, "all of them")
        assert page.driver.get_log("browser") == []
    finally:
        page.driver.quit()


def test_every_control_has_a_name(page):
    nameless = page.run(
        """return [...document.querySelectorAll("button, input, textarea, canvas, [role]")].filter((one) => {
          const by = one.getAttribute("aria-labelledby");
          const named = one.getAttribute("aria-label") || (by && document.getElementById(by)?.textContent.trim())
            || one.labels?.[0]?.textContent.trim() || one.textContent.trim();
          return !named && !["status", "alert"].includes(one.getAttribute("role"));
        }).map((one) => one.outerHTML)"""
    )
    assert nameless == []
