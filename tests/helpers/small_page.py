"""The page with small models, whose uploads are soon removed: python -m tests.helpers.small_page FOLDER PORT.

A process of its own, for the test run's checks of annotations hide from Gradio which functions are generators.
"""

import os
import sys

from flax import nnx

import encoders
from jaxsd.serving import page
from jaxsd.serving.service import ImageService, ServiceLimits
from jaxsd.sound_to_image import SoundToImage
from tests.helpers import models

KEPT_SECONDS = 3
LIMITS = ServiceLimits(queue=5, steps=500, seconds=5, megabytes=1)

if __name__ == "__main__":
    folder, port = sys.argv[1:]
    page.KEPT_SECONDS, page.CLEANING_SECONDS = KEPT_SECONDS, 1
    encoder = encoders.create("chatgpt", width=24, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(0))
    with ImageService(SoundToImage({"one": encoder}, models.stable_diffusion()), LIMITS) as service:
        os.chdir(folder)
        page.launch_page(service, "127.0.0.1", int(port), root_path="/demo")
        print("ready", flush=True)
        sys.stdin.read()  # until the test run closes it
