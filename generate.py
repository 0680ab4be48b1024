"""Turn sounds into images: python generate.py --audio dog.wav"""

from jaxsd import cli
from jaxsd.generate_command import run_generate

if __name__ == "__main__":
    cli.run(run_generate)
