"""`generate.py --study`: from its flags to a study that is drawn."""

import argparse
from pathlib import Path

import jax

from encoders import ENCODERS
from jaxsd.clip.pipeline import read_clip_configs
from jaxsd.diffusion.loading import require_tokenizer
from jaxsd.generation.checks import check_flags
from jaxsd.generation.flags import given_sampling, load_changed_model
from jaxsd.runtime.bundled import clip_source, model_source
from jaxsd.runtime.cli import start_distributed
from jaxsd.study.draw import Study
from jaxsd.study.inputs import read_study
from jaxsd.study.plan import parse_shard, study_conditionings
from jaxsd.study.run import run_study


def draw_study(arguments: argparse.Namespace, began: float) -> Path | None:
    """Draw what is missing of the study, and write its page.

    Of several processes of `jax.distributed`, each draws its shard. `began` is when the command began
    (`time.monotonic`). Returns the path of the page; None of a dry run.
    """
    start_distributed(arguments)
    shard = parse_shard(arguments.shard) if arguments.shard else (jax.process_index() + 1, jax.process_count())
    arguments.model = arguments.model or "toy"
    inputs = read_study(arguments.study)
    names = arguments.encoder or list(ENCODERS)
    conditionings = study_conditionings(names)
    check_flags(arguments, names, images=sorted({image is not None for _, image in inputs.pairs}))
    if not arguments.tokenizer:
        require_tokenizer(model_source(arguments.model))
    clip = arguments.clip or ("toy" if arguments.model == "toy" else None)
    if clip:
        read_clip_configs(clip_source(clip))  # refuses before anything is loaded
    sampling = given_sampling(arguments)
    if arguments.strength is not None:
        sampling["strength"] = arguments.strength
    study = Study(
        arguments.out,
        inputs,
        load_changed_model(arguments, names),
        conditionings,
        sampling,
        copies=2 if arguments.count is None else arguments.count,
        seed=arguments.seed,
        unconditional=arguments.unconditional,
    )
    return run_study(
        study,
        clip=clip,
        judge="toy" if arguments.model == "toy" else None,
        limit=arguments.limit,
        shard=shard,
        dry_run=arguments.dry_run,
        began=began,
    )
