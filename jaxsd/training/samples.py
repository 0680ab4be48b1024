"""Sample images during training: what the encoder so far makes of a few held-out sounds."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int16

from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.training.loop import TrainState


def make_sampling(
    graph: nnx.GraphDef, pipe: StableDiffusion, clips: Int16[np.ndarray, "count 16000"]
) -> Callable[[TrainState], Float[np.ndarray, "count height width 3"]]:
    """The function that draws the same sounds from the same noise each time.

    Args:
        graph: the encoder's.
        pipe: draws, by the guidance, steps and sampler that it suggests.
        clips: the sounds.

    Returns:
        `sample(state)`, the images in [0, 1] of the encoder that a run would leave.
    """
    encode = jax.jit(lambda params, clips: nnx.merge(graph, params)(clips))

    def sample(state: TrainState) -> Float[np.ndarray, "count height width 3"]:
        params = jax.device_get(state.average["encoder"])
        return np.asarray(pipe(encode(params, clips), key=jax.random.key(0)))

    return sample
