"""Stable Diffusion 1.x in JAX, from a prompt to an image: python examples/stable_diffusion.py "a red dog barking" """

import sys

import jax

from jaxsd import StableDiffusion
from jaxsd.diffusion.pipeline import to_pil
from jaxsd.runtime.bundled import model_source

# A folder in diffusers' layout, a Hugging Face id, or a .safetensors file; "toy" is the bundled model.
source = sys.argv[2] if len(sys.argv) > 2 else "toy"
pipe = StableDiffusion.from_pretrained(model_source(source))

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red dog barking at night"
cond = pipe.encode_text([prompt])  # (1, 77, width)
uncond = pipe.encode_text([""])  # what guidance moves away from
images = pipe(cond, uncond, sampler="dpm++2m", steps=20, key=jax.random.key(0))  # (1, height, width, 3) in [0, 1]
to_pil(images)[0].save("stable_diffusion.png")
print("stable_diffusion.png")
