"""The dtype in which networks are kept and computed.

Parameters that train are float32. Parameters that are only used are kept in the dtype in which they are computed.
Whatever that dtype is, softmax, the statistics of norms, sampling and losses are float32.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike

DTYPES = ("float32", "bfloat16", "float16")


def choose_dtype(dtype: DTypeLike | None) -> jnp.dtype:
    """`dtype`, or for None what suits the device on which new arrays are made.

    That is float32 on a CPU, and bfloat16 on accelerators, whose matrix units are made for it. Raises ValueError where
    `dtype` is none of DTYPES.
    """
    if dtype is None:
        (device,) = jnp.zeros(()).devices()
        dtype = jnp.float32 if device.platform == "cpu" else jnp.bfloat16
    try:
        chosen = jnp.dtype(dtype)
    except TypeError:
        chosen = None
    if chosen is None or chosen.name not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    return chosen
