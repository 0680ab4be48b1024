"""What ships with the package: the toy world's weights, its trained encoders, its judge and the sample sounds."""

from pathlib import Path

HERE = Path(__file__).parent / "toy"
WEIGHTS = HERE / "weights"  # Stable Diffusion and, in clip/, CLIP
ENCODERS = HERE / "encoders"
JUDGE = HERE / "judge.safetensors"
SAMPLES = HERE / "samples"


def find_models(name):
    """The folder of the toy world's models if `name` is "toy", else `name`: a folder or a Hugging Face repo id."""
    return WEIGHTS if str(name) == "toy" else name


def find_clip(name):
    """The folder of the toy world's CLIP if `name` is "toy", else `name`: a folder or a Hugging Face repo id."""
    return WEIGHTS / "clip" if str(name) == "toy" else name


def find_encoder(name):
    """The folder of the bundled encoder of that name, else `name`: a folder or a Hugging Face repo id."""
    folder = ENCODERS / str(name)
    return folder if folder.is_dir() and not Path(name).is_dir() else name


def find_sound(name) -> Path:
    """The file `name`, or else the sample of that name. Raises FileNotFoundError listing the samples."""
    path = Path(name)
    if path.exists():
        return path
    if path.name == str(name) and (SAMPLES / path).is_file():
        return SAMPLES / path
    samples = ", ".join(sorted(path.name for path in SAMPLES.glob("*.wav")))
    raise FileNotFoundError(f"{name}: no such file, nor a sample sound of that name; the samples are {samples}")
