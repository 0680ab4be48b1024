"""The recipes of training, for an encoder of any size. The default is the paper's, to the letter (arXiv 2509.09717)."""

from ml_collections import ConfigDict

from jaxsd.config import one_of

POST_NORM = ("chatgpt", "deepseek", "grok")

PAPER = {
    "data": {"folder": "data/avt"},
    "init": "",  # a folder with an encoder to start from
    # What the loss is made of, and how much each part weighs.
    "weights": {"contrastive": 1.0, "sequence": 0.0, "denoise": 0.0},
    "text_pooling": "eos",  # CLIP's own; "bos", a constant, gives the published numbers
    "audio_pooling": "mean",  # the paper does not say which row, or that it is the mean
    "learned_temperature": False,
    "dropout": True,
    # For how long: epochs or steps, the other being 0.
    "epochs": 32,
    "steps": 0,
    "batch_size": 1151,
    "denoise_batch": 0,  # the rows of a batch that go through the U-Net; 0: all
    # The paper gives the learning rate and no more.
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0,  # steps
    "weight_decay": 0.0,
    "clip_norm": 0.0,  # 0: no clipping
    "branch_init": 1.0,  # scales what starts a Transformer's residual branches
    "position_init": 1.0,  # scales what starts its position embeddings
    "average_decay": 0.0,  # of the moving average of the parameters, which is what a run leaves; 0: the last ones
    # How it is computed: this changes the result by rounding, and accumulate by what dropout draws, but no further.
    "accumulate": 1,  # parts in which a batch goes through the encoder
    "remat": False,  # compute activations again instead of keeping them
    "dtype": "auto",  # bfloat16 on an accelerator, float32 on a CPU
    "seed": 0,
    "save_every": 1000,  # steps
    "eval_every": 0,  # steps; 0: every epoch
}

ALIGNED = {
    "weights": {"contrastive": 1.0, "sequence": 1.0, "denoise": 0.0},
    "learned_temperature": True,
    "optimizer": "adamw",
    "learning_rate": 5e-4,
    "schedule": "cosine",
    "warmup": 2000,
    "weight_decay": 0.05,
    "clip_norm": 1.0,
    "average_decay": 0.999,
}
DENOISE = ALIGNED | {
    "weights": {"contrastive": 0.0, "sequence": 0.0, "denoise": 1.0},
    "learned_temperature": False,
    "dropout": False,
    "epochs": 1,
    "batch_size": 128,
    "remat": True,
}
RECIPES = {
    "paper": {},
    "aligned": ALIGNED,
    "denoise": DENOISE,
    "aligned+denoise": ALIGNED
    | {
        "weights": {"contrastive": 0.03, "sequence": 0.03, "denoise": 1.0},
        "epochs": 10,
        "denoise_batch": 64,
        "remat": True,
    },
}


def make_config(encoder: str, sizes: dict[str, int], recipe: str, **changes) -> ConfigDict:
    """The config of an encoder of these sizes by a recipe ("" is "paper"), with `changes` to it.

    Raises ValueError for an unknown recipe.
    """
    recipe = one_of("recipe", recipe or "paper", RECIPES)
    if recipe != "paper" and encoder in POST_NORM:
        # Behind twelve post-norm layers, gradients at the start are too uneven for the rate of the others. Beside
        # standard normal positions a projected waveform is a fortieth, and the first norm leaves little of it.
        changes = {"learning_rate": 2e-4, "branch_init": (2 * sizes["depth"]) ** -0.5, "position_init": 0.02} | changes
    return ConfigDict({"encoder": encoder, "encoder_config": sizes, **PAPER, **RECIPES[recipe], **changes})
