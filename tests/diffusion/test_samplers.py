"""Sampler tables on a cheap network: against diffusers' schedulers, and where those err against the plain rule."""

import itertools
import json
import re
from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
from diffusers.schedulers import scheduling_lcm, scheduling_tcd
from scipy.integrate import quad

from jaxsd.diffusion.samplers import SAMPLERS, NoiseSchedule, Row, init_history, make_sampler, normal, step

SHAPE = (2, 3, 4)
KEYS = jax.random.split(jax.random.key(7), SHAPE[0])
STEPS = (1, 2, 3, 9, 20)
LEADING = NoiseSchedule(timestep_spacing="leading")


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
    schedule = schedule.for_sampler(name)
    scheduler = getattr(diffusers, SAMPLERS[name].scheduler)(
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        prediction_type=schedule.prediction_type,
        timestep_spacing=schedule.timestep_spacing,
        steps_offset=schedule.steps_offset,
        **({"skip_prk_steps": True} if name == "pndm" else {}),
        **({"set_alpha_to_one": schedule.set_alpha_to_one} if name in ("pndm", "ddim") else {}),
        **({"clip_sample": False} if name in ("ddim", "lcm", "tcd") else {}),
        **({"use_karras_sigmas": True} if schedule.use_karras_sigmas else {}),
    )
    return drive(scheduler, name, steps, noise, image, strength, monkeypatch)


def drive(scheduler, name, steps, noise, image=None, strength=1.0, monkeypatch=None):
    scheduler.set_timesteps(steps)
    skipped = steps - int(steps * strength)
    timesteps = scheduler.timesteps[skipped:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    drawing = {"euler_a": ancestral, "lcm": scheduling_lcm, "tcd": scheduling_tcd}
    if name in drawing:
        rows = itertools.count()
        drawn_next = lambda *_, **__: torch.tensor(np.asarray(drawn(next(rows))))  # noqa: E731
        monkeypatch.setattr(drawing[name], "randn_tensor", drawn_next)
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
    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing="leading")
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


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_a", "dpm++2m", "lcm", "tcd"])
def test_image_to_latents_as_diffusers(name, noise, image, monkeypatch):
    for steps, strength in ((20, 0.7), (20, 1.0), (9, 0.12), (10, 0.3)):
        expected = theirs(name, LEADING, steps, noise, image, strength, monkeypatch)
        np.testing.assert_allclose(ours(name, LEADING, steps, noise, image, strength), expected, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps, strength", [(20, 0.7), (9, 1.0), (9, 0.12), (10, 0.25)])
def test_lms_from_an_image_by_quadrature(steps, strength, prediction_type, noise, image):
    """In the variance-exploding picture, the newest four noises at most, integrated numerically in float64."""
    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing="leading")
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
    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing="leading")
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
    schedule = LEADING
    table = make_sampler("euler_a", schedule, 12).columns
    sigma = np.append(np.sqrt(1 - schedule.alphas_cumprod[table.timestep.astype(int)]), 0)
    kept = table.a[:, 0] * sigma[:-1] + table.b[:, 0]
    np.testing.assert_allclose(kept**2 + table.c**2, sigma[1:] ** 2, atol=1e-6)
    assert table.c[-1] == 0 and (table.c[:-1] > 0).all()


# What the files of Stable Diffusion 1.x say, whatever their class. They are silent about the spacing.
SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
COMMON = {"clip_sample": False, "skip_prk_steps": True, "trained_betas": None}
FILES = {
    "as published": SD15 | COMMON | {"set_alpha_to_one": False, "steps_offset": 1},
    "silent": SD15 | COMMON,
    "offset 0": SD15 | COMMON | {"steps_offset": 0},
    "spaced": SD15 | COMMON | {"steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False},
    "other betas": COMMON | {"beta_start": 0.001, "steps_offset": 1},
    "every beta": COMMON | {"trained_betas": np.linspace(0.001, 0.015, 1000).tolist(), "steps_offset": 1},
}


def schedule_in(tmp_path, **values):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(values))
    return NoiseSchedule.read(path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("own", SAMPLERS)
def test_any_sampler_on_any_file_is_diffusers_from_config(tmp_path, own, file, noise, monkeypatch):
    """As `X.from_config(pipe.scheduler.config)`; X's own defaults count where the file is silent."""
    schedule = schedule_in(tmp_path, _class_name=SAMPLERS[own].scheduler, **FILES[file])
    of_the_pipe = getattr(diffusers, SAMPLERS[own].scheduler).from_config(FILES[file])
    if of_the_pipe.config.steps_offset != 1:  # what StableDiffusionPipeline does to its scheduler
        of_the_pipe._internal_dict = FrozenDict(dict(of_the_pipe.config) | {"steps_offset": 1})
    assert schedule.sampler == own
    for name, spec in SAMPLERS.items():
        # Where a file is silent about its betas, diffusers' LCM and TCD take those of Stable Diffusion, the others not.
        if file == "other betas" and {name, own} & {"lcm", "tcd"}:
            continue
        scheduler = of_the_pipe
        if name != own:
            scheduler = getattr(diffusers, spec.scheduler).from_config(of_the_pipe.config)
        expected = drive(scheduler, name, 10, noise, monkeypatch=monkeypatch)
        np.testing.assert_allclose(ours(name, schedule, 10, noise), expected, atol=1e-4, err_msg=name)


def test_diffusers_pipeline_corrects_the_offset():
    """As the test above says of it."""
    components = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor"))
    for scheduler in (diffusers.PNDMScheduler(steps_offset=0), diffusers.LMSDiscreteScheduler(steps_offset=7)):
        pipe = diffusers.StableDiffusionPipeline(**components, scheduler=scheduler, requires_safety_checker=False)
        assert pipe.scheduler.config.steps_offset == 1


def test_other_samplers_than_the_file_of_stable_diffusion_15_names():
    """LMS, the paper's: 999 ... 0, where PNDM, the checkpoint's, visits 901 ... 1."""
    schedule = NoiseSchedule()
    assert schedule.sampler == "pndm"
    assert make_sampler("lms", schedule, 10).columns.timestep[[0, -1]].tolist() == [999, 0]
    assert make_sampler("pndm", schedule, 10).columns.timestep[[0, -1]].tolist() == [901, 1]


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "_class_name is None; allowed: the name of a class of diffusers"),
        ({"_class_name": ["PNDMScheduler"]}, "_class_name is .*; allowed: the name of a class of diffusers"),
        (
            {"_class_name": "PNDMScheduler", "trained_betas": [0.1]},
            "trained_betas are 1 from 0.1 to 0.1; allowed: num_train",
        ),
        ({"_class_name": "PNDMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'; allowed: linear, "),
        ({"_class_name": "PNDMScheduler", "prediction_type": "sample"}, "prediction_type is 'sample'; allowed: epsilo"),
    ],
)
def test_files_that_are_of_no_use(tmp_path, values, message):
    with pytest.raises(ValueError, match=f"scheduler_config.json: {message}"):
        schedule_in(tmp_path, **values)


@pytest.mark.parametrize("value", [float("-inf"), -5.1])
def test_a_limit_of_noise_beyond_all_timesteps_is_none(tmp_path, value, noise):
    """diffusers writes -Infinity; -5.1 is for schedules with more noise."""
    schedule = schedule_in(tmp_path, _class_name="DPMSolverMultistepScheduler", lambda_min_clipped=value, **SD15)
    expected = drive(diffusers.DPMSolverMultistepScheduler(lambda_min_clipped=value, **SD15), "dpm++2m", 10, noise)
    np.testing.assert_allclose(ours("dpm++2m", schedule, 10, noise), expected, atol=1e-4)


def test_a_scheduler_that_is_not_here_leaves_the_others(tmp_path, noise):
    schedule = schedule_in(tmp_path, _class_name="UniPCMultistepScheduler", **FILES["silent"])
    message = (
        "the checkpoint's own scheduler, UniPCMultistepScheduler, is no sampler here: choose another; allowed: pndm"
    )
    with pytest.raises(ValueError, match=message):
        make_sampler(schedule.sampler, schedule, 10)
    known = schedule_in(tmp_path, _class_name="PNDMScheduler", **FILES["silent"])
    np.testing.assert_array_equal(ours("lms", schedule, 10, noise), ours("lms", known, 10, noise))


@pytest.mark.parametrize(
    "values, sampler",
    [
        ({"algorithm_type": "sde-dpmsolver++"}, "dpm++2m"),
        ({"solver_order": 3}, "dpm++2m"),
        ({"use_beta_sigmas": True}, "lms"),
        ({"skip_prk_steps": False}, "pndm"),
        ({"sigma_min": [1, {}]}, "euler"),
        ({"lambda_min_clipped": -1.0}, "dpm++2m"),
    ],
)
def test_a_rule_that_the_file_asks_for_and_is_not_here_leaves_the_others(tmp_path, values, sampler, noise):
    schedule = schedule_in(tmp_path, _class_name=SAMPLERS[sampler].scheduler, **FILES["silent"] | values)
    key = next(iter(values))
    with pytest.raises(ValueError, match=f"the checkpoint's scheduler has {key} = .* {re.escape(sampler)} does not"):
        make_sampler(sampler, schedule, 10)
    plain = schedule_in(tmp_path, _class_name=SAMPLERS[sampler].scheduler, **FILES["silent"])
    np.testing.assert_array_equal(ours("ddim", schedule, 10, noise), ours("ddim", plain, 10, noise))
    assert hash(schedule)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_and_strengths_that_do_not_fit(name):
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=rf"steps is {steps}; allowed: 1 to (99|50)"):
            make_sampler(name, LEADING, steps)
    for strength in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"strength is {strength}; allowed: above 0, up to 1"):
            make_sampler(name, LEADING, 10, strength)
    with pytest.raises(ValueError, match="strength is 0.05, which leaves none of 10 steps; allowed: 0.1 to 1"):
        make_sampler(name, LEADING, 10, 0.05)
