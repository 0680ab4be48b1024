"""A LoRA to a file, with the names of diffusers or of kohya's scripts."""

from pathlib import Path

import numpy as np

from encoders.model_spec import model_spec
from jaxsd.clip.params import TEXT_MAPPING
from jaxsd.diffusion.lora import LoRA
from jaxsd.diffusion.unet_params import UNET_MAPPING
from jaxsd.pretrained.mapping import translate
from jaxsd.pretrained.weights import write_safetensors

LORA_ARCHITECTURE = "stable-diffusion-v1/lora"  # of the ModelSpec
LORA_NAMES = ("diffusers", "kohya")
KOHYA_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
COMPONENT_MAPPINGS = {"unet": UNET_MAPPING, "text_encoder": TEXT_MAPPING}


def write_lora(lora: LoRA, path: str | Path, *, names: str = "diffusers", title: str = "LoRA") -> None:
    """Write the factors of a LoRA as one safetensors file, float32, with the metadata of the ModelSpec.

    Args:
        lora: The LoRA; its weight is not written.
        path: The file, in a folder that is there.
        names: A name of LORA_NAMES. With those of diffusers, alpha is the rank where a file does not say it, and with
            those of kohya's scripts it is written.
        title: For the metadata.

    Raises:
        ValueError: A value is not finite; then nothing is written.
    """
    tensors = {}
    for component, kernels in lora.factors.items():
        for name, factors in kernels.items():
            translated = translate(COMPONENT_MAPPINGS[component], name, backwards=True)
            assert translated  # as every parameter has a rule
            layer = translated[0].removesuffix(".weight")
            down, up = (np.asarray(factor, np.float32) for factor in factors)
            rank = len(up)
            if down.ndim == 4:  # a convolution of the kernel's size, and one of 1 x 1
                down, up = down.transpose(3, 2, 0, 1), up.T[:, :, None, None]
            else:
                down, up = down.T, up.T
            if names == "kohya":
                prefix = KOHYA_PREFIXES[component] + layer.replace(".", "_")
                parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": np.float32(rank)}
            else:
                prefix = f"{component}.{layer}"
                parts = {"lora_A.weight": down, "lora_B.weight": up}
            tensors |= {f"{prefix}.{part}": np.asarray(array, order="C") for part, array in parts.items()}
    write_safetensors(tensors, Path(path), model_spec(title, LORA_ARCHITECTURE))
