"""How fast training goes: examples a second, time lost to waiting for input, and use of the device's peak (MFU)."""

import math
import time
from contextlib import contextmanager

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets; the first name that the device's kind holds.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "TPU v6 lite": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}


def peak_flops() -> float | None:
    """The bfloat16 peak of all devices of the job together, in FLOP/s; None where their kind is not in PEAKS."""
    kind = jax.devices()[0].device_kind
    peaks = [peak for name, peak in PEAKS.items() if name in kind]
    return peaks[0] * jax.device_count() if peaks else None


def count_flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """FLOPs of the matrix products and convolutions of a program, a multiply-add being two.

    From the program as traced: what rematerialisation computes twice counts twice, the body of a `scan` as often as
    it runs (XLA's own analysis counts it once), that of a `while_loop` once, of a `cond` the costliest branch.
    """
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    total = 0
    for equation in jaxpr.eqns:
        parameters, name = equation.params, equation.primitive.name
        if name == "dot_general":
            left, contracted = equation.invars[0].aval.shape, parameters["dimension_numbers"][0][0]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            # Zeros put between the inputs are not worth a multiplication.
            zeros = math.prod(parameters["lhs_dilation"])
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features // zeros
        else:
            inner = [leaf for leaf in jax.tree.leaves(parameters, is_leaf=_is_jaxpr) if _is_jaxpr(leaf)]
            counts = [count_flops(part) for part in inner]
            total += max(counts, default=0) if name == "cond" else parameters.get("length", 1) * sum(counts)
    return total


def _is_jaxpr(value) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)


class ThroughputMeter:
    """Counts steps and times the job between two readings.

    `steps` is for the caller to count up; `examples` and `flops` are those of one step, 0 where not known.
    """

    examples = flops = 0

    def start(self):
        self.begun, self.steps, self.waited, self.paused = time.perf_counter(), 0, 0.0, 0.0

    __init__ = start

    @contextmanager
    def waiting(self):
        """For the time that goes to waiting for a batch."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextmanager
    def pause(self):
        """For what is not training: evaluation, checkpoints."""
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """`examples_per_second`, `input_wait` (share of the time) and, on a device whose peak is known, `mfu`.

        Nothing before the first step is counted.
        """
        if not self.steps:
            return {}
        seconds = time.perf_counter() - self.begun - self.paused
        rate = self.steps / seconds
        figures = {"examples_per_second": rate * self.examples, "input_wait": self.waited / seconds}
        if self.flops:
            figures["mfu"] = rate * self.flops / peak_flops()
        self.start()
        return figures
