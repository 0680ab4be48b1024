"""What ships with the package, by name: the toy world's models, its encoders, its judge and the sample sounds."""

import difflib
import importlib
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parents[1] / "toy"
TOY_MODEL = HERE / "weights"  # Stable Diffusion and, in clip/, CLIP
TOY_ENCODERS = HERE / "encoders"
TOY_JUDGE = HERE / "judge.safetensors"
TOY_CAPTIONS = HERE / "captions.safetensors"  # CLIP's embeddings of the classes' captions
TOY_SAMPLES = HERE / "samples"

# Data that can be made: the name in a config or a dataset.json, and the module that makes such data and knows how to
# evaluate on it. The modules are imported by name, for they stand above everything that uses them.
MAKERS = {"toy": "jaxsd.toy.maker"}


def model_source(name):
    """The folder of the toy world's models if `name` is "toy", else `name`: a folder or a Hugging Face repo id."""
    return TOY_MODEL if str(name) == "toy" else name


def clip_source(name):
    """The folder of the toy world's CLIP if `name` is "toy", else `name`: a folder or a Hugging Face repo id."""
    return TOY_MODEL / "clip" if str(name) == "toy" else name


def sound_source(name) -> Path:
    """The file `name`, or else the sample of that name. Raises FileNotFoundError that lists the samples."""
    path = Path(name)
    if path.exists():
        return path
    sample = TOY_SAMPLES / path.with_suffix(".wav")
    if path.name == str(name) and path.suffix in ("", ".wav") and sample.is_file():
        return sample
    samples = sorted(path.stem for path in TOY_SAMPLES.glob("*.wav"))
    alike = difflib.get_close_matches(path.stem.lower(), samples, n=1)
    mend = f"did you mean {alike[0]}?" if alike else f"the samples are {', '.join(samples)}"
    raise FileNotFoundError(f"{name}: no such file, nor a sample sound of that name; {mend}")


def load_maker(name: str) -> ModuleType:
    """The module of MAKERS that makes data of that name. Raises ValueError for an unknown name.

    It has `make_split(folder, split, size)`, `evaluation_options(split, count)`, and in MODELS the names of the models
    whose features the data have.
    """
    if name not in MAKERS:
        raise ValueError(f"data cannot be made by {name!r}; choose from {', '.join(MAKERS)}, or prepare a data set")
    return importlib.import_module(MAKERS[name])
