"""A short run of the fuzzer; `python -m tests.fuzz --minutes 2` is a longer one."""

import numpy as np
import pytest

from tests.fuzz.cases import Cases
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.slow

NUMBER = {"sounds": 40, "images": 80, "manifests": 80, "configs": 150, "tokenizers": 15, "encoders": 15}


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_are_read_or_refused_in_one_sentence(target, tmp_path):
    cases = Cases(target, 0, tmp_path)
    outcomes = {number: cases.run(number) for number in range(NUMBER.get(target, 20))}
    assert {number: outcome for number, outcome in outcomes.items() if outcome not in ("read", "refused")} == {}


def test_undamaged_files_are_read(tmp_path):
    for index, target in enumerate(TARGETS.values()):
        folder = tmp_path / str(index)
        folder.mkdir()
        for path in target.samples(folder):
            target.read(path)


def test_a_case_is_a_function_of_its_seed():
    data = bytes(range(256)) * 4
    first, again, other = (mutate_bytes(np.random.default_rng(seed), data) for seed in (1, 1, 2))
    assert first == again != other
