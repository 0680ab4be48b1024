"""Videos become clips, frames, captions and a manifest; odd ones are right, broken ones are listed."""

import csv
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from jaxsd.audio import load_clip
from jaxsd.data.cut import CutOptions, cut_videos
from jaxsd.data.manifest import read_manifest
from tests.helpers.videos import frame_array, write_video


def rows(out: Path) -> list[dict]:
    return list(csv.DictReader((out / "manifest.csv").open()))


def bad(out: Path) -> dict[str, str]:
    return {Path(row["file"]).name: row["reason"] for row in csv.DictReader((out / "bad.csv").open())}


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


DEFAULTS = CutOptions()


def cut(folder: Path, out: Path, *, options=DEFAULTS, **given) -> str:
    given = given or {"captions": str(captions(folder))}
    return cut_videos([folder], out, options=options, workers=0, **given)


def captions(folder: Path) -> Path:
    """A table in which the first two seconds of every video have one caption and the rest another."""
    path = folder / "captions.csv"
    names = sorted(one.name for one in folder.iterdir() if one.suffix not in (".csv", ".srt"))
    lines = [f"{name},{start},{name} {start}\n" for name in names for start in (0, 2)]
    path.write_text("file,start,text\n" + "".join(lines))
    return path


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def test_a_video_becomes_seconds_with_their_own_frames_and_captions(videos, tmp_path):
    write_video(videos / "a.mp4", 4.0)
    summary = cut(videos, tmp_path / "out")
    assert summary.startswith("4 clips of 1 video")
    again = cut_videos([videos / "a.mp4"], tmp_path / "out", captions=str(videos / "captions.csv"), workers=0)
    assert again == summary  # a file may be named as well as its folder
    found = rows(tmp_path / "out")
    assert [row["text"] for row in found] == ["a.mp4 0", "a.mp4 0", "a.mp4 2", "a.mp4 2"]
    assert len({row["group"] for row in found}) == 1
    for second, row in enumerate(found):
        samples, rate = soundfile.read(tmp_path / "out" / row["audio"], dtype="int16")
        expected = load_clip(videos / "a.mp4", start=second).samples
        assert rate == 16_000 and len(samples) == 16_000
        assert np.abs(samples.astype(int) - expected.astype(int))[50:-50].max() <= 3
        image = np.asarray(Image.open(tmp_path / "out" / row["image"])).astype(float)
        near = [np.abs(image - frame_array(index)).mean() for index in range(40)]
        assert int(np.argmin(near)) // 10 == second
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 4


def test_silent_clipped_and_static_seconds_are_left_out(videos, tmp_path):
    write_video(videos / "silent.mp4", 4.0, silent=(0.9, 3.1))
    write_video(videos / "static.mp4", 3.0, moving=False, seed=1)
    summary = cut(videos, tmp_path / "out")
    assert "2 silent" in summary and "3 static" in summary
    assert [row["second"] for row in rows(tmp_path / "out")] == ["0", "3"]
    everything = CutOptions(min_loudness=-float("inf"), min_motion=0)
    assert cut(videos, tmp_path / "all", options=everything).startswith("7 clips of 2 videos")


def test_odd_videos_are_right_and_broken_ones_are_listed(videos, tmp_path):
    write_video(videos / "surround.mp4", 2.0, seed=1, layout="5.1")
    write_video(videos / "variable.mkv", 3.0, seed=2, times=[0, 0.1, 0.5, 0.6, 1.05, 1.9, 2.0, 2.3])
    write_video(videos / "rotated.mp4", 2.0, seed=3, rotation=90)
    write_video(videos / "mute.mp4", 2.0, sound=False)
    write_video(videos / "blind.mp4", 2.0, picture=False)
    write_video(videos / "short.mp4", 0.5, seed=4)
    (videos / "text.mp4").write_text("no video at all\n" * 50)
    (videos / "empty.webm").touch()
    write_video(videos / "cut.mp4", 3.0, seed=5)
    (videos / "cut.mp4").write_bytes((videos / "cut.mp4").read_bytes()[:9_000])
    (videos / "twin.mp4").write_bytes((videos / "surround.mp4").read_bytes())
    write_video(videos / "wrong_length.mkv", 2.0, seed=6)
    data = (videos / "wrong_length.mkv").read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration in ms, a float of 8 bytes
    (videos / "wrong_length.mkv").write_bytes(data[:at] + struct.pack(">d", 100_000.0) + data[at + 8 :])
    write_video(videos / "half.mkv", 6.0, seed=7)
    (videos / "half.mkv").write_bytes((videos / "half.mkv").read_bytes()[: (videos / "half.mkv").stat().st_size // 2])
    cut(videos, tmp_path / "out")
    reasons = bad(tmp_path / "out")
    expected = {
        "mute.mp4": "it holds none that can be decoded",
        "blind.mp4": "holds no moving picture",
        "short.mp4": "s of sound; a clip takes 1 s",
        "text.mp4": "cannot be read as sound",
        "empty.webm": "is empty",
        "cut.mp4": "cannot be read as sound",
        "twin.mp4": "it is the same as",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name], name
    found = rows(tmp_path / "out")
    count = {name: sum(row["video"] == name for row in found) for name in {row["video"] for row in found}}
    assert 1 <= count.pop("half.mkv") <= 3
    assert count == {"surround.mp4": 2, "variable.mkv": 3, "rotated.mp4": 2, "wrong_length.mkv": 2}
    upright = next(row for row in found if row["video"] == "rotated.mp4")
    image = np.asarray(Image.open(tmp_path / "out" / upright["image"])).astype(float)
    near = {
        turns: min(np.abs(image - np.rot90(frame_array(i, 3), turns)).mean() for i in range(10)) for turns in (1, 3)
    }
    assert image.shape[:2] == (96, 64) and near[1] < near[3]


def test_a_group_is_a_video_or_a_part_of_it(videos, tmp_path):
    write_video(videos / "a.mp4", 4.0)
    table = str(captions(videos))
    cut(videos, tmp_path / "out", captions=table)
    (whole,) = {row["group"] for row in rows(tmp_path / "out")}
    cut(videos, tmp_path / "out", captions=table, part=2)
    assert [row["group"] for row in rows(tmp_path / "out")] == [f"{whole}/{number}" for number in (0, 0, 1, 1)]


def test_captions_from_subtitles_candidates_and_a_command(videos, tmp_path):
    write_video(videos / "a.mp4", 3.0)
    (videos / "a.srt").write_text(
        "1\n00:00:00,200 --> 00:00:00,900\n<i>a bell</i>\n\n2\n00:00:01,500 --> 00:00:02,500\na dog\nbarks\n"
    )
    cut(videos, tmp_path / "subtitles", captions="subtitles", options=CutOptions(subtitles=True))
    assert [row["text"] for row in rows(tmp_path / "subtitles")] == ["a bell", "a dog barks", "a dog barks"]

    words = tmp_path / "words.txt"
    words.write_text("dog\nbell\n")
    given = {"candidates": words, "templates": ("a photo of a {}", "{}"), "clip": "toy", "leave_out": 0.34}
    cut(videos, tmp_path / "candidates", **given)
    chosen = rows(tmp_path / "candidates")
    assert len(chosen) == 2 and {row["text"] for row in chosen} <= {"a photo of a dog", "a photo of a bell"}
    assert all(-1 <= float(row["score"]) <= 1 for row in chosen)

    command = f"{sys.executable} -c 'import sys; [print(\"image\", n) for n, _ in enumerate(sys.stdin)]'"
    cut(videos, tmp_path / "command", command=command)
    assert [row["text"] for row in rows(tmp_path / "command")] == ["image 0", "image 1", "image 2"]
    with pytest.raises(ValueError, match="status 1 and 0 lines for 3 images"):
        cut(videos, tmp_path / "failing", command="false")


def test_vggsounds_own_table(videos, tmp_path):
    write_video(videos / "-abc_def_000030.mp4", 2.0)
    table = tmp_path / "vggsound.csv"
    table.write_text('-abc_def,30,"playing, a flute",train\nother,10,dog,test\n')
    cut(videos, tmp_path / "out", captions=str(table))
    (first, _) = rows(tmp_path / "out")
    assert (first["text"], first["group"], first["split"]) == ("playing, a flute", "-abc_def", "train")


def test_wrong_arguments_are_one_sentence_and_another_cut_is_not_mixed_in(videos, tmp_path):
    write_video(videos / "a.mp4", 2.0)
    with pytest.raises(ValueError, match="give one of them"):
        cut_videos([videos], tmp_path / "out")
    with pytest.raises(ValueError, match="--stride is 0"):
        cut(videos, tmp_path / "out", options=CutOptions(stride=0))
    with pytest.raises(FileNotFoundError, match=r"b\.mp4: no such file or folder"):
        cut(videos / "b.mp4", tmp_path / "out", captions=str(captions(videos)))
    cut(videos / "a.mp4", tmp_path / "out", captions=str(captions(videos)))  # a file as well as its folder
    with pytest.raises(ValueError, match="was cut otherwise .options was"):
        cut(videos, tmp_path / "out", options=CutOptions(stride=0.5))


@pytest.mark.long
def test_killed_at_ten_moments_it_ends_with_the_same_bytes(videos, tmp_path):
    for number in range(12):
        write_video(videos / f"{number}.mp4", 6.0, seed=number)
    table = captions(videos)
    command = [sys.executable, "-m", "jaxsd.data", "cut", str(videos), "--captions", str(table), "--workers", "1"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True)
    for kill in range(10):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], start_new_session=True)
        time.sleep(0.6 + 0.23 * kill)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--out", str(tmp_path / "out")], check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
