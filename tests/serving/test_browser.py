"""The page as a person uses it, in a headless Chromium: make test-browser."""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxsd.recipes.recipe import Recipe, read_recipe
from tests.helpers.reverse_proxy import proxied

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
WAIT = 30_000  # ms

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[app]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        ROOT / "generate.py",
        "--serve",
        "--port",
        str(port),
        "--encoder",
        "gemini",
        "--batch",
        "2",
        "--root-path",
        "/demo",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout is not None and server.stdout.readline().strip() == f"http://127.0.0.1:{port}/demo"
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    assert server.wait(60) == 0
    folder = Path(tempfile.gettempdir()) / f"jaxsd-serve-{os.getuid()}-{port}"
    assert not folder.exists()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens pages, and sees to it that nothing is asked of another server."""
    contexts, servers, outside = [], [], []

    def open_page(address=address, **options):
        servers.append(address)
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: outside.append(request.url))
        page.goto(address)
        page.get_by_role("button", name="Generate").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [url for url in outside if not url.startswith((*servers, "data:", "blob:"))]


def take_dog(page):
    page.get_by_label("Sample sound").click()
    page.get_by_role("option", name="dog").click()
    page.get_by_alt_text("Waveform and spectrogram").wait_for()


def generate(page) -> str:
    """The address of the image."""
    page.get_by_role("button", name="Generate").click()
    return drawn(page)


def drawn(page) -> str:
    page.get_by_text("Done.", exact=True).wait_for()
    return page.locator("#image img").get_attribute("src")


def test_a_sample_is_drawn_and_another_seed_is_another_image(open_page):
    page = open_page()
    take_dog(page)
    first = generate(page)
    page.get_by_role("button", name="More").click()
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("first => (document.querySelector('#image img')?.src ?? first) != first", arg=first)
    assert drawn(page) != first


def test_sounds_of_a_phone_are_heard_and_a_broken_file_is_a_sentence(open_page, tmp_path):
    rate, tone = 44_100, (8000 * np.sin(np.arange(44_100 * 3) / 20)).astype(np.int16)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate), file.writeframes(tone.tobytes())
    _encode_m4a(tmp_path / "a.m4a", tone, rate)
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    for name in ("a.wav", "a.m4a"):
        page = open_page()
        page.locator("#sound input[type=file]").set_input_files(tmp_path / name)
        page.get_by_alt_text("Waveform and spectrogram").wait_for()
        assert generate(page)
    page = open_page()
    page.locator("#sound input[type=file]").set_input_files(tmp_path / "broken.wav")
    message = page.get_by_text("broken.wav cannot be read as sound").first.text_content()
    assert message is not None and "/" not in message


def test_the_second_that_is_heard_is_dragged(open_page, tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000), file.writeframes(bytes(4 * 32_000))
    page = open_page()
    page.locator("#sound input[type=file]").set_input_files(tmp_path / "a.wav")
    frame, start = page.get_by_label("The second that is heard, in seconds"), page.get_by_label("begins at (s)")
    frame.wait_for()
    box = frame.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 8, box["y"] + box["height"] / 2)  # the middle of the first second
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 5 / 8, box["y"] + box["height"] / 2)
    page.mouse.up()
    sync_api.expect(start).to_have_value(re.compile(r"^(1\.9\d*|2|2\.0\d*)$"), timeout=WAIT)
    assert float(frame.input_value()) == float(start.input_value())


def test_a_downloaded_image_brings_its_settings_back(open_page, tmp_path):
    page = open_page()
    take_dog(page)
    page.get_by_label("Text, as: at night").fill("a red car")
    page.get_by_role("button", name="More").click()
    page.get_by_label("Seed").fill("5")
    first = generate(page)
    assert _save(first, tmp_path / "image.png").seed == 5
    page = open_page()
    page.locator("#recipe input[type=file]").set_input_files(tmp_path / "image.png")
    page.get_by_text("The settings are loaded.").wait_for()
    page.get_by_alt_text("Waveform and spectrogram").wait_for()
    assert page.get_by_label("Text, as: at night").input_value() == "a red car"
    assert generate(page) == first
    (tmp_path / "other.png").write_bytes(b"nothing")
    page.locator("#recipe input[type=file]").set_input_files(tmp_path / "other.png")
    page.get_by_text("other.png cannot be read as an image").first.wait_for()


def test_stop_ends_an_image(open_page):
    page = open_page()
    page.get_by_label("Text, as: at night").fill("a red car")
    page.get_by_role("button", name="More").click()
    page.get_by_label("number input for Steps").fill("100")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text(re.compile(r"Step \d+ of 100\.")).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Nothing is being drawn.").wait_for()
    page.get_by_label("number input for Steps").fill("2")
    generate(page)


def test_who_leaves_holds_nobody_up(open_page):
    page = open_page()
    page.get_by_label("Text, as: at night").fill("a red car")
    page.get_by_role("button", name="More").click()
    page.get_by_label("number input for Steps").fill("100")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text(re.compile(r"Step \d+ of 100\.")).wait_for()
    page.reload()
    page.get_by_label("Text, as: at night").fill("a red car")
    assert generate(page)


def test_what_is_drawn_on_an_image_is_its_mask(open_page, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    page = open_page()
    page.get_by_label("Text, as: at night").fill("a blue car")
    page.get_by_role("button", name="More").click()
    editor = page.locator("#start-image")
    with page.expect_file_chooser() as chooser:
        editor.get_by_role("button", name="Upload").click()
    chooser.value.set_files(tmp_path / "red.png")
    editor.get_by_text("450%").wait_for()  # it fills the editor
    editor.get_by_role("button", name="Brush", exact=True).click()
    box = editor.locator("canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    recipe = _save(generate(page), tmp_path / "drawn.png")
    assert recipe.image is not None and recipe.mask is not None


def test_the_page_works_behind_a_proxy(open_page, address):
    with proxied(int(address.rpartition(":")[2]), "/demo") as proxy:
        page = open_page(address=f"{proxy}/")
        take_dog(page)
        assert generate(page)


def test_a_strip_goes_from_the_sound_to_the_text(open_page):
    page = open_page()
    take_dog(page)
    page.get_by_label("Text, as: at night").fill("a red car")
    page.get_by_role("button", name="Strip over alpha").click()
    page.get_by_text("alpha 1", exact=True).wait_for()
    assert page.locator("#gallery img").count() >= 5


def test_two_at_once(open_page):
    pages = [open_page(), open_page()]
    for page in pages:
        take_dog(page)
    for page in pages:
        page.get_by_role("button", name="Generate").click()
    assert all(drawn(page) for page in pages)


def test_a_phone_scrolls_in_one_direction(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True)
    take_dog(page)
    assert generate(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_is_enough(open_page):
    page = open_page()
    text = page.get_by_label("Text, as: at night")
    for _ in range(40):
        page.keyboard.press("Tab")
        if text.evaluate("element => element == document.activeElement"):
            break
    page.keyboard.type("a red dog")
    page.keyboard.press("Enter")
    assert drawn(page)


@pytest.mark.skipif(not AXE.is_file(), reason="there is no axe-core: npm install --no-save axe-core")
def test_accessibility_by_axe(open_page):
    page = open_page()
    take_dog(page)
    generate(page)
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa']})")["violations"]
    found = [(entry["id"], node["target"], node["html"][:160]) for entry in found for node in entry["nodes"]]
    assert not found


def _save(image: str, path: Path) -> Recipe:
    """Write the image of a data URL, and read its recipe."""
    path.write_bytes(base64.b64decode(image.partition(",")[2]))
    return read_recipe(path)


def _encode_m4a(path: Path, samples: np.ndarray, rate: int):
    import av

    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for part in (frame, None):
            container.mux(stream.encode(part))
