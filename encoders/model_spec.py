"""What the header of a safetensors file says of the model: the ModelSpec (github.com/Stability-AI/ModelSpec)."""

import json
from collections.abc import Mapping


def model_spec(title: str, architecture: str) -> dict[str, str]:
    """The metadata of a safetensors file that the ModelSpec asks for (github.com/Stability-AI/ModelSpec)."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "jaxsd",
        "modelspec.title": title,
    }


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file with more metadata in its header, sorted; its tensors byte by byte.

    safetensors itself writes metadata in another order each time.
    """
    first = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:first])
    merged = {**header.pop("__metadata__", {}), **metadata}
    text = json.dumps({"__metadata__": dict(sorted(merged.items())), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text + content[first:]
