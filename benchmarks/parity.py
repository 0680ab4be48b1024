"""The libraries that benchmarks compare with. Where they are missing, a benchmark ends in one sentence."""

try:
    import diffusers
    import torch
except ImportError as error:
    raise SystemExit(
        f"this benchmark compares with PyTorch, and {error.name} is not installed: pip install -e '.[parity]'"
    ) from None

__all__ = ["diffusers", "torch"]
