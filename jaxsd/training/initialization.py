"""The encoder that a training begins from."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

import encoders
from encoders.catalog import find_class
from encoders.registry import bundled_name, create_from_class
from encoders.user_code import code_of
from jaxsd.config import TrainConfig
from jaxsd.runtime.files import read_json

CLIP_OF_AUDIO = jax.ShapeDtypeStruct((1, 16_000), jnp.int16)


def make_encoder(config: TrainConfig, dtype: jnp.dtype, known: type[nnx.Module] | None = None) -> nnx.Module:
    """A new encoder, or that of the folder `config.init`. Its class is `known`, or else the one that the config names.

    Raises ValueError where the sizes do not fit the encoder, or the folder holds another encoder or other sizes.
    """

    def create() -> nnx.Module:
        return create_from_class(cls, rngs=nnx.Rngs(config.seed), dtype=dtype, **config.encoder_config)

    cls = known or find_class(config.encoder)
    try:
        encoder = nnx.eval_shape(create) if config.init else create()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"encoder_config {config.encoder_config} does not fit encoder {config.encoder!r}: {error}"
        ) from None
    if not config.init:
        return scale_initial(encoder, branches=config.branch_init, positions=config.position_init)
    # Whoever names an own encoder lets its code run: that code, and no other that the folder may name.
    code = encoders.read_config(config.init).get("code")
    if code and not (config.own_encoder and code["sha256"] == code_of(cls).sha256):
        raise ValueError(f"init is {config.init}, which holds an encoder of other code than {config.encoder}")
    found = encoders.load(config.init, dtype=dtype, trust_code=True)
    if type(found).__name__ != type(encoder).__name__ or _sizes_of(found) != _sizes_of(encoder):
        described = [f"{type(one).__name__} of {_sizes_of(one)}" for one in (found, encoder)]
        raise ValueError(f"init is {config.init}, which holds {described[0]}; the config asks for {described[1]}")
    return found


def initial_encoder(run_folder: str | Path, trained: nnx.Module) -> nnx.Module:
    """The encoder that the training in a run's folder began from, computing in float32.

    Its class is that of the encoder that came of it, `trained`: code that config.json names is not run. Raises
    FileNotFoundError or ValueError where the folder has no config.json, or that is not a run's.
    """
    path = Path(run_folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, so the encoder before the training is not known")
    try:
        config = TrainConfig.from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} is not the config of a training: {error}") from None
    name = bundled_name(type(trained))
    if name != (None if config.own_encoder else config.encoder):
        raise ValueError(
            f"{path}: encoder is {config.encoder!r}, but encoder.json beside it holds a {name or 'own one'}"
        )
    return make_encoder(config, jnp.dtype("float32"), type(trained))


def encoded_shape(encoder: nnx.Module) -> tuple[int, ...]:
    """The shape of what an encoder returns for one clip: (77, width)."""
    return nnx.eval_shape(lambda encoder, audio: encoder(audio), encoder, CLIP_OF_AUDIO).shape[1:]


def check_encoded_shape(name: str, encoder: nnx.Module, width: int, mend: str = "") -> None:
    """Raise ValueError where an encoder's output is not of the shape of CLIP's hidden states; `mend` is what helps."""
    if (shape := encoded_shape(encoder)) != (77, width):
        raise ValueError(
            f"encoder {name} makes {shape} of a clip, but the hidden states of the data's CLIP are (77, {width}){mend}"
        )


def scale_initial(encoder: nnx.Module, *, branches: float, positions: float) -> nnx.Module:
    """Scale the last kernel of every residual branch of a Transformer, and its position embeddings.

    Small branches leave post-norm layers near the identity, and so their gradients even, as in GPT-2. Small positions
    leave the sound to be seen beside them.
    """
    graph, params = nnx.split(encoder)
    scales = {"self_attn.out_proj.kernel": branches, "linear2.kernel": branches, "pos_embed": positions}

    def scaled(path, value):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return value * math.prod(scale for ending, scale in scales.items() if name.endswith(ending))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(scaled, nnx.as_pure(params)))


def _sizes_of(encoder: nnx.Module) -> dict:
    return getattr(encoder, "config", {})
