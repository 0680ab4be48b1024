"""The five encoders against PyTorch modules built from the paper's description.

The modules carry the parameter names of the published checkpoints. Every parameter is random, biases and norms
included. human and chatgpt always have the paper's sizes; the others have them with -m full_size.
"""

from dataclasses import asdict, dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import encoders
from encoders.spectrogram import decibels_below_peak, mel_spectrogram, power_spectrum, standardise, waveform
from encoders.transformer import Transformer

torch = pytest.importorskip("torch")
F = torch.nn.functional


# --- the references -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    width: int
    depth: int
    heads: int
    mlp: int


SMALL = Sizes(96, 2, 4, 160)


def torch_transformer(sizes: Sizes, norm_first: bool = False):
    layer = torch.nn.TransformerEncoderLayer(
        sizes.width, sizes.heads, sizes.mlp, activation="gelu", batch_first=True, norm_first=norm_first
    )
    norm = torch.nn.LayerNorm(sizes.width) if norm_first else None
    return torch.nn.TransformerEncoder(layer, sizes.depth, norm=norm, enable_nested_tensor=False)


class TorchHuman(torch.nn.Module):
    CHANNELS = (1, 2, 4, 8, 16, 32, 64, 77)
    SIZES = (25, 25, 5, 5, 3, 3, 3)
    BLOCKS = ((1, 2), (3, 4), (5, 6), (7,))

    def __init__(self):
        super().__init__()
        for i, size in enumerate(self.SIZES, 1):
            before, after = self.CHANNELS[i - 1], self.CHANNELS[i]
            self.add_module(f"convolucion1d{i}", torch.nn.Conv1d(before, after, size, padding="same"))
            self.add_module(f"normalizacion{i}", torch.nn.LayerNorm(16000))
        for i, block in enumerate(self.BLOCKS, 1):
            ends = self.CHANNELS[block[0] - 1], self.CHANNELS[block[-1]]
            self.add_module(f"adaptador{i}", torch.nn.Conv1d(*ends, 1))
        for pool in ("prom", "max", "min"):
            self.add_module(f"lineal{pool}", torch.nn.Linear(768, 768))
            self.add_module(f"adaptador{pool}", torch.nn.Conv1d(77, 77, 1))

    def forward(self, x):
        x = (x / 32767)[:, None]
        for i, block in enumerate(self.BLOCKS, 1):
            shortcut = getattr(self, f"adaptador{i}")(x)
            for j in block:
                x = getattr(self, f"normalizacion{j}")(F.silu(getattr(self, f"convolucion1d{j}")(x)))
            x = x + shortcut
        pooled = {
            "prom": F.adaptive_avg_pool1d(x, 768),
            "max": F.adaptive_max_pool1d(x, 768),
            "min": -F.adaptive_max_pool1d(-x, 768),
        }
        return sum(getattr(self, f"lineal{k}")(p) + getattr(self, f"adaptador{k}")(p) for k, p in pooled.items())


class TorchChatGPT(torch.nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.proj = torch.nn.Conv1d(1, sizes.width, 208, stride=208)
        self.pos_embed = torch.nn.Parameter(torch.zeros(77, sizes.width))
        self.transformer = torch_transformer(sizes)

    def forward(self, x):
        patches = self.proj(F.pad(x / 32767, (0, 16))[:, None]).transpose(1, 2)
        return self.transformer(patches + self.pos_embed)


class TorchDeepSeek(torch.nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.conv1 = torch.nn.Conv1d(1, sizes.width, 208, stride=208)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(1, 77, sizes.width))
        self.transformer = torch_transformer(sizes)

    def forward(self, x):
        patches = self.conv1(F.pad(x / 32767, (0, 16))[:, None]).transpose(1, 2)
        return self.transformer(patches + self.positional_embedding)


def torch_power(x, size, hop, center):
    window = torch.hann_window(size, dtype=x.dtype)
    spectrum = torch.stft(x, size, hop, window=window, center=center, pad_mode="reflect", return_complex=True)
    return spectrum.abs().transpose(1, 2) ** 2


def torch_log_mel(x):
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82)
    hz = 700 * (10 ** (mels / 2595) - 1)
    triangles = [np.interp(np.arange(513) * 15.625, hz[i : i + 3], [0, 1, 0]) for i in range(80)]
    filters = torch.tensor(np.stack(triangles, axis=1), dtype=x.dtype)
    db = 10 * torch.log10((torch_power(x, 1024, 210, True) @ filters).clamp(min=1e-10))
    db = torch.maximum(db, db.amax((1, 2), keepdim=True) - 80)
    return (db - db.mean((1, 2), keepdim=True)) / (db.std((1, 2), keepdim=True) + 1e-6)


class TorchGemini(torch.nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.input_projection = torch.nn.Linear(80, sizes.width)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(1, 77, sizes.width))
        self.transformer_encoder = torch_transformer(sizes, norm_first=True)

    def forward(self, x):
        log_mel = torch_log_mel(x.double() / 32767).float()
        return self.transformer_encoder(self.input_projection(log_mel) + self.positional_embedding)


class TorchGrok(torch.nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.linear = torch.nn.Linear(129, sizes.width)
        self.pos_emb = torch.nn.Parameter(torch.zeros(77, sizes.width))
        self.transformer = torch_transformer(sizes)

    def forward(self, x):
        magnitude = torch_power(x / 32767, 256, 207, False).sqrt()
        return self.transformer(self.linear(torch.log(1 + magnitude)) + self.pos_emb)


# --- their parameters by our names: {key here: (key there, its value here)} -----------------------------------------


def dense(ours, theirs):
    return {f"{ours}.kernel": (f"{theirs}.weight", lambda w: w.T), f"{ours}.bias": (f"{theirs}.bias", np.asarray)}


def conv(ours, theirs):
    kernel = {f"{ours}.kernel": (f"{theirs}.weight", lambda w: w.transpose(2, 1, 0))}
    return kernel | {f"{ours}.bias": (f"{theirs}.bias", np.asarray)}


def patches(ours, theirs):
    return dense(ours, theirs) | {f"{ours}.kernel": (f"{theirs}.weight", lambda w: w[:, 0].T)}


def norm(ours, theirs):
    return {f"{ours}.scale": (f"{theirs}.weight", np.asarray), f"{ours}.bias": (f"{theirs}.bias", np.asarray)}


def positions(theirs):
    return {"pos_embed": (theirs, lambda w: w.reshape(w.shape[-2:]))}


def transformer(ours, theirs, depth):
    names = {}
    for i in range(depth):
        here, there = f"{ours}layers.{i}", f"{theirs}layers.{i}"
        names |= {
            f"{here}.self_attn.in_proj.kernel": (f"{there}.self_attn.in_proj_weight", lambda w: w.T),
            f"{here}.self_attn.in_proj.bias": (f"{there}.self_attn.in_proj_bias", np.asarray),
        }
        names |= dense(f"{here}.self_attn.out_proj", f"{there}.self_attn.out_proj")
        for part in ("linear1", "linear2"):
            names |= dense(f"{here}.{part}", f"{there}.{part}")
        for part in ("norm1", "norm2"):
            names |= norm(f"{here}.{part}", f"{there}.{part}")
    return names


def human_names():
    names = {}
    steps = [(block, step) for block in range(4) for step in range(1 if block == 3 else 2)]
    for i, (block, step) in enumerate(steps, 1):
        names |= conv(f"blocks.{block}.convs.{step}", f"convolucion1d{i}")
        names |= norm(f"blocks.{block}.norms.{step}", f"normalizacion{i}")
    for block in range(4):
        names |= conv(f"blocks.{block}.adapter", f"adaptador{block + 1}")
    for ours, theirs in (("avg", "prom"), ("max", "max"), ("min", "min")):
        names |= dense(f"{ours}.linear", f"lineal{theirs}") | conv(f"{ours}.adapter", f"adaptador{theirs}")
    return names


def chatgpt_names(depth):
    return patches("proj", "proj") | positions("pos_embed") | transformer("transformer.", "transformer.", depth)


def deepseek_names(depth):
    names = patches("proj", "conv1") | positions("positional_embedding")
    return names | transformer("transformer.", "transformer.", depth)


def gemini_names(depth):
    names = dense("proj", "input_projection") | positions("positional_embedding")
    names |= transformer("transformer.", "transformer_encoder.", depth)
    return names | norm("transformer.norm", "transformer_encoder.norm")


def grok_names(depth):
    return dense("proj", "linear") | positions("pos_emb") | transformer("transformer.", "transformer.", depth)


# --- running both ---------------------------------------------------------------------------------------------------


def randomise(module: torch.nn.Module, scale: float = 1.0) -> torch.nn.Module:
    """Every parameter random: weights keep the size of activations, norms stay near 1."""
    generator = torch.Generator().manual_seed(0)
    norms = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.LayerNorm)}
    for p in module.parameters():
        p.data.normal_(generator=generator)
        if id(p) in norms:
            p.data.mul_(0.2).add_(1)
        elif p.dim() == 1:
            p.data.mul_(0.2 * scale)
        elif p.shape[-2] != 77:
            p.data.mul_(scale * p[0].numel() ** -0.5)
    return module.eval()


def by_our_names(names, tensors):
    assert {there for there, _ in names.values()} == set(tensors)
    return {here: value(tensors[there].numpy()) for here, (there, value) in names.items()}


def filled(build, tensors):
    """The module `build` makes, with these parameters and no others."""
    graphdef, state = nnx.split(nnx.eval_shape(build))
    parameters = {".".join(map(str, path)): (path, p) for path, p in nnx.to_flat_state(state)}
    assert {key: p.shape for key, (_, p) in parameters.items()} == {key: t.shape for key, t in tensors.items()}
    flat = {path: p.replace(jnp.asarray(tensors[key])) for key, (path, p) in parameters.items()}
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def clips() -> np.ndarray:
    """(4, 16000) int16: loud noise, a quiet tone, silence, and the two extremes in random order."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6000, 16_000).clip(-32768, 32767)
    tone = 30 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    extremes = rng.choice([-32768, 32767], 16_000)
    return np.stack([noise, tone, np.zeros(16_000), extremes]).astype(np.int16)


def torch_encoder(name: str, sizes: Sizes | None):
    """The reference, its parameters' names, and the keyword arguments of ours."""
    if sizes is None:
        return TorchHuman(), human_names(), {}
    classes = {"chatgpt": TorchChatGPT, "deepseek": TorchDeepSeek, "gemini": TorchGemini, "grok": TorchGrok}
    names = {"chatgpt": chatgpt_names, "deepseek": deepseek_names, "gemini": gemini_names, "grok": grok_names}
    return classes[name](sizes), names[name](sizes.depth), asdict(sizes)


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
    """Outputs and gradients of one encoder here and there, for the same parameters."""
    name, sizes = request.param
    module, names, keywords = torch_encoder(name, sizes)
    randomise(module)
    pcm = clips()
    expected = module(torch.tensor(pcm, dtype=torch.float32))
    weights = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    if name == "human":
        weights[1:3] = 0  # many samples of the tone and of silence tie, or nearly, for the maximum
    (expected * torch.tensor(weights)).mean().backward()

    encoder = filled(
        lambda: encoders.create(name, **keywords, rngs=nnx.Rngs(0)),
        by_our_names(names, {key: p.detach() for key, p in module.named_parameters()}),
    )
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
        expected_gradients=by_our_names(names, {key: p.grad for key, p in module.named_parameters()}),
        gradients={".".join(map(str, path)): np.asarray(g[...]) for path, g in nnx.to_flat_state(gradients)},
    )


def test_outputs_agree(case, record_property):
    difference = abs(case.batch - case.expected).max() / case.expected.std()
    record_property("difference", difference)
    assert difference <= 2e-4


def test_a_clip_alone_agrees_with_the_reference_and_with_itself_in_a_batch(case):
    assert abs(case.singles - case.expected).max() <= 2e-4 * case.expected.std()
    assert abs(case.singles - case.batch).max() <= 1e-4 * case.expected.std()


def test_gradients_of_every_parameter_agree(case):
    for key, expected in case.expected_gradients.items():
        error = abs(case.gradients[key] - expected).max() / abs(expected).max()
        assert error <= 1e-3, f"{key}: {error:.1e}"


# --- the parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_small_transformer_agrees_where_the_norms_epsilon_matters(norm_first):
    module = randomise(torch_transformer(SMALL, norm_first), scale=0.1)
    names = transformer("", "", SMALL.depth) | (norm("norm", "norm") if norm_first else {})
    tensors = by_our_names(names, {key: p.detach() for key, p in module.named_parameters()})
    options = {"norm_first": norm_first, "dtype": jnp.float32, "param_dtype": jnp.float32}
    ours = filled(lambda: Transformer(**asdict(SMALL), **options, rngs=nnx.Rngs(0)), tensors)
    x = np.random.default_rng(2).normal(0, 0.003, (3, 77, SMALL.width)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(ours(jnp.asarray(x)), module(torch.tensor(x)).detach(), atol=2e-5)


def test_the_log_mel_spectrogram_agrees():
    expected = torch_log_mel(torch.tensor(clips(), dtype=torch.float64) / 32767)
    actual = standardise(decibels_below_peak(mel_spectrogram(waveform(clips()))))
    assert not actual[2].any()  # silence
    np.testing.assert_allclose(actual, expected, atol=3e-5)


def test_the_power_spectrum_agrees():
    expected = torch_power(torch.tensor(clips(), dtype=torch.float64) / 32767, 256, 207, False)
    np.testing.assert_allclose(power_spectrum(waveform(clips()), 256, 207), expected, atol=1e-3, rtol=1e-5)
