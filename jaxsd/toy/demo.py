"""The main job on the built-in world: train an encoder, compare it with the bundled one, see what sounds look like."""

import time
from collections.abc import Mapping
from pathlib import Path

import encoders
from jaxsd.config import load_config
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.evaluation.evaluate import evaluate
from jaxsd.evaluation.inputs import load_evaluated_encoders, open_evaluation_split
from jaxsd.evaluation.report import write_report
from jaxsd.evaluation.sample_sheet import draw_sample_sheet
from jaxsd.runtime.bundled import TOY_MODEL
from jaxsd.runtime.files import lock_folder
from jaxsd.toy import maker, world
from jaxsd.training.train import train

BEST = "gemini"
DEMO_SIZES = {"train": 2_000, "validation": 250, "test": 250}
DEMO_STEPS, DEMO_IMAGES = 800, 50


def demo(folder: Path) -> Path:
    """Run the demo into `folder`, and say in one sentence what came of it; the path of its contact sheet.

    Raises ValueError where another process fills `folder`.
    """
    with lock_folder(folder):
        return _demo(folder)


def _demo(folder: Path) -> Path:
    print("four to five minutes on two CPU cores\n1/3  making sounds, images and captions of the toy world", flush=True)
    data, run = folder / "data", folder / "encoder"
    maker.make_dataset(data, DEMO_SIZES)

    print(f"2/3  training a small encoder from scratch for {DEMO_STEPS} steps", flush=True)
    start = time.monotonic()
    overrides = {
        "data.folder": data,
        "data.train_size": DEMO_SIZES["train"],
        "data.held_out": DEMO_SIZES["validation"],
        "steps": DEMO_STEPS,
        "eval_every": DEMO_STEPS // 4,
        "sample_images": 0,
    }
    train(load_config("toy.py", [f"--config.{key}={value}" for key, value in overrides.items()]), run)
    print(f"     trained in {time.monotonic() - start:.0f} s: {run}", flush=True)

    print(f"3/3  drawing held-out sounds with it and with the bundled {BEST}", flush=True)
    split = open_evaluation_split(data / "test")
    yours, bundled = load_evaluated_encoders([str(run), BEST])
    options = maker.evaluation_options(split, DEMO_IMAGES)
    kept = folder / "report" / "images"
    results = evaluate([yours, bundled], split, references=("own caption",), images_folder=kept, **options)
    report = write_report(results, folder / "report")
    sheet = sample_sheet(folder / "contact-sheet.png", {"your encoder": str(run), f"bundled {BEST}": BEST})
    share, best = (results["encoders"][one.name]["figures"]["class"] for one in (yours, bundled))
    print(
        f"\n{share:.0%} of your encoder's images show what was heard; of the bundled {BEST}'s, {best:.0%}\n"
        "(it was trained for longer, on ten times the data).\n\n"
        f"all figures, and a gallery: {report}\n"
        f"a sound of your own:\n  python generate.py --audio dog.wav --encoder {run}\n"
    )
    return sheet


def sample_sheet(path: Path, sources: Mapping[str, str]) -> Path:
    """Write the contact sheet of the sample sounds: the images that each encoder makes of them, and a true image.

    `sources` are names of bundled encoders, or folders, by what stands beside their row. Every sound has the same noise
    to start from in all rows.
    """
    loaded = {label: encoders.load(source) for label, source in sources.items()}
    true = world.images(world.scenes("train", len(world.CLASSES)))
    return draw_sample_sheet(path, StableDiffusion.from_pretrained(TOY_MODEL), loaded, {"training image": true})
