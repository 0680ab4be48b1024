"""Floating-point operations of a program, from its trace."""

import math
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """FLOPs of the matrix products and convolutions of a program, a multiply-add being two.

    The program counts as it was traced: what rematerialization computes twice counts twice, the body of a `scan` as
    often as it runs (XLA's own analysis counts it once), that of a `while_loop` once, of a `cond` the costliest branch.
    """
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    total = 0
    for equation in jaxpr.eqns:
        parameters, name = equation.params, equation.primitive.name
        if name == "dot_general":
            contracted = parameters["dimension_numbers"][0][0]
            left = _shape(equation.invars[0])
            total += 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            # Zeros put between the inputs are not worth a multiplication.
            zeros = math.prod(parameters["lhs_dilation"])
            total += 2 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) // features // zeros
        else:
            inner = [leaf for leaf in jax.tree.leaves(parameters, is_leaf=_is_jaxpr) if _is_jaxpr(leaf)]
            counts = [count_flops(part) for part in inner]
            total += max(counts, default=0) if name == "cond" else parameters.get("length", 1) * sum(counts)
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
