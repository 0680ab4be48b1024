"""Noise schedules, and samplers as tables of coefficients run by one scan.

Every sampler here is a linear multistep rule on the variance-preserving latents x (alpha^2 + sigma^2 = 1):

    m = p x + q f(x, t)                         what the rule works on (the noise), from the network's output f
    x' = a x + sum_k b_k m_k + c z              m_0 the newest, z standard normal

The coefficients depend on the schedule alone, so they are computed once in float64 and a new sampler is a function
that returns arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsd.config import fill, read_json


@dataclass(frozen=True)
class NoiseSchedule:
    """The fields of `scheduler_config.json` that Stable Diffusion 1.x sets, under diffusers' names."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False

    CHOICES = {
        "beta_schedule": ("linear", "scaled_linear"),
        "prediction_type": ("epsilon", "v_prediction"),
        "timestep_spacing": ("leading", "linspace", "trailing"),
    }

    def __post_init__(self):
        for name, allowed in self.CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    @classmethod
    def read(cls, path):
        """From a `scheduler_config.json`. Raises ValueError naming the file, the key and what is allowed."""
        return fill(cls, read_json(path), path)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """alpha^2 at each training timestep, float64 (num_train_timesteps,)."""
        if self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, self.num_train_timesteps)
        else:
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps) ** 2
        return np.cumprod(1 - betas)

    def timesteps(self, steps: int) -> np.ndarray:
        """The timesteps that `steps` sampling steps visit, falling, float64 (steps,)."""
        total = self.num_train_timesteps
        if not 1 <= steps <= total:
            raise ValueError(f"steps is {steps}; allowed: 1 to {total}")
        if self.timestep_spacing == "linspace":
            return np.linspace(0, total - 1, steps)[::-1].copy()
        if self.timestep_spacing == "trailing":
            return np.round(np.arange(total, 0, -total / steps)) - 1
        return np.arange(steps)[::-1] * (total // steps) + float(self.steps_offset)


class Sampler(NamedTuple):
    """One row a step, float32; `noise_scale` is the share of noise in the first latents."""

    timesteps: np.ndarray  # (steps,)
    p: np.ndarray  # (steps,)
    q: np.ndarray  # (steps,)
    a: np.ndarray  # (steps,)
    b: np.ndarray  # (steps, order)
    c: np.ndarray  # (steps,)
    noise_scale: float


def noise_from_output(schedule: NoiseSchedule, alpha, sigma) -> tuple[np.ndarray, np.ndarray]:
    """p and q such that p x + q f(x, t) is the noise in x."""
    if schedule.prediction_type == "epsilon":
        return np.zeros_like(alpha), np.ones_like(alpha)
    return sigma, alpha  # f = alpha noise - sigma x_0


def ddim(schedule: NoiseSchedule, steps: int) -> Sampler:
    """Deterministic DDIM (Song et al., arXiv 2010.02502, eq. 12 with eta = 0)."""
    timesteps = np.round(schedule.timesteps(steps)).astype(int)
    previous = timesteps - schedule.num_train_timesteps // steps
    last = 1.0 if schedule.set_alpha_to_one else schedule.alphas_cumprod[0]
    squared = schedule.alphas_cumprod[timesteps]
    next_squared = np.where(previous >= 0, schedule.alphas_cumprod[np.maximum(previous, 0)], last)
    alpha, sigma = np.sqrt(squared), np.sqrt(1 - squared)
    next_alpha, next_sigma = np.sqrt(next_squared), np.sqrt(1 - next_squared)
    a = next_alpha / alpha
    b = next_sigma - a * sigma
    return _table(schedule, timesteps, alpha, sigma, a, b[:, None], noise_scale=1.0)


def lms(schedule: NoiseSchedule, steps: int, order: int = 4) -> Sampler:
    """Linear multistep on dx/dsigma = noise (Karras et al., arXiv 2206.00364), as k-diffusion's LMS.

    In the variance-exploding picture y = x / alpha with sigma_y = sigma / alpha, a step adds the integral of the
    polynomial through the newest noises; it is exact here where k-diffusion integrates numerically.
    """
    timesteps = schedule.timesteps(steps)
    squared = schedule.alphas_cumprod
    ratio = np.sqrt((1 - squared) / squared)
    ratios = np.append(np.interp(timesteps, np.arange(len(ratio)), ratio), 0.0)
    alphas = 1 / np.sqrt(1 + ratios**2)

    b = np.zeros((steps, order))
    for i in range(steps):
        known = min(i + 1, order)
        nodes = ratios[i - known + 1 : i + 1][::-1]
        for k in range(known):
            b[i, k] = _integral_of_lagrange(nodes, k, ratios[i], ratios[i + 1])
    alpha, sigma = alphas[:-1], alphas[:-1] * ratios[:-1]
    a = alphas[1:] / alpha
    # diffusers starts "leading" schedules from sqrt(sigma^2 + 1), the others from sigma.
    noise_scale = 1.0 if schedule.timestep_spacing == "leading" else float(sigma[0])
    return _table(schedule, timesteps, alpha, sigma, a, alphas[1:, None] * b, noise_scale)


SAMPLERS: dict[str, Callable[[NoiseSchedule, int], Sampler]] = {"ddim": ddim, "lms": lms}


def make_sampler(name: str, schedule: NoiseSchedule, steps: int) -> Sampler:
    """The table of the named sampler. Raises ValueError listing the choices."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; allowed: {', '.join(SAMPLERS)}")
    return SAMPLERS[name](schedule, steps)


def sample(
    sampler: Sampler, network: Callable[[jax.Array, jax.Array], jax.Array], noise: jax.Array, key: jax.Array
) -> jax.Array:
    """Run `sampler` from standard normal `noise` (batch, ...) to latents; `network(x, t)`, t a scalar."""
    keys = jax.random.split(key, len(sampler.timesteps))
    history = jnp.zeros((sampler.b.shape[1], *noise.shape), noise.dtype)

    def step(carry, row):
        x, history = carry
        t, p, q, a, b, c, key = row
        history = jnp.roll(history, 1, axis=0).at[0].set(p * x + q * network(x, t))
        x = a * x + jnp.tensordot(b, history, 1)
        return (x, history), None

    rows = tuple(jnp.asarray(column) for column in sampler[:-1])
    (x, _), _ = jax.lax.scan(step, (noise * sampler.noise_scale, history), (*rows, keys))
    return x


def _table(schedule, timesteps, alpha, sigma, a, b, noise_scale) -> Sampler:
    p, q = noise_from_output(schedule, alpha, sigma)
    columns = (np.asarray(column, np.float32) for column in (timesteps, p, q, a, b, np.zeros_like(a)))
    return Sampler(*columns, noise_scale)


def _integral_of_lagrange(nodes: np.ndarray, k: int, start: float, end: float) -> float:
    """Integral from `start` to `end` of the polynomial that is 1 at node k and 0 at the others."""
    # Centred and scaled by the step: the nodes span four decades.
    scale = end - start
    scaled = (nodes - start) / scale
    others = np.delete(scaled, k)
    antiderivative = np.polynomial.Polynomial(np.polynomial.polynomial.polyfromroots(others)).integ()
    return scale * (antiderivative(1.0) - antiderivative(0.0)) / np.prod(scaled[k] - others)
