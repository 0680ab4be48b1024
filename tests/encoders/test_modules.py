"""The encoders as NNX modules: sizes, initialization, dropout, dtypes and transformations."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import encoders
from encoders import layers
from encoders.human import Block, Head, adaptive_pool, adaptive_pools, average, largest, smallest
from encoders.spectrogram import mel_filterbank, waveform

pytestmark = pytest.mark.slow

PARAMETERS = {
    "human": 2_043_692,
    "chatgpt": 22_275_584,
    "deepseek": 85_274_112,
    "gemini": 56_825_856,
    "grok": 85_213_440,
}
SIZES = {"width": 32, "depth": 1, "heads": 4, "mlp": 48}
PCM = np.random.default_rng(0).integers(-9000, 9000, (2, 16_000)).astype(np.int16)


@cache
def small(name: str):
    """A small encoder with random parameters, these, and its forward pass under jit."""
    sizes = {"width": 64} if name == "human" else SIZES
    graphdef, params = nnx.split(nnx.eval_shape(lambda: encoders.create(name, **sizes, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(0, p.shape[0] ** -0.5, p.shape), p.dtype), params)
    forward = jax.jit(lambda params, pcm, rngs=None: nnx.merge(graphdef, params)(pcm, rngs=rngs))
    return nnx.merge(graphdef, params), params, forward


def flat(module) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(p[...]) for path, p in nnx.to_flat_state(nnx.state(module))}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_papers_sizes_have_the_papers_parameters(name):
    encoder = nnx.eval_shape(lambda: encoders.create(name, rngs=nnx.Rngs(0)))
    assert sum(p.size for p in jax.tree.leaves(nnx.state(encoder))) == PARAMETERS[name]
    pcm = jax.ShapeDtypeStruct((3, 16_000), jnp.int16)
    assert nnx.eval_shape(lambda encoder, pcm: encoder(pcm), encoder, pcm).shape == (3, 77, 768)


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_abstract_encoder_is_one_without_values(name):
    sizes = {"width": 64} if name == "human" else SIZES
    made = encoders.create(name, **sizes, rngs=nnx.Rngs(0))
    abstract = layers.abstract(partial(encoders.create, name, **sizes))
    assert abstract.config == made.config

    def shapes(model):
        return jax.tree.map(lambda p: (p.shape, p.dtype), nnx.as_pure(nnx.state(model)))

    assert shapes(abstract) == shapes(made)


def test_an_encoder_says_in_one_line_what_it_is():
    encoder = encoders.create("gemini", **SIZES, rngs=nnx.Rngs(0))
    assert repr(encoder) == str(encoder) == "Gemini(width=32, depth=1, heads=4, mlp=48): 0.01 million parameters"
    assert "parameters" in repr(layers.abstract(encoders.Human))


def test_a_strided_human_has_shorter_norms_and_the_same_output():
    encoder = layers.abstract(partial(encoders.create, "human", width=64, stride=4))
    assert encoder.config == {"width": 64, "stride": 4}
    assert {norm.scale.shape for block in encoder.blocks for norm in block.norms} == {(4_000,)}
    pcm = jax.ShapeDtypeStruct((3, 16_000), jnp.int16)
    assert nnx.eval_shape(lambda encoder, pcm: encoder(pcm), encoder, pcm).shape == (3, 77, 64)


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(
        ValueError, match="unknown encoder 'bard'; choose from human, chatgpt, deepseek, gemini, grok, or give"
    ):
        encoders.create("bard", rngs=nnx.Rngs(0))


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 30 is not a multiple of heads 4"):
        encoders.create("grok", width=30, depth=1, heads=4, mlp=8, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(16_000,), (2, 15_999), (2, 1, 16_000)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"an encoder takes clips of shape \(batch, 16000\), not"):
        waveform(np.zeros(shape, np.int16))


def test_one_clip_without_a_batch_says_how_to_make_one():
    with pytest.raises(ValueError, match=r"not \(16000,\); one clip is a batch of one, clip\[None\]"):
        waveform(PCM[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_integers_are_pcm_and_floats_are_already_in_their_range(dtype):
    floats = jnp.asarray(PCM / 32767, dtype)
    np.testing.assert_allclose(waveform(floats), waveform(PCM), atol={4: 1e-7, 2: 2e-3}[floats.dtype.itemsize])
    assert waveform(floats).dtype == jnp.float32


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, bool, np.complex64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"int16 PCM or floats in \[-1, 1\], not {np.dtype(dtype)}"):
        waveform(np.zeros((2, 16_000), dtype))


def test_floats_at_the_scale_of_integers_are_refused():
    for floats in (PCM.astype(np.float32), jnp.asarray(PCM, jnp.float32)):
        with pytest.raises(ValueError, match=r"floats in \[-1, 1\], and these reach 9000; .*clips.astype\(np.int16\)"):
            waveform(floats)


def test_gradients_reach_the_waveform():
    _, params, forward = small("gemini")
    gradient = jax.grad(lambda x: (forward(params, x) ** 2).mean())(jnp.asarray(PCM / 32767, jnp.float32))
    assert jnp.isfinite(gradient).all() and gradient.any(axis=1).all()


@pytest.mark.parametrize("name", PARAMETERS)
def test_only_parameters_are_state(name):
    state = nnx.state(nnx.eval_shape(lambda: encoders.create(name, rngs=nnx.Rngs(0))))
    assert {type(v) for _, v in nnx.to_flat_state(state)} == {nnx.Param}


@pytest.mark.parametrize("name", PARAMETERS)
def test_dropout_is_on_only_with_a_key(name):
    _, params, forward = small(name)
    y = forward(params, PCM)
    np.testing.assert_array_equal(y, forward(params, PCM))
    dropped = forward(params, PCM, jax.random.key(0))
    assert not np.allclose(y, dropped, atol=0.01)
    np.testing.assert_array_equal(dropped, forward(params, PCM, jax.random.key(0)))
    assert not np.allclose(dropped, forward(params, PCM, jax.random.key(1)), atol=0.01)


def test_rngs_give_a_new_key_for_each_call():
    rngs, key = nnx.Rngs(dropout=3), jax.random.key(0)
    assert layers.dropout_key(rngs) != layers.dropout_key(rngs)
    assert layers.dropout_key(key) is key and layers.dropout_key(None) is None


def test_attention_with_dropout_is_attention_when_nothing_is_dropped(monkeypatch):
    encoder, params, forward = small("chatgpt")
    monkeypatch.setattr(layers, "dropout", lambda x, key: x)
    monkeypatch.setattr(layers, "DROPOUT", 0.0)  # of attention weights
    jax.clear_caches()  # what was traced before has dropout, and what is traced here has none
    np.testing.assert_allclose(encoder(PCM, rngs=nnx.Rngs(0)), forward(params, PCM), atol=2e-5)
    jax.clear_caches()


def test_dropout_keeps_the_mean():
    dropped = layers.dropout(jnp.ones(100_000), jax.random.key(0))
    assert (dropped == 0).mean() == pytest.approx(0.1, abs=0.005)
    assert dropped.mean() == pytest.approx(1, abs=0.005)


def test_dropout_draws_evenly_and_its_gradient_the_same():
    key = jax.random.key(3)
    kept = np.asarray(layers.dropout(jnp.ones((40, 50, 60)), key)) > 0
    for axis in range(3):  # each line's share of what is kept is that of independent draws
        line = kept.mean(axis=axis)
        assert line.std() == pytest.approx((0.09 / kept.shape[axis]) ** 0.5, rel=0.05)
    other = np.asarray(layers.dropout(jnp.ones((40, 50, 60)), jax.random.key(4))) > 0
    assert abs(np.corrcoef(kept.ravel(), other.ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(kept.ravel()[1:], kept.ravel()[:-1])[0, 1]) < 0.01
    gradient = jax.jit(jax.grad(lambda x: layers.dropout(x, key).sum()))(jnp.zeros((40, 50, 60)))
    np.testing.assert_allclose(gradient, kept / 0.9, rtol=1e-6)


@pytest.mark.parametrize("name", ["human", "gemini"])
def test_vmap_works(name):
    _, params, forward = small(name)
    expected = forward(params, PCM)
    mapped = jax.vmap(lambda clip: forward(params, clip[None])[0])(PCM)
    np.testing.assert_allclose(mapped, expected, atol=1e-4 * float(expected.std()))


def test_gradients_with_dropout_reach_every_parameter():
    _, params, forward = small("gemini")
    gradients = jax.grad(lambda params: (forward(params, PCM, jax.random.key(0)) ** 2).mean())(params)
    assert all(jnp.isfinite(g).all() and g.any() for g in jax.tree.leaves(gradients))


def test_eager_and_nnx_jit_agree():
    encoder, params, forward = small("gemini")
    np.testing.assert_allclose(encoder(PCM), forward(params, PCM), atol=1e-4)
    np.testing.assert_allclose(nnx.jit(lambda encoder: encoder(PCM))(encoder), forward(params, PCM), atol=1e-4)


@pytest.mark.parametrize("name", PARAMETERS)
def test_bfloat16_keeps_parameters_and_outputs_in_float32(name):
    encoder, params, forward = small(name)
    build = lambda: type(encoder)(**encoder.config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))  # noqa: E731
    graphdef, abstract = nnx.split(nnx.eval_shape(build))
    assert {p.dtype for p in jax.tree.leaves(abstract)} == {jnp.dtype(jnp.float32)}
    y, expected = jax.jit(lambda params: nnx.merge(graphdef, params)(PCM))(params), forward(params, PCM)
    assert y.dtype == jnp.float32
    difference = np.sqrt(((y - expected) ** 2).mean()) / expected.std()
    assert 1e-4 < difference < 0.05


def test_initialization_follows_pytorchs_default():
    parameters = flat(encoders.create("deepseek", width=96, depth=2, heads=4, mlp=120, rngs=nnx.Rngs(0)))
    layer = "transformer.layers.0."
    limits = {
        "proj.kernel": 208**-0.5,
        "proj.bias": 208**-0.5,
        f"{layer}linear1.kernel": 96**-0.5,
        f"{layer}linear2.bias": 120**-0.5,
        f"{layer}self_attn.in_proj.kernel": (6 / (96 + 3 * 96)) ** 0.5,
        f"{layer}self_attn.out_proj.kernel": 96**-0.5,
    }
    for key, limit in limits.items():
        assert 0.9 * limit < abs(parameters[key]).max() <= limit, key
    assert parameters["pos_embed"].std() == pytest.approx(1, abs=0.05)
    assert not parameters[f"{layer}self_attn.in_proj.bias"].any()
    assert not parameters[f"{layer}self_attn.out_proj.bias"].any()
    for key in limits:
        if key.startswith(layer):
            assert not np.array_equal(parameters[key], parameters[key.replace("layers.0", "layers.1")]), key


def test_initialization_of_gemini_and_chatgpt():
    gemini = flat(encoders.create("gemini", width=96, depth=1, heads=4, mlp=120, rngs=nnx.Rngs(0)))
    layer = "transformer.layers.0."
    gain = 2**0.5
    limits = {
        "proj.kernel": gain * (6 / (80 + 96)) ** 0.5,
        f"{layer}linear1.kernel": gain * (6 / (96 + 120)) ** 0.5,
        f"{layer}self_attn.out_proj.kernel": gain * (6 / (96 + 96)) ** 0.5,
        f"{layer}self_attn.in_proj.kernel": (6 / (96 + 3 * 96)) ** 0.5,
    }
    for key, limit in limits.items():
        assert 0.98 * limit < abs(gemini[key]).max() <= limit, key
    assert not any(value.any() for key, value in gemini.items() if key.endswith("bias"))

    chatgpt = encoders.create("chatgpt", **SIZES, rngs=nnx.Rngs(0))
    assert not chatgpt.pos_embed[...].any()


def test_initialization_of_human():
    options = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    block, head = flat(Block((32, 64), 3, **options)), flat(Head(96, **options))
    assert block["convs.0.kernel"].std() == pytest.approx((2 / (32 * 3)) ** 0.5, rel=0.05)
    assert block["adapter.kernel"].std() == pytest.approx((2 / 32) ** 0.5, rel=0.05)
    assert head["linear.kernel"].std() == pytest.approx((2 / 96) ** 0.5, rel=0.05)
    assert 0.9 * 77**-0.5 < abs(head["adapter.kernel"]).max() <= 77**-0.5
    assert 0.9 * (32 * 3) ** -0.5 < abs(block["convs.0.bias"]).max() <= (32 * 3) ** -0.5


@pytest.mark.parametrize("width", [768, 64])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_pools_are_those_of_32_bits_with_their_gradients(rng, dtype, width):
    x = jnp.asarray(rng.integers(-9, 9, (1, 2, 16_000)), dtype)  # with equal values in many windows
    weights = jnp.asarray(rng.normal(size=(3, 1, 2, width)), jnp.bfloat16).astype(jnp.float32)

    def pooled(x):
        pools = jnp.stack(adaptive_pools(x, width)).astype(jnp.float32)
        return (pools * weights).sum(), pools

    (half, pools), gradient = jax.jit(jax.value_and_grad(pooled, has_aux=True))(x)
    (full, expected), expected_gradient = jax.jit(jax.value_and_grad(pooled, has_aux=True))(x.astype(jnp.float32))
    np.testing.assert_allclose(pools, expected, rtol=4e-3)
    np.testing.assert_array_equal(pools[1:], expected[1:])
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected_gradient, atol=4e-2)


@pytest.mark.parametrize("width", [768, 64, 100, 7])
@pytest.mark.parametrize(("ours", "numpys"), [(average, np.mean), (largest, np.max), (smallest, np.min)])
def test_adaptive_pooling_covers_its_windows(width, ours, numpys):
    x = np.random.default_rng(0).normal(size=(1, 2, 16_000)).astype(np.float32)
    windows = [(int(np.floor(i * 16_000 / width)), int(np.ceil((i + 1) * 16_000 / width))) for i in range(width)]
    expected = np.stack([numpys(x[..., begin:end], axis=-1) for begin, end in windows], axis=-1)
    np.testing.assert_allclose(adaptive_pool(jnp.asarray(x), width, ours), expected, rtol=1e-5, atol=1e-6)


def test_every_mel_band_holds_some_bin():
    filters = mel_filterbank(513, 80, 8000.0)
    assert filters.shape == (513, 80) and filters.min() == 0 and filters.max() <= 1
    assert (filters.max(axis=0) > 0.2).all()
