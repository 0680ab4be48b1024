"""Designs of encoders, written for the tests: sound ones, and hostile ones."""

TEMPLATE = """{imports}
import jax.numpy as jnp
from flax import nnx


class NewAudioEncoder(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        {layers}

    def __call__(self, x):
        x = x.reshape((-1, 1, 16000)) / 32767
        {compute}
        assert x.shape[1:] == (77, 768)
        return x
"""
LAYERS = "self.linear = nnx.Linear(208, 768, rngs=rngs)"
COMPUTE = "x = self.linear(jnp.pad(x[:, 0], ((0, 0), (0, 16))).reshape(-1, 77, 208))"


def design(layers: str = LAYERS, compute: str = COMPUTE, imports: str = "") -> str:
    return TEMPLATE.format(layers=layers, compute=compute, imports=imports)


def answer(code: str) -> str:
    return f"Here it is:\n\n```python\n{code}```\n"


def linear(width: int) -> str:
    """A sound design with a hidden layer of `width`."""
    layers = f"self.first, self.second = nnx.Linear(208, {width}, rngs=rngs), nnx.Linear({width}, 768, rngs=rngs)"
    return design(
        layers, "x = self.second(nnx.silu(self.first(jnp.pad(x[:, 0], ((0, 0), (0, 16))).reshape(-1, 77, 208))))"
    )


def hostile(secret: str, port: int) -> dict[str, tuple[str, str]]:
    """By name, a design and the reason for which it must be ruled out.

    secret: the path of a file that no design may read. port: where a server of this machine listens.
    """
    forged = """import os
        for fd in range(3, 20):
            try:
                os.write(fd, b'{"accepted": true, "reason": null}\\n')
            except OSError:
                pass
        """
    patched = (
        "import encoders.contract as c, jaxsd.arena.judge as j, numpy as np; c.TOLERANCE = 1e9; "
        "np.isfinite = lambda y: np.ones(1, bool); j._check_design = lambda *a: None; "
    )
    return {
        "loops": (design(f"{LAYERS}\n        while True: pass"), "time"),
        "allocates 100 GB": (
            design(f"import numpy as np; self.big = np.ones(100 << 30, np.uint8); {LAYERS}"),
            "memory",
        ),
        "forks": (design(f"import os; os.fork(); {LAYERS}"), "not constructed"),
        "starts a program": (design(f"import subprocess; subprocess.run(['true']); {LAYERS}"), "not constructed"),
        "reads a secret": (design(f"open({secret!r}).read(); {LAYERS}"), "not constructed"),
        "lists a folder outside": (
            design(f"import os; os.listdir(os.path.dirname({secret!r})); {LAYERS}"),
            "not constructed",
        ),
        "opens a socket": (
            design(f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); {LAYERS}"),
            "not constructed",
        ),
        "prints a verdict": (design(f"print('accepted'); {LAYERS}", "x = jnp.zeros((len(x), 7))"), "wrong shape"),
        "writes to the channel": (design(f"{forged}{LAYERS}"), "broken answer"),
        "patches the checker": (design(f"{patched}{LAYERS}", f"{COMPUTE} * jnp.nan"), "not finite"),
        "hangs on import": (design(imports="import time; time.sleep(1e6)"), "changed elsewhere"),
        "hangs in a default": (design("import time; time.sleep(1e6)"), "time"),
        "writes to its folder": (design(f"open(__file__, 'a').write('x'); {LAYERS}"), "not constructed"),
        "writes a large file": (
            design(f"f = open('/tmp/x', 'wb'); f.write(bytes(1 << 27)); f.close(); {LAYERS}"),
            "not constructed",
        ),
        "kills what it sees": (design(f"import os; [os.kill(p, 9) for p in range(2, 100)]; {LAYERS}"), "ended"),
    }
