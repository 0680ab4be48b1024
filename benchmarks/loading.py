"""Times loading Stable Diffusion 1.5 from float32 files, each dtype in a process of its own, and its peak memory.

python -m benchmarks.loading [--folder /tmp/sd15]

The weights are random, of the published shapes, and are written first unless the folder is there.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxsd.diffusion.loading import COMPONENTS, SD15_TEXT, SD15_UNET, SD15_VAE
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.saving import scheduler_json
from jaxsd.pretrained.model_config import to_json
from jaxsd.pretrained.weights import write_safetensors
from jaxsd.runtime import cli
from jaxsd.runtime.files import write_json
from tests.references import manifests

CONFIGS = {"unet": SD15_UNET, "vae": SD15_VAE, "text_encoder": SD15_TEXT}


def write(folder: Path):
    rng = np.random.default_rng(0)
    for part, config in CONFIGS.items():
        (folder / part).mkdir(parents=True)
        write_json(folder / part / "config.json", to_json(config))
        tensors = {key: rng.standard_normal(shape, np.float32) for key, shape in manifests.read(part).items()}
        write_safetensors(tensors, folder / part / COMPONENTS[part].file)
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler_json(NoiseSchedule()))


def memory(field: str) -> float:
    """GiB of this process: VmHWM is the peak with mapped files, RssAnon what is its own now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**20


class Peak(threading.Thread):
    """The most memory of its own that the process had while this ran, by looking every 10 ms."""

    def run(self):
        self.most, self.stopped = 0.0, threading.Event()
        while not self.stopped.wait(0.01):
            self.most = max(self.most, memory("RssAnon"))

    def stop(self) -> float:
        self.stopped.set()
        self.join()
        return self.most


def load(folder: str, dtype: str):
    jax.devices()
    before = memory("RssAnon")
    peak = Peak(daemon=True)
    peak.start()
    start = time.perf_counter()
    pipe = StableDiffusion.from_pretrained(folder, dtype=dtype)
    params = jax.block_until_ready(nnx.state((pipe.unet, pipe.vae, pipe.text_encoder)))
    seconds = time.perf_counter() - start
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 2**30
    print(f"| {dtype} | {size:.2f} | {seconds:.1f} | {peak.stop() - before:.2f} | {memory('VmHWM'):.2f} |", flush=True)


def main():
    parser = cli.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/sd15"))
    parser.add_argument("--dtype", help="load as this dtype, in this process")
    arguments = parser.parse_args()
    if arguments.dtype:
        return load(arguments.folder, arguments.dtype)
    if not arguments.folder.exists():
        write(arguments.folder)
    print("| parameters as | GiB of them | s | GiB while loading | GiB with mapped files, and what was there before |")
    print("|---|---|---|---|---|")
    for dtype in ("bfloat16", "float32"):
        command = [sys.executable, "-m", "benchmarks.loading", "--folder", arguments.folder, "--dtype", dtype]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
