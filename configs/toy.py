"""Small encoders for the toy world; by default gemini, trained through the frozen U-Net in minutes on two CPU cores.

python train.py --config toy.py
python train.py --config toy.py:aligned --config.encoder=deepseek
python train.py --config toy.py --config.encoder=my_encoder.py:MyEncoder --out runs/mine
"""

from jaxsd.configs.common import make_config

from jaxsd.config import TrainConfig, is_own_encoder, one_of

TRANSFORMER = dict(width=128, depth=3, heads=4, mlp=512)
SIZES = {"gemini": TRANSFORMER, "human": dict(width=128, stride=8)} | dict.fromkeys(
    ("chatgpt", "deepseek", "grok"), TRANSFORMER
)

# What differs from the recipes at full size: less of everything, and Muon for ours.
SHORT = {"epochs": 0, "steps": 1_200, "batch_size": 32, "remat": False, "save_every": 200, "eval_every": 600}
OURS = SHORT | {"optimizer": "muon", "learning_rate": 2e-3, "weight_decay": 0.0, "warmup": 100}
# A contrastive loss needs company in its batch; through the U-Net, a given number of sounds is worth more in many small
# batches.
DENOISED_BATCH = 8
CHANGES = {
    "toy": OURS
    | {"steps": 3_600, "eval_every": 1_200, "batch_size": DENOISED_BATCH, "denoise_batch": 0, "dropout": False},
    "paper": SHORT,
    "aligned": OURS,
    "denoise": OURS | {"batch_size": DENOISED_BATCH},
    "aligned+denoise": OURS | {"denoise_batch": DENOISED_BATCH},
}
DATA = {"folder": "data/toy", "maker": "toy", "train_size": 20_000, "held_out": 1_000}


def get_config(recipe: str = "", encoder: str = "gemini") -> TrainConfig:
    recipe = one_of("recipe", recipe or "toy", CHANGES)
    sizes = {} if is_own_encoder(encoder) else SIZES[one_of("encoder", encoder, SIZES)]
    changes = CHANGES[recipe]
    if recipe != "paper" and encoder == "human":
        # Nothing normalizes its embeddings, which start many times too large.
        changes = changes | {"learning_rate": 1e-2}
    changes = changes | {"data": DATA, "sample_images": 4}
    return make_config(encoder, sizes, recipe if recipe != "toy" else "aligned+denoise", **changes)
