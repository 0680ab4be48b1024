"""One case: an undamaged sample, damaged, and read."""

import os
import shutil
import tempfile
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np

from jaxsd.runtime.cli import USER_ERRORS, error_message
from tests.fuzz.targets import TARGETS


class Cases:
    """The cases of a target, whose samples are written into `folder`."""

    def __init__(self, target: str, seed: int, folder: Path):
        self.name, self.target, self.seed = target, TARGETS[target], seed
        (folder / "samples").mkdir()
        self.folder = folder
        self.samples = self.target.samples(folder / "samples")

    def write(self, number: int) -> Path:
        """Write the damaged sample of a case."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), number])
        case = self.folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        sample = self.samples[rng.integers(len(self.samples))]
        path = case / sample.name
        if sample.is_dir():
            shutil.copytree(sample, path)
            damaged = path / self.target.files[rng.integers(len(self.target.files))]
        else:
            shutil.copy(sample, path)
            damaged = path
        damaged.write_bytes(self.target.mutate(rng, damaged.read_bytes()))
        return path

    def run(self, number: int, catch: bool = True) -> str:
        """What comes of a case: "read", "refused", or what is wrong."""
        path = self.write(number)
        before = sorted(self.folder.rglob("*"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.target.read(path)
            outcome = "read"
        except USER_ERRORS as error:
            message = error_message(error)
            outcome = "refused" if message and len(message) < 2_000 else f"a message of {len(message)} characters"
        except Exception:
            if not catch:
                raise
            outcome = f"a traceback: {' / '.join(traceback.format_exc().splitlines()[-3:])}"
        if any(path.suffix == ".part" or ".part." in path.name for path in set(self.folder.rglob("*")) - set(before)):
            outcome = "a partial file"
        return outcome


def work(target: str, seed: int, first: int, answers):
    """Run cases without end; before each its number is put into `answers`, and afterwards what came of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print there
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(target, seed, Path(folder))
        cases.target.read(cases.samples[0])  # what is compiled or imported once is no time of a case
        number = first
        while True:
            answers.put((number, None))
            answers.put((number, cases.run(number)))
            number += 1
