"""Stable Diffusion 1.x from a Hugging Face folder: embeddings to pictures."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial, wraps
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from PIL import Image

from jaxsd.clip import params as clip_table
from jaxsd.clip.pipeline import text_json
from jaxsd.clip.tokens import FILES as TOKENIZER_FILES
from jaxsd.clip.tokens import load_tokenizer, tokenize
from jaxsd.clip.towers import TextConfig, TextModel
from jaxsd.diffusion import single_file
from jaxsd.diffusion import unet_params as unet_table
from jaxsd.diffusion import vae_params as vae_table
from jaxsd.diffusion.images import prepare_image
from jaxsd.diffusion.samplers import SCHEDULERS, NoiseSchedule, init_history, make_sampler, normal, step
from jaxsd.diffusion.sampling_defaults import SAMPLING_CONFIG, SamplingDefaults
from jaxsd.diffusion.tiles import decode_latents
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, Gaussian, VAEConfig
from jaxsd.files import read_json, write_json
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.mapping import export_parameters, write_safetensors
from jaxsd.pretrained.model_config import from_dict, to_json
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.pretrained.recognize import KEYS, PIECES, recognise_transformer, recognise_unet
from jaxsd.pretrained.weights import DIFFUSION, MODEL, download_weights, find_weights, load_weights

DIFFUSION_WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS = "model.safetensors"

THIS = "Stable Diffusion 1.x"
PARTS = {"unet": DIFFUSION, "vae": DIFFUSION, "text_encoder": MODEL}
CONFIGS = (
    *(f"{part}/config.json" for part in (*PARTS, "transformer")),  # others' transformer: to say what they are
    "scheduler/scheduler_config.json",
    SAMPLING_CONFIG,
    *(f"tokenizer/{file}" for file in TOKENIZER_FILES),
)
SD15_TEXT = TextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
CLIP_REPOSITORY = "openai/clip-vit-large-patch14"


class StableDiffusion:
    """The U-Net, the VAE and the text encoder, with the noise schedule they were trained on.

    `pipe(cond, uncond)` takes embeddings of any origin: `pipe.encode_text(["a dog"])` or an audio encoder's output.
    """

    def __init__(
        self,
        unet: UNet,
        vae: VAE,
        text_encoder: TextModel,
        tokenizer_folder,
        schedule: NoiseSchedule,
        sampling: SamplingDefaults | None = None,
    ):
        self.unet, self.vae, self.text_encoder, self.schedule = unet, vae, text_encoder, schedule
        self.sampling = sampling or SamplingDefaults()
        self._tokenizer_folder = tokenizer_folder
        self._graph, self._params = nnx.split((unet, vae))
        self._replicas: dict[Mesh, nnx.State] = {}
        self._encode = nnx.jit(lambda model, tokens: model(tokens).hidden_states)

    @classmethod
    def from_pretrained(
        cls,
        source,
        *,
        revision: str | None = None,
        variant: str | None = None,
        tokenizer=None,
        dtype: DTypeLike | None = None,
    ) -> "StableDiffusion":
        """Load from a folder in diffusers' layout, the Hugging Face repository of that id, or one file of weights.

        `variant` ("fp16") is part of the weights' file names and `revision` a branch, tag or commit. Weights are
        safetensors files, or torch's where there are none. A single .safetensors file has the names of the first
        Stable Diffusion code and neither configs nor a tokenizer: it is read as Stable Diffusion 1.5. `tokenizer`, a
        folder or repository, replaces the folder's own; a single file's is by default CLIP ViT-L/14's on the hub,
        which the first text downloads. Parameters are kept and compute in `dtype`, whatever the file has: by default
        bfloat16 on accelerators and float32 on the CPU. Raises FileNotFoundError or ValueError naming the file.
        """
        dtype = choose_dtype(dtype)
        path = Path(source)
        if path.is_file() or path.suffix == ".safetensors":
            unet, vae, text_encoder = load_single_file(path, UNetConfig(), VAEConfig(), SD15_TEXT, dtype)
            return cls(unet, vae, text_encoder, tokenizer or CLIP_REPOSITORY, NoiseSchedule())
        return cls._from_folder(source, revision, variant, tokenizer, dtype)

    @classmethod
    def _from_folder(cls, source, revision, variant, tokenizer, dtype):
        folder = fetch(source, CONFIGS, revision)
        transformer = folder / "transformer" / "config.json"
        if transformer.is_file():
            raise ValueError(f"{transformer} is that of {recognise_transformer(read_json(transformer))}, not {THIS}")
        unet_config = folder / "unet" / "config.json"
        if kind := recognise_unet(read_json(unet_config)):
            raise ValueError(f"{unet_config} is that of {kind}, not {THIS}")

        def load(name, config_class, model_class, rules, ignore=()):
            path = folder / name / "config.json"
            config = from_dict(config_class, read_json(path), path)
            files = find_weights(path.parent, PARTS[name], variant)
            return load_weights(files, rules, partial(model_class, config, dtype=dtype), dtype, ignore, wanted=THIS)

        schedule = NoiseSchedule.read(folder / "scheduler" / "scheduler_config.json")
        sampling = SamplingDefaults.read(folder)
        download_weights(source, folder, PARTS, variant)
        return cls(
            load("unet", UNetConfig, UNet, unet_table.RULES),
            load("vae", VAEConfig, VAE, vae_table.RULES),
            load("text_encoder", TextConfig, TextModel, clip_table.TEXT_RULES, clip_table.IGNORE),
            tokenizer or folder / "tokenizer",
            schedule,
            sampling,
        )

    def save_pretrained(self, folder, *, dtype=np.float32):
        """Write the folder that `from_pretrained` and diffusers' StableDiffusionPipeline read, weights as `dtype`."""
        folder = Path(folder)
        for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        text = {"architectures": ["CLIPTextModel"], **text_json(self.text_encoder.config, self.tokenizer)}
        write_json(folder / "text_encoder" / "config.json", text)
        write_json(
            folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", **to_json(self.unet.config)}
        )
        write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL", **vae_json(self.vae.config)})
        scheduler = scheduler_json(self.schedule)
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        write_json(folder / SAMPLING_CONFIG, asdict(self.sampling))
        index = {**MODEL_INDEX, "scheduler": ["diffusers", scheduler["_class_name"]]}
        write_json(folder / "model_index.json", index)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        for name, model, weights, rules in (
            ("unet", self.unet, DIFFUSION_WEIGHTS, unet_table.RULES),
            ("vae", self.vae, DIFFUSION_WEIGHTS, vae_table.RULES),
            ("text_encoder", self.text_encoder, TEXT_WEIGHTS, clip_table.TEXT_RULES),
        ):
            write_safetensors(export_parameters(model, rules, dtype), folder / name / weights)

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self._tokenizer_folder)

    def encode_text(self, texts: list[str]) -> Float[Array, "batch 77 width"]:
        """The text encoder's hidden states, float32: conditioning for `__call__`."""
        return self._encode(self.text_encoder, tokenize(self.tokenizer, texts))

    def __call__(
        self,
        cond: Float[Array, "batch 77 width"],
        uncond: Float[Array, "#batch 77 width"] | None = None,
        *,
        guidance: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        image: Image.Image | Float[np.ndarray, "#batch any_height any_width 3"] | None = None,
        strength: float = 0.7,
        latents: Float[Array, "batch latent_height latent_width channels"] | None = None,
        height: int | None = None,
        width: int | None = None,
        key: jax.Array | None = None,
        on_step: Callable[[int, int, jax.Array], None] | None = None,
    ) -> Float[Array, "batch height width 3"]:
        """Pictures, float32 in [0, 1], of the conditioning and, where there is one, of an image.

        `uncond` (the empty text by default) is what guidance moves away from: uncond + guidance * (cond - uncond). At
        guidance 1 nothing is left of it, and only half as much is computed.
        `guidance`, `steps` and `sampler` default to what the model suggests (`self.sampling`); a model that suggests no
        sampler takes the one that the checkpoint's scheduler is: `schedule.sampler`.
        `image` is one for all or one each, PIL or an array in [0, 1]. It is resized, encoded and noised, and only the
        last int(steps * strength) steps are run (arXiv 2509.09717): the higher `strength`, the less is left of it.
        `latents` is standard normal noise; drawn from `key` where it is None.
        `height` and `width` in pixels default to the size of `latents` or that which the U-Net was trained at.
        `key` (default: key 0) draws all that is random, row by row, so that a picture does not depend on its batch;
        an array of keys (batch,) gives each row its own.
        `on_step(done, total, latents)` is called after every step with the latents of the picture as the U-Net sees it
        so far, which `decode_latents` shows.
        The batch is shared out to all devices of this process. What compiles anew is another shape of `cond` or of the
        pictures, a sampler of another order, and guidance 1; prompts, keys, steps and strengths do not. Raises
        ValueError where a shape, a value, the sampler or the number of steps does not fit.
        """
        guidance = self.sampling.guidance if guidance is None else guidance
        steps = self.sampling.steps if steps is None else steps
        table = make_sampler(
            sampler or self.sampling.sampler or self.schedule.sampler,
            self.schedule,
            steps,
            None if image is None else strength,
        )
        context = self._context(cond, uncond, guidance)
        batch = len(context[0])
        noise_keys, image_keys, step_keys = _keys(key, batch)
        if latents is None:
            noise = normal(noise_keys, self._latent_shape(height, width))
        else:
            noise = jnp.asarray(latents, jnp.float32)
            shape = (batch, "height", "width", self.unet.config.in_channels)
            if noise.ndim != 4 or noise.shape[::3] != shape[::3]:
                raise ValueError(f"latents have shape {noise.shape}; allowed: ({', '.join(map(str, shape))})")
        pictures = None
        if image is not None:
            pictures = prepare_image(image, *(side * self.vae.config.factor for side in noise.shape[1:3]))
            if len(pictures) not in (1, batch):
                raise ValueError(f"images are {len(pictures)} and cond are {batch}; allowed: as many, or one for all")

        mesh, (noise, context, image_keys, step_keys) = _share_out((noise, context, image_keys, step_keys))
        networks = self._graph, mesh, self._on(mesh)
        if pictures is None:
            history = init_history(table, noise)
        elif len(pictures) == 1:  # encoded but once
            history = init_history(table, noise, _encode(*networks, pictures, image_keys))
        else:
            history = init_history(table, noise, _encode(*networks, None, (_share_out(pictures)[1], image_keys)))
        keys_values = _keys_values(*networks, None, context)
        weight = np.float32(guidance)
        rows = table.rows()
        for done, row in enumerate(rows, 1):
            history, predicted = _step(*networks, (row, weight), (history, keys_values, step_keys))
            if on_step:
                on_step(done, len(rows), predicted.block_until_ready()[:batch])
        return _decode(*networks, None, history.xs[0])[:batch]

    def decode(
        self, latents: Float[Array, "batch latent_height latent_width channels"]
    ) -> Float[Array, "batch height width 3"]:
        """Pictures, float32 in [0, 1], of latents at the scale of the U-Net."""
        mesh, rows = _share_out(jnp.asarray(latents, jnp.float32))
        return _decode(self._graph, mesh, self._on(mesh), None, rows)[: len(latents)]

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

    def _on(self, mesh: Mesh) -> nnx.State:
        """The parameters on every device of `mesh`."""
        if mesh not in self._replicas:
            self._replicas = {mesh: jax.device_put(self._params, NamedSharding(mesh, PartitionSpec()))}
        return self._replicas[mesh]

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        factor = self.vae.config.factor
        default = self.unet.config.sample_size * factor
        height, width = (default if side is None else side for side in (height, width))
        for name, side in (("height", height), ("width", width)):
            if side < factor or side % factor:
                raise ValueError(f"{name} is {side}; allowed: multiples of {factor}")
        return height // factor, width // factor, self.unet.config.in_channels


def _keys(key: jax.Array | None, batch: int) -> jax.Array:
    """Keys (3, batch) of the noise, of the image's latents and of the sampler's steps."""
    key = jax.random.key(0) if key is None else key
    if key.shape not in ((), (batch,)):
        raise ValueError(f"key has shape {key.shape}; allowed: one key, or {batch} of them")
    if not key.ndim:
        key = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch))
    return jax.vmap(partial(jax.random.split, num=3), out_axes=1)(key)


def _share_out(rows):
    """A mesh of as many devices as there is work for, and `rows` (batch, ...), a tree, shared out to it.

    Where the devices do not divide the batch, its last row is repeated.
    """
    batch = len(jax.tree.leaves(rows)[0])
    mesh = Mesh(jax.local_devices()[:batch], ("batch",))
    missing = -batch % mesh.size
    if missing:
        rows = jax.tree.map(lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], missing, axis=0)]), rows)
    return mesh, jax.device_put(rows, NamedSharding(mesh, PartitionSpec("batch")))


def _on_each_device(function):
    """`function(unet, vae, shared, rows)`, compiled, for each device's part of `rows` (batch, ...), a tree.

    Called with the networks' graph, the mesh and the parameters in place of the networks. A device runs the program
    that it would run alone, so that kernels and loops over the batch need no words about the others.
    """

    @partial(jax.jit, static_argnums=(0, 1))
    @wraps(function)
    def run(graph, mesh, params, shared, rows):
        def part(params, shared, rows):
            return function(*nnx.merge(graph, params), shared, rows)

        every, part_of = PartitionSpec(), PartitionSpec("batch")
        shared_out = jax.shard_map(
            part, mesh=mesh, in_specs=(every, every, part_of), out_specs=part_of, check_vma=False
        )
        return shared_out(params, shared, rows)

    return run


@_on_each_device
def _encode(unet, vae, one_for_all, rows):
    """Sampled latents, scaled, of pictures in [0, 1]."""
    pictures, keys = (one_for_all, rows) if one_for_all is not None else rows
    moments = vae.encode(2 * pictures - 1)
    moments = Gaussian(*(jnp.broadcast_to(part, (len(keys), *part.shape[1:])) for part in moments))
    return vae.config.scaling_factor * jax.vmap(Gaussian.sample)(moments, keys)


@_on_each_device
def _keys_values(unet, vae, _, context):
    return unet.keys_values(jnp.concatenate(context))


@_on_each_device
def _step(unet, vae, shared, rows):
    (row, guidance), (history, keys_values, keys) = shared, rows

    def network(x, t):
        halves = len(jax.tree.leaves(keys_values)[0]) // len(x)
        both = unet.denoise(jnp.tile(x, (halves, 1, 1, 1)), jnp.broadcast_to(t, halves * len(x)), keys_values)
        if halves == 1:
            return both
        without, with_ = jnp.split(both, 2)
        return without + guidance * (with_ - without)

    return step(row, network, history, keys)


@_on_each_device
def _decode(unet, vae, _, latents):
    return jnp.clip(decode_latents(vae, latents / vae.config.scaling_factor) / 2 + 0.5, 0, 1)


def to_pil(images: Float[Array, "batch height width 3"]) -> list[Image.Image]:
    """Pictures in [0, 1] as PIL images."""
    return [Image.fromarray(image) for image in np.round(np.asarray(images) * 255).astype(np.uint8)]


def load_single_file(
    path: Path, unet: UNetConfig, vae: VAEConfig, text: TextConfig, dtype: DTypeLike
) -> tuple[UNet, VAE, TextModel]:
    """The networks in one .safetensors file with the names of the first Stable Diffusion code.

    Raises FileNotFoundError or ValueError naming the file where it is missing, damaged, of another model or another
    size.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: {THIS} in one file must be a .safetensors file")

    def make(rngs):
        kind = {"dtype": dtype, "rngs": rngs}
        return nnx.Dict(unet=UNet(unet, **kind), vae=VAE(vae, **kind), text_encoder=TextModel(text, **kind))

    rules = single_file.rules(unet, len(vae.block_out_channels))
    models = load_weights([path], rules, make, dtype, single_file.IGNORE, wanted=THIS, foreign=(*KEYS, *PIECES))
    return models.unet, models.vae, models.text_encoder


def vae_json(config: VAEConfig) -> dict:
    """The config of a VAE as diffusers writes it, which also names the blocks."""
    levels = len(config.block_out_channels)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    return {**blocks, **to_json(config)}


def scheduler_json(schedule: NoiseSchedule) -> dict:
    """A noise schedule as diffusers writes it, under the class of its sampler."""
    fields = asdict(schedule)
    return {"_class_name": SCHEDULERS[fields.pop("sampler")], "clip_sample": False, "skip_prk_steps": True, **fields}


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
