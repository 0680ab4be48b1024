"""A LoRA of the U-Net from a few images of one's own; it trains on a CPU for the toy model.

python train.py --config lora.py
python train.py --config lora.py:sound --config.data.folder=data/night

The U-Net is conditioned on the captions, or with the recipe `sound` on the sounds, as gemini's toy encoder hears them;
`--config.encoder=FOLDER` is another one.
"""

from jaxsd.config import DataConfig, LoRAConfig, one_of

CONDITIONING = {"captions": "", "sound": "gemini"}


def get_config(recipe: str = "captions") -> LoRAConfig:
    return LoRAConfig(encoder=CONDITIONING[one_of("recipe", recipe, CONDITIONING)], data=DataConfig(folder="data/lora"))
