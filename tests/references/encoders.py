"""PyTorch modules built from the paper's description, with the parameter names of the published checkpoints."""

from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional


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

    def __init__(self, width: int = 768):
        super().__init__()
        self.width = width
        for i, size in enumerate(self.SIZES, 1):
            before, after = self.CHANNELS[i - 1], self.CHANNELS[i]
            self.add_module(f"convolucion1d{i}", torch.nn.Conv1d(before, after, size, padding="same"))
            self.add_module(f"normalizacion{i}", torch.nn.LayerNorm(16000))
        for i, block in enumerate(self.BLOCKS, 1):
            ends = self.CHANNELS[block[0] - 1], self.CHANNELS[block[-1]]
            self.add_module(f"adaptador{i}", torch.nn.Conv1d(*ends, 1))
        for pool in ("prom", "max", "min"):
            self.add_module(f"lineal{pool}", torch.nn.Linear(width, width))
            self.add_module(f"adaptador{pool}", torch.nn.Conv1d(77, 77, 1))

    def forward(self, x):
        x = (x / 32767)[:, None]
        for i, block in enumerate(self.BLOCKS, 1):
            shortcut = getattr(self, f"adaptador{i}")(x)
            for j in block:
                x = getattr(self, f"normalizacion{j}")(F.silu(getattr(self, f"convolucion1d{j}")(x)))
            x = x + shortcut
        pooled = {
            "prom": F.adaptive_avg_pool1d(x, self.width),
            "max": F.adaptive_max_pool1d(x, self.width),
            "min": -F.adaptive_max_pool1d(-x, self.width),
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


def torch_power(x, window, hop, center):
    window = window.to(x.dtype)
    spectrum = torch.stft(x, len(window), hop, window=window, center=center, pad_mode="reflect", return_complex=True)
    return spectrum.abs().transpose(1, 2) ** 2


def torch_mel_filters():
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82)
    hz = 700 * (10 ** (mels / 2595) - 1)
    triangles = [np.interp(np.arange(513) * 15.625, hz[i : i + 3], [0, 1, 0]) for i in range(80)]
    return torch.tensor(np.stack(triangles, axis=1))


def torch_log_mel(x, window, filters):
    db = 10 * torch.log10((torch_power(x, window, 210, True) @ filters.to(x.dtype)).clamp(min=1e-10))
    db = torch.maximum(db, db.amax((1, 2), keepdim=True) - 80)
    return (db - db.mean((1, 2), keepdim=True)) / (db.std((1, 2), keepdim=True) + 1e-6)


class TorchMelSpectrogram(torch.nn.Module):
    """The constants of torchaudio.transforms.MelSpectrogram under its names."""

    def __init__(self):
        super().__init__()
        self.spectrogram, self.mel_scale = torch.nn.Module(), torch.nn.Module()
        self.spectrogram.register_buffer("window", torch.hann_window(1024))
        self.mel_scale.register_buffer("fb", torch_mel_filters().float())


class TorchGemini(torch.nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.mel_spectrogram = TorchMelSpectrogram()
        self.input_projection = torch.nn.Linear(80, sizes.width)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(1, 77, sizes.width))
        self.transformer_encoder = torch_transformer(sizes, norm_first=True)

    def forward(self, x):
        window, filters = self.mel_spectrogram.spectrogram.window, self.mel_spectrogram.mel_scale.fb
        log_mel = torch_log_mel(x.double() / 32767, window, filters).float()
        return self.transformer_encoder(self.input_projection(log_mel) + self.positional_embedding)


class TorchGrok(torch.nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.register_buffer("window", torch.hann_window(256))
        self.linear = torch.nn.Linear(129, sizes.width)
        self.pos_emb = torch.nn.Parameter(torch.zeros(77, sizes.width))
        self.transformer = torch_transformer(sizes)

    def forward(self, x):
        magnitude = torch_power(x / 32767, self.window, 207, False).sqrt()
        return self.transformer(self.linear(torch.log(1 + magnitude)) + self.pos_emb)


def torch_encoder(name: str, sizes: Sizes | None):
    """The reference of that name; human takes the width alone, and the paper's if `sizes` is None."""
    if name == "human":
        return TorchHuman(sizes.width) if sizes else TorchHuman()
    classes = {"chatgpt": TorchChatGPT, "deepseek": TorchDeepSeek, "gemini": TorchGemini, "grok": TorchGrok}
    return classes[name](sizes)


def randomize(module: torch.nn.Module, scale: float = 1.0) -> torch.nn.Module:
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


def clips() -> np.ndarray:
    """(4, 16000) int16: loud noise, a quiet tone, silence, and the two extremes in random order."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6000, 16_000).clip(-32768, 32767)
    tone = 30 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    extremes = rng.choice([-32768, 32767], 16_000)
    return np.stack([noise, tone, np.zeros(16_000), extremes]).astype(np.int16)
