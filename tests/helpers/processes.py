"""Other processes that tests start."""

import os


def environment_of_devices(count: int, flags: str = "") -> dict[str, str]:
    """The environment of a process whose JAX finds that many CPU devices, with further XLA flags."""
    inherited = os.environ.get("XLA_FLAGS", "")
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{inherited} --xla_force_host_platform_device_count={count} {flags}",
    }
