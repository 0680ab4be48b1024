"""What numbers networks are kept and computed in.

Parameters that train are float32. Those that are loaded to be used are kept in the dtype that they are computed in.
Whatever the dtype, softmax, the statistics of norms, sampling and losses are float32.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

DTYPES = ("float32", "bfloat16", "float16")


def choose_dtype(dtype: DTypeLike | None) -> jnp.dtype:
    """`dtype`, or for None bfloat16 on accelerators, whose matrix units are made for it, and float32 on the CPU.

    Raises ValueError where it is none of DTYPES.
    """
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    try:
        chosen = jnp.dtype(dtype)
    except TypeError:
        chosen = None
    if chosen is None or chosen.name not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    return chosen
