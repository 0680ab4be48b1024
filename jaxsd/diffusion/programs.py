"""The compiled programs of Stable Diffusion, and the images that they draw at a time."""

from functools import partial, wraps
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from jaxsd.diffusion.controlnet import ControlNet
from jaxsd.diffusion.samplers import History, Row, Sampler, init_history, step
from jaxsd.diffusion.tiles import decode_latents
from jaxsd.diffusion.unet import DeepFeatures, UNet
from jaxsd.diffusion.vae import VAE, Gaussian
from jaxsd.runtime.sharding import AXIS, shard_batch


class Networks(NamedTuple):
    """The networks that draw."""

    unet: UNet
    vae: VAE
    controlnet: ControlNet | None = None


NetworksOnDevices = tuple[nnx.GraphDef, Mesh, nnx.State]  # the graph of Networks, the mesh, and their parameters there


class Inpainting(NamedTuple):
    """What of an image a step of the sampler keeps or sees, (batch, latent height, latent width, ...) each.

    kept: The mask, which is 1 where the image is painted anew, the image's latents and their noise. channels: What a
    U-Net for inpainting takes beside its latents: the mask and the latents of the image under it.
    """

    kept: tuple[jax.Array, jax.Array, jax.Array] | None = None
    channels: jax.Array | None = None


class Attended(NamedTuple):
    """The keys and values of the U-Net and of the ControlNet, twice as many as images where there is guidance."""

    unet: list
    controlnet: list | None = None


class StepInputs(NamedTuple):
    """What a step takes of every image; `control` is what the ControlNet makes of its image."""

    history: History
    attended: Attended
    keys: jax.Array
    inpainting: Inpainting = Inpainting()
    control: jax.Array | None = None


class StepScales(NamedTuple):
    """What a step takes for all images: the row of the sampler, the guidance, and the scale of the ControlNet."""

    row: Row
    guidance: np.float32
    control: np.float32 | None = None


class ImageBatch:
    """The images that the devices compute at a time, from their first latents on."""

    def __init__(
        self,
        networks: NetworksOnDevices,
        table: Sampler,
        noise: jax.Array,
        context: tuple[jax.Array, ...],
        image_keys: jax.Array,
        step_keys: jax.Array,
        images: np.ndarray | None,
        masks: np.ndarray,
        control_images: np.ndarray | None,
        *,
        masked: bool,
        sees_mask: bool,
        from_image: bool,
    ):
        """Encode the images to start from, and the conditioning.

        Args:
            networks: where the devices hold them.
            table: the sampler's.
            noise, context, image_keys, step_keys: of each image.
            images, masks, control_images: one for all or one each.
            masked: whether a mask was given.
            sees_mask: whether the U-Net is one for inpainting.
            from_image: whether the first latents are noised ones of `images`, and not noise alone.
        """
        self.networks = networks
        count, mesh = len(noise), networks[1]
        arrays = shard_batch((noise, context, image_keys, step_keys), mesh, few_sizes=True)
        noise, self.context, image_keys, self.step_keys = arrays
        known = None if images is None else self._encode(images, image_keys)
        self.history = init_history(table, noise, jnp.asarray(known) if from_image else 0.0)
        self.inpainting = Inpainting()
        if masked or sees_mask:
            factor = masks.shape[1] // noise.shape[1]
            small = np.broadcast_to(masks[:, ::factor, ::factor], (count, *noise.shape[1:3], 1))
            small = shard_batch(small, mesh, few_sizes=True)
            if sees_mask:  # gray, which is 0 for the VAE, where the image is painted
                covered = 0.5 * masks + (0 if images is None else (1 - masks) * images)
                covered = np.asarray(covered + np.zeros(3, np.float32), np.float32)
                seen = self._encode(covered, jax.vmap(partial(jax.random.fold_in, data=1))(image_keys))
                self.inpainting = Inpainting(channels=jnp.concatenate([small, seen], axis=-1))
            else:
                self.inpainting = Inpainting(kept=(small, jnp.asarray(known), noise))
        self.control = None
        if control_images is not None:
            each = np.broadcast_to(control_images, (count, *control_images.shape[1:]))
            self.control = embed_control(*networks, None, shard_batch(each, mesh, few_sizes=True))
        self.attended = compute_keys_values(*networks, None, self.context)
        self.deep: DeepFeatures | None = None

    def _encode(self, images: np.ndarray, keys: jax.Array) -> jax.Array:
        if len(images) == 1:  # encoded but once
            return encode_images(*self.networks, images, keys)
        return encode_images(*self.networks, None, (shard_batch(images, self.networks[1], few_sizes=True), keys))

    @property
    def latents(self) -> jax.Array:
        """Those of the images after the last step; where the devices have more than are wanted, the rest follow."""
        return self.history.xs[0]

    def change_latents(self, latents: jax.Array):
        """Let the next step begin from others."""
        sharded = shard_batch(latents, self.networks[1], few_sizes=True)
        self.history = self.history._replace(xs=(sharded, *self.history.xs[1:]))

    def stop_guiding(self):
        """Compute the conditioned half alone from here on."""
        if len(self.context) > 1:
            self.context, self.deep = self.context[-1:], None
            self.attended = compute_keys_values(*self.networks, None, self.context)

    def step(self, scales: StepScales, cache: bool = False, reuse: bool = False) -> jax.Array:
        """Run a row of the sampler; the latents of the images as the U-Net sees them.

        With `reuse`, the U-Net computes its finest level alone and takes the rest from the last step with `cache`
        (`unet.DeepFeatures`), if there was one since guidance stopped.
        """
        inputs = StepInputs(self.history, self.attended, self.step_keys, self.inpainting, self.control)
        if reuse and self.deep is not None:
            self.history, predicted = denoise_reusing(*self.networks, scales, (inputs, self.deep))
        elif cache or reuse:
            self.history, predicted, self.deep = denoise_caching(*self.networks, scales, inputs)
        else:
            self.history, predicted = denoise(*self.networks, scales, inputs)
        return predicted


def _on_each_device(function):
    """Compile `function(networks, shared, batch)`, which each device runs on its part of the arrays of `batch`.

    The compiled function is called with the graph of the networks, the mesh and the parameters in place of the
    networks. A device runs the program that it would run alone, so kernels and loops over the batch know nothing of
    the other devices.
    """

    @partial(jax.jit, static_argnums=(0, 1))
    @wraps(function)
    def run_on_mesh(graph, mesh, params, shared, batch):
        def run_part(params, shared, batch):
            return function(nnx.merge(graph, params), shared, batch)

        whole, part = PartitionSpec(), PartitionSpec(AXIS)
        spread = jax.shard_map(run_part, mesh=mesh, in_specs=(whole, whole, part), out_specs=part, check_vma=False)
        return spread(params, shared, batch)

    return run_on_mesh


@partial(nnx.jit, static_argnames="skip")
def encode_tokens(text_encoder, tokens, vectors, skip):
    return text_encoder(tokens, vectors, skip).hidden_states


@_on_each_device
def encode_images(networks, one_for_all, batch):
    """Sampled latents, scaled, of images in [0, 1]: of one for all, or of those in the batch."""
    images, keys = (one_for_all, batch) if one_for_all is not None else batch
    moments = networks.vae.encode(2 * images - 1)
    moments = Gaussian(*(jnp.broadcast_to(part, (len(keys), *part.shape[1:])) for part in moments))
    return networks.vae.config.scaling_factor * jax.vmap(Gaussian.sample)(moments, keys)


@_on_each_device
def embed_control(networks, _, images):
    return networks.controlnet.embed_images(images)


@_on_each_device
def compute_keys_values(networks, _, context):
    context = jnp.concatenate(context)
    controlnet = networks.controlnet
    return Attended(networks.unet.keys_values(context), controlnet and controlnet.keys_values(context))


@_on_each_device
def denoise(networks, scales, inputs):
    """One step of the sampler on the guided prediction of the U-Net."""

    def predict(x, t, control):
        return networks.unet.denoise(x, t, inputs.attended.unet, control)

    return _run_step(networks, scales, inputs, predict)


@_on_each_device
def denoise_caching(networks, scales, inputs):
    """`denoise`, and the deep features that the steps after it may reuse."""
    found = []

    def predict(x, t, control):
        predicted, deep = networks.unet.denoise_deep(x, t, inputs.attended.unet, control)
        found.append(deep)
        return predicted

    history, predicted = _run_step(networks, scales, inputs, predict)
    return history, predicted, found[0]


@_on_each_device
def denoise_reusing(networks, scales, batch):
    """`denoise` with the deep features of an earlier step."""
    inputs, deep = batch

    def predict(x, t, _):
        return networks.unet.denoise_shallow(x, t, inputs.attended.unet, deep)

    return _run_step(networks._replace(controlnet=None), scales, inputs, predict)


def _run_step(networks, scales, inputs, predict):
    """One step of the sampler; `predict(x, timesteps, control)` is the U-Net, with what the ControlNet adds to it."""
    row, attended = scales.row, inputs.attended

    def network(x, t):
        halves = len(jax.tree.leaves(attended)[0]) // len(x)
        timesteps = jnp.broadcast_to(t, halves * len(x))
        control = None
        if networks.controlnet is not None:
            latents, seen = (jnp.tile(part, (halves, 1, 1, 1)) for part in (x, inputs.control))
            control = networks.controlnet.residuals(latents, timesteps, attended.controlnet, seen, scales.control)
        if inputs.inpainting.channels is not None:
            x = jnp.concatenate([x, inputs.inpainting.channels], axis=-1)
        both = predict(jnp.tile(x, (halves, 1, 1, 1)), timesteps, control)
        if halves == 1:
            return both
        without, with_ = jnp.split(both, 2)
        return without + scales.guidance * (with_ - without)

    history, predicted = step(row, network, inputs.history, inputs.keys)
    if inputs.inpainting.kept is not None:
        mask, known, noise = inputs.inpainting.kept
        kept = row.known_alpha * known + row.known_sigma * noise
        history = history._replace(xs=(mask * history.xs[0] + (1 - mask) * kept, *history.xs[1:]))
    return history, predicted


@_on_each_device
def decode_images(networks, _, latents):
    return jnp.clip(decode_latents(networks.vae, latents / networks.vae.config.scaling_factor) / 2 + 0.5, 0, 1)
