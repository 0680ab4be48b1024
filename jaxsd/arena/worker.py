"""What runs in the sandbox: one design, which answers requests on stdin with data on stdout.

A request is a line of JSON, {"do": ..., "bytes": n}, and n bytes of an array in NumPy's format; so is an answer, where
"error" stands for what was raised. Nothing here is a verdict: the process that asks sees raw numbers, and judges those.
"""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def main():
    path, framework = Path(sys.argv[1]), sys.argv[2]
    # What the design prints goes nowhere.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    design = TorchDesign(path) if framework == "torch" else NnxDesign(path)
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        try:
            _answer(answers, design, request["do"], data)
        except Exception as error:
            _send(answers, {"error": f"{type(error).__name__}: {error}"[:1000]})


def _answer(answers: BinaryIO, design: "NnxDesign | TorchDesign", do: str, data: bytes):
    if do == "build":
        _send(answers, {"parameters": design.build()})
    elif do == "count":
        _send(answers, design.count())
    else:
        pcm = np.load(io.BytesIO(data), allow_pickle=False)
        file = io.BytesIO()
        np.save(file, design.encode(pcm, compiled=do == "compiled"), allow_pickle=False)
        _send(answers, {}, file.getvalue())


def _send(answers: BinaryIO, content: dict[str, Any], data: bytes = b""):
    answers.write(json.dumps(content | {"bytes": len(data)}).encode() + b"\n" + data)
    answers.flush()


class NnxDesign:
    """A class of Flax NNX in a file."""

    def __init__(self, path: Path):
        self.path = path

    def build(self) -> dict[str, list[int]]:
        """Make the encoder; the shape of each parameter by its path."""
        import jax
        from flax import nnx

        from encoders.registry import create_from_class
        from encoders.user_code import load_class

        jax.config.update("jax_default_matmul_precision", "highest")
        self.encoder = create_from_class(load_class(self.path, "NewAudioEncoder"), rngs=nnx.Rngs(0))
        flat = nnx.to_flat_state(nnx.state(self.encoder, nnx.Param))
        return {".".join(map(str, path)): list(value.shape) for path, value in flat}

    def encode(self, pcm: np.ndarray, compiled: bool) -> np.ndarray:
        import jax
        from flax import nnx

        if not compiled:
            return np.asarray(self.encoder(pcm))  # pyright: ignore[reportCallIssue]
        graphdef, state = nnx.split(self.encoder)
        forward = jax.jit(lambda state, pcm: nnx.merge(graphdef, state)(pcm))
        return np.asarray(forward(state, pcm))

    def count(self) -> dict[str, Any]:
        from flax import nnx

        from encoders.contract import count_layers, flops_per_clip

        graph = [type(module).__name__ for _, module in nnx.iter_modules(self.encoder)]
        return {"layers": count_layers(self.encoder), "flops": flops_per_clip(self.encoder), "graph": graph}


class TorchDesign:
    """A class of PyTorch in a file."""

    def __init__(self, path: Path):
        self.path = path

    def build(self) -> dict[str, list[int]]:
        """Make the encoder; the shape of each parameter by its path."""
        import torch

        torch.manual_seed(0)
        namespace: dict[str, Any] = {"__name__": "design"}
        exec(compile(self.path.read_bytes(), str(self.path), "exec"), namespace)
        self.encoder = namespace["NewAudioEncoder"]().eval()
        return {name: list(p.shape) for name, p in self.encoder.named_parameters() if p.requires_grad}

    def encode(self, pcm: np.ndarray, compiled: bool) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.encoder(torch.from_numpy(pcm)).numpy()

    def count(self) -> dict[str, Any]:
        from collections import Counter

        modules = [type(module).__name__ for module in self.encoder.modules()]
        # The projection inside an attention is part of it, as in the paper's Table 2.
        graph = [name for name in modules if name != "NonDynamicallyQuantizableLinear"]
        return {"layers": Counter(graph), "flops": None, "graph": graph}


if __name__ == "__main__":
    main()
