"""Encoders and LoRAs to the Hugging Face hub, each with a model card and with ModelSpec metadata in its header."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

import encoders
from encoders.model_spec import model_spec, with_metadata
from encoders.store import (
    ENCODER_JSON,
    ENCODER_WEIGHTS,
    MODEL_SPEC_ARCHITECTURE,
    NOT_SIZE_KEYS,
    bundled_encoders,
    find_encoder_file,
)
from jaxsd.diffusion.lora import LORA_FILES, PEFT_CONFIG, open_lora
from jaxsd.diffusion.lora_saving import LORA_ARCHITECTURE
from jaxsd.pretrained.hub import REPOSITORY
from jaxsd.pretrained.weights import SAFETENSORS, open_tensors
from jaxsd.recipes.recipe import hash_file
from jaxsd.runtime.files import write_json

LIBRARY = "jaxsd"
CARD = "README.md"
ENCODER_CARD = """\
# {title}

An audio encoder for [Stable Diffusion](https://arxiv.org/abs/2112.10752): one second of sound to 77 vectors of width
{width}, in the place of a text's hidden states ([arXiv 2509.09717](https://arxiv.org/abs/2509.09717)).

| | |
|---|---|
{table}

```python
import encoders

encoder = encoders.load("{repository}"{trust})
embeddings = encoder(clips)  # (batch, 16000) int16 at 16 kHz -> (batch, 77, {width})
```

    python generate.py --audio dog.wav --encoder {repository} --model {model}
"""
LORA_CARD = """\
# {title}

A [LoRA](https://arxiv.org/abs/2106.09685) of Stable Diffusion 1.x.

| | |
|---|---|
{table}

    python generate.py --audio dog.wav --model {model} --lora {repository}:0.7

```python
pipe.load_lora("{repository}", 0.7)  # jaxsd
pipe.load_lora_weights("{repository}")  # diffusers
```
"""


def publish(
    source: str | Path,
    repository: str,
    *,
    license: str | None = None,
    base_model: str | None = None,
    private: bool = False,
    dry_run: Path | None = None,
) -> str:
    """Upload an encoder or a LoRA with its model card; huggingface_hub finds the token.

    Args:
        source: The folder or the name of an encoder, or a LoRA as `lora.read_lora` takes it, in safetensors.
        repository: OWNER/NAME, which is made where there is none.
        license: The hub's id of a license, for the card.
        base_model: The repository of the Stable Diffusion that it is for, for the card.
        private: Whether the repository is made a private one.
        dry_run: A new or empty folder, to which what would be uploaded is written instead.

    Returns:
        The address of the upload, or the folder of a dry run.

    Raises:
        FileNotFoundError, ValueError: Name the file that is missing or that could not be loaded again.
        OSError: The hub refuses the upload or cannot be reached.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"the repository is {repository!r}; allowed: OWNER/NAME")
    card: dict[str, Any] = {"library_name": LIBRARY, "license": license, "base_model": base_model}
    if dry_run is not None:
        if dry_run.exists() and (not dry_run.is_dir() or any(dry_run.iterdir())):
            raise ValueError(f"{dry_run} is there already and not an empty folder; choose another")
        _write_upload(source, repository, card, dry_run)
        return str(dry_run)
    with TemporaryDirectory() as name:
        _write_upload(source, repository, card, folder := Path(name) / "upload")
        import huggingface_hub  # takes a while: only where it is needed

        try:
            api = huggingface_hub.HfApi()
            api.create_repo(repository, private=private or None, exist_ok=True)
            return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"From {LIBRARY}"))
        except Exception as error:  # there is no telling what a network does
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OSError(f"{repository} cannot be uploaded: {reason}") from error


def _write_upload(source: str | Path, repository: str, card: Mapping[str, Any], folder: Path):
    """Write to a folder what of `source` is uploaded."""
    if (Path(source) / ENCODER_JSON).is_file() or (not Path(source).exists() and str(source) in bundled_encoders()):
        _write_encoder(source, repository, card, folder)
    else:
        _write_lora(source, repository, card, folder)


def _write_encoder(source: str | Path, repository: str, card: Mapping[str, Any], folder: Path):
    description = encoders.read_config(source)
    name, title = description["encoder"], repository.partition("/")[2]
    code = _find_code(source, description) if "code" in description else None
    if code is None:
        encoders.load(source)  # what cannot be loaded is not uploaded
    weights = find_encoder_file(source, ENCODER_WEIGHTS)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = model_spec(title, f"{MODEL_SPEC_ARCHITECTURE}/{name}")
    (folder / ENCODER_WEIGHTS).write_bytes(with_metadata(weights.read_bytes(), metadata))
    if code is not None:
        shutil.copyfile(code, folder / code.name)
        description = {**description, "code": {**description["code"], "path": code.name}}  # says no folder of ours
    write_json(folder / ENCODER_JSON, description)
    parameters = sum(math.prod(tensor.shape) for tensor in open_tensors([weights]).values())
    table = {"encoder": name, "parameters": f"{parameters:,}", "pooling in training": description["audio_pooling"]}
    table |= {key: value for key, value in description.items() if key not in NOT_SIZE_KEYS}
    text = ENCODER_CARD.format(
        title=title,
        repository=repository,
        width=description.get("width", "that of the model"),
        model=card["base_model"] or "MODEL",
        trust="" if code is None else ", trust_code=True",
        table=_markdown_table(table),
    )
    tags = ["audio", "jax", "flax", "stable-diffusion", "arxiv:2509.09717"]
    _write_card(source, folder, text, {**card, "tags": tags})


def _write_lora(source: str | Path, repository: str, card: Mapping[str, Any], folder: Path):
    path, layers = open_lora(source)
    if path.suffix != SAFETENSORS:
        raise ValueError(f"{path} is a PyTorch file; allowed: a LoRA in a {SAFETENSORS} file")
    for layer, parts in layers.items():
        if not {"down", "up"} <= parts.keys():
            raise ValueError(f"{path} does not fit: {layer} has not both factors")
    title = repository.partition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    name = path.name if path.name in LORA_FILES else LORA_FILES[0]
    with safe_open(path, framework="numpy") as file:
        metadata = model_spec(title, LORA_ARCHITECTURE) | (file.metadata() or {})  # its author's own counts
    (folder / name).write_bytes(with_metadata(path.read_bytes(), metadata))
    if name != LORA_FILES[0] and (path.parent / PEFT_CONFIG).is_file():  # where PEFT has the scale
        shutil.copyfile(path.parent / PEFT_CONFIG, folder / PEFT_CONFIG)
    ranks = sorted({rank for parts in layers.values() for rank in parts["up"].shape[1:2]})
    table = {"layers": len(layers), "rank": ", ".join(map(str, ranks))}
    text = LORA_CARD.format(
        title=title, repository=repository, model=card["base_model"] or "MODEL", table=_markdown_table(table)
    )
    tags = ["lora", "stable-diffusion", "text-to-image", "jax", "diffusers"]
    _write_card(source, folder, text, {**card, "tags": tags, "pipeline_tag": "text-to-image"})


def _find_code(source: str | Path, description: Mapping[str, Any]) -> Path:
    """The file with the class of an encoder of one's own: beside encoder.json, or where it was when it was saved."""
    name, said = description["encoder"].partition(":")[0], description["code"]
    for path in (Path(source) / name, Path(said["path"])):
        if path.is_file() and hash_file(path) == said["sha256"]:
            return path
    raise ValueError(f"{source} needs the code {name}, and it is not there as it was when the encoder was saved")


def _markdown_table(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {key} | {value} |" for key, value in values.items())


def _write_card(source: str | Path, folder: Path, text: str, values: Mapping[str, Any]):
    """Write the model card, or the one that lies in the folder `source`."""
    if (own := Path(source) / CARD).is_file():
        shutil.copyfile(own, folder / CARD)
        return
    from huggingface_hub import ModelCardData

    data = ModelCardData(**values)  # leaves out what is None
    (folder / CARD).write_text(f"---\n{data.to_yaml()}\n---\n\n{text}", encoding="utf-8")
