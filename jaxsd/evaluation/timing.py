"""How long encoding takes."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

TIMED_BATCH = 1_000  # clips at a time, as in the paper


def time_encoding(encode: Callable[[Array], Array], inputs: np.ndarray, repeats: int) -> dict[str, float]:
    """Measure the mean seconds to encode 1,000 examples, in batches of 1,000 over all of `inputs`.

    Compilation, a first run of every shape of batch and reading from the disk are left out.

    Args:
        encode: the function to time, on the device.
        inputs: what it encodes, (examples, ...).
        repeats: how often all of `inputs` are encoded.

    Returns:
        "tau", inputs and outputs on the device; "sigma(tau)", its standard deviation over the repeats; and
        "tau with transfer", inputs and outputs in the host's memory.
    """
    parts = [inputs[start : start + TIMED_BATCH] for start in range(0, len(inputs), TIMED_BATCH)]
    for part in {len(part): part for part in parts}.values():
        jax.block_until_ready(encode(jnp.asarray(part)))
    times = np.zeros((repeats, 2))
    for repeat in range(repeats):
        for part in parts:
            part = np.ascontiguousarray(part)
            start = time.perf_counter()
            batch = jax.block_until_ready(jax.device_put(part))
            moved = time.perf_counter()
            made = jax.block_until_ready(encode(batch))
            done = time.perf_counter()
            np.asarray(made)
            times[repeat] += done - moved, time.perf_counter() - start
    times *= 1_000 / len(inputs)
    (tau, with_transfer), deviation = times.mean(axis=0), times.std(axis=0)[0]
    return {"tau": float(tau), "sigma(tau)": float(deviation), "tau with transfer": float(with_transfer)}
