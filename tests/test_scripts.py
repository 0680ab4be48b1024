"""The three scripts as a person runs them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def run(*arguments, cwd):
    script, *rest = map(str, arguments)
    return subprocess.run([sys.executable, ROOT / script, *rest], cwd=cwd, capture_output=True, text=True)


def test_a_sample_sound_becomes_a_picture(tmp_path):
    done = run("generate.py", "--audio", "dog.wav", "waves.wav", "--steps", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["out/dog.png", "out/waves.png"]
    dog, waves = (np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in ("dog", "waves"))
    assert dog.shape == (64, 64, 3) and dog.std() > 5
    assert not np.array_equal(dog, waves)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--audio", "nowhere.wav"], "nowhere.wav: no such file, nor a sample sound of that name; the samples are"),
        (["--audio", "dog.wav", "text.wav"], "text.wav cannot be read as sound"),
        (["--audio", "dog.wav", "--sampler", "magic"], "sampler is 'magic'; allowed: pndm, ddim, lms"),
        (["--audio", "dog.wav", "--steps", "0"], "steps is 0; allowed: from 1"),
        (["--audio", "dog.wav", "--encoder", "empty"], "encoder.json"),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(tmp_path, run_jaxsd, arguments, message):
    (tmp_path / "text.wav").write_text("not a sound at all")
    (tmp_path / "empty").mkdir()
    status, _, printed = run_jaxsd("generate", *arguments)
    assert status == 2
    assert message in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_train_resumes_refuses_another_config_and_evaluates(tmp_path):
    sizes = {"data.train_size": 60, "data.held_out": 50, "batch_size": 8, "warmup": 1, "save_every": 2}
    options = [f"--config.{key}={value}" for key, value in sizes.items()]
    command = ["train.py", "--config", "toy.py", *options]
    done = run(*command, "--config.steps=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "runs/toy"
    folder = tmp_path / "runs" / "toy"
    assert {"config.json", "encoder.json", "model.safetensors", "metrics.jsonl", "checkpoints"} <= {
        path.name for path in folder.iterdir()
    }
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "denoise", "contrastive"} <= metrics[0].keys()

    refused = run(*command, "--config.steps=4", "--config.seed=5", cwd=tmp_path)
    assert refused.returncode == 2
    assert "seed was 0, is 5" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gemini.py"], "data/avt/train holds no data; python -m jaxsd.data prepare MANIFEST --out data/avt makes it"),
        (["toy.py:aligned", "--config.optimizer=sgd"], "unknown optimizer 'sgd'; choose from adam, adamw, muon"),
        (["toy.py", "--config.encoder=whisper"], "unknown encoder 'whisper'; choose from gemini, human, chatgpt"),
    ],
)
def test_training_that_cannot_be_is_refused_in_one_line(tmp_path, run_jaxsd, arguments, message):
    status, _, printed = run_jaxsd("train", "--config", *arguments)
    assert status == 2
    assert message in printed and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["--random", "--count", "2"], ["random.png", "random-2.png"]),
        (["--text", "a dog"], ["a-dog.png"]),
        (["--audio", "dog", "waves", "--mix", "--sound-weights", "2", "1", "--text", "at night"], ["dog+waves.png"]),
    ],
)
def test_every_mode_draws(tmp_path, run_jaxsd, arguments, files):
    status, printed, errors = run_jaxsd("generate", *arguments, "--steps", 2)
    assert status == 0, errors
    assert printed.split() == [f"out/{file}" for file in files]
    images = [np.asarray(Image.open(tmp_path / "out" / file)) for file in files]
    assert len({image.tobytes() for image in images}) == len(files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--random", "--audio", "dog"], "--random takes the place of sounds and texts"),
        (["--audio", "dog", "--alpha", "0.3"], "--alpha is the share of the text beside sounds"),
        (["--text", "a dog", "--mix"], "--mix and --sound-weights are for sounds"),
        (["--audio", "dog", "--text", "a", "--alpha", "nan"], "alpha is nan; allowed: 0 to 1"),
        (
            ["--audio", "dog", "waves", "--mix", "--sound-weights", "1"],
            "1 weight for 2 sounds; allowed: as many",
        ),
        (
            ["--audio", "dog", "waves", "--sound-weights", "1", "1"],
            "--sound-weights are the shares of sounds that are mixed; give --mix",
        ),
        (["--audio", "dog", "--strength", "0.5"], "--strength is for an image to start from; give --image"),
        (["--text", "caf\udce9"], r"the text 'caf\udce9' is not Unicode; give it in UTF-8"),
    ],
)
def test_mixes_that_cannot_be_get_one_line(tmp_path, run_jaxsd, arguments, message):
    status, _, printed = run_jaxsd("generate", *arguments)
    assert status == 2
    assert message in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()
