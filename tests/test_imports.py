"""What depends on what."""

import subprocess
import sys


def imported(*modules) -> set[str]:
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_encoders_stand_alone():
    assert not {name for name in imported("encoders") if name.split(".")[0] in ("jaxsd", "torch", "transformers")}


def test_running_needs_neither_torch_nor_diffusers():
    loaded = imported("jaxsd.generation", "jaxsd.training", "jaxsd.toy.maker")
    assert not loaded & {"torch", "diffusers", "transformers"}


def test_models_know_nothing_of_training_or_files():
    loaded = imported("jaxsd.clip.towers", "jaxsd.diffusion.unet", "jaxsd.diffusion.vae")
    assert not {
        name for name in loaded if name.startswith(("jaxsd.convert", "jaxsd.training", "jaxsd.toy", "jaxsd.data"))
    }
