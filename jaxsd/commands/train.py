"""`jaxsd train`: its flags.

Flags are read here, before anything slow is imported.
"""

import sys
from pathlib import Path

from jaxsd.config import LoRAConfig, TrainConfig, add_config_argument, load_run_config
from jaxsd.generation.model_arguments import add_place_arguments
from jaxsd.runtime import cli
from jaxsd.runtime.files import check_output_folder


def run_train():
    parser = cli.ArgumentParser(
        description="Train an audio encoder, or a LoRA: python train.py --config gemini.py:aligned "
        "--config.data.folder=data/avt"
    )
    add_config_argument(parser)
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/<config>); goes on if it has begun")
    parser.add_argument("--init", metavar="FOLDER", help="start from another run's encoder; same as --config.init")
    parser.add_argument("--wandb", action="store_true", help="also log to Weights & Biases")
    add_place_arguments(parser)
    cli.add_distributed_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    if arguments.init:
        overrides.append(f"--config.init={arguments.init}")
    config = load_run_config(arguments.config, overrides)
    name, _, recipe = arguments.config.partition(":")
    out = arguments.out or Path("runs") / "-".join([Path(name).stem, recipe]).rstrip("-")
    check_output_folder(out)
    cli.start_distributed(arguments)

    program = "jaxsd {}" if cli.program().startswith("jaxsd ") else "python {}.py"
    models = {"wandb": arguments.wandb, "clip": arguments.clip, "model": arguments.model}
    if isinstance(config, LoRAConfig):
        from jaxsd.training.train_lora import next_lora_command, train_lora

        train_lora(config, out, **models)
        commands = [next_lora_command(config, out, program)]
    else:
        assert isinstance(config, TrainConfig)
        from jaxsd.training.train import next_commands, train

        train(config, out, **models)
        commands = next_commands(config, out, program)
    print(out)
    for command in commands:
        print(f"next: {command}", file=sys.stderr)
