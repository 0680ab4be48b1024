"""How fast training goes: examples a second, time lost to waiting for input, and use of the device's peak (MFU)."""

import time
from contextlib import contextmanager

import jax

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
        peak = peak_flops()
        if self.flops and peak:
            figures["mfu"] = rate * self.flops / peak
        self.start()
        return figures
