"""The encoders as NNX modules: sizes, initialisation, dropout, dtypes and transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import encoders
from encoders import layers
from encoders.human import adaptive_pool, average, largest, smallest
from encoders.spectrogram import mel_filterbank

PARAMETERS = {
    "human": 2_043_692,
    "chatgpt": 22_275_584,
    "deepseek": 85_274_112,
    "gemini": 56_825_856,
    "grok": 85_213_440,
}
SMALL = {
    "human": {"width": 64},
    "chatgpt": {"width": 32, "depth": 2, "heads": 4, "mlp": 48},
    "deepseek": {"width": 32, "depth": 2, "heads": 4, "mlp": 48},
    "gemini": {"width": 32, "depth": 2, "heads": 4, "mlp": 48},
    "grok": {"width": 32, "depth": 2, "heads": 4, "mlp": 48},
}
PCM = np.random.default_rng(0).integers(-9000, 9000, (2, 16_000)).astype(np.int16)


@pytest.fixture(scope="module", params=SMALL)
def small(request):
    return encoders.create(request.param, **SMALL[request.param], rngs=nnx.Rngs(0))


def flat(module) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(p[...]) for path, p in nnx.to_flat_state(nnx.state(module))}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_papers_sizes_have_the_papers_parameters(name):
    encoder = nnx.eval_shape(lambda: encoders.create(name, rngs=nnx.Rngs(0)))
    assert sum(p.size for p in jax.tree.leaves(nnx.state(encoder))) == PARAMETERS[name]
    pcm = jax.ShapeDtypeStruct((3, 16_000), jnp.int16)
    assert nnx.eval_shape(lambda encoder, pcm: encoder(pcm), encoder, pcm).shape == (3, 77, 768)


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match="unknown encoder 'bard'; choose from human, chatgpt, deepseek, gemini, grok"):
        encoders.create("bard", rngs=nnx.Rngs(0))


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 30 is not a multiple of heads 4"):
        encoders.create("grok", width=30, depth=1, heads=4, mlp=8, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(16_000,), (2, 15_999), (2, 1, 16_000)])
def test_other_shapes_are_refused(small, shape):
    with pytest.raises(ValueError, match=r"PCM of shape \(batch, 16000\), not"):
        small(np.zeros(shape, np.int16))


def test_only_parameters_are_state(small):
    assert all(type(v) is nnx.Param for v in jax.tree.leaves(small, is_leaf=lambda v: isinstance(v, nnx.Variable)))


def test_integers_and_floats_at_integer_scale_are_the_same(small):
    np.testing.assert_array_equal(small(PCM), small(PCM.astype(np.float32)))


def test_without_rngs_there_is_no_dropout_and_with_them_there_is(small):
    y = small(PCM)
    np.testing.assert_array_equal(y, small(PCM))
    dropped = small(PCM, rngs=nnx.Rngs(0))
    assert not np.allclose(y, dropped, atol=0.01)
    np.testing.assert_array_equal(dropped, small(PCM, rngs=nnx.Rngs(0)))
    assert not np.allclose(dropped, small(PCM, rngs=nnx.Rngs(1)), atol=0.01)


def test_rngs_advance_and_keys_do_not(small):
    rngs, key = nnx.Rngs(dropout=3), jax.random.key(3)
    assert not np.array_equal(small(PCM, rngs=rngs), small(PCM, rngs=rngs))
    np.testing.assert_array_equal(small(PCM, rngs=key), small(PCM, rngs=key))


def test_attention_with_dropout_is_attention_when_nothing_is_dropped(monkeypatch):
    encoder = encoders.create("chatgpt", **SMALL["chatgpt"], rngs=nnx.Rngs(0))
    expected = encoder(PCM)
    monkeypatch.setattr(layers, "dropout", lambda x, key: x)
    np.testing.assert_allclose(encoder(PCM, rngs=nnx.Rngs(0)), expected, atol=2e-5)


def test_dropout_keeps_the_mean():
    dropped = layers.dropout(jnp.ones(100_000), jax.random.key(0))
    assert (dropped == 0).mean() == pytest.approx(0.1, abs=0.005)
    assert dropped.mean() == pytest.approx(1, abs=0.005)


def test_jit_vmap_grad_and_split_work(small):
    expected = small(PCM)
    graphdef, params = nnx.split(small)

    def forward(params, pcm):
        return nnx.merge(graphdef, params)(pcm)

    scale = float(expected.std())
    np.testing.assert_allclose(jax.jit(forward)(params, PCM), expected, atol=1e-4 * scale)
    mapped = jax.vmap(lambda clip: forward(params, clip[None])[0])(PCM)
    np.testing.assert_allclose(mapped, expected, atol=1e-4 * scale)
    np.testing.assert_allclose(nnx.jit(lambda encoder: encoder(PCM))(small), expected, atol=1e-4 * scale)

    def loss(params, pcm, key):
        return (nnx.merge(graphdef, params)(pcm, rngs=key) ** 2).mean()

    gradients = jax.jit(jax.grad(loss))(params, PCM, jax.random.key(0))
    assert all(jnp.isfinite(g).all() and g.any() for g in jax.tree.leaves(gradients))


def test_bfloat16_keeps_parameters_outputs_and_front_end_in_float32(small):
    narrow = type(small)(**small.config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert {p.dtype for p in jax.tree.leaves(nnx.state(narrow))} == {jnp.dtype(jnp.float32)}
    y, expected = narrow(PCM), small(PCM)
    assert y.dtype == jnp.float32
    difference = np.sqrt(((y - expected) ** 2).mean()) / expected.std()
    assert 1e-5 < difference < 0.05
    assert jnp.isfinite(narrow(PCM, rngs=nnx.Rngs(0))).all()


def test_layers_start_with_different_weights(small):
    if type(small) is encoders.Human:
        pytest.skip("no two layers of human have one shape")
    parameters = flat(small)
    first = [key for key in parameters if key.startswith("transformer.layers.0.") and key.endswith("kernel")]
    assert len(first) == 4
    for key in first:
        assert not np.array_equal(parameters[key], parameters[key.replace("layers.0", "layers.1")])


def test_initialisation_follows_pytorchs_default():
    parameters = flat(encoders.create("deepseek", width=96, depth=1, heads=4, mlp=120, rngs=nnx.Rngs(0)))
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


def test_initialisation_of_gemini_chatgpt_and_human():
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

    chatgpt = flat(encoders.create("chatgpt", **SMALL["chatgpt"], rngs=nnx.Rngs(0)))
    assert not chatgpt["pos_embed"].any()

    human = flat(encoders.create("human", width=256, rngs=nnx.Rngs(0)))
    assert human["avg.linear.kernel"].std() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert human["blocks.3.convs.0.kernel"].std() == pytest.approx((2 / (64 * 3)) ** 0.5, rel=0.05)
    assert human["blocks.3.adapter.kernel"].std() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert 0.9 * 77**-0.5 < abs(human["max.adapter.kernel"]).max() <= 77**-0.5
    assert 0.9 * (64 * 3) ** -0.5 < abs(human["blocks.3.convs.0.bias"]).max() <= (64 * 3) ** -0.5


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
