"""Sampler tables on a cheap network: against diffusers' schedulers, and where those err against the plain rule."""

import itertools
import json
from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
from scipy.integrate import quad

from jaxsd.diffusion.samplers import SAMPLERS, SCHEDULERS, NoiseSchedule, Row, init_history, make_sampler, normal, step

SHAPE = (2, 3, 4)
KEYS = jax.random.split(jax.random.key(7), SHAPE[0])
STEPS = (1, 2, 3, 9, 20)


def network(xp, x, t):
    """Not linear in x and smooth in t, so that a wrong x, t or order shows."""
    return xp.tanh(1.5 * x) * (0.4 + t / 2000) + 0.3 * x


def sample(table, network, noise, image):
    history = init_history(table, noise, image)
    history, _ = jax.lax.scan(lambda history, row: step(row, network, history, KEYS), history, table.columns)
    return history.xs[0]


@jax.jit
def run(table, noise, image):
    return sample(table, partial(network, jnp), noise, image)


def padded(table):
    """The same rule in the shape of the longest table here, so that all share one compiled loop.

    Added columns weigh nothing, and added rows leave x as it is.
    """

    def pad(column, *shape):
        return np.pad(column, [(0, to - size) for to, size in zip(shape, column.shape, strict=True)])

    rows = max(STEPS) + 1
    orders = {"a": (2,), "b": (5,)}
    columns = {name: pad(column, rows, *orders.get(name, ())) for name, column in table.columns._asdict().items()}
    columns["a"][len(table.columns.index) :, 0] = 1
    return table._replace(columns=Row(**columns))


def drawn(i):
    """The noise that `sample` adds in row i."""
    return normal(jax.vmap(lambda key: jax.random.fold_in(key, i))(KEYS), SHAPE[1:])


def ours(name, schedule, steps, noise, image=None, strength=None):
    table = make_sampler(name, schedule, steps, strength)
    return run(padded(table), noise, np.zeros_like(noise) if image is None else image)


def theirs(name, schedule, steps, noise, image=None, strength=1.0, monkeypatch=None):
    """diffusers' scheduler, driven as its pipelines drive it."""
    scheduler = getattr(diffusers, SCHEDULERS[name])(
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        prediction_type=schedule.prediction_type,
        timestep_spacing=schedule.timestep_spacing,
        steps_offset=schedule.steps_offset,
        **({"skip_prk_steps": True} if name == "pndm" else {}),
        **({"set_alpha_to_one": schedule.set_alpha_to_one} if name in ("pndm", "ddim") else {}),
        **({"clip_sample": False} if name == "ddim" else {}),
        **({"use_karras_sigmas": True} if schedule.use_karras_sigmas else {}),
    )
    scheduler.set_timesteps(steps)
    skipped = steps - int(steps * strength)
    timesteps = scheduler.timesteps[skipped:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    if name == "euler_a":
        rows = itertools.count()
        monkeypatch.setattr(ancestral, "randn_tensor", lambda *_, **__: torch.tensor(np.asarray(drawn(next(rows)))))
    x = torch.tensor(noise)
    if image is None:
        x = x * scheduler.init_noise_sigma
    else:
        x = scheduler.add_noise(torch.tensor(image), x, timesteps[:1])
    for t in timesteps:
        x = scheduler.step(network(torch, scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x.numpy()


@pytest.fixture
def noise(rng):
    return rng.standard_normal(SHAPE, np.float32)


@pytest.fixture
def image():
    return np.random.default_rng(1).standard_normal(SHAPE, np.float32)


# diffusers' PNDM mixes the v of different timesteps: see the test of the plain rule.
@pytest.mark.parametrize(
    "name, prediction_type",
    [(name, "epsilon") for name in SAMPLERS] + [(name, "v_prediction") for name in SAMPLERS if name != "pndm"],
)
def test_noise_to_latents_as_diffusers(name, prediction_type, noise, monkeypatch):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    for steps in STEPS:
        expected = theirs(name, schedule, steps, noise, monkeypatch=monkeypatch)
        np.testing.assert_allclose(ours(name, schedule, steps, noise), expected, atol=1e-4)


# diffusers' DDIM and PNDM miss the next timestep where these have a remainder: see ddim_points.
@pytest.mark.parametrize(
    "name, spacing",
    [(name, "trailing") for name in SAMPLERS]
    + [(name, "linspace") for name in SAMPLERS if name not in ("ddim", "pndm")],
)
def test_spacings_as_diffusers(name, spacing, noise, monkeypatch):
    schedule = NoiseSchedule(timestep_spacing=spacing)
    expected = theirs(name, schedule, 20, noise, monkeypatch=monkeypatch)
    np.testing.assert_allclose(ours(name, schedule, 20, noise), expected, atol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("name", ["lms", "euler", "dpm++2m"])
def test_karras_as_diffusers(name, spacing, noise):
    schedule = NoiseSchedule(timestep_spacing=spacing, use_karras_sigmas=True)
    for steps in (1, 9, 20):
        expected = theirs(name, schedule, steps, noise)
        np.testing.assert_allclose(ours(name, schedule, steps, noise), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_a", "dpm++2m"])
def test_image_to_latents_as_diffusers(name, noise, image, monkeypatch):
    for steps, strength in ((20, 0.7), (20, 1.0), (9, 0.12), (10, 0.3)):
        expected = theirs(name, NoiseSchedule(), steps, noise, image, strength, monkeypatch)
        np.testing.assert_allclose(ours(name, NoiseSchedule(), steps, noise, image, strength), expected, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps, strength", [(20, 0.7), (9, 1.0), (9, 0.12), (10, 0.25)])
def test_lms_from_an_image_by_quadrature(steps, strength, prediction_type, noise, image):
    """In the variance-exploding picture, the newest four noises at most, integrated numerically in float64."""
    schedule = NoiseSchedule(prediction_type=prediction_type)
    last = int(steps * strength)
    timesteps = schedule.timesteps(steps)[-last:]
    squared = schedule.alphas_cumprod[timesteps.astype(int)]
    ratios = np.append(np.sqrt((1 - squared) / squared), 0)
    y, noises = image + noise.astype(np.float64) * ratios[0], []
    for i, t in enumerate(timesteps):
        noises.append(predicted_noise(schedule, y * np.sqrt(squared[i]), t))
        known = range(max(0, i - 3), i + 1)
        for k in known:

            def lagrange(s, k=k, known=known):
                return np.prod([(s - ratios[j]) / (ratios[k] - ratios[j]) for j in known if j != k])

            y = y + quad(lagrange, ratios[i], ratios[i + 1])[0] * noises[k]
    np.testing.assert_allclose(ours("lms", schedule, steps, noise, image, strength), y, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps, strength", [(20, 0.7), (9, 1.0), (9, 0.12), (10, 0.25)])
def test_plms_from_an_image_by_the_plain_rule(steps, strength, prediction_type, noise, image):
    """Liu et al., arXiv 2202.09778, eq. 9 and 12, step by step in float64."""
    schedule = NoiseSchedule(prediction_type=prediction_type)
    timesteps = schedule.timesteps(steps)[-int(steps * strength) :].astype(int)
    squared = np.append(schedule.alphas_cumprod[timesteps], schedule.alphas_cumprod[0])

    def move(x, e, i):
        now, after = squared[i], squared[i + 1]
        below = np.sqrt(now) * (np.sqrt((1 - after) * now) + np.sqrt((1 - now) * after))
        return np.sqrt(after / now) * x - (after - now) / below * e

    x = np.sqrt(squared[0]) * image + np.sqrt(1 - squared[0]) * noise.astype(np.float64)
    e = []
    for i, t in enumerate(timesteps):
        e.insert(0, predicted_noise(schedule, x, t))
        if i == 0 and len(timesteps) > 1:
            mean = (e[0] + predicted_noise(schedule, move(x, e[0], 0), timesteps[1])) / 2
        elif i < 2:
            mean = e[0] if i == 0 else (3 * e[0] - e[1]) / 2
        elif i == 2:
            mean = (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        else:
            mean = (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        x = move(x, mean, i)
    np.testing.assert_allclose(ours("pndm", schedule, steps, noise, image, strength), x, atol=1e-4)


def predicted_noise(schedule, x, t):
    f = network(np, x, t)
    if schedule.prediction_type == "epsilon":
        return f
    squared = schedule.alphas_cumprod[int(t)]
    return np.sqrt(squared) * f + np.sqrt(1 - squared) * x


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", ["pndm", "ddim", "lms", "euler", "dpm++2m"])
def test_known_noise_leads_back_to_the_image(name, spacing, noise, image):
    """One network output, the very noise, at all steps: every rule is exact on it. Some end at timestep 0."""
    schedule = NoiseSchedule(timestep_spacing=spacing)
    end = schedule.alphas_cumprod[0] if name in ("pndm", "ddim") else 1
    expected = np.sqrt(end) * image + np.sqrt(1 - end) * noise
    table = make_sampler(name, schedule, 7, 0.8)
    np.testing.assert_allclose(run_on_noise(padded(table), noise, image), expected, atol=1e-4)


@jax.jit
def run_on_noise(table, noise, image):
    return sample(table, lambda x, t: noise, noise, image)


def test_ancestral_noise_keeps_the_variance():
    """Down to sigma^2 / s and up by c: together the next point's noise."""
    schedule = NoiseSchedule()
    table = make_sampler("euler_a", schedule, 12).columns
    sigma = np.append(np.sqrt(1 - schedule.alphas_cumprod[table.timestep.astype(int)]), 0)
    kept = table.a[:, 0] * sigma[:-1] + table.b[:, 0]
    np.testing.assert_allclose(kept**2 + table.c**2, sigma[1:] ** 2, atol=1e-6)
    assert table.c[-1] == 0 and (table.c[:-1] > 0).all()


@pytest.mark.parametrize("sampler, scheduler", SCHEDULERS.items())
def test_the_file_names_the_sampler(tmp_path, sampler, scheduler):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": scheduler, "use_karras_sigmas": True}))
    schedule = NoiseSchedule.read(path)
    theirs = getattr(diffusers, scheduler)().config
    assert schedule.sampler == sampler and schedule.use_karras_sigmas
    assert schedule.timestep_spacing == theirs.timestep_spacing
    assert schedule.set_alpha_to_one == theirs.get("set_alpha_to_one", False)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"_class_name": "UniPCMultistepScheduler"},
            "_class_name is 'UniPCMultistepScheduler'; allowed: PNDMScheduler, ",
        ),
        ({}, "_class_name is None; allowed: PNDMScheduler, "),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            "algorithm_type is 'sde-dpmsolver\\+\\+'; this model has 'dpmsolver\\+\\+'",
        ),
    ],
)
def test_files_of_other_samplers(tmp_path, values, message):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"scheduler_config.json: {message}"):
        NoiseSchedule.read(path)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_and_strengths_that_do_not_fit(name):
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"steps is {steps}; allowed: 1 to 99"):
            make_sampler(name, NoiseSchedule(), steps)
    for strength in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"strength is {strength}; allowed: above 0, up to 1"):
            make_sampler(name, NoiseSchedule(), 10, strength)
    with pytest.raises(ValueError, match="strength is 0.05, which leaves none of 10 steps; allowed: 0.1 to 1"):
        make_sampler(name, NoiseSchedule(), 10, 0.05)
