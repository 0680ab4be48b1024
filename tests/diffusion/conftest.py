"""The tiny random Stable Diffusion as a folder, which the tests read and leave as it is."""

import pytest

from tests.helpers import models


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    models.stable_diffusion().save_pretrained(folder)
    return folder
