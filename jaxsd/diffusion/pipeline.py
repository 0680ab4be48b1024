"""Stable Diffusion 1.x: embeddings to images."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Key
from PIL import Image

from jaxsd.clip.tokens import WORD_END, add_tokens, empty_text, load_tokenizer, tokenize, tokenize_fragments
from jaxsd.clip.towers import TextConfig, TextModel
from jaxsd.clip.weighting import Fragment, parse_weights, weigh_hidden_states
from jaxsd.diffusion.controlnet import ControlNet, check_controlnet_fits, load_controlnet
from jaxsd.diffusion.diffusers_names import (
    CALL_ARGUMENTS,
    LOADING_ARGUMENTS,
    PIPELINE_ATTRIBUTES,
    explain,
    refuse_unknown,
)
from jaxsd.diffusion.images import prepare_image, prepare_mask
from jaxsd.diffusion.kernels import parameter_formats
from jaxsd.diffusion.loading import (
    CLIP_REPOSITORY,
    check_single_file,
    is_single_file,
    load_folder,
    load_single_file,
)
from jaxsd.diffusion.lora import LoRA, apply_loras, read_lora
from jaxsd.diffusion.programs import ImageBatch, Networks, NetworksOnDevices, StepScales, decode_images, encode_tokens
from jaxsd.diffusion.samplers import NoiseSchedule, Sampler, make_sampler, normal
from jaxsd.diffusion.sampling_defaults import SamplingDefaults
from jaxsd.diffusion.saving import save_folder
from jaxsd.diffusion.textual_inversion import TextualInversion, read_textual_inversion
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.pretrained.precision import choose_dtype, require_finite
from jaxsd.runtime.progress import counted
from jaxsd.runtime.sharding import examples_at_once, local_mesh, padded_batches, round_up, shard_batch

MOST_MERGED = 0.75  # of four tokens, one stays
OUTPUT_TYPES = ("jax", "np", "pil", "latent")
StepCallback = Callable[["StableDiffusion", int, float, dict[str, Any]], dict[str, Any]]
Images = Float[Array | np.ndarray, "drawn height width channels"] | list[Image.Image]


def strength_of(image: object | None, mask: object | None, strength: float | None) -> float | None:
    """The strength that a call with these arguments has. None: it starts from noise alone, as inpainting does at 1."""
    if image is None:
        return None
    if strength is None:
        strength = 0.7 if mask is None else 1.0
    return None if mask is not None and strength == 1 else strength


def check_guidance(guidance: float, guidance_end: float) -> None:
    """Raise ValueError where a value is not allowed."""
    if not np.isfinite(guidance):
        raise ValueError(f"guidance is {guidance}; allowed: a finite number")
    if not 0 <= guidance_end <= 1:
        raise ValueError(f"guidance_end is {guidance_end}; allowed: 0 to 1")


def check_reuse(cache_interval: int, merge_tokens: float) -> None:
    """Raise ValueError where a value is not allowed."""
    if cache_interval < 1:
        raise ValueError(f"cache_interval is {cache_interval}; allowed: 1 or more")
    if not 0 <= merge_tokens <= MOST_MERGED:
        raise ValueError(f"merge_tokens is {merge_tokens}; allowed: 0 to {MOST_MERGED}")


def check_clip_skip(clip_skip: int, text_encoder: TextConfig) -> None:
    """Raise ValueError where the text encoder has not so many layers to leave out."""
    layers = text_encoder.num_hidden_layers
    if not 0 <= clip_skip < layers:
        raise ValueError(f"clip_skip is {clip_skip}; allowed: 0 to {layers - 1}, layers that are left out")


def latent_shape(unet: UNetConfig, vae: VAEConfig, height: int | None, width: int | None) -> tuple[int, int, int]:
    """The height, width and channels of the latents of an image of so many pixels.

    None is what the U-Net was trained at. Raises ValueError where the size is none that the VAE makes.
    """
    default = unet.sample_size * vae.factor
    height, width = (default if side is None else side for side in (height, width))
    for name, side in (("height", height), ("width", width)):
        if side < vae.factor or side % vae.factor:
            raise ValueError(f"{name} is {side}; allowed: multiples of {vae.factor}")
    return height // vae.factor, width // vae.factor, unet.out_channels


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
        textual_inversions: What more tokens of a text stand for, by token; `del textual_inversions[token]` removes one.
        controlnet: The ControlNet that sees a call's `control_image`, or None.
        controlnet_source: What it was loaded from.
        clip_skip: How many of the text encoder's last layers are left out for all texts.
        weighted_prompts: Whether brackets in texts weigh words (`weighting.parse_weights`).
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
        self.textual_inversions: dict[str, TextualInversion] = {}
        self.controlnet: ControlNet | None = None
        self.controlnet_source: str | None = None
        self.clip_skip = 0
        self.weighted_prompts = False
        self._extended: tuple[Any, Any, dict[int, range]] = (None, None, {})
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
        **unknown: Any,
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
        refuse_unknown("StableDiffusion.from_pretrained", unknown, LOADING_ARGUMENTS)
        dtype = choose_dtype(dtype)
        path = Path(source)
        if is_single_file(path):
            check_single_file(path, revision=revision, variant=variant)
            return cls(*load_single_file(path, dtype, tokenizer=tokenizer, vae=vae))
        parts = load_folder(source, dtype, revision=revision, variant=variant, tokenizer=tokenizer, vae=vae)
        return cls(*parts)

    if not TYPE_CHECKING:  # which would take it for any name

        def __getattr__(self, name: str) -> Any:
            """Say what diffusers' method is called here."""
            raise AttributeError(f"StableDiffusion has no {name!r}{explain(name, PIPELINE_ATTRIBUTES)}")

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

    def load_textual_inversion(self, source: str | Path, token: str | None = None) -> str:
        """Let a token of texts stand for the vectors in a file, a folder or a repository; returns the token.

        The arguments are those of `textual_inversion.read_textual_inversion`. Raises ValueError where the vocabulary
        has the token already, and what that function raises. Upper and lower case are the same to a tokenizer of CLIP.
        """
        inversion = read_textual_inversion(source, self.text_encoder.config.hidden_size, token)
        token, lower = inversion.token, inversion.token.lower()
        if lower in map(str.lower, self.textual_inversions):
            raise ValueError(f"{source}: the token {token} is loaded already; give it another one: token= (TOKEN=FILE)")
        if {token, lower, lower + WORD_END} & self.tokenizer.get_vocab().keys():
            raise ValueError(
                f"{source}: the token {token} is in the vocabulary already; give it another one: token= (TOKEN=FILE)"
            )
        self.textual_inversions[token] = inversion
        return token

    def load_controlnet(self, source: str | Path, *, revision: str | None = None, variant: str | None = None) -> None:
        """Load the ControlNet that calls with a `control_image` use, in place of one that is there.

        The arguments are those of `controlnet.load_controlnet`. Raises ValueError where it is for another model, and
        what that function raises.
        """
        controlnet = load_controlnet(source, self.unet.dtype, revision=revision, variant=variant)
        check_controlnet_fits(source, controlnet, self.unet, self.vae.config.factor)
        self.controlnet, self.controlnet_source = controlnet, str(source)

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
        """One line: the size of the images and the parameters of the networks."""
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
        tokens, weights = self._tokenize(texts)
        check_clip_skip(self.clip_skip, self.text_encoder.config)
        size = examples_at_once(local_mesh(1), round_up(len(texts)))
        vectors = [inversion.vectors for inversion in self.textual_inversions.values()]
        vectors = jnp.concatenate(vectors) if vectors else None
        encode = partial(encode_tokens, self._with_loras("text_encoder"), skip=self.clip_skip)
        parts = [encode(tokens[indices], vectors) for indices, _ in padded_batches(len(texts), size)]
        hidden_states = jnp.concatenate(parts)[: len(texts)]
        return hidden_states if (weights == 1).all() else weigh_hidden_states(hidden_states, weights)

    def _tokenize(self, texts: list[str]) -> tuple[Int[np.ndarray, "batch tokens"], Float[np.ndarray, "batch tokens"]]:
        """Token ids and their weights.

        The ids from the size of the vocabulary on are of the vectors of `textual_inversions`.
        """
        if self._tokenizer_source == CLIP_REPOSITORY and not any(texts):  # known without its tokenizer
            tokens = np.repeat(empty_text(self.text_encoder.config), len(texts), axis=0)
        elif not self.textual_inversions and not self.weighted_prompts:
            tokens = tokenize(self.tokenizer, texts)
        else:
            fragments = [parse_weights(text) if self.weighted_prompts else [Fragment(text)] for text in texts]
            counts = {token: len(inversion.vectors) for token, inversion in self.textual_inversions.items()}
            made_of = counts, self.text_encoder.config.vocab_size
            if self._extended[0] != made_of:
                self._extended = made_of, *add_tokens(self.tokenizer, *made_of)
            _, tokenizer, added = self._extended
            return tokenize_fragments(tokenizer, fragments, added)
        return tokens, np.ones(tokens.shape, np.float32)

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
        control_image: Image.Image | Float[ArrayLike, "controls control_height control_width 3"] | None = None,
        control_scale: float = 1.0,
        guidance_end: float = 1.0,
        cache_interval: int = 1,
        merge_tokens: float = 0.0,
        latents: Float[ArrayLike, "_ latent_height latent_width _"] | None = None,
        height: int | None = None,
        width: int | None = None,
        key: Key[Array, "*batch"] | None = None,
        num_images_per_prompt: int = 1,
        on_step: Callable[[int, int, jax.Array], None] | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: str = "jax",
        **unknown: Any,
    ) -> Images:
        """Generate images from conditioning and, where there is one, from an image.

        The batch is spread over all devices of this process, of which each computes 1, 2, 3, 4, 6, 8, 12, ... images at
        a time, the last one repeated. What compiles anew is another of these numbers, another size of the images, a
        sampler of another order, and guidance 1; prompts, keys, steps and strengths do not. Another of these numbers is
        another program, which rounds differently: `jaxsd.generation` and studies therefore draw image by image on a
        CPU (`sharding.examples_at_once`).

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
            control_image: What `controlnet` sees, such as edges or depths, one for all or one each: a PIL image, or an
                array in [0, 1].
            control_scale: How much of what the ControlNet says is added.
            guidance_end: The share of the steps that are guided; the rest compute half as much.
            cache_interval: Of so many steps one computes all of the U-Net; the others compute its finest level and
                reuse the rest (DeepCache, arXiv 2312.00858).
            merge_tokens: The share of the tokens, up to 0.75, that the self-attentions over the finest maps merge into
                others (arXiv 2303.17604).
            latents: Standard normal noise. Drawn from `key` where it is None.
            height: In pixels. By default that of `latents`, or that at which the U-Net was trained.
            width: Likewise.
            key: Draws everything random, for each example of the batch by itself, so that an image does not depend on
                its batch: on a CPU in no bit, elsewhere but for how batches of another size are rounded. An array of
                keys (batch,) gives each example its own. By default key 0.
            on_step: `on_step(done, total, latents)` is called after every step with the latents of the image as the
                U-Net sees it so far. `decode` shows them. They may still be computed: nothing waits for a step but a
                function that looks at them.
            num_images_per_prompt: Images of each of `cond`, which stand side by side.
            callback_on_step_end: That of diffusers: `callback_on_step_end(pipe, step, timestep, {"latents": latents})`
                is called after every step, which count from 0, with the latents that the next step takes
                (batch, height, width, channels). The latents in the dictionary that it returns take their place. They
                are of variance 1; diffusers' Euler and LMS schedulers keep them divided by sqrt(1 - sigma^2).
            output_type: "jax" or "np" for arrays of jax or NumPy, "pil" for a list of PIL images, "latent" for the
                latents that `decode` takes.

        `guidance`, `steps` and `sampler` are those of `sampling` where they are None.

        Returns:
            Images, float32 in [0, 1] (batch, height, width, 3), or what `output_type` says.

        Raises:
            ValueError: A shape, a value, the sampler or the number of steps does not fit, or a network makes values
                that are not finite.
        """
        refuse_unknown("StableDiffusion", unknown, CALL_ARGUMENTS)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; allowed: {', '.join(OUTPUT_TYPES)}")
        if cond is None:
            raise TypeError("StableDiffusion needs cond, the embeddings or the prompts that the images are of")
        guidance = self.sampling.guidance if guidance is None else guidance
        check_guidance(guidance, guidance_end)
        check_reuse(cache_interval, merge_tokens)
        if control_image is not None and self.controlnet is None:
            raise ValueError("there is a control image and no ControlNet; allowed: with load_controlnet (--controlnet)")
        if not np.isfinite(control_scale):
            raise ValueError(f"control_scale is {control_scale}; allowed: a finite number")
        if mask is not None and image is None:
            raise ValueError("there is a mask and no image; allowed: a mask with the image that it covers")
        table = self.sampler_table(steps, sampler, strength_of(image, mask, strength))
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt is {num_images_per_prompt}; allowed: 1 or more")
        context = self._context(self._embed(cond), self._embed(uncond), guidance)
        inputs = len(context[0])
        context = jax.tree.map(partial(_repeat, times=num_images_per_prompt), context)
        batch = len(context[0])
        noise_keys, image_keys, step_keys = _split_keys(key, batch)
        if latents is None:
            noise = normal(noise_keys, latent_shape(self.unet.config, self.vae.config, height, width))
        else:
            noise = jnp.asarray(latents, jnp.float32)
            shape = (batch, "height", "width", self.unet.config.out_channels)
            if noise.ndim != 4 or noise.shape[::3] != shape[::3]:
                raise ValueError(f"latents have shape {noise.shape}; allowed: ({', '.join(map(str, shape))})")
        height, width = (side * self.vae.config.factor for side in noise.shape[1:3])
        fit = partial(_one_or_each, inputs=inputs, times=num_images_per_prompt)
        images = None if image is None else fit(prepare_image(image, height, width), "image")
        no_mask = np.ones((1, height, width, 1), np.float32)
        masks = no_mask if mask is None else fit(prepare_mask(mask, height, width), "mask")
        control_images = None
        if control_image is not None:
            control_images = fit(prepare_image(control_image, height, width), "control image")

        networks = self._on_devices(local_mesh(batch), merge_tokens, control_image is not None)
        from_image = image is not None and strength_of(image, mask, strength) is not None
        arrays = noise, context, image_keys, step_keys, images, masks, control_images
        sees_mask = self.unet.config.in_channels > self.unet.config.out_channels
        kinds = {"masked": mask is not None, "sees_mask": sees_mask, "from_image": from_image}
        drawn = ImageBatch(networks, table, *arrays, **kinds)
        scales = np.float32(guidance), None if control_image is None else np.float32(control_scale)
        rows = table.rows()
        guided = round(len(rows) * guidance_end)
        for done, row in enumerate(rows, 1):
            if done == guided + 1:
                drawn.stop_guiding()
            reuse = {"cache": cache_interval > 1, "reuse": bool((done - 1) % cache_interval)}
            predicted = drawn.step(StepScales(row, *scales), **reuse)
            if on_step:
                on_step(done, len(rows), predicted[:batch])
            if callback_on_step_end:
                latents = drawn.latents[:batch]
                changed = _call_back(callback_on_step_end, self, done - 1, float(row.timestep), latents)
                if changed is not latents:
                    drawn.change_latents(changed)
        latents = drawn.latents[:batch]
        images = latents
        if output_type != "latent":
            images = decode_images(*networks, None, drawn.latents)[:batch]
        require_finite(context, "the conditioning", None)
        require_finite(latents, "the U-Net", self.unet.dtype)
        require_finite(images, "the VAE", self.vae.dtype)
        if output_type == "pil":
            return to_pil(images)
        return np.asarray(images) if output_type == "np" else images

    def sampler_table(
        self, steps: int | None = None, sampler: str | None = None, strength: float | None = None
    ) -> Sampler:
        """The coefficients of the steps that a call with these arguments runs; `strength` None is without an image.

        What is None is what the model suggests. Raises ValueError where a value does not fit.
        """
        steps = self.sampling.steps if steps is None else steps
        sampler = sampler or self.sampling.sampler or self.schedule.sampler
        return make_sampler(sampler, self.schedule, steps, strength)

    def decode(
        self, latents: Float[ArrayLike, "batch latent_height latent_width channels"]
    ) -> Float[Array, "batch height width 3"]:
        """Images, float32 in [0, 1], of latents at the scale of the U-Net."""
        latents = jnp.asarray(latents, jnp.float32)
        mesh = local_mesh(len(latents))
        batch = shard_batch(latents, mesh, few_sizes=True)
        return decode_images(*self._on_devices(mesh), None, batch)[: len(latents)]

    def _embed(self, prompts):
        """The hidden states of prompts; embeddings, and None, as they are."""
        texts = [prompts] if isinstance(prompts, str) else prompts
        if isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in texts):
            return self.encode_text(texts)
        return prompts

    def _context(self, cond, uncond, guidance: float) -> tuple[jax.Array, ...]:
        """The conditioning (batch, tokens, width), after that which guidance moves away from unless that is none."""
        width = self.unet.config.cross_attention_dim
        cond = jnp.asarray(cond, jnp.float32)
        if cond.ndim != 3 or not len(cond) or cond.shape[-1] != width:
            raise ValueError(f"cond has shape {cond.shape}; allowed: (batch, tokens, {width})")
        if guidance == 1:
            return (cond,)
        uncond = self.encode_text([""]) if uncond is None else jnp.asarray(uncond, jnp.float32)
        if uncond.shape not in (cond.shape, (1, *cond.shape[1:])):
            raise ValueError(f"uncond has shape {uncond.shape}; allowed: {cond.shape}, or one row of it for all")
        return jnp.broadcast_to(uncond, cond.shape), cond

    def _on_devices(self, mesh: Mesh, merge_tokens: float = 0.0, controlled: bool = False) -> NetworksOnDevices:
        """The networks as the programs take them, with their parameters on every device of `mesh`."""
        unet = self._with_loras("unet")
        unet = unet.with_merged_tokens(merge_tokens) if merge_tokens else unet
        graph, params = nnx.split(Networks(unet, self.vae, self.controlnet if controlled else None))
        leaves = jax.tree.leaves(params)
        if self._replicas is None or self._replicas[0] != mesh or not are_the_same(self._replicas[1], leaves):
            formats = parameter_formats(params, mesh)
            self._replicas = mesh, leaves, jax.device_put(params, formats)
        return graph, mesh, self._replicas[2]


def _call_back(
    callback: StepCallback, pipe: "StableDiffusion", step: int, timestep: float, latents: jax.Array
) -> jax.Array:
    """The latents that a callback gives in place of `latents`. Raises ValueError for anything else."""
    given = callback(pipe, step, timestep, {"latents": latents})
    if not isinstance(given, dict) or not set(given) <= {"latents"}:
        raise ValueError("callback_on_step_end returned something else than a dictionary with latents, or an empty one")
    changed = given.get("latents", latents)
    if changed is latents:
        return latents
    changed = jnp.asarray(changed, jnp.float32)
    if changed.shape != latents.shape:
        raise ValueError(f"callback_on_step_end returned latents of shape {changed.shape}; allowed: {latents.shape}")
    return changed


def _one_or_each(images: np.ndarray, noun: str, inputs: int, times: int) -> np.ndarray:
    """One image for all, or that of each of `inputs` so many times. Raises ValueError for another number of them."""
    if len(images) not in (1, inputs):
        raise ValueError(f"{counted(len(images), noun)} for {counted(inputs, 'example')}; allowed: as many, or one")
    return images if len(images) == 1 else _repeat(images, times)


def _repeat(examples: Any, times: int) -> Any:
    """Each example of an array (batch, ...) so many times."""
    repeat = np.repeat if isinstance(examples, np.ndarray) else jnp.repeat
    return examples if times == 1 else repeat(examples, times, axis=0)


def are_the_same(before: list, after: list) -> bool:
    """Whether two lists hold the same arrays, which nothing can have changed in place."""
    pairs = zip(before, after, strict=False)
    return len(before) == len(after) and all(a is b and isinstance(a, jax.Array) for a, b in pairs)


def _split_keys(key: jax.Array | None, batch: int) -> jax.Array:
    """Keys (3, batch) of the noise, of the image's latents and of the sampler's steps."""
    key = jax.random.key(0) if key is None else key
    if key.shape not in ((), (batch,)):
        raise ValueError(f"key has shape {key.shape}; allowed: one key, or {batch} of them")
    if not key.ndim:
        key = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch))
    return jax.vmap(partial(jax.random.split, num=3), out_axes=1)(key)


def to_pil(images: Float[ArrayLike, "batch height width 3"]) -> list[Image.Image]:
    """Images in [0, 1] as PIL images. Raises ValueError where a value is not finite."""
    require_finite(images, "the network behind the images", None)
    return [Image.fromarray(image) for image in np.round(np.asarray(images) * 255).astype(np.uint8)]
