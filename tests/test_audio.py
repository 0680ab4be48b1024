"""Clips from sounds of many kinds."""

import os
import struct

import av
import librosa
import numpy as np
import pytest
import soundfile

from jaxsd.audio import AudioError, clip_from_samples, load_clip

LEVEL = 0.5


def tone(hz: float, seconds: float, rate: int, level: float = LEVEL) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def write(path, samples, rate=16_000, **kwargs):
    soundfile.write(path, samples, rate, **kwargs)
    return path


def spectrum_peak(clip: np.ndarray) -> tuple[int, float]:
    """Frequency in Hz and amplitude of the strongest bin; bins of a one-second clip are 1 Hz."""
    amplitude = np.abs(np.fft.rfft(clip / 32768)) * 2 / len(clip)
    return int(amplitude.argmax()), float(amplitude.max())


def encode(path, samples, rate, codec, container=None):
    """Write samples (n,) with FFmpeg, in two channels."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        both = np.stack([samples, samples]).astype(np.float32)
        for first in range(0, len(samples), 1024):
            block = np.ascontiguousarray(both[:, first : first + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = rate, first
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def quiet_loud_quiet(rate: int) -> np.ndarray:
    """Four seconds of little, one of a loud tone of 1 kHz, three of little."""
    return np.concatenate([tone(300, 4, rate, 0.05), tone(1000, 1, rate, 0.6), tone(600, 3, rate, 0.1)])


FILES = [
    ("a.wav", 16_000, "PCM_16"),
    ("a.wav", 44_100, "PCM_U8"),
    ("a.wav", 48_000, "PCM_24"),
    ("a.wav", 11_025, "PCM_32"),
    ("a.wav", 22_050, "FLOAT"),
    ("a.wav", 96_000, "DOUBLE"),
    ("a.wav", 8_000, "ULAW"),
    ("a.aiff", 32_000, "PCM_16"),
    ("a.flac", 192_000, "PCM_24"),
    ("a.ogg", 44_100, "VORBIS"),
    ("a.ogg", 48_000, "OPUS"),
    ("a.mp3", 44_100, "MPEG_LAYER_III"),
]


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize(("name", "rate", "subtype"), FILES)
def test_a_tone_keeps_its_pitch_and_level(tmp_path, name, rate, subtype, channels):
    if name == "a.mp3" and channels > 2:
        pytest.skip("MP3 has at most two channels")
    samples = np.tile(tone(1000, 1.7, rate)[:, None], (1, channels))
    clip = load_clip(write(tmp_path / name, samples, rate, subtype=subtype)).samples
    assert clip.dtype == np.int16 and clip.shape == (16_000,)
    hz, amplitude = spectrum_peak(clip)
    assert hz == 1000
    assert amplitude == pytest.approx(LEVEL, rel=0.02)


def test_sixteen_bit_samples_at_16_khz_come_back_unchanged(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 16_000).astype(np.int16)
    np.testing.assert_array_equal(load_clip(write(tmp_path / "a.wav", samples)).samples, samples)


def write_pcm(path, values, used, taken, tag=1):
    """A WAV file of integers that use `used` bits of `taken`; WAVEFORMATEXTENSIBLE where `tag` says so."""
    size = taken // 8
    fields = struct.pack("<HHIIHH", tag, 1, 16_000, 16_000 * size, size, used if tag == 1 else taken)
    if tag != 1:
        fields += struct.pack("<HHIH14s", 22, used, 4, 1, bytes.fromhex("000000001000800000aa00389b71"))
    data = values.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :size].tobytes()
    chunks = struct.pack("<4sI", b"fmt ", len(fields)) + fields + struct.pack("<4sI", b"data", len(data)) + data
    path.write_bytes(struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks)


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize(("used", "taken", "tag"), [(24, 32, 1), (24, 32, 0xFFFE), (12, 16, 1), (20, 24, 0xFFFE)])
def test_samples_of_fewer_bits_than_they_take_have_their_level(tmp_path, used, taken, tag, upper):
    tone = 0.5 * np.sin(np.arange(16_000) * 0.05)
    values = np.round(tone * 2 ** (used - 1)).astype(np.int64)
    write_pcm(tmp_path / "a.wav", values << (taken - used) if upper else values, used, taken, tag)
    assert np.abs(load_clip(tmp_path / "a.wav").samples / 2**15 - tone).max() < 2.0**-used + 2.0**-15


def test_samples_of_24_bits_in_4_bytes_that_are_said_to_be_3_are_refused(tmp_path):
    write_pcm(tmp_path / "a.wav", np.arange(16_000), 24, 32, 0xFFFE)
    wrong = bytearray((tmp_path / "a.wav").read_bytes())
    wrong[34] = 24
    (tmp_path / "a.wav").write_bytes(wrong)
    with pytest.raises(AudioError, match=r"a\.wav has samples of 24 bits in 4 bytes and calls them 3 bytes"):
        load_clip(tmp_path / "a.wav")


def test_channels_are_averaged(tmp_path):
    samples = np.stack([tone(500, 1, 16_000), np.zeros(16_000)], axis=1)
    hz, amplitude = spectrum_peak(load_clip(write(tmp_path / "a.wav", samples)).samples)
    assert hz == 500 and amplitude == pytest.approx(LEVEL / 2, rel=1e-3)


def test_tones_above_8_khz_are_removed_not_folded(tmp_path):
    clip = load_clip(write(tmp_path / "a.wav", tone(12_000, 2, 48_000), 48_000), start=0.5).samples
    assert abs(clip.astype(int)).max() <= 2


def test_a_short_file_is_followed_by_zeros(tmp_path):
    clip = load_clip(write(tmp_path / "a.wav", tone(1000, 0.25, 44_100), 44_100)).samples
    assert abs(clip[:4000].astype(int)).max() > 16_000
    assert abs(clip[4100:].astype(int)).max() < 100


def test_one_sample_is_enough(tmp_path):
    clip = load_clip(write(tmp_path / "a.wav", np.array([1000], np.int16))).samples
    assert clip[0] == 1000 and not clip[1:].any()


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_the_loudest_second_is_found(tmp_path, name, rate):
    samples = np.concatenate([tone(300, 3.37, rate, 0.05), tone(1000, 1, rate, 0.6), tone(600, 2.5, rate, 0.1)])
    clip = load_clip(write(tmp_path / name, samples, rate)).samples
    hz, amplitude = spectrum_peak(clip)
    assert hz == 1000
    assert amplitude > 0.58  # at most 10 ms, and a codec's blur, beside the loud second


def test_the_loudest_second_has_no_edges_from_resampling(tmp_path):
    whole = tone(1000, 4, 48_000)
    samples = whole * np.repeat([0.2, 1, 1, 0.2], 48_000)
    clip = load_clip(write(tmp_path / "a.wav", samples, 48_000, subtype="FLOAT"), start=1.5).samples
    np.testing.assert_allclose(clip, tone(1000, 1, 16_000) * 32768, atol=1)


def test_the_first_of_equally_loud_seconds_is_taken(tmp_path):
    samples = np.concatenate([np.zeros(8000), tone(440, 6, 16_000)])
    expected = tone(440, 1, 16_000) * 32768
    np.testing.assert_allclose(load_clip(write(tmp_path / "a.wav", samples)).samples, expected, atol=1)


def test_silence_stays_silent(tmp_path):
    assert not load_clip(write(tmp_path / "a.wav", np.zeros(50_000))).samples.any()


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_start_chooses_the_second(tmp_path, name):
    samples = np.concatenate([tone(hz, 1, 44_100) for hz in (400, 800, 1200)])
    path = write(tmp_path / name, samples, 44_100)
    assert [spectrum_peak(load_clip(path, start=second).samples)[0] for second in (0, 1, 2)] == [400, 800, 1200]


def test_start_near_the_end_is_followed_by_zeros(tmp_path):
    clip = load_clip(write(tmp_path / "a.wav", np.full(32_000, 0.5)), start=1.75).samples
    assert (clip[:4000] == 16_384).all() and not clip[4000:].any()


def test_values_beyond_full_scale_are_clipped_and_others_rounded(tmp_path):
    samples = np.array([2, -2, 1, -1, 0.6 / 32768, -0.6 / 32768, 0.4 / 32768])
    clip = load_clip(write(tmp_path / "a.wav", samples, subtype="FLOAT")).samples
    assert clip[:7].tolist() == [32767, -32768, 32767, -32768, 1, -1, 0]


def test_a_long_file_is_not_held_in_memory(tmp_path, monkeypatch):
    samples = np.zeros(16_000 * 60, np.int16)
    samples[16_000 * 41 : 16_000 * 42] = np.tile([9000, -9000], 8_000)
    path = write(tmp_path / "a.wav", samples)
    largest, read = 0, soundfile.SoundFile.read

    def measured(self, frames=-1, *args, **kwargs):
        nonlocal largest
        block = read(self, frames, *args, **kwargs)
        largest = max(largest, len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", measured)
    assert load_clip(path).start == 41 and (abs(load_clip(path).samples) == 9000).all()
    assert largest <= 3 * 16_000


@pytest.mark.parametrize("start", [-0.1, 2.0, 7, float("nan"), float("inf")])
def test_a_start_outside_the_file_is_refused(tmp_path, start):
    path = write(tmp_path / "a.wav", np.zeros(32_000))
    with pytest.raises(AudioError, match=r"a\.wav lasts 2\.000 s; start must be from 0 to less than that, not"):
        load_clip(path, start=start)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("seconds", [0.5, 3])
def test_samples_that_are_not_finite_are_refused(tmp_path, bad, seconds):
    samples = tone(440, seconds, 16_000)
    samples[100] = bad
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav has samples that are NaN or infinite"):
        load_clip(path)


def test_floats_of_the_scale_of_integers_are_refused(tmp_path):
    path = write(tmp_path / "a.wav", 20_000 * tone(440, 1, 16_000), subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav has floats up to \d+; floats must be in \[-1, 1\]"):
        load_clip(path)


WAVE_FORMAT = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)


def riff(data: bytes, *, before: bytes = b"", after: bytes = b"", size: int | None = None) -> bytes:
    """A WAV file with other chunks around its data; `size` is what its headers say of its length."""
    chunks = [b"WAVEfmt ", struct.pack("<I", len(WAVE_FORMAT)), WAVE_FORMAT, before]
    chunks += [b"data", struct.pack("<I", len(data) if size is None else size), data, after]
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


@pytest.mark.parametrize(
    "options",
    [
        {"before": b"LIST" + struct.pack("<I", 5) + b"abcde\0"},
        {"before": b"JUNK" + struct.pack("<I", 100_000) + bytes(100_000)},
        {"after": b"id3 " + struct.pack("<I", 4) + b"abcd"},
        {"after": b"\0"},
        {"size": 0},
        {"size": 0xFFFFFFFF},
        {"size": 3 * 32_000},
    ],
)
def test_odd_chunks_and_lengths_of_wav_files(tmp_path, options):
    samples = np.round(tone(440, 1, 16_000) * 32768).astype("<i2")
    (tmp_path / "a.wav").write_bytes(riff(samples.tobytes(), **options))
    np.testing.assert_array_equal(load_clip(tmp_path / "a.wav").samples, samples)


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "DOUBLE"}),
        ("a.wav", {"format": "WAVEX", "subtype": "PCM_32"}),
        ("a.wav", {"format": "RF64"}),
        ("a.w64", {}),
        ("a.au", {}),
        ("a.aiff", {"subtype": "PCM_24"}),
        ("a.caf", {}),
        ("a.flac", {"subtype": "PCM_24"}),
        ("a.mp3", {"format": "WAV"}),
    ],
)
def test_files_without_loss_give_the_same(tmp_path, name, options):
    samples = np.stack([tone(440, 1, 16_000)] * 24, axis=1) if name == "a.au" else tone(440, 1, 16_000)
    clip = load_clip(write(tmp_path / name, samples, **options)).samples
    np.testing.assert_allclose(clip, tone(440, 1, 16_000) * 32768, atol=1)


def test_files_that_hold_no_sound_are_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("these are no sounds\n" * 100)
    (tmp_path / "notes.wav").write_text("these are no sounds\n" * 100)
    (tmp_path / "page.mp3").write_text("<!DOCTYPE html>" * 1000)
    (tmp_path / "nothing.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "samples.raw").write_bytes(bytes(1000))
    write(tmp_path / "silent.wav", np.zeros(0))
    write(tmp_path / "slow.wav", np.zeros(100), 10)
    write(tmp_path / "whole.flac", tone(440, 3, 16_000))
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:60])
    reasons = {
        "missing.wav": "does not exist; give a file in WAV, FLAC, OGG, MP3",
        "folder.wav": "is not a file; give a",
        "nothing.wav": "is empty; give a",
        "notes.txt": "cannot be read as sound (Format not recognised); give a file in WAV, FLAC, OGG, MP3",
        "notes.wav": "cannot be read as sound (Format not recognised); give a",
        "page.mp3": "cannot be read as sound (it looks like MP3 and holds no frame of it); give a",
        "samples.raw": "cannot be read as sound (",
        "silent.wav": "holds no samples; give a",
        "slow.wav": "has a rate of 10 Hz; it must be from 1000 to 768000",
        "cut.flac": "cannot be read as sound (",
    }
    for name, reason in reasons.items():
        with pytest.raises(AudioError) as caught:
            load_clip(tmp_path / name)
        assert f"{name} {reason}" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.m4a", "aac", "mp4"),
        ("a.mp4", "aac", "mp4"),
        ("a.aac", "aac", "adts"),
        ("a.webm", "libopus", "webm"),
        ("a.mkv", "flac", "matroska"),
    ],
)
def test_what_phones_and_videos_hold_is_read(tmp_path, name, codec, container):
    path = encode(tmp_path / name, quiet_loud_quiet(48_000), 48_000, codec, container)
    loudest = load_clip(path)
    assert loudest.start == pytest.approx(4, abs=0.05)
    hz, amplitude = spectrum_peak(loudest.samples)
    assert hz == 1000 and amplitude > 0.57
    assert spectrum_peak(load_clip(path, start=5.5).samples)[0] == 600
    with pytest.raises(AudioError, match=r"lasts 8\.0\d\d s; start must be from 0 to less than that, not 9"):
        load_clip(path, start=9)


def test_all_of_an_mp3_is_read_whatever_its_first_frame_says(tmp_path):
    samples = quiet_loud_quiet(44_100)
    write(tmp_path / "a.mp3", samples, 44_100, bitrate_mode="VARIABLE", compression_level=0.5)
    data = (tmp_path / "a.mp3").read_bytes()
    second = data.index(b"\xff\xfb", data.index(b"Xing"))  # the first frame holds the length and no sound
    (tmp_path / "b.mp3").write_bytes(data[second:])
    (tmp_path / "twice.mp3").write_bytes(data[second:] + data)
    for name in ("a.mp3", "b.mp3"):
        assert load_clip(tmp_path / name).start == pytest.approx(4, abs=0.06)
    assert spectrum_peak(load_clip(tmp_path / "b.mp3", start=6).samples)[0] == 600
    assert spectrum_peak(load_clip(tmp_path / "twice.mp3", start=12.3).samples)[0] == 1000


def test_a_length_that_the_header_leaves_open_is_found(tmp_path):
    samples = quiet_loud_quiet(44_100)
    write(tmp_path / "a.flac", samples, 44_100)
    flac = bytearray((tmp_path / "a.flac").read_bytes())
    length = int.from_bytes(flac[18:26], "big")  # the last 36 bits are the number of samples
    flac[18:26] = (length >> 36 << 36).to_bytes(8, "big")
    (tmp_path / "pipe.flac").write_bytes(flac)
    write(tmp_path / "a.wav", samples, 44_100)
    alike = {tmp_path / "pipe.flac": tmp_path / "a.flac"}
    for size in (0, 2**32 - 1):
        wav = bytearray((tmp_path / "a.wav").read_bytes())
        wav[4:8] = wav[40:44] = struct.pack("<I", size)
        (tmp_path / f"{size}.wav").write_bytes(wav)
        alike[tmp_path / f"{size}.wav"] = tmp_path / "a.wav"
    for path, whole in alike.items():
        found, expected = load_clip(path), load_clip(whole)
        assert found.start == expected.start == 4
        np.testing.assert_array_equal(found.samples, expected.samples)


@pytest.mark.parametrize("said", [0.5, 2])
def test_a_length_that_a_flac_header_has_wrong_is_found(tmp_path, said):
    """Twice what is there is also what the header of a file says that was cut off."""
    samples = quiet_loud_quiet(16_000)
    flac = bytearray(write(tmp_path / "a.flac", samples).read_bytes())
    length = int.from_bytes(flac[18:26], "big")
    flac[18:26] = ((length >> 36 << 36) + int(said * len(samples))).to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(flac)
    assert load_clip(tmp_path / "a.flac").start == 4
    assert spectrum_peak(load_clip(tmp_path / "a.flac", start=6).samples)[0] == 600
    with pytest.raises(AudioError, match=r"lasts 8\.000 s; start must be"):
        load_clip(tmp_path / "a.flac", start=9)


@pytest.mark.parametrize(("rate", "channels"), [(44_100, (1, 1)), (16_000, (1, 2)), (16_000, (2, 1)), (44_100, (2, 1))])
def test_a_file_that_changes_its_rate_or_channels_is_read_to_its_end(tmp_path, rate, channels):
    parts = []
    for rate_of_part, count, level in zip((16_000, rate), channels, (0.05, 0.5), strict=True):
        samples = np.stack([tone(440, 2, rate_of_part, level)] * count, axis=1)
        parts.append(write(tmp_path / "part.mp3", samples, rate_of_part).read_bytes())
    (tmp_path / "joined.mp3").write_bytes(b"".join(parts))
    clip = load_clip(tmp_path / "joined.mp3")
    assert 2 < clip.start < 3 and spectrum_peak(clip.samples) == (440, pytest.approx(0.5, rel=0.05))


def test_damage_in_the_middle_leaves_the_rest(tmp_path):
    path = encode(tmp_path / "a.aac", quiet_loud_quiet(48_000), 48_000, "aac", "adts")
    data = bytearray(path.read_bytes())
    data[1000:1200] = bytes(200)
    path.write_bytes(data)
    assert spectrum_peak(load_clip(path).samples)[0] == 1000


@pytest.mark.parametrize("channels", [8, 33, 100])
def test_many_channels_that_ffmpeg_decodes(tmp_path, channels):
    level = np.full(16_000 * channels, 0.25, np.float32)
    with av.open(str(tmp_path / "a.mkv"), "w", format="matroska") as output:
        stream = output.add_stream("pcm_f32le", rate=16_000)
        stream.layout = "7.1" if channels == 8 else f"{channels} channels"
        frame = av.AudioFrame.from_ndarray(level[None], format="flt", layout=stream.layout.name)
        frame.sample_rate = 16_000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    if channels > 64:
        with pytest.raises(AudioError, match=r"a\.mkv has 100 channels; allowed in its format: 64"):
            load_clip(tmp_path / "a.mkv")
    else:
        assert (load_clip(tmp_path / "a.mkv").samples == 2**13).all()


def test_a_list_of_other_files_is_no_sound(tmp_path):
    write(tmp_path / "a.wav", tone(440, 1, 16_000))
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/a.wav\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(text)
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile a.wav\n")
    for name in ("list.m3u8", "list.txt"):
        with pytest.raises(AudioError, match="cannot be read as sound"):
            load_clip(tmp_path / name)


def test_channels_that_cancel_each_other_leave_the_loudest(tmp_path):
    samples = quiet_loud_quiet(16_000)
    opposite = np.stack([samples, -samples], axis=1)
    clip = load_clip(write(tmp_path / "a.wav", opposite))
    assert clip.start == 4 and spectrum_peak(clip.samples)[1] > 0.58
    assert spectrum_peak(load_clip(tmp_path / "a.wav", start=6).samples)[0] == 600
    surround = np.stack([0 * samples, samples, -samples, 0 * samples], axis=1)
    np.testing.assert_array_equal(load_clip(write(tmp_path / "c.wav", surround)).samples, clip.samples)
    nearly = np.stack([samples, -0.8 * samples], axis=1)  # a tenth is left: that is the average, as always
    assert spectrum_peak(load_clip(write(tmp_path / "b.wav", nearly)).samples)[1] == pytest.approx(0.06, rel=0.02)


def test_a_constant_offset_is_not_loud(tmp_path):
    samples = np.concatenate([np.full(48_000, 0.5), tone(440, 1, 16_000, 0.6), np.zeros(32_000)])
    clip = load_clip(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert 2.8 < clip.start <= 3
    # Nor is where it begins and ends.
    quiet = np.concatenate([np.zeros(32_000), np.full(16_000, 0.3), np.zeros(32_000), tone(440, 1, 16_000, 0.1)])
    assert load_clip(write(tmp_path / "b.wav", quiet, subtype="FLOAT")).start == 5
    assert load_clip(write(tmp_path / "c.wav", tone(30, 1, 16_000, 0.3) + 0.1)).start == 0  # low tones are heard


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 16_000), ("OPUS", 16_000), ("OPUS", 48_000)])
def test_all_streams_of_a_chained_ogg_are_read(tmp_path, subtype, rate):
    """Recordings of web radio are so: one stream after the other."""
    samples = quiet_loud_quiet(16_000)
    loud = write(tmp_path / "loud.ogg", samples, subtype=subtype).read_bytes()
    quiet = write(tmp_path / "quiet.ogg", tone(300, 3, rate, 0.05), rate, subtype=subtype).read_bytes()
    (tmp_path / "chained.ogg").write_bytes(quiet + loud)
    assert load_clip(tmp_path / "chained.ogg").start == pytest.approx(7, abs=0.06)
    assert spectrum_peak(load_clip(tmp_path / "chained.ogg", start=9).samples)[0] == 600
    assert load_clip(tmp_path / "loud.ogg").start == pytest.approx(4, abs=0.06)


def test_a_chain_of_other_rates_is_not_read_in_part(tmp_path):
    first = write(tmp_path / "a.ogg", tone(300, 3, 48_000, 0.05), 48_000).read_bytes()
    second = write(tmp_path / "b.ogg", tone(300, 3, 16_000, 0.5)).read_bytes()
    (tmp_path / "chained.ogg").write_bytes(first + second)
    with pytest.raises(AudioError, match="chained.ogg cannot be read as sound"):
        load_clip(tmp_path / "chained.ogg")


def test_names_need_not_be_utf_8(tmp_path):
    write(tmp_path / "a.wav", quiet_loud_quiet(16_000))
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav")
    os.rename(tmp_path / "a.wav", name)
    assert load_clip(name).start == 4


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_librosa_loads_and_resamples_to_the_same(tmp_path, rate):
    rng = np.random.default_rng(rate)
    # Noise below 3 kHz, which every rate holds: how filters fall off at the edge of the band differs.
    spectrum = rng.standard_normal(3_000) + 1j * rng.standard_normal(3_000)
    samples = np.fft.irfft(np.append(spectrum, np.zeros(3 * rate // 2 + 1 - 3_000)), 3 * rate) * 50
    path = write(tmp_path / "a.flac", np.stack([samples, 0.3 * samples], axis=1), rate)
    theirs, _ = librosa.load(path, sr=16_000, mono=True, res_type="soxr_hq")
    ours = load_clip(path, start=1).samples / 32768
    assert np.abs(ours).max() > 0.05
    np.testing.assert_allclose(ours, theirs[16_000:32_000], atol=1e-4)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_array_becomes_what_a_file_of_it_becomes(tmp_path, dtype, rate):
    samples = np.stack([quiet_loud_quiet(rate), 0.5 * quiet_loud_quiet(rate)], axis=1)
    if np.issubdtype(dtype, np.integer):
        samples = np.round(samples * np.iinfo(dtype).max)
    samples = samples.astype(dtype)
    subtype = {"int16": "PCM_16", "int32": "PCM_32", "float32": "FLOAT", "float64": "DOUBLE"}[samples.dtype.name]
    path = write(tmp_path / "a.wav", samples, rate, subtype=subtype)
    for start in (None, 5.2):
        expected, made = load_clip(path, start), clip_from_samples(samples, rate, start)
        np.testing.assert_array_equal(made.samples, expected.samples)
        assert made.start == expected.start
    np.testing.assert_array_equal(
        clip_from_samples(samples[:, 0], rate).samples, clip_from_samples(samples[:, :1], rate).samples
    )


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(10, np.uint8), 16_000, "is uint8; allowed: int16, int32 or floats"),
        (np.zeros((2, 10)), 16_000, r"has shape \(2, 10\); allowed: \(samples,\) or \(samples, channels\)"),
        (np.zeros(0), 16_000, r"has shape \(0,\)"),
        (np.zeros(10), 44.1, "has a rate of 44.1 Hz; it must be a whole number"),
        (np.zeros(10), 0, "has a rate of 0 Hz; it must be from 1000"),
        (np.full(10, 3000.0), 16_000, "has floats up to 3000; floats must be in"),
        (np.full(10, np.nan), 16_000, "has samples that are NaN or infinite"),
        (np.full(10, -np.inf), 16_000, "has samples that are NaN or infinite"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(samples, rate, message):
    with pytest.raises(AudioError, match=f"the array of samples {message}"):
        clip_from_samples(samples, rate)


def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (tmp_path / "a.wav").write_text(text)
    with pytest.raises(AudioError, match=r"a\.wav is a pointer of Git LFS, not the file itself; run `git lfs pull`"):
        load_clip(tmp_path / "a.wav")
