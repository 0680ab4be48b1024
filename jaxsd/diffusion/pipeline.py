"""Stable Diffusion 1.x: embeddings to images."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key
from PIL import Image

from jaxsd.clip.tokens import empty_text, load_tokenizer, tokenize
from jaxsd.clip.towers import TextModel
from jaxsd.diffusion.images import prepare_image, prepare_mask
from jaxsd.diffusion.kernels import parameter_formats
from jaxsd.diffusion.loading import CLIP_REPOSITORY, is_single_file, load_folder, load_single_file
from jaxsd.diffusion.lora import LoRA, apply_loras, read_lora
from jaxsd.diffusion.samplers import NoiseSchedule, Sampler, init_history, make_sampler, normal, step
from jaxsd.diffusion.sampling_defaults import SamplingDefaults
from jaxsd.diffusion.saving import save_folder
from jaxsd.diffusion.tiles import decode_latents
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.vae import VAE, Gaussian
from jaxsd.pretrained.precision import choose_dtype, require_finite
from jaxsd.sharding import AXIS, local_mesh, padded_batches, round_up, shard_batch

# What diffusers calls the arguments of a pipeline, for those who come from there.
DIFFUSERS_NAMES = {
    "prompt": "cond",
    "prompt_embeds": "cond",
    "negative_prompt": "uncond",
    "negative_prompt_embeds": "uncond",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "generator": "key",
    "callback": "on_step",
}


OUTPUT_TYPES = ("jax", "np", "pil", "latent")
Images = Float[Array | np.ndarray, "batch height width channels"] | list[Image.Image]


class Inpainting(NamedTuple):
    """What of an image a step of the sampler keeps or sees, (batch, latent height, latent width, ...) each.

    kept: The mask, which is 1 where the image is painted anew, the image's latents and their noise. channels: What a
    U-Net for inpainting takes beside its latents: the mask and the latents of the image under it.
    """

    kept: tuple[jax.Array, jax.Array, jax.Array] | None = None
    channels: jax.Array | None = None


def strength_of(image: object | None, mask: object | None, strength: float | None) -> float | None:
    """The strength that a call with these arguments has. None: it starts from noise alone, as inpainting does at 1."""
    if image is None:
        return None
    if strength is None:
        strength = 0.7 if mask is None else 1.0
    return None if mask is not None and strength == 1 else strength


class StableDiffusion:
    """The U-Net, the VAE and the text encoder, with the noise schedule that they were trained on.

    `pipe(cond, uncond)` takes embeddings of any origin: `pipe.encode_text(["a dog"])` or the output of an audio
    encoder. Each of `unet`, `vae`, `text_encoder`, `schedule` and `sampling` can be assigned or changed in place; the
    next call uses it.

    Attributes:
        schedule: The noise schedule, which also names the checkpoint's own sampler.
        sampling: The guidance, steps and sampler of a call that does not name them.
        loras: LoRAs by name, which are applied together. `loras[name].weight` can be changed, and `del loras[name]`
            removes one exactly, for the parameters of the networks stay as they are. No weight compiles anything anew.
    """

    unet: UNet
    text_encoder: TextModel

    def __init__(
        self,
        unet: UNet,
        vae: VAE,
        text_encoder: TextModel,
        tokenizer_source: str | Path | None,
        schedule: NoiseSchedule,
        sampling: SamplingDefaults | None = None,
    ):
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.schedule, self.sampling = schedule, sampling or SamplingDefaults()
        self._tokenizer_source = tokenizer_source
        self.loras: dict[str, LoRA] = {}
        self._adapted: dict[str, tuple[list, list, nnx.Module | None]] = {}
        self._replicas: tuple[Mesh, list, nnx.State] | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        variant: str | None = None,
        tokenizer: str | Path | None = None,
        vae: str | Path | None = None,
        dtype: DTypeLike | None = None,
    ) -> "StableDiffusion":
        """Load a model.

        Args:
            source: A folder in diffusers' layout, the id of a Hugging Face repository, or one .safetensors file with
                the names of the first Stable Diffusion code. Such a file has neither configs nor a tokenizer: it is
                read as Stable Diffusion 1.5. In a folder, weights are safetensors files, or PyTorch's where there are
                none.
            revision: A branch, tag or commit of the repository.
            variant: What the weights' file names contain, such as "fp16". By default nothing, or the one variant that
                is there.
            tokenizer: A folder or repository in place of the model's own. A single file's own is what lies beside it,
                or else CLIP ViT-L/14's: in the hub's cache or, downloaded by the first text, from the hub.
            vae: A folder, repository or file in place of the model's own VAE.
            dtype: Parameters are kept and compute in it, whatever the file has. By default bfloat16 on accelerators
                and float32 on the CPU.

        Raises:
            FileNotFoundError, ValueError: Name the file and what is wrong.
        """
        dtype = choose_dtype(dtype)
        path = Path(source)
        if is_single_file(path):
            return cls(*load_single_file(path, dtype, tokenizer=tokenizer, vae=vae))
        parts = load_folder(source, dtype, revision=revision, variant=variant, tokenizer=tokenizer, vae=vae)
        return cls(*parts)

    def save_pretrained(self, folder: str | Path, *, dtype: DTypeLike = np.float32) -> None:
        """Write the folder that `from_pretrained` and diffusers' StableDiffusionPipeline read, weights as `dtype`."""
        networks = self.unet, self.vae, self.text_encoder
        save_folder(Path(folder), *networks, self.tokenizer, self.schedule, self.sampling, dtype)

    def load_lora(self, source: str | Path, weight: float = 1.0, name: str | None = None) -> None:
        """Apply the LoRA in a file, a folder or a repository as well as those that are there (`lora.read_lora`).

        It gets the name `name`, by default its source's. Raises ValueError where that name is taken, and what
        `read_lora` raises.
        """
        name = str(source) if name is None else name
        if name in self.loras:
            raise ValueError(f"the LoRA {name} is loaded already; allowed: once, with another weight or another name")
        self.loras[name] = read_lora(source, self.unet, self.text_encoder, weight)

    def merge_loras(self) -> None:
        """Add the LoRAs to the parameters of the networks for good, for `save_pretrained`; `loras` is empty then."""
        self.unet, self.text_encoder = self._with_loras("unet"), self._with_loras("text_encoder")
        self.loras.clear()
        self._adapted.clear()

    def _with_loras(self, component: str) -> Any:
        """The U-Net or the text encoder as it runs. It is made again only where a parameter or a LoRA has changed."""
        model = getattr(self, component)
        if not self.loras:
            self._adapted.clear()
            return model
        leaves, applied = jax.tree.leaves(nnx.state(model)), [(lora, lora.weight) for lora in self.loras.values()]
        made_of, applied_then, adapted = self._adapted.get(component, ([], [], None))
        if applied != applied_then or not are_the_same(made_of, leaves):
            adapted = apply_loras(model, component, self.loras.values())
            self._adapted[component] = leaves, applied, adapted
        return adapted

    def __repr__(self) -> str:
        """One line, such as "StableDiffusion: images of 64 x 64 pixels, U-Net of 12.3 million parameters, ..."."""
        networks = {"U-Net": self.unet, "VAE": self.vae, "text encoder": self.text_encoder}
        counts = {name: sum(p.size for p in jax.tree.leaves(nnx.state(one))) for name, one in networks.items()}
        side = self.unet.config.sample_size * self.vae.config.factor
        millions = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in counts.items())
        return f"StableDiffusion: images of {side} x {side} pixels; million parameters: {millions}"

    @cached_property
    def tokenizer(self):
        """The tokenizer, loaded when it is first needed. Raises FileNotFoundError or ValueError where it cannot be."""
        if self._tokenizer_source is None:
            raise ValueError("this model was made without a tokenizer")
        try:
            return load_tokenizer(self._tokenizer_source, self.text_encoder.config)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; a tokenizer can be named: tokenizer= (--tokenizer)") from None

    def encode_text(self, texts: str | Sequence[str]) -> Float[Array, "batch tokens features"]:
        """The text encoder's hidden states, float32: conditioning for `__call__`. One text counts as a list of one."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if self._tokenizer_source == CLIP_REPOSITORY and not any(texts):  # known without its tokenizer
            tokens = np.repeat(empty_text(self.text_encoder.config), len(texts), axis=0)
        else:
            tokens = tokenize(self.tokenizer, texts)
        indices, count = next(padded_batches(len(texts), round_up(len(texts))))
        return _encode_tokens(self._with_loras("text_encoder"), tokens[indices])[:count]

    def __call__(
        self,
        cond: Float[ArrayLike, "batch tokens features"] | str | Sequence[str] | None = None,
        uncond: Float[ArrayLike, "_ tokens features"] | str | Sequence[str] | None = None,
        *,
        guidance: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        image: Image.Image | Float[ArrayLike, "images image_height image_width 3"] | None = None,
        strength: float | None = None,
        mask: Image.Image | Float[ArrayLike, "*images mask_height mask_width"] | None = None,
        guidance_end: float = 1.0,
        latents: Float[ArrayLike, "_ latent_height latent_width _"] | None = None,
        height: int | None = None,
        width: int | None = None,
        key: Key[Array, "*batch"] | None = None,
        on_step: Callable[[int, int, jax.Array], None] | None = None,
        output_type: str = "jax",
        **unknown: Any,
    ) -> Images:
        """Generate images from conditioning and, where there is one, from an image.

        The batch is spread over all devices of this process. What compiles anew is another size of the images, a
        sampler of another order, guidance 1, and a batch of more than any before it: each device computes 1, 2, 3, 4,
        6, 8, 12, ... images, the last one repeated. Prompts, keys, steps and strengths do not.

        Args:
            cond: The conditioning, or prompts to encode.
            uncond: What guidance moves away from: uncond + guidance * (cond - uncond). One for all or one each; by
                default the hidden states of the empty text.
            guidance: At 1 nothing is left of `uncond`, and half as much is computed.
            steps: How many sampling steps there are.
            sampler: A key of `samplers.SAMPLERS`, by default `sampling.sampler` or else `schedule.sampler`.
            image: One for all or one each: a PIL image, or an array in [0, 1]. It is resized, encoded and noised, and
                only the last int(steps * strength) steps are run (arXiv 2509.09717).
            strength: The higher, the less is left of `image`; by default 0.7, or 1 with a mask.
            mask: What of `image` is painted anew, one for all or one each: a PIL image, white there and black where
                the image stays, or an array in [0, 1] (`images.prepare_mask`). Any U-Net takes one, and one with
                channels for a mask sees it; such a U-Net paints all where there is none.
            guidance_end: The share of the steps that are guided; the rest compute half as much.
            latents: Standard normal noise. Drawn from `key` where it is None.
            height: In pixels. By default that of `latents`, or that at which the U-Net was trained.
            width: Likewise.
            key: Draws everything random, for each example of the batch by itself, so that an image does not depend on
                its batch. An array of keys (batch,) gives each example its own. By default key 0.
            on_step: `on_step(done, total, latents)` is called after every step with the latents of the image as the
                U-Net sees it so far. `decode` shows them.
            output_type: "jax" or "np" for arrays of jax or NumPy, "pil" for a list of PIL images, "latent" for the
                latents that `decode` takes.

        `guidance`, `steps` and `sampler` are those of `sampling` where they are None.

        Returns:
            Images, float32 in [0, 1] (batch, height, width, 3), or what `output_type` says.

        Raises:
            ValueError: A shape, a value, the sampler or the number of steps does not fit, or a network makes values
                that are not finite.
        """
        for name in unknown:
            instead = f"; {DIFFUSERS_NAMES[name]} is its name here" if name in DIFFUSERS_NAMES else ""
            raise TypeError(f"StableDiffusion takes no argument {name!r}{instead}")
        if cond is None:
            raise TypeError("StableDiffusion needs cond, the embeddings or the prompts that the images are of")
