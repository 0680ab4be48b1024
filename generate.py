"""Turn sounds into images: python generate.py --audio dog.wav"""

from jaxsd.commands.generate import run_generate
from jaxsd.runtime import cli

if __name__ == "__main__":
    cli.run(run_generate)
