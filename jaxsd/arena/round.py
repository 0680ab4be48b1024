"""A round of the arena: every accepted design is trained and evaluated alike, beside the paper's five encoders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Shaped

import encoders
from encoders.store import ENCODER_WEIGHTS
from jaxsd.arena.answers import AnsweredDesign, read_designs
from jaxsd.arena.code import CLASS
from jaxsd.config import TrainConfig
from jaxsd.evaluation.conditionings import REFERENCES
from jaxsd.evaluation.evaluate import check_image_count, evaluate
from jaxsd.evaluation.inputs import EvaluatedEncoder, EvaluationSplit, open_evaluation_split
from jaxsd.evaluation.results import Results, merge_results, read_results, write_results
from jaxsd.evaluation.sample_sheet import draw_sample_sheet
from jaxsd.recipes.recipe import hash_file
from jaxsd.runtime.bundled import load_maker
from jaxsd.runtime.cli import error_message
from jaxsd.runtime.files import lock_folder
from jaxsd.training.run_config import check_run_config
from jaxsd.training.train import train, validate_config

AVERAGES = {"average of designs": False, "average of all": True}  # whether the published encoders are in it


@dataclass
class Contestant:
    """An encoder of a round.

    name: in the tables, and of its run's folder. encoder: `TrainConfig.encoder`. design: what the arena holds of it;
    None for a published encoder. ruled_out: why it is not trained, or what its training raised.
    """

    name: str
    encoder: str
    design: AnsweredDesign | None = None
    ruled_out: str | None = None


SIXTH = Contestant("the paper's sixth", "", ruled_out="never met the contract, as the paper has it (Claude 3.7 Sonnet)")


@dataclass(frozen=True)
class Round:
    """What became of a round: every contestant, the results of those that were trained, and their encoders by name."""

    contestants: list[Contestant]
    results: Results
    trained: dict[str, nnx.Module]
    sheet: Path | None


def run_round(
    out: Path,
    configure: Callable[[str], TrainConfig],
    *,
    published: Sequence[str] = tuple(encoders.ENCODERS),
    images: int | None = None,
    trust_code: bool = False,
) -> Round:
    """Train and evaluate what has not been yet. A round that was stopped goes on.

    Args:
        out: folder of the arena. It gets runs/<name> and evaluation/<name>.json.
        configure: the config of an encoder's training, by `TrainConfig.encoder`.
        published: which of the paper's encoders take part.
        images: how many images to draw under every conditioning (None: as the data's maker has it, or none).
        trust_code: whether to run the designs with the rights of this process.

    Raises:
        ValueError: the code is not trusted, the config fits no data, or the folder holds a round of another config.
        FileNotFoundError: there are no designs, or no data.
    """
    contestants = find_contestants(out, published)
    entering = [one for one in contestants if not one.ruled_out]
    foreign = [one.design.code for one in entering if one.design]
    if foreign and not trust_code:
        raise ValueError(
            f"training runs {', '.join(map(str, foreign))} with your rights; read the code, then give --trust-code"
        )
    configs = {one.name: configure(one.encoder) for one in entering}
    for name, config in configs.items():
        validate_config(config)
        check_run_config(out / "runs" / name, config)
        if config.data.maker and images:
            check_image_count(images, config.data.held_out)
    with lock_folder(out):
        for number, one in enumerate(entering, 1):
            print(f"{number}/{len(entering)}  {one.name}", flush=True)
            one.ruled_out = _train(configs[one.name], out / "runs" / one.name)
        trained = [one for one in entering if not one.ruled_out]
        if not trained:
            raise ValueError(f"{out}: none of {', '.join(one.name for one in entering)} could be trained")
        config = configs[trained[0].name]
        split, options = _open_test_split(config, images)
        loaded = {one.name: encoders.load(out / "runs" / one.name, trust_code=trust_code) for one in trained}
        results = _evaluate_all(out, trained, loaded, split, options, config.audio_pooling)
        sheet = draw_sample_sheet(out / "evaluation" / "sheet.png", split.pipe, loaded) if split.pipe else None
    return Round(contestants, results, loaded, sheet)


def find_contestants(out: Path, published: Sequence[str]) -> list[Contestant]:
    """The published encoders, then the designs of an arena by name.

    Raises FileNotFoundError where there is neither, and ValueError where a design has the name of a published encoder.
    """
    if unknown := [name for name in published if name not in encoders.ENCODERS]:
        raise ValueError(f"published encoder is {unknown[0]!r}; allowed: {', '.join(encoders.ENCODERS)}")
    contestants = [Contestant(name, name) for name in published]
    if published:
        contestants.append(SIXTH)
    for design in [] if published and not any(out.glob("*/try-1.json")) else read_designs(out):
        if design.name in (*encoders.ENCODERS, *AVERAGES):
            raise ValueError(f"{design.folder} has the name of another contestant; rename the folder")
        contestants.append(Contestant(design.name, f"{design.code}:{CLASS}", design, _why_ruled_out(design)))
    return contestants


def _why_ruled_out(design: AnsweredDesign) -> str | None:
    if len(design.verdicts) < len(design.answers):
        return "not judged yet: give its answer to `jaxsd arena add` or go on with `jaxsd arena ask`"
    verdict = design.verdicts[-1]
    if not verdict.accepted:
        return f"{verdict.reason}: {verdict.problem}"
    if design.answers[-1]["prompt"]["framework"] != "nnx":
        return "PyTorch: training needs a Flax NNX version"
    return None


def _train(config: TrainConfig, folder: Path) -> str | None:
    """Train an encoder; what its code raises, in a sentence."""
    try:
        train(config, folder)
    except OSError:  # of the machine, and not of the design
        raise
    except Exception as error:
        return f"in training: {error_message(error)}"
    finally:
        jax.clear_caches()  # the next one has programs of its own
    return None


def _open_test_split(config: TrainConfig, images: int | None) -> tuple[EvaluationSplit, dict[str, Any]]:
    """The split `test` beside the data, which is made where these are, and how to evaluate on it."""
    folder = Path(config.data.folder) / "test"
    if not config.data.maker:
        return open_evaluation_split(folder), {"image_count": images or 0}
    maker = load_maker(config.data.maker)
    maker.make_split(folder, "test", None if folder.is_dir() else config.data.held_out)
    split = open_evaluation_split(folder)
    return split, maker.evaluation_options(split, images)


def _evaluate_all(
    out: Path,
    trained: Sequence[Contestant],
    loaded: dict[str, nnx.Module],
    split: EvaluationSplit,
    options: dict[str, Any],
    pooling: str,
) -> Results:
    """The results of every contestant, of the averages and of the references, from files where they are there."""
    asked = [split.identity(), options.get("image_count", 0)]

    def kept(name: str, members: Sequence[str], compute: Callable[[], Results]) -> Results:
        """What was computed of the same weights, data and number of images, or is now."""
        weights = [hash_file(out / "runs" / member / ENCODER_WEIGHTS) for member in members]
        path = out / "evaluation" / f"{name}.json"
        if path.is_file() and (found := read_results(path)).pop("asked") == [*asked, *weights]:
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        results = compute()
        write_results(path, results | {"asked": [*asked, *weights]})
        return results

    def measure(name: str, source: str, encoder: nnx.Module) -> Results:
        one = EvaluatedEncoder(name, source, encoder, pooling)
        return evaluate([one], split, references=(), **{**options, "real_images": None})

    found = [kept("references", [], partial(evaluate, [], split, references=REFERENCES, **options))]
    found += [kept(one.name, [one.name], partial(measure, one.name, one.encoder, loaded[one.name])) for one in trained]
    averages = {name: [one.name for one in trained if one.design or everyone] for name, everyone in AVERAGES.items()}
    for name, members in averages.items():
        if len(members) > 1 and (name != "average of designs" or members != averages["average of all"]):
            average = Average([loaded[member] for member in members])
            compute = partial(measure, name, ", ".join(members), average)
            found.append(kept(name.replace(" ", "-"), members, compute))
    return merge_results(found)


class Average(nnx.Module):
    """The mean of several encoders' embeddings, as the paper averages them."""

    def __init__(self, members: Sequence[nnx.Module]):
        self.members = nnx.List(members)

    def __call__(self, clips: Shaped[jax.Array | np.ndarray, "batch 16000"]) -> Float[jax.Array, "batch 77 width"]:
        return sum(member(clips) for member in self.members) / len(self.members)  # pyright: ignore
