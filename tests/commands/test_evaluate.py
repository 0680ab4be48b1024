"""Which data `jaxsd eval` makes where a split is missing."""

import json

import pytest

from jaxsd.toy import maker

TOY = {"maker": "toy", "clip": "toy", "diffusion": "toy", "size": 60}


@pytest.fixture
def evaluate(run_jaxsd, tmp_path, monkeypatch):
    """`evaluate(folder, split=metadata)` is what `jaxsd eval --data folder` says, in place of making the split."""

    def make_split(folder, split):
        raise ValueError(f"makes {split} in {folder}")

    def run(folder, **metadata):
        for split, content in metadata.items():
            (tmp_path / folder / split).mkdir(parents=True)
            (tmp_path / folder / split / "dataset.json").write_text(json.dumps(content))
        data = () if folder == "data/toy" else ("--data", folder)
        status, _, errors = run_jaxsd("eval", "gemini", *data)
        assert status == 2 and not (tmp_path / "out").exists()
        return errors

    monkeypatch.setattr(maker, "make_split", make_split)
    return run


def test_the_toy_world_is_made_where_no_data_are_named(evaluate):
    assert "makes test in data/toy/test" in evaluate("data/toy")


def test_the_missing_split_of_a_toy_world_elsewhere_is_made(evaluate):
    assert "makes test in runs/demo/data/test" in evaluate("runs/demo/data", train=TOY)


def test_a_toy_world_of_other_models_is_not_made(evaluate):
    assert "elsewhere/test: no data here; splits beside it: train" in evaluate("elsewhere", train=TOY | {"clip": "my"})


def test_data_that_nobody_makes_are_not_made(evaluate):
    said = evaluate("data/avt", train={"clip": "openai/clip-vit-large-patch14", "size": 60})
    assert "data/avt/test: no data here; splits beside it: train" in said
