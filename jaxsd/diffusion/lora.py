"""LoRA (Hu et al., arXiv 2106.09685): low-rank changes to the kernels of the U-Net and of the text encoder.

A LoRA holds two factors for each kernel that it changes: kernel + weight * alpha / rank * (down @ up). The files of
kohya's scripts, diffusers and PEFT name the same layers in different ways. All of them lead to one table here.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import safe_open

from jaxsd.clip.params import TEXT_MAPPING
from jaxsd.clip.towers import TextModel
from jaxsd.diffusion.single_file import unet_mapping
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.unet_params import UNET_MAPPING
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.mapping import MOST_PROBLEMS, Rule, parameters, translate, with_parameters
from jaxsd.pretrained.recognize import OTHER_LORAS, OTHER_MODELS, SD2, SDXL, recognize_keys
from jaxsd.pretrained.weights import SAFETENSORS, open_tensors
from jaxsd.runtime.files import read_json
from jaxsd.runtime.progress import counted

COMPONENTS_WITH_LORA = ("unet", "text_encoder")
# What the files of a folder or a repository are called: diffusers' name, then PEFT's.
LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_model.bin")
PEFT_CONFIG = "adapter_config.json"
DIFFUSERS_METADATA = "lora_adapter_metadata"

# What may stand before the name of a layer.
LORA_PREFIX = re.compile(r"((base_model\.model|unet|text_encoder|diffusion_model)\.)*(lora_unet_|lora_te1?_)?")
# The name of a layer, and what of it a key holds. The names of the factors: kohya's, PEFT's, diffusers' older ones.
LORA_KEY = re.compile(
    r"(?P<layer>.+?)(\.lora_(?P<kohya>down|up|mid)\.weight|\.lora_(?P<peft>[AB])(\.\w+)?\.weight"
    r"|(\.lora|\.lora_linear_layer|_lora)\.(?P<old>down|up)\.weight|(_lora)?\.(?P<alpha>alpha))"
)
PEFT_FACTORS = {"A": "down", "B": "up"}
WIDTH_OF_OTHERS = {2048: SDXL, 1024: SD2}  # of the embeddings that the cross-attention takes


class Factors(NamedTuple):
    """The change of one kernel: down @ up, float32. alpha / rank is in `up`."""

    down: Float[Array, "*kernel rank"]
    up: Float[Array, "rank features"]


@dataclass(eq=False)
class LoRA:
    """Factors by component and name of the kernel, and the weight that the next image is drawn with.

    factors: The keys are those of COMPONENTS_WITH_LORA; a component that the LoRA leaves as it is has no factors.
    """

    factors: Mapping[str, Mapping[str, Factors]]
    weight: float = 1.0

    def __post_init__(self):
        if not math.isfinite(self.weight):
            raise ValueError(f"the weight of a LoRA is {self.weight}; allowed: a finite number")

    def arrays(self) -> dict[str, np.ndarray | jax.Array]:
        """The factors by name."""
        return {
            f"{component}.{name}.{part}": array
            for component, kernels in self.factors.items()
            for name, factors in kernels.items()
            for part, array in factors._asdict().items()
        }


def parse_lora(argument: str) -> tuple[str, float]:
    """`style.safetensors:0.7` as source and weight; without a number at its end, the weight is 1."""
    source, _, weight = argument.rpartition(":")
    try:
        return (source, float(weight)) if source else (argument, 1.0)
    except ValueError:
        return argument, 1.0


def read_lora(source: str | Path, unet: UNet, text_encoder: TextModel, weight: float = 1.0) -> LoRA:
    """Read the LoRA of a Stable Diffusion 1.x.

    Args:
        source: A file (.safetensors, or .pt and .bin of which no code is run), or a folder or Hugging Face repository
            with a file that diffusers or PEFT named.
        unet: The U-Net whose kernels the LoRA changes.
        text_encoder: The text encoder, likewise.
        weight: How much of the LoRA is applied.

    Raises:
        FileNotFoundError, ValueError: Name the file that is missing, damaged, of another model or another kind, and the
            keys that do not fit.
    """
    path, layers = open_lora(source)
    models = {"unet": unet, "text_encoder": text_encoder}
    kernels = {name: parameters(model) for name, model in models.items()}
    table = _layer_table(unet, kernels)
    config = _read_adapter_config(path)
    factors: dict[str, dict[str, Factors]] = {name: {} for name in COMPONENTS_WITH_LORA}
    problems = []
    for layer, parts in layers.items():
        found = table.get(_plain(layer))
        if found is None:
            problems.append(f"unknown layer {layer}")
            continue
        component, name = found
        if name in factors[component]:
            problems.append(f"{layer} is there under two names")
            continue
        problem = _misfit(layer, parts, kernels[component][name].shape)
        if problem:
            problems.append(problem)
            continue
        factors[component][name] = _factors(parts, config.scale(component, layer, parts), kernels[component][name])
    if problems:
        more = f" and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        raise ValueError(f"{path} does not fit: {'; '.join(sorted(problems)[:MOST_PROBLEMS])}{more}")
    for component, changes in factors.items():
        for name, change in changes.items():
            if not all(np.isfinite(part).all() for part in change):
                raise ValueError(f"{path}: the change of {component}.{name} has values that are not finite")
    return LoRA(factors, weight)


def open_lora(source: str | Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The file of a LoRA, and the tensors of each layer by what they are: down, up, mid, alpha.

    `source` is that of `read_lora`. Raises what that raises, but for what does not fit a model.
    """
    path = _find_lora(source)
    tensors = open_tensors([path])
    if other := recognize_keys(tensors, OTHER_LORAS):
        raise ValueError(f"{path} is {other}; allowed: a LoRA of Stable Diffusion 1.x")
    return path, _group_by_layer(path, tensors)


def apply_loras(model: UNet | TextModel, component: str, loras: Iterable[LoRA]):
    """A copy of `model` with the change of every LoRA added to its kernels, or `model` where there is none.

    The weights are traced: another weight compiles nothing.
    """
    changes = [(lora.factors.get(component, {}), jnp.float32(lora.weight)) for lora in loras]
    changes = [(factors, weight) for factors, weight in changes if factors]
    if not changes:
        return model
    values = parameters(model)
    changed = {name: values[name] for name in sorted({name for factors, _ in changes for name in factors})}
    return with_parameters(model, values | add_changes(changed, changes))


@jax.jit
def add_changes(kernels: dict[str, Array], changes: list[tuple[Mapping[str, Factors], Array]]) -> dict[str, Array]:
    """Kernels plus weight * down @ up of each change, summed in float32, in the dtype of the kernels."""
    added = {}
    for name, kernel in kernels.items():
        total = kernel.astype(jnp.float32)
        for factors, weight in changes:
            if name in factors:
                down, up = factors[name]
                total += weight * jnp.tensordot(down, up, axes=1, precision="highest")
        added[name] = total.astype(kernel.dtype)
    return added


def _find_lora(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file() or path.suffix in (SAFETENSORS, ".pt", ".bin", ".pth", ".ckpt"):
        return path
    folder = fetch(source, (*LORA_FILES, PEFT_CONFIG))
    for name in LORA_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{source} holds no LoRA; allowed: a file, or a folder with {', '.join(LORA_FILES)}")


def _group_by_layer(path: Path, tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tensors of each layer of a LoRA by what they are: down, up, mid, alpha."""
    layers: dict[str, dict[str, Any]] = {}
    unknown = []
    for key, tensor in tensors.items():
        found = LORA_KEY.fullmatch(key)
        if found is None:
            unknown.append(key)
            continue
        part = found["kohya"] or PEFT_FACTORS.get(found["peft"]) or found["old"] or "alpha"
        parts = layers.setdefault(found["layer"], {})
        if part in parts:
            raise ValueError(f"{path}: {found['layer']} has two tensors {part}")
        parts[part] = tensor
    if not layers:
        other = recognize_keys(tensors, OTHER_MODELS)
        raise ValueError(f"{path} is {other or 'no LoRA'}: no key ends in lora_down.weight or lora_A.weight")
    if unknown:
        raise ValueError(
            f"{path}: {unknown[0]} belongs to no LoRA that is known here ({counted(len(unknown), 'such key')})"
        )
    return layers


def _plain(layer: str) -> str:
    """A layer's name without prefix and with underscores alone, as kohya's scripts write all names."""
    layer = layer.removeprefix("lora_unet_").replace(".processor.", ".")
    return LORA_PREFIX.sub("", layer, count=1).replace(".", "_")


def _layer_table(unet: UNet, kernels: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """The component and the kernel that each plain name of a layer stands for."""
    mappings: dict[str, list[tuple[Rule, ...]]] = {
        "unet": [UNET_MAPPING, unet_mapping(unet.config, "", "")],
        "text_encoder": [TEXT_MAPPING],
    }
    table = {}
    for component, names in kernels.items():
        for name in names:
            if not name.endswith(".kernel"):
                continue
            for mapping in mappings[component]:
                translated = translate(mapping, name, backwards=True)
                if translated is None:
                    continue
                layer = translated[0].removesuffix(".weight").replace(".", "_")
                aliases = {layer, layer.removesuffix("_to_out_0") + "_to_out" if layer.endswith("_to_out_0") else layer}
                if component == "text_encoder":
                    aliases.add(layer.removeprefix("text_model_"))
                    # The first diffusers called the projections of the text encoder as those of the U-Net.
                    aliases.add(re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", layer))
                table |= dict.fromkeys(aliases, (component, name))
    return table


def _misfit(layer: str, parts: Mapping[str, Any], kernel: tuple[int, ...]) -> str | None:
    """Why the tensors of a layer do not change a kernel (inputs, outputs) or (height, width, inputs, outputs)."""
    for part in ("down", "up"):
        if part not in parts:
            return f"{layer} has no factor {part}"
    *size, inputs, outputs = kernel
    rank = parts["up"].shape[1] if len(parts["up"].shape) > 1 else 0
    mid = "mid" in parts
    expected = {"down": (rank, inputs, *([] if mid else size)), "up": (outputs, rank)}
    if mid:
        expected["mid"] = (rank, rank, *size)
    for part, shape in expected.items():
        given = tuple(parts[part].shape)
        if rank < 1 or len(given) not in (2, 4) or given + (1, 1) * (len(given) == 2) != (shape + (1, 1))[:4]:
            other = WIDTH_OF_OTHERS.get(given[1] if part == "down" and re.search("attn2.to_[kv]", layer) else 0)
            whose = f", as in {other}" if other and other != inputs else ""
            return f"{layer} has a factor {part} of shape {given}{whose}, expected {shape}"
    if "alpha" in parts and math.prod(parts["alpha"].shape) != 1:
        return f"{layer} has an alpha of shape {tuple(parts['alpha'].shape)}, expected one number"
    return None


def _factors(parts: Mapping[str, Any], scale: float, kernel: Any) -> Factors:
    down, up = (np.asarray(parts[part]).astype(np.float32) for part in ("down", "up"))
    up = up.reshape(up.shape[:2])
    if "mid" in parts:  # LoCon's Tucker form: a 1x1 convolution, one of the kernel's size, a 1x1 convolution
        mid = np.asarray(parts["mid"]).astype(np.float32)
        down = np.einsum("srhw,ri->sihw", mid, down.reshape(down.shape[:2]))
    if len(kernel.shape) == 4:
        down = down.reshape(*down.shape[:2], *kernel.shape[:2]).transpose(2, 3, 1, 0)
    else:
        down = down.reshape(down.shape[:2]).T
    return Factors(jnp.asarray(down), jnp.asarray(scale * up.T))


@dataclass(frozen=True)
class _AdapterConfig:
    """PEFT's LoraConfig of each component ("" where the file is of one), as far as it scales the factors."""

    configs: Mapping[str, Mapping[str, Any]]

    def scale(self, component: str, layer: str, parts: Mapping[str, Any]) -> float:
        """alpha / rank. Without an alpha of the file's or of its config's, alpha is the rank."""
        rank = parts["up"].shape[1]
        if "alpha" in parts:
            return float(np.asarray(parts["alpha"]).astype(np.float64).reshape(())) / rank
        config = self.configs.get(component, self.configs.get("", {}))
        alpha = config.get("lora_alpha", rank)
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                alpha = value
                break
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_adapter_config(path: Path) -> _AdapterConfig:
    """The configs in the metadata of diffusers' file, or beside PEFT's. Raises ValueError for one that is not LoRA."""
    beside = path.parent / PEFT_CONFIG
    where: Path = path
    packed: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    if path.suffix == SAFETENSORS:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(DIFFUSERS_METADATA)
        try:
            packed = json.loads(text) if text else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: {DIFFUSERS_METADATA} is no JSON: {error}") from None
    for key, value in packed.items():
        component, _, name = key.rpartition(".")
        configs.setdefault(component, {})[name] = value
    if not configs and path.name in LORA_FILES[1:] and beside.is_file():
        where, configs = beside, {"": read_json(beside)}
    for config in configs.values():
        alpha = config.get("lora_alpha", 1)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ValueError(f"{where}: lora_alpha is {alpha!r}; allowed: a finite number")
        if config.get("use_dora") or config.get("peft_type", "LORA") != "LORA":
            kind = "DoRA" if config.get("use_dora") else config["peft_type"]
            raise ValueError(f"{where}: the adapter is a {kind}; allowed: LoRA")
    return _AdapterConfig(configs)
