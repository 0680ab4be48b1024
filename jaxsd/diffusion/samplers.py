"""Noise schedules, and samplers as tables of coefficients that one step runs.

Every sampler here is a linear multistep rule on the variance-preserving latents x (alpha^2 + sigma^2 = 1):

    m = p x + q f(x, t)                         what the rule works on (noise or data), from the network's output f
    x' = sum_j a_j x_j + sum_k b_k m_k + c z    x_0 and m_0 are the newest, z is standard normal

The coefficients depend on the schedule alone, so they are computed once in float64. A sampler is two functions: the
first gives the points of the noise schedule that are visited, the second gives the coefficients between them. Image to
image visits the last of the same points, and every rule starts there as it starts at the first.

To add a sampler, write the two functions and an entry of SAMPLERS.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsd.pretrained.model_config import from_dict
from jaxsd.runtime.files import read_json

CONSISTENCY_STEPS = 50  # timesteps that LCM and TCD are distilled at
MOST_TIMESTEPS = 100_000  # a schedule holds a number for each


@dataclass(frozen=True)
class NoiseSchedule:
    """What `scheduler_config.json` says, under diffusers' names. The defaults are those of Stable Diffusion 1.5.

    None stands for what a file does not say: each sampler then has a default of its own, as each of diffusers'
    scheduler classes has (`for_sampler`).

    Attributes:
        use_karras_sigmas: Honored by lms, euler and dpm++2m.
        sampler: The sampler that the file's `_class_name` names, which the pipeline uses unless it is asked for
            another. The class name itself where no sampler here stands for it.
        options: Keys and values of the file that ask for another rule than one of the samplers is.
        trained_betas: The beta of every training timestep, in place of those that the other values describe.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str | None = None
    steps_offset: int | None = 1
    set_alpha_to_one: bool | None = False
    use_karras_sigmas: bool = False
    sampler: str = "pndm"
    options: tuple[tuple[str, Any], ...] = ()
    trained_betas: tuple[float, ...] | None = None

    CHOICES = {
        "beta_schedule": ("linear", "scaled_linear"),
        "prediction_type": ("epsilon", "v_prediction"),
        "timestep_spacing": (None, "leading", "linspace", "trailing"),
    }

    def __post_init__(self):
        if not 1 <= self.num_train_timesteps <= MOST_TIMESTEPS:
            raise ValueError(f"num_train_timesteps is {self.num_train_timesteps}; allowed: 1 to {MOST_TIMESTEPS}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"beta_start is {self.beta_start} and beta_end {self.beta_end}; allowed: rising in 0 to 1")
        betas = self.trained_betas
        if betas and (len(betas) != self.num_train_timesteps or not all(0 < beta < 1 for beta in betas)):
            raise ValueError(
                f"trained_betas are {len(betas)} from {min(betas)} to {max(betas)}; allowed: num_train_timesteps, "
                f"{self.num_train_timesteps}, above 0 and below 1"
            )
        for name, allowed in self.CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(choice for choice in allowed if choice)
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {choices}")

    @classmethod
    def read(cls, path) -> "NoiseSchedule":
        """Read a `scheduler_config.json`.

        Keys that the file lacks have the values that diffusers' scheduler classes agree on. A `steps_offset` in the
        file counts as 1, whatever it is: diffusers' StableDiffusionPipeline corrects it so. Raises FileNotFoundError
        or ValueError naming the file, the key and what is allowed.
        """
        values = read_json(path)
        scheduler = values.get("_class_name")
        if not isinstance(scheduler, str):
            raise ValueError(f"{path}: _class_name is {scheduler!r}; allowed: the name of a class of diffusers")
        samplers = {spec.scheduler: name for name, spec in SAMPLERS.items()}
        required = [(key, value) for spec in SAMPLERS.values() for key, value in spec.required.items()]
        other_rules = {key for key, value in required if values.get(key, value) != value}
        silent = {
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "beta_schedule": "linear",
            "set_alpha_to_one": None,
            "steps_offset": None,
        }
        changed: dict[str, Any] = {"sampler": samplers.get(scheduler, scheduler)}
        if "steps_offset" in values:
            changed["steps_offset"] = 1
        schedule = from_dict(cls, {**silent, **values, **changed}, path)
        clipped = values.get("lambda_min_clipped")
        if isinstance(clipped, int | float) and clipped <= -np.log(schedule.ratios[-1]):
            other_rules.discard("lambda_min_clipped")  # no timestep is so noisy
        return replace(schedule, options=tuple((key, _hashable(values[key])) for key in sorted(other_rules)))

    def for_sampler(self, name: str) -> "NoiseSchedule":
        """The schedule as the named sampler reads it: what the file does not say has that sampler's default.

        This is what diffusers' `X.from_config(pipe.scheduler.config)` makes of a file for another scheduler class X.
        Raises ValueError for a sampler that is not here, and where the file asks for another rule than it has.
        """
        if name not in SAMPLERS:
            problem = f"unknown sampler {name!r}"
            if name == self.sampler:
                problem = f"the checkpoint's own scheduler, {name}, is no sampler here: choose another"
            raise ValueError(f"{problem}; allowed: {', '.join(SAMPLERS)}")
        spec = SAMPLERS[name]
        for key, value in self.options:
            if key in spec.required and value != spec.required[key]:
                raise ValueError(
                    f"the checkpoint's scheduler has {key} = {value!r}, which the sampler {name} does not implement "
                    f"(it has {spec.required[key]!r}); choose another sampler: {', '.join(SAMPLERS)}"
                )
        defaults = {
            "timestep_spacing": spec.timestep_spacing,
            "set_alpha_to_one": name == "ddim",
            "steps_offset": int(name == self.sampler),  # corrected by diffusers' pipeline, in its own scheduler alone
        }
        return replace(self, **{key: value for key, value in defaults.items() if getattr(self, key) is None})

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """alpha^2 at each training timestep, float64 (num_train_timesteps,)."""
        if self.trained_betas:
            betas = np.array(self.trained_betas)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, self.num_train_timesteps)
        else:
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps) ** 2
        return np.cumprod(1 - betas)

    @cached_property
    def ratios(self) -> np.ndarray:
        """sigma / alpha at each training timestep, rising, float64 (num_train_timesteps,)."""
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    def timesteps(self, steps: int, dropped: int = 0) -> np.ndarray:
        """The timesteps that `steps` sampling steps visit, falling, float64 (steps,): all but the lowest `dropped`.

        The schedule must be `for_sampler`'s.
        """
        total, count, offset = self.num_train_timesteps, steps + dropped, self.steps_offset or 0
        most = total - dropped - (offset if self.timestep_spacing == "leading" else 0)
        if not 1 <= steps <= most:
            raise ValueError(f"steps is {steps}; allowed: 1 to {most}")
        if self.timestep_spacing == "linspace":
            timesteps = np.linspace(0, total - 1, count)[::-1]
        elif self.timestep_spacing == "trailing":
            timesteps = np.round(np.arange(total, 0, -total / count)) - 1
        else:
            timesteps = np.arange(count)[::-1] * (total // count) + float(offset)
        return timesteps[:steps]  # arange may round one too many into "trailing"


class Points(NamedTuple):
    """The points of a noise schedule that a sampler visits, float64; the last is where it ends."""

    timesteps: np.ndarray  # (steps,)
    alpha: np.ndarray  # (steps + 1,)
    sigma: np.ndarray  # (steps + 1,)
    noise_scale: float

    def last(self, steps: int) -> "Points":
        """The last `steps` of the points. They are entered with an image's latents at the noise of the first point."""
        alpha, sigma = self.alpha[-steps - 1 :], self.sigma[-steps - 1 :]
        return Points(self.timesteps[-steps:], alpha, sigma, float(sigma[0]))


Coefficient = Any  # float32: an array of NumPy in a table, a tracer in a compiled step


class Row(NamedTuple):
    """The coefficients of one step, or columns (rows, ...) of those of all steps."""

    index: Any  # int32
    timestep: Coefficient
    p: Coefficient
    q: Coefficient
    a: Coefficient  # (1 or 2,)
    b: Coefficient  # (order,)
    c: Coefficient
    u: Coefficient  # u x + v f(x, t) is the data that x is noise over, as the network sees it
    v: Coefficient
    known_alpha: Coefficient  # known_alpha x_0 + known_sigma noise is a known image after the step
    known_sigma: Coefficient


class Sampler(NamedTuple):
    """The rows of a rule, and what `init_history` makes the first latents of."""

    columns: Row
    image_scale: Coefficient
    noise_scale: Coefficient

    def rows(self) -> list[Row]:
        return [Row(*values) for values in zip(*self.columns, strict=True)]


class History(NamedTuple):
    """What a rule looks back on, (batch, ...) each, the newest first."""

    xs: tuple[jax.Array, ...]
    ms: tuple[jax.Array, ...]


def ddim_points(schedule: NoiseSchedule, steps: int) -> Points:
    """Whole timesteps; each step ends where the next begins, the last at timestep 0 or, `set_alpha_to_one`, at data.

    diffusers steps by num_train_timesteps // steps instead, which is the same for the spacing "leading" and misses
    the next timestep for the others where that division has a remainder.
    """
    timesteps = np.round(schedule.timesteps(steps)).astype(int)
    end = 1.0 if schedule.set_alpha_to_one else schedule.alphas_cumprod[0]
    squared = np.append(schedule.alphas_cumprod[timesteps], end)
    return Points(timesteps, np.sqrt(squared), np.sqrt(1 - squared), noise_scale=1.0)


def spaced_points(schedule: NoiseSchedule, steps: int) -> Points:
    """Timesteps as spaced, not rounded, then data."""
    timesteps = schedule.timesteps(steps)
    ratios = np.interp(timesteps, np.arange(len(schedule.ratios)), schedule.ratios)
    return _points(schedule, timesteps, ratios)


def euler_points(schedule: NoiseSchedule, steps: int) -> Points:
    """`spaced_points`, or Karras's between the same ends."""
    spaced = spaced_points(schedule, steps)
    if not schedule.use_karras_sigmas:
        return spaced
    highest, lowest = (spaced.sigma / spaced.alpha)[[0, -2]]
    ratios = karras_ratios(highest, lowest, steps)
    return _points(schedule, timesteps_of(schedule, ratios), ratios)


def dpm_points(schedule: NoiseSchedule, steps: int) -> Points:
    """Whole timesteps, of steps + 1 all but the lowest (of steps, all, if "trailing"), then data.

    Karras's sigmas span the whole training schedule; their timesteps are rounded as diffusers rounds them.
    """
    timesteps = np.round(schedule.timesteps(steps, dropped=int(schedule.timestep_spacing != "trailing")))
    ratios = schedule.ratios[timesteps.astype(int)]
    if schedule.use_karras_sigmas:
        ratios = karras_ratios(schedule.ratios[-1], schedule.ratios[0], steps)
        timesteps = np.round(timesteps_of(schedule, ratios))
    return _points(schedule, timesteps, ratios)._replace(noise_scale=1.0)


def karras_ratios(highest: float, lowest: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """Falling sigma / alpha, evenly spaced in their 1 / rho-th power: Karras et al., arXiv 2206.00364, eq. 5."""
    return np.linspace(highest ** (1 / rho), lowest ** (1 / rho), steps) ** rho


def timesteps_of(schedule: NoiseSchedule, ratios: np.ndarray) -> np.ndarray:
    """Fractional timesteps at which sigma / alpha is `ratios`, interpolated in its logarithm."""
    return np.interp(np.log(ratios), np.log(schedule.ratios), np.arange(len(schedule.ratios)))


def consistency_points(schedule: NoiseSchedule, steps: int) -> Points:
    """Of the CONSISTENCY_STEPS timesteps that consistency models are distilled at, `steps` evenly chosen ones."""
    total, most = schedule.num_train_timesteps, min(CONSISTENCY_STEPS, schedule.num_train_timesteps)
    if not 1 <= steps <= most:
        raise ValueError(f"steps is {steps}; allowed: 1 to {most}")
    distilled = np.arange(most, 0, -1) * (total // most) - 1
    timesteps = distilled[np.arange(steps) * most // steps]
    squared = schedule.alphas_cumprod[np.append(timesteps, 0)]
    return Points(timesteps, np.sqrt(squared), np.sqrt(1 - squared), noise_scale=1.0)


def multistep(schedule: NoiseSchedule, points: Points, order: int) -> Sampler:
    """Adams-Bashforth on dy/ds = noise, where y = x / alpha and s = sigma / alpha (arXiv 2206.00364).

    A step adds the integral of the polynomial through the newest `order` noises, fewer while fewer are known. Order 1
    is Euler's rule and also deterministic DDIM (Song et al., arXiv 2010.02502, eq. 12 with eta = 0); order 4 is LMS.
    The integral is exact where k-diffusion's is numerical, and the rule is sound wherever it starts: diffusers' LMS,
    started in mid-schedule, takes the coefficients of order 4 and drops those of noises that it does not have.
    """
    ratios = points.sigma / points.alpha
    steps = len(points.timesteps)
    b = np.zeros((steps, order))
    for i in range(steps):
        known = min(i + 1, order)
        nodes = ratios[i - known + 1 : i + 1][::-1]
        for k in range(known):
            b[i, k] = _integral_of_lagrange(nodes, k, ratios[i], ratios[i + 1])
    a, _ = _transfer(points)
    return _table(schedule, points, a[:, None], points.alpha[1:, None] * b)


# Weights of the newest noises in PLMS by row, the last for all that follow. Row 1 repeats step 0, and its noise is
# not used again: hence the gap that moves through rows 2 to 4.
PLMS = np.array(
    [
        [1, 0, 0, 0, 0],
        [1 / 2, 1 / 2, 0, 0, 0],
        [3 / 2, 0, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 0, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, 0, -9 / 24],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24, 0],
    ]
)


def pndm(schedule: NoiseSchedule, points: Points) -> Sampler:
    """PNDM (Liu et al., arXiv 2202.09778) without Runge-Kutta steps: PLMS, the sampler Stable Diffusion came with.

    One row more than points: the first step is taken twice, the second time with the mean of the noises at its ends.
    diffusers' image to image omits that row's point and so runs one timestep ahead of its latents; under v prediction
    it mixes the outputs v of several timesteps, where this mixes their noises.
    """
    steps = len(points.timesteps)
    rows = steps + (steps > 1)
    visited = np.insert(np.arange(steps), 1, 1)[:rows]
    taken = np.insert(np.arange(steps), 1, 0)[:rows]
    a, b = (column[taken] for column in _transfer(points))
    a = np.stack([a, np.zeros_like(a)], axis=1)
    a[1:2] = a[1:2, ::-1]  # the repeated step starts from the previous x
    weights = PLMS[np.minimum(np.arange(rows), len(PLMS) - 1)]
    return _table(schedule, points, a, b[:, None] * weights, visited=visited)


def euler_ancestral(schedule: NoiseSchedule, points: Points) -> Sampler:
    """Euler's rule down to less noise than the next point has, and fresh noise up to it: k-diffusion's euler_a."""
    ratios = points.sigma / points.alpha
    now, after = ratios[:-1], ratios[1:]
    down = after**2 / now
    up = np.sqrt(after**2 - down**2)
    a, _ = _transfer(points)
    b = points.alpha[1:] * (down - now)
    return _table(schedule, points, a[:, None], b[:, None], c=points.alpha[1:] * up)


def dpm_solver_2m(schedule: NoiseSchedule, points: Points) -> Sampler:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2): second order in the data, midpoint form.

    The first step is of first order, and so is the last, since the logarithmic signal-to-noise ratio of data is
    infinite.
    """
    alpha, sigma = points.alpha, points.sigma
    a = sigma[1:] / sigma[:-1]
    gain = alpha[1:] - alpha[:-1] * a  # alpha' (1 - exp(-h))
    logarithms = np.log(alpha[:-1] / sigma[:-1])
    h = np.diff(logarithms)
    slope = np.zeros_like(gain)
    slope[1:-1] = h[1:] / h[:-1] / 2
    b = gain[:, None] * np.stack([1 + slope, -slope], axis=1)
    return _table(schedule, points, a[:, None], b, data=True)


def latent_consistency(schedule: NoiseSchedule, points: Points) -> Sampler:
    """LCM (Luo et al., arXiv 2310.04378, algorithm 3): to the data that the model sees, and fresh noise on it.

    What the model sees is mixed with x so that at timestep 0 the data is x (eq. 9, with the boundary at 0.5 and the
    timesteps scaled by 10).
    """
    scaled = 10 * points.timesteps
    keep, see = 0.25 / (scaled**2 + 0.25), scaled / np.sqrt(scaled**2 + 0.25)
    alpha, sigma = np.append(points.alpha[1:-1], 1), np.append(points.sigma[1:-1], 0)  # the last step ends at data
    return _table(schedule, points, (alpha * keep)[:, None], (alpha * see)[:, None], c=sigma, data=True)


def trajectory_consistency(schedule: NoiseSchedule, points: Points, gamma: float = 0.3) -> Sampler:
    """TCD (Zheng et al., arXiv 2402.19159, algorithm 4): along the noise beyond the next point, and noise back to it.

    A step goes to the timestep (1 - gamma) times the next one.
    """
    beyond = np.floor((1 - gamma) * np.append(points.timesteps[1:], 0)).astype(int)
    squared = schedule.alphas_cumprod[beyond]
    a = np.sqrt(squared) / points.alpha[:-1]
    b = np.sqrt(1 - squared) - a * points.sigma[:-1]
    back = points.alpha[1:] / np.sqrt(squared)
    return _table(schedule, points, (back * a)[:, None], (back * b)[:, None], c=np.sqrt(np.maximum(1 - back**2, 0)))


class SamplerSpec(NamedTuple):
    """What makes a sampler.

    scheduler: The `_class_name` of `scheduler_config.json` that stands for it.
    points: The points of a schedule that it visits in a number of steps.
    table: The coefficients between the points.
    timestep_spacing: Where a file does not say it, as diffusers' class has it.
    required: Keys of `scheduler_config.json` that ask for another rule where they have another value.
    """

    scheduler: str
    points: Callable[[NoiseSchedule, int], Points]
    table: Callable[[NoiseSchedule, Points], Sampler]
    timestep_spacing: str = "linspace"
    required: Mapping[str, Any] = {}


CONSISTENCY = {
    "original_inference_steps": CONSISTENCY_STEPS,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
}
OTHER_SIGMAS = {"use_beta_sigmas": False, "use_exponential_sigmas": False}
SAMPLERS = {
    "pndm": SamplerSpec("PNDMScheduler", ddim_points, pndm, "leading", {"skip_prk_steps": True}),
    "ddim": SamplerSpec(
        "DDIMScheduler",
        ddim_points,
        partial(multistep, order=1),
        "leading",
        {"rescale_betas_zero_snr": False, "thresholding": False},
    ),
    "lms": SamplerSpec("LMSDiscreteScheduler", euler_points, partial(multistep, order=4), required=OTHER_SIGMAS),
    "euler": SamplerSpec(
        "EulerDiscreteScheduler",
        euler_points,
        partial(multistep, order=1),
        required={
            "final_sigmas_type": "zero",
            "interpolation_type": "linear",
            "rescale_betas_zero_snr": False,
            "sigma_max": None,
            "sigma_min": None,
            "timestep_type": "discrete",
            **OTHER_SIGMAS,
        },
    ),
    "euler_a": SamplerSpec(
        "EulerAncestralDiscreteScheduler", spaced_points, euler_ancestral, required={"rescale_betas_zero_snr": False}
    ),
    "dpm++2m": SamplerSpec(
        "DPMSolverMultistepScheduler",
        dpm_points,
        dpm_solver_2m,
        required={
            "algorithm_type": "dpmsolver++",
            "final_sigmas_type": "zero",
            "lambda_min_clipped": -math.inf,
            "rescale_betas_zero_snr": False,
            "solver_order": 2,
            "solver_type": "midpoint",
            "thresholding": False,
            "use_flow_sigmas": False,
            "use_lu_lambdas": False,
            **OTHER_SIGMAS,
        },
    ),
    "lcm": SamplerSpec(
        "LCMScheduler",
        consistency_points,
        latent_consistency,
        "leading",
        {**CONSISTENCY, "timestep_scaling": 10.0},
    ),
    "tcd": SamplerSpec("TCDScheduler", consistency_points, trajectory_consistency, "leading", CONSISTENCY),
}


def make_sampler(name: str, schedule: NoiseSchedule, steps: int, strength: float | None = None) -> Sampler:
    """The table of the named sampler. With `strength`: of its last int(steps * strength) steps, to start from an image.

    Raises ValueError listing the choices, or where no step is left.
    """
    schedule = schedule.for_sampler(name)
    spec = SAMPLERS[name]
    points = spec.points(schedule, steps)
    if strength is not None:
        if not 0 < strength <= 1:
            raise ValueError(f"strength is {strength}; allowed: above 0, up to 1")
        last = int(steps * strength)
        if not last:
            raise ValueError(f"strength is {strength}, which leaves none of {steps} steps; allowed: {1 / steps:g} to 1")
        points = points.last(last)
    return spec.table(schedule, points)


def init_history(sampler: Sampler, noise: jax.Array, image: jax.Array | float = 0.0) -> History:
    """Before the first step: standard normal `noise` and, for a table made with `strength`, an image's latents."""
    x = jnp.asarray(sampler.image_scale * image + sampler.noise_scale * noise)
    zeros = jnp.zeros_like(x)
    order_x, order_m = sampler.columns.a.shape[1], sampler.columns.b.shape[1]
    return History((x, *[zeros] * (order_x - 1)), (zeros,) * order_m)


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal (batch, *shape): each example from its own of `keys` (batch,), so it depends on no other."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def step(
    row: Row, network: Callable[[jax.Array, jax.Array], jax.Array], history: History, keys: jax.Array
) -> tuple[History, jax.Array]:
    """One step of a rule: the new history, and the data that the network sees behind the noise.

    `network(x, t)` takes latents (batch, ...) and a scalar timestep. `keys` (batch,) draw the noise that the sampler
    adds to each example on its way, the same at every call with the same `row`.
    """
    x = history.xs[0]
    f = network(x, row.timestep)
    ms = (row.p * x + row.q * f, *history.ms[:-1])
    z = normal(jax.vmap(lambda key: jax.random.fold_in(key, row.index))(keys), x.shape[1:])
    terms = [row.a[j] * past for j, past in enumerate(history.xs)] + [row.b[k] * m for k, m in enumerate(ms)]
    moved = reduce(operator.add, terms, row.c * z)
    return History((moved, *history.xs[:-1]), ms), row.u * x + row.v * f


def _transfer(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """The weights of x and of its noise in x moved to the next point along that noise, (steps,) each."""
    a = points.alpha[1:] / points.alpha[:-1]
    return a, points.sigma[1:] - a * points.sigma[:-1]


def _points(schedule: NoiseSchedule, timesteps: np.ndarray, ratios: np.ndarray) -> Points:
    """Points where sigma / alpha is `ratios`, then data."""
    ratios = np.append(ratios, 0.0)
    alpha = 1 / np.sqrt(1 + ratios**2)
    sigma = alpha * ratios
    # diffusers starts "leading" schedules from sqrt(sigma^2 + 1), the others from sigma.
    return Points(timesteps, alpha, sigma, 1.0 if schedule.timestep_spacing == "leading" else float(sigma[0]))


def _table(
    schedule: NoiseSchedule,
    points: Points,
    a: np.ndarray,
    b: np.ndarray,
    *,
    c: np.ndarray | None = None,
    data: bool = False,
    visited: np.ndarray | None = None,
) -> Sampler:
    """The table of a rule on the noise or, with `data`, on the data.

    Args:
        schedule: Says what the network predicts.
        points: The points that are visited.
        a: The weights of past latents (rows, 1 or 2).
        b: The weights of past noises or data (rows, order).
        c: The weights of fresh noise (rows,), by default none.
        data: Whether the rule works on the data.
        visited: The point of each row (rows,), by default each point once.
    """
    visited = np.arange(len(points.timesteps)) if visited is None else visited
    alpha, sigma = points.alpha[:-1][visited], points.sigma[:-1][visited]
    u, v = _data_from_output(schedule, alpha, sigma)
    p, q = (u, v) if data else _noise_from_output(schedule, alpha, sigma)
    c = np.zeros_like(alpha) if c is None else c
    known = np.append(alpha[1:], 1), np.append(sigma[1:], 0)  # where the next row begins, or data
    columns = (np.asarray(column, np.float32) for column in (points.timesteps[visited], p, q, a, b, c, u, v, *known))
    columns = Row(np.arange(len(alpha), dtype=np.int32), *columns)
    return Sampler(columns, np.float32(points.alpha[0]), np.float32(points.noise_scale))


def _noise_from_output(schedule: NoiseSchedule, alpha, sigma) -> tuple[np.ndarray, np.ndarray]:
    """p and q such that p x + q f(x, t) is the noise in x."""
    if schedule.prediction_type == "epsilon":
        return np.zeros_like(alpha), np.ones_like(alpha)
    return sigma, alpha  # f = alpha noise - sigma x_0


def _data_from_output(schedule: NoiseSchedule, alpha, sigma) -> tuple[np.ndarray, np.ndarray]:
    """p and q such that p x + q f(x, t) is the data in x."""
    if schedule.prediction_type == "epsilon":
        return 1 / alpha, -sigma / alpha
    return alpha, -sigma


def _integral_of_lagrange(nodes: np.ndarray, k: int, start: float, end: float) -> float:
    """Integral from `start` to `end` of the polynomial that is 1 at node k and 0 at the others."""
    if start == end:  # DDIM's last step where the timesteps end at 0
        return 0.0
    # Centred and scaled by the step: the nodes span four decades.
    scale = end - start
    scaled = (nodes - start) / scale
    others = np.delete(scaled, k)
    antiderivative = np.polynomial.Polynomial(np.polynomial.polynomial.polyfromroots(others)).integ()
    return scale * (antiderivative(1.0) - antiderivative(0.0)) / np.prod(scaled[k] - others)


def _hashable(value: Any) -> Any:
    """A JSON value as one that a frozen dataclass can be hashed with."""
    return value if isinstance(value, str | int | float | None) else repr(value)
