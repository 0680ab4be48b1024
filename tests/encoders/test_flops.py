"""FLOPs are counted wherever the products stand."""

import jax
import jax.numpy as jnp

from encoders.flops import count_flops


def test_flops_are_those_of_products_wherever_they_stand():
    def f(x, kernel, flag):
        matrix, _ = jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), x, None, length=7)
        image = jax.lax.conv_general_dilated(x[None, None], kernel, (2, 2), "VALID")
        product = jax.lax.cond(flag, lambda: matrix @ matrix, lambda: matrix)
        return product.sum() + jax.checkpoint(jnp.sin)(image).sum()

    x, kernel = jnp.ones((16, 16)), jnp.ones((5, 1, 4, 4))
    expected = 8 * 2 * 16**3 + 2 * (5 * 7 * 7) * (4 * 4)
    assert count_flops(jax.make_jaxpr(f)(x, kernel, True)) == expected
