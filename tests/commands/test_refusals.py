"""What can be refused is refused before any weights are read, data made or files written."""

import json

import pytest
from PIL import Image

from jaxsd.clip import pipeline as clip_pipeline
from jaxsd.diffusion import loading


@pytest.fixture
def refuse(run_jaxsd, tmp_path, monkeypatch):
    """`refuse(*arguments)` is the sentence by which `jaxsd` refuses them, with no weights read and nothing written."""

    def read(*_, **__):
        raise AssertionError("weights are read")

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        status, _, printed = run_jaxsd(*arguments)
        assert status == 2 and printed.count("\n") == 1, printed
        assert sorted(tmp_path.rglob("*")) == before
        return printed

    monkeypatch.setattr(loading, "load_weights", read)
    monkeypatch.setattr(clip_pipeline, "load_weights", read)
    Image.new("RGB", (9, 9)).save(tmp_path / "room.png")
    (tmp_path / "emptyfolder").mkdir()
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    (tmp_path / "semicolons.csv").write_text("audio;text;image\ndog;a dog;\n")
    (tmp_path / "text.txt").write_text("audio,text,image\ndog,a dog,\n")
    (tmp_path / "study.csv").write_text("audio,text,image\ndog,a dog,\n")
    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--count 0", "count is 0; allowed: 1 or more"),
        ("--batch -1", "batch is -1; allowed: 1 or more"),
        ("--seed -1", "seed is -1; allowed: 0 to 9223372036854775807"),
        ("--seed 9223372036854775808", "seed is 9223372036854775808; allowed"),
        ("--width 100", "width is 100; allowed: multiples of 8"),
        ("--height 0", "height is 0; allowed: multiples of 8"),
        ("--steps 2000", "steps is 2000; allowed: 1 to 999"),
        ("--guidance nan", "guidance is nan; allowed: a finite number"),
        ("--guidance-end 2", "guidance_end is 2.0; allowed: 0 to 1"),
        ("--image room.png --strength 2", "strength is 2.0; allowed: above 0, up to 1"),
        ("--image room.png --strength 0.01", "which leaves none of 25 steps"),
        ("--image room.png --sweep strength=0.01:1:0.5", "which leaves none of 25 steps"),
        ("--sweep steps=1:2000:100", "steps is 1001; allowed: 1 to 999"),
        ("--text night --alpha 2", "alpha is 2.0; allowed: 0 to 1"),
        ("--weights 1 2", "2 weights for 1 encoder; allowed: as many"),
        ("--mix --sound-weights 1 2", "2 weights for 1 sound; allowed: as many"),
        ("--clip-skip 9", "clip_skip is 9; allowed: 0 to"),
        ("--window soon", "argument --window: it is 'soon'; allowed: loudest, first, or seconds from 0"),
        ("--lora nowhere.safetensors", "nowhere.safetensors"),
        ("--lora text.txt", "text.txt"),
        ("--embedding nowhere.safetensors", "nowhere.safetensors"),
        ("--tokenizer nowhere", "nowhere"),
        ("--vae nowhere.safetensors", "nowhere.safetensors"),
        ("--encoder nowhere", "nowhere"),
        ("--slide 0.5 --steps 0", "steps is 0; allowed: from 1"),
        ("--slide 0.5 --limit 0", "limit is 0; allowed: 1 or more"),
        ("--out room.png", "room.png is a file; --out is a folder"),
        ("--out dog.png", "--out is dog.png, the name of a file; allowed: a folder\n"),
        ("--slide 0.5 --out dog.avi", "allowed: a folder, or a file that ends in .png, .webp, .gif, .mp4"),
        ("--image emptyfolder", "emptyfolder is a folder; give an image file"),
        ("--model nowhere.safetensors", "nowhere.safetensors"),
        ("--model text.txt", "text.txt: Stable Diffusion 1.x in one file must be a .safetensors file"),
        ("--encoder gemni", "no folder gemni, and no Hugging Face repository can be named so; did you mean gemini?"),
        ("--encoder own.py", "own.py is code, and not a trained encoder; name the folder that its training left"),
        ("--mix dog.wav", "unrecognized arguments: dog.wav; did you mean --audio dog.wav?"),
    ],
)
def test_an_image_that_cannot_be(refuse, arguments, message):
    assert message in refuse("generate", "--audio", "dog", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--count 0", "count is 0; allowed: 1 or more"),
        ("--limit 0", "limit is 0; allowed: 1 or more"),
        ("--width 9", "width is 9; allowed: multiples of 8"),
        ("--seed -1", "seed is -1; allowed"),
        ("--shard 3/2", "3/2"),
        ("--clip nowhere", "nowhere"),
    ],
)
def test_a_study_that_cannot_be(refuse, arguments, message):
    assert message in refuse("generate", "--study", "study.csv", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--repeats -1", "repeats is -1; allowed: from 0"),
        ("--pictures 1", "the number of images is 1; allowed: 0, or 2 to 1000"),
        ("--pictures 2000", "the number of images is 2000; allowed: 0, or 2 to 1000"),
        ("--similarity nowhere.py:A", "nowhere.py"),
        ("--data nowhere", "nowhere/test: no data here"),
        ("--out room.png", "room.png is a file; --out is a folder"),
        ("gemini", "given twice: gemini"),
    ],
)
def test_an_evaluation_that_cannot_be(refuse, arguments, message):
    assert message in refuse("eval", "gemini", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --config toy.py --config.data.held_out=0", "data.held_out is 0; it must be at least 1"),
        ("train --config toy.py --config.position_init=-1", "position_init is -1.0; it must not be negative"),
        ("train --config toy.py extra", "unknown argument 'extra'; an override is --config.KEY=VALUE"),
        ("train --config broken.py", "broken.py cannot be run: SyntaxError: "),
        ("data prepare semicolons.csv --clip toy --out set", "audio;text;image; commas must be between the columns"),
        ("generate --study semicolons.csv", "semicolons are between the columns where commas must be"),
        ("train --config toy.py --out room.png", "room.png is a file; --out is a folder"),
        ("toy reproduce --pictures 1", "the number of images is 1; allowed: 0, or 2 to"),
        ("toy reproduce --config.batch_size=0", "batch_size is 0; it must be at least 1"),
        ("toy recipes --seeds 0", "seeds is 0; allowed: 1 or more"),
        ("toy questions --limit 0", "limit is 0; allowed: 1 or more"),
        ("toy questions --steps 0", "steps is 0; allowed: from 1"),
        ("toy train --seed -1", "seed is -1; allowed: 0 to 4294967295"),
        ("toy sheet --encoder nowhere", "nowhere"),
        ("toy sheet --out emptyfolder", "--out is emptyfolder; allowed: the name of a file that ends in .png"),
        ("arena ask --model m --base-url nowhere", "--base-url is 'nowhere'; allowed: http://HOST/v1"),
        ("data cut . --captions subtitles --out cut --stride 0 ", "--stride is 0.0; allowed: seconds from 0.01"),
        ("data cut . --captions subtitles --out cut", "holds no videos"),
        ("data cut nowhere.mp4 --captions subtitles --out cut", "nowhere.mp4: no such file or folder"),
        ("data prepare study.csv --clip toy --out set --validation 9", "--validation is '9'; allowed"),
        ("data prepare study.csv --clip toy --out set --latents --model toy --size 0", "--size is 0; allowed"),
        ("arena run --config toy.py --published gemini --pictures 1", "the number of images is 1; allowed: 0, or 2 to"),
    ],
)
def test_other_commands_that_cannot_be(refuse, arguments, message):
    assert message in refuse(*arguments.split())


def test_a_clip_that_is_not_there_is_refused_before_videos_are_cut(refuse, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    cut = ("data", "cut", "a.mp4", "--captions", "subtitles", "--out", "cut")
    assert "nowhere" in refuse(*cut, "--clip", "nowhere")
    command = ("data", "cut", "a.mp4", "--caption-command", "no-such-program", "--out", "cut")
    assert "--caption-command no-such-program cannot be run" in refuse(*command)


def test_an_encoder_of_another_width_is_refused_by_the_configs(refuse, tmp_path):
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "encoder.json").write_text(
        json.dumps({"format": 1, "encoder": "gemini", "audio_pooling": "mean", "width": 768})
    )
    said = refuse("generate", "--audio", "dog", "--encoder", "wide")
    assert "encoder wide" in said and "128" in said
