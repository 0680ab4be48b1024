"""A small encoder for a small data set of one's own, from some fifty to a few thousand clips; it trains on a CPU.

python train.py --config own.py
python train.py --config own.py --config.data.folder=data/mine --config.encoder_config.width=128

The width is that of the hidden states of the data's CLIP: 768 for Stable Diffusion 1.x, 128 for the toy models.
"""

from jaxsd.configs.common import make_config

from jaxsd.config import TrainConfig

OWN_SIZES = {"width": 768, "depth": 3, "heads": 4, "mlp": 512}
SHORT_TRAINING = {"epochs": 0, "steps": 300, "batch_size": 16, "warmup": 30, "save_every": 100, "eval_every": 100}
MUON = {
    "optimizer": "muon",
    "learning_rate": 2e-3,
    "weight_decay": 0.0,
}  # as in toy.py


def get_config(recipe: str = "aligned") -> TrainConfig:
    changes = SHORT_TRAINING | (MUON if recipe != "paper" else {})
    data = {"folder": "data/own"}
    return make_config("gemini", OWN_SIZES, recipe, **changes, denoise_batch=8, remat=False, data=data, sample_images=4)
