"""Convolution by what is fastest on the platform that a program is lowered for, as `encoders.attention` is."""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxsd.runtime.sharding import replicated_sharding

SMALL_MAP = 64  # positions up to which XLA's convolution on the CPU loses to a matrix product


def convolve(x, kernel, strides, padding, **options):
    """`jax.lax.conv_general_dilated` of stride 1. On a CPU, a small map becomes one matrix product of all patches."""

    def by_xla(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def by_product(x, kernel):
        height, width = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        patches = [x[:, i : i + height, j : j + width] for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
        return jnp.dot(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, kernel.shape[-1]))

    if x.shape[1] * x.shape[2] > SMALL_MAP:
        return by_xla(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=by_product, default=by_xla)


def parameter_formats(params: PyTree, mesh: Mesh) -> PyTree:
    """How the parameters of a network lie on the devices of a mesh, which each hold them whole.

    cuDNN reads a kernel (height, width, in, out) by output channels first. On a GPU a kernel lies so from the start,
    for otherwise every step of a sampler would transpose it.
    """
    sharding = replicated_sharding(mesh)
    if mesh.devices.flat[0].platform != "gpu":
        return jax.tree.map(lambda x: sharding, params)
    by_outputs = Format(Layout((3, 0, 1, 2)), sharding)
    return jax.tree.map(lambda x: by_outputs if x.ndim == 4 else sharding, params)
