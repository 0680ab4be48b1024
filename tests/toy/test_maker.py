"""The toy world as data sets."""

import numpy as np
import pytest
from flax import nnx

from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.tokens import tokenize
from jaxsd.data.columns import open_columns
from jaxsd.data.features import to_float
from jaxsd.data.info import info
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.runtime.bundled import TOY_MODEL
from jaxsd.runtime.files import read_json, write_json
from jaxsd.toy import world
from jaxsd.toy.maker import make_dataset, make_split

pytestmark = pytest.mark.long

SIZES = {"train": 40, "validation": 11, "test": 11}


def test_the_toy_world_is_a_data_set_of_any_size(tmp_path):
    assert make_dataset(tmp_path, SIZES, seed=3)
    info(tmp_path)
    clip, pipe = CLIP.from_pretrained(TOY_MODEL / "clip"), StableDiffusion.from_pretrained(TOY_MODEL)
    encode = nnx.jit(lambda vae, x: vae.encode(to_float(x)).mean * vae.config.scaling_factor)
    for split, size in SIZES.items():
        columns = open_columns(tmp_path / split)
        assert {len(column) for column in columns.values()} == {size}
        examples = [world.example(split, index, seed=3) for index in range(11)]
        images, captions = np.stack([e.image for e in examples]), [e.caption for e in examples]
        np.testing.assert_array_equal(columns["audio"][:11], [e.audio for e in examples])
        np.testing.assert_array_equal(columns["tokens"][:11], tokenize(clip.tokenizer, captions))
        assert [world.CLASSES[i] for i in columns["class"][:11]] == [e.scene.class_name for e in examples]
        for name, wanted, tolerance in (
            ("text", clip.embed_text(captions), 1e-3),
            ("image", clip.embed_arrays(images), 1e-3),
            ("latents", encode(pipe.vae, images), 1e-2),
        ):
            np.testing.assert_allclose(columns[name][:11], wanted, atol=tolerance, rtol=2e-3)

    assert not make_dataset(tmp_path, SIZES, seed=3)
    assert not make_split(tmp_path / "test", "test", 11, seed=3)
    assert not make_split(tmp_path / "test", "test")  # whatever its size and seed are
    with pytest.raises(ValueError, match=r"train holds a data set made otherwise \(rows was 40, is 41\)"):
        make_dataset(tmp_path, SIZES | {"train": 41}, seed=3)
    with pytest.raises(ValueError, match="seed is -1; allowed: from 0"):
        make_dataset(tmp_path / "before", SIZES, seed=-1)
    with pytest.raises(ValueError, match="0 examples; allowed: 1 or more"):
        make_dataset(tmp_path / "none", SIZES | {"test": 0})


def test_features_of_other_weights_are_refused(tmp_path):
    make_split(tmp_path, "test", 11)
    make_split(tmp_path, "test")
    about = read_json(tmp_path / "dataset.json")
    write_json(tmp_path / "dataset.json", about | {"weights": "0123456789ab"})
    with pytest.raises(ValueError, match="made otherwise .weights was '0123456789ab', is "):
        make_split(tmp_path, "test")


def test_data_of_another_source_are_refused(tmp_path):
    write_json(tmp_path / "dataset.json", {"size": 2, "columns": [], "source": "clips.csv"})
    for size in (None, 2):
        with pytest.raises(ValueError, match=r"holds a data set of clips\.csv, not of the toy world; choose another"):
            make_split(tmp_path, "test", size)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
