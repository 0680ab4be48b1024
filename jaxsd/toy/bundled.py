"""What ships with the package: the toy world's weights, its trained encoder, its judge and the sample sounds."""

from pathlib import Path

from flax import nnx

from jaxsd.convert.rules import read_parameters
from jaxsd.toy.judge import Judge

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"  # Stable Diffusion and, in clip/, CLIP
ENCODER = HERE / "encoders" / "gemini"
JUDGE = HERE / "judge.safetensors"
SAMPLES = HERE / "samples"


def load_judge() -> Judge:
    """The trained judge."""
    return read_parameters(nnx.eval_shape(lambda: Judge(rngs=nnx.Rngs(0))), JUDGE)


def find_sound(name) -> Path:
    """The file `name`, or else the sample of that name. Raises FileNotFoundError listing the samples."""
    path = Path(name)
    if path.exists():
        return path
    if path.name == str(name) and (SAMPLES / path).is_file():
        return SAMPLES / path
    samples = ", ".join(sorted(path.name for path in SAMPLES.glob("*.wav")))
    raise FileNotFoundError(f"{name}: no such file, nor a sample sound of that name; the samples are {samples}")
