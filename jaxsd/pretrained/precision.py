"""The dtype in which networks are kept and computed.

Parameters that train are float32. Parameters that are only used are kept in the dtype in which they are computed.
Whatever that dtype is, softmax, the statistics of norms, sampling and losses are float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

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


def require_finite(values: PyTree[Array | np.ndarray], network: str, dtype: DTypeLike | None = None) -> None:
    """Raise ValueError where `values`, which the named network made in `dtype`, are not all finite.

    Called wherever values are about to become a file, where NaN would turn into something that looks like data.
    """
    if _all_finite(values):
        return
    advice = "its weights or its input are damaged"
    if dtype is not None and jnp.dtype(dtype) != jnp.float32:
        advice = f"it computes in {jnp.dtype(dtype).name}, which may overflow: try another dtype, float32 or bfloat16"
    raise ValueError(f"{network} makes values that are not finite (NaN or infinity): {advice}")


@jax.jit
def _all_finite(values):
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values)]))
