"""What ships with the package: the toy world's weights, its trained encoders, its judge and the sample sounds."""

from pathlib import Path

HERE = Path(__file__).parent / "toy"
TOY_MODEL = HERE / "weights"  # Stable Diffusion and, in clip/, CLIP
TOY_ENCODERS = HERE / "encoders"
TOY_JUDGE = HERE / "judge.safetensors"
TOY_SAMPLES = HERE / "samples"


def model_source(name):
    """The folder of the toy world's models if `name` is "toy", else `name`: a folder or a Hugging Face repo id."""
    return TOY_MODEL if str(name) == "toy" else name


def clip_source(name):
    """The folder of the toy world's CLIP if `name` is "toy", else `name`: a folder or a Hugging Face repo id."""
    return TOY_MODEL / "clip" if str(name) == "toy" else name


def encoder_source(name):
    """The folder of the bundled encoder of that name, else `name`: a folder or a Hugging Face repo id."""
    folder = TOY_ENCODERS / str(name)
    return folder if folder.is_dir() and not Path(name).is_dir() else name


def sound_source(name) -> Path:
    """The file `name`, or else the sample of that name. Raises FileNotFoundError listing the samples."""
    path = Path(name)
    if path.exists():
        return path
    if path.name == str(name) and (TOY_SAMPLES / path).is_file():
        return TOY_SAMPLES / path
    samples = ", ".join(sorted(path.name for path in TOY_SAMPLES.glob("*.wav")))
    raise FileNotFoundError(f"{name}: no such file, nor a sample sound of that name; the samples are {samples}")
