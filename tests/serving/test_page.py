"""The page's API and its uploads, with small models: what needs Gradio and no browser. make test-browser."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from jaxsd.recipes.recipe import read_recipe
from tests.helpers.reverse_proxy import proxied

httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[app]'")
gradio_client = pytest.importorskip("gradio_client")
pytestmark = pytest.mark.browser

from tests.helpers.small_page import KEPT_SECONDS  # noqa: E402  # it imports Gradio

ROOT = Path(__file__).parents[2]
STEPS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def port(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.helpers.small_page", folder, str(port)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": ROOT},
    ) as server:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        yield port


@pytest.fixture
def address(port):
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def client(address):
    return gradio_client.Client(address, verbose=False)


def wav(seconds=1, rate=16_000, channels=1) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, np.zeros((seconds * rate, channels), np.int16), rate, format="WAV")
    return memory.getvalue()


def draw(client, **options):
    return client.predict(**{"steps": STEPS, "api_name": "/generate"} | options)


def post(address, **arguments) -> str:
    """The last event of a request by plain HTTP."""
    call = f"{address}/gradio_api/call"
    event = httpx.post(f"{call}/v2/generate", json={"steps": STEPS} | arguments).json()["event_id"]
    return httpx.get(f"{call}/generate/{event}", timeout=60).text.strip().rpartition("event: ")[2]


def test_what_is_asked_of_the_api_is_in_the_recipe_of_the_answer(client, tmp_path):
    (tmp_path / "dog.wav").write_bytes(wav())
    sound = gradio_client.handle_file(tmp_path / "dog.wav")
    image, status = draw(client, sound=sound, text="at night 🌙 ليل", alpha=0.3, seed=7)
    (tmp_path / "dog.png").write_bytes(base64.b64decode(image["url"].partition(",")[2]))
    recipe = read_recipe(tmp_path / "dog.png")
    assert (recipe.prompt, recipe.alpha, recipe.seed, recipe.sounds[0].name) == ("at night 🌙 ليل", 0.3, 7, "dog.wav")
    assert "Done." in status


def test_a_strip_is_five_images_and_no_file_is_made_of_them(client, folder, tmp_path):
    for _ in range(2):  # the second time, too, in the same session
        (tmp_path / "dog.wav").write_bytes(wav())
        sound = gradio_client.handle_file(tmp_path / "dog.wav")
        images, _ = client.predict(sound=sound, text="a", steps=STEPS, api_name="/strip")
        assert [entry["caption"] for entry in images] == [
            f"alpha {share}" for share in ("0", "0.25", "0.5", "0.75", "1")
        ]
        assert all(entry["image"]["url"].startswith("data:image/png;base64,") for entry in images)
    assert not [path for path in folder.rglob("*") if path.is_file() and path.name != "dog.wav"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "a" * 10_000}, "text has 10000 characters; allowed: up to 500"),
        ({"text": " "}, "neither a sound nor a text"),
        ({"text": "a", "seed": -1}, "seed is -1; allowed"),
        ({"text": "a", "steps": 501}, "steps is 501|greater than maximum"),
        ({"text": "a", "size": "4096 x 4096"}, "4096 x 4096"),
        ({"text": "a", "weights": "<b>"}, "weights are numbers"),
        ({"sample": "no"}, "no"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(client, options, message):
    with pytest.raises(gradio_client.exceptions.AppError, match=message) as error:
        draw(client, **options)
    assert "Traceback" not in str(error.value) and "/" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing.wav", b"", "nothing.wav"),
        ("long.wav", wav(seconds=6), "long.wav lasts more than 5 s"),
        ("image.heic", b"\0\0\0\x18ftypheic", "image.heic cannot be read as sound"),
        ("<img src=x>.wav", b"RIFF", "cannot be read as sound"),
    ],
)
def test_a_file_that_is_no_sound_is_a_sentence_with_its_name(client, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(gradio_client.exceptions.AppError, match=message) as error:
        draw(client, sound=gradio_client.handle_file(tmp_path / name))
    assert "<img" not in str(error.value) and "/" not in str(error.value)


def test_an_upload_is_removed_soon_after_its_request(address, folder):
    path = httpx.post(f"{address}/gradio_api/upload", files={"files": ("dog.wav", wav())}).json()[0]
    sound = {"path": path, "meta": {"_type": "gradio.FileData"}}
    begun = time.monotonic()
    assert not Path(path).is_absolute() and (folder / path).is_file()
    assert post(address, sound=sound).startswith("complete")
    while (folder / path).exists():
        assert time.monotonic() - begun < KEPT_SECONDS + 20
        time.sleep(0.1)
    assert "dog.wav is not kept any longer; upload it again" in post(address, sound=sound)


def test_more_requests_than_the_queue_takes_are_refused_with_a_sentence(client):
    jobs = [client.submit(text="a", steps=100, seed=seed, api_name="/generate") for seed in range(8)]
    errors = [str(error) for job in jobs if (error := job.exception(60))]
    assert 1 <= len(errors) <= 3 and all("the queue is full, 5 images before yours" in error for error in errors)


def test_the_page_and_its_api_work_behind_a_proxy(port):
    with proxied(port, "/demo") as address:
        html = httpx.get(f"{address}/").text
        assert f'"root":"{address}"' in html
        image, _ = draw(gradio_client.Client(f"{address}/", verbose=False), text="a")
    assert Image.open(io.BytesIO(base64.b64decode(image["url"].partition(",")[2]))).size == (32, 32)
