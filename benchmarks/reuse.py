"""What fewer steps, reused features and merged tokens cost in fidelity and save in time, beside all steps in full.

python -m benchmarks.reuse [--sounds 24] [--steps 50]
python -m benchmarks.reuse --full

By default the toy model draws held-out sounds as the encoder gemini hears them, and the judge says in how many images
their class is right. With --full, Stable Diffusion 1.5 of random weights draws one image of 512x512 of random
embeddings. The difference is the root mean square one of the pixels, of 0 to 1, from the same noise with all steps in
full; that of another seed says what is large. Seconds are those of the second of two calls, which compiles nothing.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsd.clip.towers import TextModel
from jaxsd.diffusion.loading import SD15_TEXT, SD15_UNET, SD15_VAE
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.vae import VAE
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.runtime import cli
from jaxsd.sound_to_image import SoundToImage, image_keys

PLAIN = "all steps in full"
ANOTHER_SEED = "another seed"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "--cache-interval 2": {"cache_interval": 2},
    "--cache-interval 3": {"cache_interval": 3},
    "--cache-interval 5": {"cache_interval": 5},
    "--merge-tokens 0.25": {"merge_tokens": 0.25},
    "--merge-tokens 0.5": {"merge_tokens": 0.5},
    "--cache-interval 3 --merge-tokens 0.5": {"cache_interval": 3, "merge_tokens": 0.5},
    "--sampler lcm --steps 4 --guidance 1": {"sampler": "lcm", "steps": 4, "guidance": 1.0},
    ANOTHER_SEED: {},
}
Draw = Callable[..., np.ndarray]


def toy(sounds: int, steps: int) -> tuple[Draw, Callable[[np.ndarray], float]]:
    """A function that draws held-out sounds, and one that gives the share of images whose class is right."""
    from jaxsd.toy import world
    from jaxsd.toy.judge import load_judge, verdicts

    model = SoundToImage.from_pretrained("gemini")
    conditioning = model.encode(world.sounds("test", sounds))
    judge, scenes = load_judge(), world.scenes("test", sounds)
    options = {"steps": steps, "sampler": "dpm++2m", "guidance": model.sampling_defaults().guidance}

    def draw(seed: int, **changes: Any) -> np.ndarray:
        keys = image_keys(seed, [0] * sounds)
        return np.asarray(model.pipe(*conditioning, key=keys, **options | changes))

    return draw, lambda images: float(verdicts(judge, images, scenes)["class"].mean())


def full(steps: int) -> Draw:
    """A function that draws one image with Stable Diffusion 1.5 of random weights."""
    options = {"dtype": choose_dtype(None), "rngs": nnx.Rngs(0)}  # initial weights, under which images differ
    networks = UNet(SD15_UNET, **options), VAE(SD15_VAE, **options), TextModel(SD15_TEXT, **options)
    pipe = StableDiffusion(*networks, None, NoiseSchedule())
    cond, uncond = np.random.default_rng(0).standard_normal((2, 1, 77, SD15_TEXT.hidden_size), np.float32)

    def draw(seed: int, **changes: Any) -> np.ndarray:
        options = {"steps": steps, "sampler": "dpm++2m", "guidance": 7.5} | changes
        return np.asarray(pipe(jnp.asarray(cond), jnp.asarray(uncond), key=jax.random.key(seed), **options))

    return draw


def main():
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="Stable Diffusion 1.5 in place of the toy model")
    parser.add_argument("--sounds", type=int, default=24, help="held-out sounds that the toy model draws (24)")
    parser.add_argument("--steps", type=int, default=50, help="of the plain run, and of all but LCM (50)")
    parser.add_argument("--once", action="store_true", help="no second call, and so no seconds")
    arguments = parser.parse_args()
    draw, accuracy = (full(arguments.steps), None) if arguments.full else toy(arguments.sounds, arguments.steps)
    print("| | difference | class right | s |\n|---|---|---|---|")
    plain = None
    for name, changes in VARIANTS.items():
        call = partial(draw, int(name == ANOTHER_SEED), **changes)
        images = call()
        plain = images if plain is None else plain
        difference = np.sqrt(np.mean((images - plain) ** 2))
        begun = time.perf_counter()
        seconds = "not measured"
        if not arguments.once:
            call()
            seconds = f"{time.perf_counter() - begun:.1f}"
        right = f"{accuracy(images):.0%}" if accuracy else "none to see"
        print(f"| {name} | {difference:.4f} | {right} | {seconds} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
