"""The arena: ask a chatbot for an audio encoder, check in a sandbox what comes back, train and rank it."""

import argparse
import re
from pathlib import Path

from jaxsd.config import TrainConfig, add_config_argument, load_config
from jaxsd.runtime import cli


def main() -> int | None:
    parser = cli.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("ask", help="ask a chatbot for designs and judge them; goes on where it stopped")
    command.add_argument("--model", help="the model's name at the endpoint")
    command.add_argument(
        "--base-url", metavar="URL", help="an endpoint of OpenAI's protocol; its key is read from OPENAI_API_KEY alone"
    )
    command.add_argument("--name", help="of the designs, followed by -1, -2 and so on (the model's name)")
    command.add_argument("--designs", type=int, default=1, help="how many designs (1)")
    command.add_argument("--tries", type=int, default=3, help="for each design, every time from the start (3)")
    command.add_argument("--stream", action="store_true", help="receive the answers in pieces")
    command.add_argument("--temperature", type=float, help="(the endpoint's own)")
    command.add_argument("--max-tokens", type=int, help="of an answer (the endpoint's own)")
    command.add_argument("--attempts", type=int, default=6, help="at a request that limits or the network stop (6)")
    command.add_argument("--print-prompt", action="store_true", help="print the prompt, to be pasted, and end")
    _add_prompt_arguments(command)
    _add_judge_arguments(command)

    command = commands.add_parser("add", help="judge an answer that was pasted into a file")
    command.add_argument("file", type=Path, metavar="FILE", help="the whole answer, or a .py file of the code alone")
    command.add_argument("--name", required=True, help="of the design; a second answer is its second try")
    _add_prompt_arguments(command)
    _add_judge_arguments(command)

    command = commands.add_parser("run", help="train and evaluate every accepted design alike, and write a leaderboard")
    add_config_argument(command)
    command.add_argument("--out", type=Path, default=Path("out/arena"), help="the arena's folder (out/arena)")
    command.add_argument(
        "--published", nargs="*", metavar="NAME", help="which of the paper's encoders take part (all five; none)"
    )
    command.add_argument("--pictures", type=int, help="images a conditioning (200 in the toy world, else 0)")
    command.add_argument("--trust-code", action="store_true", help="let training run the designs with your rights")

    arguments, overrides = parser.parse_known_args()
    if arguments.command == "run":
        _run(arguments, overrides)
        return None
    if overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    from jaxsd.arena.prompts import Prompt

    prompt = Prompt(
        arguments.prompt_version,
        arguments.framework,
        arguments.architecture,
        arguments.data_size,
        arguments.scale,
        arguments.width,
    )
    text = prompt.render()
    if arguments.command == "ask" and arguments.print_prompt:
        print(text)
        return None

    from jaxsd.arena.answers import add_answer, check_name
    from jaxsd.arena.chat import Chatbot, ask_for_designs
    from jaxsd.arena.sandbox import GIB, Limits
    from jaxsd.runtime.files import lock_folder

    for flag in ("seconds", "memory", "width", "tries", "designs", "attempts"):
        if (value := getattr(arguments, flag, 1)) <= 0:
            raise ValueError(f"--{flag} is {value:g}; allowed: above 0")
    limits = Limits(seconds=arguments.seconds, memory=int(arguments.memory * GIB))
    if arguments.command == "add":
        with lock_folder(arguments.out):
            verdict = add_answer(arguments.out, arguments.file, arguments.name, prompt, limits, arguments.trust)
        for clause, problem in verdict.clauses:
            print(f"{'FAILS' if problem else 'ok   '} {clause}" + (f": {problem}" if problem else ""))
        print("accepted" if verdict.accepted else f"ruled out ({verdict.reason}): {verdict.problem}")
        return int(not verdict.accepted)
    if not arguments.model or not arguments.base_url:
        raise ValueError("ask needs --model and --base-url, or --print-prompt")
    if not re.match(r"https?://\S+", arguments.base_url):
        raise ValueError(f"--base-url is {arguments.base_url!r}; allowed: http://HOST/v1 or https://HOST/v1")
    parameters = {"temperature": arguments.temperature, "max_tokens": arguments.max_tokens}
    chatbot = Chatbot(
        arguments.model,
        arguments.base_url,
        {key: value for key, value in parameters.items() if value is not None},
        stream=arguments.stream,
        attempts=arguments.attempts,
    )
    name = check_name(arguments.name or re.sub(r"[^A-Za-z0-9._-]", "-", arguments.model))
    with lock_folder(arguments.out):
        found = ask_for_designs(
            chatbot,
            prompt,
            arguments.out,
            name=name,
            designs=arguments.designs,
            tries=arguments.tries,
            limits=limits,
            trust=arguments.trust,
        )
    for design in found:
        tries = f"{len(design.answers)} of {arguments.tries} tries"
        print(design.code if design.accepted else f"{design.name} is ruled out after {tries}")
    return int(not any(design.accepted for design in found))


def _run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    def configure(encoder: str) -> TrainConfig:
        return load_config(arguments.config, [*overrides, f"--config.encoder={encoder}"])

    from jaxsd.arena.leaderboard import leaderboard_tables, write_leaderboard
    from jaxsd.arena.round import run_round
    from jaxsd.evaluation.report import print_tables, write_report

    chosen = {} if arguments.published is None else {"published": arguments.published}
    found = run_round(arguments.out, configure, images=arguments.pictures, trust_code=arguments.trust_code, **chosen)
    print_tables(leaderboard_tables(found))
    print(write_report(found.results, arguments.out / "evaluation"))
    print(write_leaderboard(arguments.out / "leaderboard.html", found))


def _add_prompt_arguments(command: argparse.ArgumentParser):
    group = command.add_argument_group("the prompt")
    group.add_argument("--framework", default="nnx", help="nnx, or torch as in the paper (nnx)")
    group.add_argument("--architecture", default="any", help="convolutional, recurrent, hybrid or transformer (any)")
    group.add_argument("--data-size", default="told", help="told or untold (told)")
    group.add_argument("--scale", default="untold", help="of the output: told or untold (untold)")
    group.add_argument("--width", type=int, default=768, help="of CLIP's hidden states; 128 in the toy world (768)")
    group.add_argument("--prompt-version", default="1", help="of the wording (1)")


def _add_judge_arguments(command: argparse.ArgumentParser):
    group = command.add_argument_group("the arena")
    group.add_argument("--out", type=Path, default=Path("out/arena"), help="its folder (out/arena)")
    group.add_argument("--seconds", type=float, default=300.0, help="that a design's process may take (300)")
    group.add_argument("--memory", type=float, default=16.0, help="GiB of address space that it may take (16)")
    group.add_argument("--trust", action="store_true", help="run code with your rights where there is no sandbox")


if __name__ == "__main__":
    cli.run(main)
