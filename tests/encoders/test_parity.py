"""The five encoders against PyTorch modules built from the paper's description.

Every parameter is random, biases and norms included, and comes through the converter's tables. human and chatgpt
always have the paper's sizes; the others have them with -m full_size.
"""

from dataclasses import asdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from encoders.spectrogram import decibels_below_peak, mel_spectrogram, power_spectrum, standardize, waveform
from encoders.transformer import Transformer
from jaxsd.convert import encoder_from_torch
from jaxsd.convert.encoders import transformer_mapping
from jaxsd.pretrained.mapping import import_parameters, parameters
from tests.references.encoders import (
    Sizes,
    clips,
    randomize,
    torch,
    torch_encoder,
    torch_log_mel,
    torch_mel_filters,
    torch_power,
    torch_transformer,
)

pytestmark = pytest.mark.slow

SMALL = Sizes(96, 2, 4, 160)

CASES = [
    pytest.param(("human", None), id="human"),
    pytest.param(("chatgpt", Sizes(768, 4, 12, 2048)), id="chatgpt"),
    pytest.param(("deepseek", SMALL), id="small-deepseek"),
    pytest.param(("gemini", SMALL), id="small-gemini"),
    pytest.param(("grok", SMALL), id="small-grok"),
    pytest.param(("deepseek", Sizes(768, 12, 12, 3072)), id="deepseek", marks=pytest.mark.full_size),
    pytest.param(("gemini", Sizes(768, 8, 12, 3072)), id="gemini", marks=pytest.mark.full_size),
    pytest.param(("grok", Sizes(768, 12, 12, 3072)), id="grok", marks=pytest.mark.full_size),
]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Outputs and gradients of one encoder and of its PyTorch module, for the same parameters."""
    name, sizes = request.param
    module = randomize(torch_encoder(name, sizes))
    pcm = clips()
    expected = module(torch.tensor(pcm, dtype=torch.float32))
    weights = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    if name == "human":
        weights[1:3] = 0  # many samples of the tone and of silence tie, or nearly, for the maximum
    (expected * torch.tensor(weights)).mean().backward()

    heads = sizes and sizes.heads
    encoder = encoder_from_torch(module.state_dict(), heads=heads)
    assert encoder.config == (asdict(sizes) if sizes else {"width": 768, "stride": 1})
    expected_gradients = encoder_from_torch({key: p.grad for key, p in module.named_parameters()}, heads=heads)
    graphdef, params = nnx.split(encoder)

    def loss(params, pcm):
        y = nnx.merge(graphdef, params)(pcm)
        return (y * weights).mean(), y

    with jax.default_matmul_precision("highest"):
        gradients, batch = jax.jit(jax.grad(loss, has_aux=True))(params, pcm)
        alone = jax.jit(lambda params, pcm: nnx.merge(graphdef, params)(pcm))
        singles = np.concatenate([alone(params, clip[None]) for clip in pcm])
    return SimpleNamespace(
        expected=expected.detach().numpy(),
        batch=np.asarray(batch),
        singles=singles,
        expected_gradients={key: np.asarray(g) for key, g in parameters(expected_gradients).items()},
        gradients={".".join(map(str, path)): np.asarray(g[...]) for path, g in nnx.to_flat_state(gradients)},
    )


def test_outputs_agree(case, record_property):
    difference = abs(case.batch - case.expected).max() / case.expected.std()
    record_property("difference", float(difference))
    assert difference <= 2e-4


def test_a_clip_alone_agrees_with_the_reference_and_with_itself_in_a_batch(case):
    assert abs(case.singles - case.expected).max() <= 2e-4 * case.expected.std()
    assert abs(case.singles - case.batch).max() <= 1e-4 * case.expected.std()


def test_gradients_of_every_parameter_agree(case):
    assert case.gradients.keys() == case.expected_gradients.keys()
    for key, expected in case.expected_gradients.items():
        error = abs(case.gradients[key] - expected).max() / abs(expected).max()
        assert error <= 1e-3, f"{key}: {error:.1e}"


# --- the parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_small_transformer_agrees_where_the_norms_epsilon_matters(norm_first):
    module = randomize(torch_transformer(SMALL, norm_first), scale=0.1)
    options = {"norm_first": norm_first, "dtype": jnp.float32, "param_dtype": jnp.float32}
    target = nnx.eval_shape(lambda: Transformer(**asdict(SMALL), **options, rngs=nnx.Rngs(0)))
    tensors = {key: p.detach().numpy() for key, p in module.named_parameters()}
    ours = import_parameters(tensors, transformer_mapping("", ""), target)
    x = np.random.default_rng(2).normal(0, 0.003, (3, 77, SMALL.width)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(ours(jnp.asarray(x)), module(torch.tensor(x)).detach(), atol=2e-5)


def test_the_log_mel_spectrogram_agrees():
    window = torch.hann_window(1024, dtype=torch.float64)
    expected = torch_log_mel(torch.tensor(clips(), dtype=torch.float64) / 32767, window, torch_mel_filters())
    actual = standardize(decibels_below_peak(mel_spectrogram(waveform(clips()))))
    assert not actual[2].any()  # silence
    np.testing.assert_allclose(actual, expected, atol=3e-5)


def test_the_power_spectrum_agrees():
    window = torch.hann_window(256, dtype=torch.float64)
    expected = torch_power(torch.tensor(clips(), dtype=torch.float64) / 32767, window, 207, False)
    np.testing.assert_allclose(power_spectrum(waveform(clips()), 256, 207), expected, atol=1e-3, rtol=1e-5)
