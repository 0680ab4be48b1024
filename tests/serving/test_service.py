"""The service: requests that wait together are one batch, limits, stopping, errors that stay with their request."""

import threading

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import encoders
from jaxsd.diffusion.pipeline import to_pil
from jaxsd.recipes.recipe import read_recipe, save_png
from jaxsd.serving.service import UNEXPECTED, ImageRequest, ImageService, ServiceLimits
from jaxsd.sound_to_image import SoundToImage, load_sounds
from tests.helpers import models

pytestmark = pytest.mark.slow

STEPS = 3
LIMITS = ServiceLimits(queue=5, batch=4, steps=STEPS, characters=20)


@pytest.fixture(scope="module")
def model():
    made = {
        name: encoders.create("chatgpt", width=24, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(seed))
        for seed, name in enumerate(("one", "two"))
    }
    return SoundToImage(made, models.stable_diffusion())


@pytest.fixture
def service(model):
    with ImageService(model, LIMITS) as service:
        yield service


@pytest.fixture
def clip(rng):
    return rng.integers(-20_000, 20_000, 16_000).astype(np.int16)


class Gate:
    """In front of the pipeline: counts the batches, and holds each until it is opened."""

    def __init__(self, service, monkeypatch):
        self.sizes, self.opened, self.entered = [], threading.Event(), threading.Event()
        denoise = service._denoise

        def wait(jobs, conditionings):
            self.sizes.append(len(jobs))
            self.entered.set()
            self.opened.wait(60)
            return denoise(jobs, conditionings)

        monkeypatch.setattr(service, "_denoise", wait)


def request(clip=None, **options) -> ImageRequest:
    sound = None if clip is None else load_sounds(clip)[0]
    return ImageRequest(sound, **{"steps": STEPS, "guidance": 2.0, **options})


def test_an_image_and_its_recipe_are_the_models_own(service, model, clip, tmp_path):
    drawn = service.submit(request(clip, text="a b", alpha=0.25, seed=3, encoders=["two"])).result()
    options = {"alpha": 0.25, "seed": 3, "steps": STEPS, "guidance": 2.0}
    (expected,) = model.with_encoders(["two"])(clip, ["a b"], **options, output_type="pil")
    np.testing.assert_array_equal(drawn, expected)
    save_png(drawn, tmp_path / "drawn.png")
    save_png(expected, tmp_path / "expected.png")
    assert read_recipe(tmp_path / "drawn.png") == read_recipe(tmp_path / "expected.png")


def test_what_waits_together_is_one_batch_and_each_image_its_own(service, clip, monkeypatch):
    alone = [service.submit(request(clip, seed=seed)).result() for seed in range(3)]
    gate = Gate(service, monkeypatch)
    first = service.submit(request(clip, steps=1))
    gate.entered.wait(60)
    jobs = [service.submit(request(clip, seed=seed)) for seed in range(3)]
    assert [service.ahead_of(job) for job in (first, *jobs)] == [0, 1, 2, 3]
    gate.opened.set()
    for job, image in zip(jobs, alone, strict=True):
        np.testing.assert_allclose(np.asarray(job.result(), int), np.asarray(image, int), atol=1)
    assert gate.sizes == [1, 3]


def test_a_full_queue_refuses(service, monkeypatch):
    gate = Gate(service, monkeypatch)
    jobs = [service.submit(request(text="a")) for _ in range(LIMITS.queue)]
    with pytest.raises(ValueError, match="the queue is full, 5 images before yours; try again in a while"):
        service.submit(request(text="a"))
    gate.opened.set()
    assert len({job.result().tobytes() for job in jobs}) >= 1
    service.submit(request(text="a")).result()


def test_updates_tell_the_steps_and_preview_them(service):
    service.preview_weights = np.zeros((service.model.pipe.unet.config.out_channels + 1, 3), np.float32)
    updates = list(service.submit(request(text="a")).updates())
    assert updates[-1].finished and not any(update.finished for update in updates[:-1])
    assert [update.done for update in updates] == sorted(update.done for update in updates)
    assert {update.steps for update in updates} == {STEPS}
    assert {update.image.size for update in updates if update.image} == {updates[-1].image.size}


def test_who_stops_leaves_the_queue(service, monkeypatch):
    gate = Gate(service, monkeypatch)
    drawn, waiting = service.submit(request(text="a")), service.submit(request(text="b", steps=1))
    gate.entered.wait(60)
    drawn.stop()
    waiting.stop()
    gate.opened.set()
    for job in (drawn, waiting):
        with pytest.raises(ValueError, match="the image was stopped"):
            job.result()
        with pytest.raises(ValueError, match="the image was stopped"):
            list(job.updates())
    service.submit(request(text="a", seed=1)).result()  # the worker lives on
    assert gate.sizes == [1, 1]


def test_a_failure_is_a_sentence_and_the_next_image_is_drawn(service, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(service, "_denoise", lambda *_: 1 // 0)
        with pytest.raises(ValueError, match=UNEXPECTED):
            service.submit(request(text="a")).result()
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert service.submit(request(text="a")).result().size == (32, 32)


def test_a_request_that_cannot_be_encoded_fails_alone(service, clip, monkeypatch):
    gate = Gate(service, monkeypatch)
    first = service.submit(request(clip, steps=1))
    gate.entered.wait(60)
    encode = service._encode

    def refuse(job):
        if job.request.text == "bad":
            raise ValueError("a sentence")
        return encode(job)

    monkeypatch.setattr(service, "_encode", refuse)
    bad, good = service.submit(request(clip, text="bad")), service.submit(request(clip, text="a"))
    gate.opened.set()
    with pytest.raises(ValueError, match="a sentence"):
        bad.result()
    assert good.result().size == first.result().size


def test_an_image_to_start_from(service):
    start = Image.new("L", (40, 30), 200)
    updates = list(service.submit(request(text="a", image=start, strength=0.7)).updates())
    assert updates[-1].done == updates[-1].steps == int(STEPS * 0.7)
    assert updates[-1].image != service.submit(request(text="a")).result()


def test_what_a_mask_leaves_stays(service, model):
    start, mask = Image.new("RGB", (32, 32), "red"), Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    drawn = service.submit(request(text="a", image=start, mask=mask)).result()
    (expected,) = to_pil(model(prompts=["a"], image=start, mask=mask, steps=STEPS, guidance=2.0))
    np.testing.assert_array_equal(drawn, expected)
    assert drawn != service.submit(request(text="a", image=start, strength=1.0)).result()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither a sound nor a text"),
        ({"text": "a" * 21}, "text has 21 characters; allowed: up to 20"),
        ({"text": "a", "negative": "b" * 21}, "negative has 21"),
        ({"text": "a", "steps": 4}, "steps is 4; allowed: 1 to 3"),
        ({"text": "a", "guidance": float("nan")}, "guidance is nan"),
        ({"text": "a", "alpha": 2}, "alpha is 2"),
        ({"text": "a", "seed": -1}, "seed is -1"),
        ({"text": "a", "sampler": "magic"}, "magic"),
        ({"text": "a", "width": 24, "height": 8}, "the size is 24 x 8; allowed: 32 x 32"),
        ({"text": "a", "encoders": ["three"]}, "encoder is 'three'; allowed: one, two"),
        ({"text": "a", "encoders": ["one", "two"], "weights": [1]}, "1 weight for 2 encoders"),
        ({"text": "a", "mask": Image.new("L", (8, 8))}, "there is a mask and no image"),
        ({"text": "a", "image": Image.new("RGB", (8, 8)), "strength": 0}, "strength is 0"),
    ],
)
def test_what_is_not_taken_is_refused_at_once(service, options, message):
    with pytest.raises(ValueError, match=message):
        service.submit(request(**options))
    assert not service.jobs


def test_limits_are_above_zero():
    with pytest.raises(ValueError, match="queue is 0; allowed: 1 or more"):
        ServiceLimits(queue=0)


def test_a_closed_service_takes_nothing(model, monkeypatch):
    service = ImageService(model, LIMITS)
    with service:
        gate = Gate(service, monkeypatch)
        job = service.submit(request(text="a"))
        gate.entered.wait(60)
        gate.opened.set()
    with pytest.raises(ValueError, match="the server is stopping"):
        service.submit(request(text="a"))
    assert job.finished


def test_after_warming_up_a_request_compiles_nothing(model, clip):
    with ImageService(model, ServiceLimits(batch=2, steps=100)) as service:
        service.warm_up()
        assert service.preview_weights is not None
        compiled = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
        )
        service.submit(ImageRequest(load_sounds(clip)[0])).result()
    assert not compiled
