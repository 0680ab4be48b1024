"""Sounds, texts or both to picture files."""

import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import encoders
from jaxsd.audio import RATE, load_clip
from jaxsd.bundled import encoder_source, model_source, sound_source
from jaxsd.diffusion.images import load_image
from jaxsd.diffusion.pipeline import StableDiffusion, to_pil
from jaxsd.diffusion.samplers import make_sampler
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.progress import Progress

MOST_PICTURES, MOST_LATENTS = 16, 4 * 64 * 64  # at a time on one device

# What guidance moves away from. The bundled encoder was trained through a U-Net that knows the empty text as nothing.
UNCONDITIONAL = ("text", "silence")


def generate(
    folder: Path,
    *,
    sounds: Sequence[str] = (),
    texts: Sequence[str] = (),
    encoder_names: Sequence[str] = ("gemini",),
    model: str = "toy",
    negative: str = "",
    unconditional: str = "text",
    image: str | None = None,
    strength: float = 0.7,
    guidance: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    count: int = 1,
    dtype: str | None = None,
) -> list[Path]:
    """Write `count` PNGs a sound, or a text where there are no sounds, into `folder`, named after it; their paths.

    The conditioning is the paper's (arXiv 2509.09717): the mean over the encoders, and with texts, one for all sounds
    or one each, the mean of that and the text's hidden states. What guidance moves away from is the `negative` text
    alone (`unconditional="text"`) or, as in the paper, built as the conditioning is from a silent clip ("silence").
    `guidance` and `steps` default to what suits the model: 3 and 25 for the toy world, else 7.5 and 50.

    A picture is a function of its sound, its text, the seed and its number among `count`, whatever else is asked for
    beside it. Every file is read before the first picture is made. Raises ValueError or FileNotFoundError naming the
    file or the argument that does not fit; then nothing is written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --out is a folder")
    if count < 1:
        raise ValueError(f"count is {count}; allowed: 1 or more")
    if unconditional not in UNCONDITIONAL:
        raise ValueError(f"unconditional is {unconditional!r}; allowed: {', '.join(UNCONDITIONAL)}")
    number = len(sounds) or len(texts)
    if not number:
        raise ValueError("there is neither a sound nor a text to make a picture of; give --audio, --text or both")
    if texts and len(texts) not in (1, number):
        raise ValueError(f"texts are {len(texts)} and sounds are {number}; allowed: as many, or one for all")
    clips = [load_clip(sound_source(sound)).samples for sound in sounds]
    start = None if image is None else load_image(image)
    listeners = {
        name: encoders.load(encoder_source(name), dtype=choose_dtype(dtype)) for name in encoder_names if sounds
    }
    pipe = StableDiffusion.from_pretrained(model_source(model), dtype=dtype)

    default_guidance, default_steps = (3.0, 25) if model == "toy" else (7.5, 50)
    guidance, steps = default_guidance if guidance is None else guidance, default_steps if steps is None else steps
    sampler = sampler or pipe.schedule.sampler
    rows = make_sampler(sampler, pipe.schedule, steps, None if image is None else strength).rows()

    heard = None
    if sounds:
        heard = hear(listeners, np.stack([np.zeros(RATE, np.int16), *clips]), pipe.unet.config.cross_attention_dim)
    cond = mix(None if heard is None else heard[1:], pipe.encode_text(list(texts)) if texts else None)
    uncond = None
    if unconditional == "silence" and heard is not None:
        uncond = mix(heard[:1], pipe.encode_text([negative]) if texts or negative else None)
    elif guidance != 1:
        uncond = pipe.encode_text([negative])

    paths = output_paths([Path(sound).stem for sound in sounds] or [slug(text) for text in texts], folder, count)
    which, numbers = np.divmod(np.arange(len(paths)), count)
    keys = jnp.stack([jax.random.key(seed) if not n else jax.random.fold_in(jax.random.key(seed), n) for n in numbers])
    batch = min(len(paths), batch_size(pipe, height, width))
    batches = -(-len(paths) // batch)
    with Progress("denoising", batches * len(rows)) as progress:
        for index in range(batches):
            # The last batch is filled up with its last row, so that it is no other program.
            chosen = np.minimum(np.arange(batch) + index * batch, len(paths) - 1)
            pictures = pipe(
                cond[which[chosen]],
                uncond,
                guidance=guidance,
                steps=steps,
                sampler=sampler,
                image=start,
                strength=strength,
                height=height,
                width=width,
                key=keys[chosen],
                on_step=lambda done, total, _, before=index: progress.advance(before * total + done),
            )
            folder.mkdir(parents=True, exist_ok=True)
            for path, picture in zip(paths[index * batch :], to_pil(pictures), strict=False):
                picture.save(path)
    return paths


def hear(listeners: dict[str, nnx.Module], clips: np.ndarray, width: int) -> Float[Array, "clips 77 width"]:
    """The mean over the encoders of their rows, of int16 clips (clips, 16000).

    Raises ValueError naming the encoder whose rows are not `width` wide.
    """
    encode = nnx.jit(lambda model, pcm: model(pcm).astype(jnp.float32))
    total = 0.0
    for name, encoder in listeners.items():
        parts = [encode(encoder, clips[i : i + MOST_PICTURES]) for i in range(0, len(clips), MOST_PICTURES)]
        if parts[0].shape[-1] != width:
            raise ValueError(
                f"the encoder {name} makes rows of {parts[0].shape[-1]} numbers, where this model's U-Net takes {width}"
            )
        total += jnp.concatenate(parts)
    return total / len(listeners)


def mix(heard: jax.Array | None, read: jax.Array | None) -> jax.Array:
    """The mean of what sounds and texts say, where there are both; one row of either may stand for all."""
    there = [rows for rows in (heard, read) if rows is not None]
    return sum(there) / len(there)


def batch_size(pipe: StableDiffusion, height: int | None, width: int | None) -> int:
    """Pictures at a time over all devices: less of large ones."""
    default = pipe.unet.config.sample_size * pipe.vae.config.factor
    latents = (height or default) * (width or default) // pipe.vae.config.factor**2
    return max(1, min(MOST_PICTURES, MOST_LATENTS // max(latents, 1))) * jax.local_device_count()


def slug(text: str) -> str:
    """A text as a file's name."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "picture"


def output_paths(stems: Sequence[str], folder: Path, count: int) -> list[Path]:
    """`folder`/<stem>.png, `count` of each; a name that comes again gets a number."""
    paths: list[Path] = []
    for stem in (stem for stem in stems for _ in range(count)):
        path, number = folder / f"{stem}.png", 2
        while path in paths:
            path, number = folder / f"{stem}-{number}.png", number + 1
        paths.append(path)
    return paths
