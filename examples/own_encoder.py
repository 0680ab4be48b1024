"""An audio encoder of one's own, for the toy world. Train it, and draw what it hears:

python train.py --config toy.py --config.encoder=examples/own_encoder.py:OwnEncoder --out runs/own-encoder
python generate.py --audio dog.wav --encoder runs/own-encoder --trust-code

`encoders.AudioEncoder` says what such a class must have.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from encoders.spectrogram import decibels_below_peak, mel_spectrogram, waveform


class OwnEncoder(nnx.Module):
    """Two convolutions over the time of a log-mel spectrogram: (batch, 16000) clips -> (batch, 77, width)."""

    operations = {"GELU": 1, "branching": 2}  # for the layer counts, which see modules and no functions

    def __init__(self, *, width: int = 128, channels: int = 256, rngs: nnx.Rngs):
        self.width, self.channels = width, channels
        self.conv1 = nnx.Conv(80, channels, kernel_size=(9,), rngs=rngs)
        self.conv2 = nnx.Conv(channels, channels, kernel_size=(9,), rngs=rngs)
        self.summary = nnx.Linear(channels, channels, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((77, channels)))
        self.dropout = nnx.Dropout(0.1)
        self.out = nnx.Linear(channels, width, rngs=rngs)

    @property
    def config(self) -> dict[str, int]:
        return {"width": self.width, "channels": self.channels}

    def __call__(self, clips, *, rngs=None):
        x = decibels_below_peak(mel_spectrogram(waveform(clips))) / 40 + 1  # (batch, 77, 80) from -1 to 1
        x = jax.nn.gelu(self.conv1(x))
        x = x + jax.nn.gelu(self.conv2(x))
        x = x + self.summary(x.mean(axis=1, keepdims=True)) + self.positions[None]
        return self.out(self.dropout(x, deterministic=rngs is None, rngs=rngs))
