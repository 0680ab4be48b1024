"""Saving and loading encoders."""

import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import encoders

SIZES = {"width": 32, "depth": 1, "heads": 4, "mlp": 48}


def small(name="gemini"):
    """An encoder with random parameters."""
    sizes = {"width": 32} if name == "human" else SIZES
    graphdef, params = nnx.split(nnx.eval_shape(lambda: encoders.create(name, **sizes, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    return nnx.merge(graphdef, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params))


def tensors(encoder) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(p[...]) for path, p in nnx.to_flat_state(nnx.state(encoder))}


@pytest.fixture
def folder(tmp_path):
    encoders.save(small(), tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_a_round_trip_changes_no_bit(tmp_path, name):
    encoder = small(name)
    encoders.save(encoder, tmp_path / "new" / "folder")
    loaded = encoders.load(tmp_path / "new" / "folder")
    assert type(loaded) is type(encoder) and loaded.config == encoder.config
    before, after = tensors(encoder), tensors(loaded)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_files_hold_the_sizes_and_every_parameter_by_its_path(folder):
    assert json.loads((folder / "encoder.json").read_text()) == {
        "encoder": "gemini",
        "audio_pooling": "mean",
        **SIZES,
    }
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == tensors(small()).keys()
    assert saved["transformer.layers.0.self_attn.in_proj.kernel"].shape == (32, 96)


def test_saving_as_float16_halves_the_file_and_loads_as_float32(folder, tmp_path):
    encoders.save(small(), tmp_path / "half", dtype=jnp.float16)
    half, full = (path / "model.safetensors" for path in (tmp_path / "half", folder))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = tensors(encoders.load(tmp_path / "half"))
    for key, value in tensors(small()).items():
        assert loaded[key].dtype == np.float32
        np.testing.assert_array_equal(loaded[key], value.astype(np.float16).astype(np.float32))


def test_bfloat16_tensors_load(folder):
    path = folder / "model.safetensors"
    save_file({key: value.astype(ml_dtypes.bfloat16) for key, value in load_file(path).items()}, path)
    assert tensors(encoders.load(folder))["proj.kernel"].dtype == np.float32


def test_dtype_chooses_what_a_loaded_encoder_computes_in(folder):
    assert encoders.load(folder).proj.dtype == jnp.float32
    narrow = encoders.load(folder, dtype=jnp.bfloat16)
    assert narrow.proj.dtype == jnp.bfloat16 and narrow.proj.kernel.dtype == jnp.float32


def test_what_cannot_be_saved_is_refused(tmp_path):
    encoder = small()
    with pytest.raises(ValueError, match="cannot save as bfloat16: choose float32 or float16"):
        encoders.save(encoder, tmp_path, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="audio_pooling is 'max'; allowed: mean, first, last"):
        encoders.save(encoder, tmp_path, audio_pooling="max")
    with pytest.raises(ValueError, match="cannot save Linear: it takes in_features, .* and no property `config`"):
        encoders.save(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), tmp_path)
    encoder.pos_embed[...] = jnp.full((77, 32), 1e6)
    with pytest.raises(ValueError, match="pos_embed has values beyond the range of float16"):
        encoders.save(encoder, tmp_path, dtype=jnp.float16)
    encoder.pos_embed[...] = encoder.pos_embed[...].at[3, 4].set(jnp.nan)
    with pytest.raises(ValueError, match="pos_embed has values that are not finite"):
        encoders.save(encoder, tmp_path)
    assert not list(tmp_path.iterdir())


def change(folder, **changes):
    path = folder / "model.safetensors"
    saved = load_file(path) | changes
    save_file({key: value for key, value in saved.items() if value is not None}, path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(folder, **changes):
    path = folder / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("harm", "file", "reason"),
    [
        (lambda f: change(f, **{"proj.kernel": None}), "model.safetensors", "proj.kernel is missing"),
        (
            lambda f: change(f, extra=np.zeros(1, np.float32)),
            "model.safetensors",
            "extra is not a parameter of this encoder",
        ),
        (
            lambda f: change(f, **{"proj.kernel": np.zeros((32, 80), np.float32)}),
            "model.safetensors",
            r"proj.kernel has shape \(32, 80\) instead of \(80, 32\)",
        ),
        (lambda f: rewrite(f, depth=2), "model.safetensors", "transformer.layers.1.* is missing.*and 9 more"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no tensors"), "model.safetensors", "not a safetensors file"),
        (lambda f: (f / "encoder.json").write_text("{"), "encoder.json", "does not describe an encoder"),
        (lambda f: (f / "encoder.json").write_text("[]"), "encoder.json", "does not describe an encoder"),
        (lambda f: (f / "encoder.json").write_text("{}"), "encoder.json", "unknown encoder None; choose from human"),
        (lambda f: (f / "encoder.json").write_bytes(b"\xff\xfe"), "encoder.json", "does not describe an encoder"),
        (lambda f: rewrite(f, encoder="bard"), "encoder.json", "unknown encoder 'bard'; choose from human"),
        (lambda f: rewrite(f, width="wide"), "encoder.json", "width must be an integer from 1 to 65536, not 'wide'"),
        (lambda f: rewrite(f, heads=0), "encoder.json", "heads must be an integer from 1 to 65536, not 0"),
        (lambda f: rewrite(f, depth=10**9), "encoder.json", "depth must be an integer from 1 to 65536, not 1000000000"),
        (lambda f: rewrite(f, width=True), "encoder.json", "width must be an integer from 1 to 65536, not True"),
        (
            lambda f: rewrite(f, girth=3),
            "encoder.json",
            "no size 'girth'; allowed: width, depth, heads, mlp",
        ),
        (lambda f: (f / "encoder.json").write_text('"gemini"'), "encoder.json", "holds a JSON str, not an object"),
        (lambda f: (f / "encoder.json").write_text("[" * 10**5), "encoder.json", "does not describe an encoder"),
        (lambda f: (f / "encoder.json").write_text(POINTER), "encoder.json", "a Git LFS pointer .* `git lfs pull`"),
        (lambda f: (f / "model.safetensors").write_text(POINTER), "model.safetensors", "a Git LFS pointer"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors", "not a safetensors file"),
        (lambda f: cut(f / "model.safetensors"), "model.safetensors", "not a safetensors file"),
        (
            lambda f: change(f, pos_embed=np.zeros((77, 32), np.int32)),
            "model.safetensors",
            "pos_embed is of I32; allowed: F16, BF16, F32, F64",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_what_is_wrong(folder, harm, file, reason):
    harm(folder)
    with pytest.raises(ValueError, match=f"{file}.*{reason}") as caught:
        encoders.load(folder)
    assert "\n" not in str(caught.value)


def test_values_that_are_not_finite_do_not_load(folder):
    change(folder, pos_embed=np.full((77, 32), np.nan, np.float32))
    with pytest.raises(ValueError, match="model.safetensors: pos_embed has values that are not finite"):
        encoders.load(folder)


@pytest.mark.parametrize("failing", ["model.safetensors", "encoder.json"])
def test_a_save_that_fails_leaves_the_old_files(folder, monkeypatch, failing):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fsync = os.fsync

    def fail(descriptor):
        if failing in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        encoders.save(small(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_can_be_read_by_others(folder):
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~mask}


def test_pooling_is_kept_and_an_older_file_without_it_means_the_mean(folder, tmp_path):
    encoders.save(small(), tmp_path / "first", audio_pooling="first")
    assert encoders.read_config(tmp_path / "first") == {"encoder": "gemini", "audio_pooling": "first", **SIZES}
    (folder / "encoder.json").write_text(json.dumps({"encoder": "gemini", **SIZES}))
    assert encoders.read_config(folder)["audio_pooling"] == "mean"
    assert encoders.load(folder).config == SIZES
    rewrite(folder, audio_pooling="max")
    with pytest.raises(ValueError, match="encoder.json does not describe.*audio_pooling is 'max'; allowed: mean, fir"):
        encoders.read_config(folder)


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_the_bundled_encoders_load_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert type(encoders.load(name)) is encoders.ENCODERS[name]
    encoders.save(small(), tmp_path / name)  # a folder of that name goes before
    assert encoders.load(name).config == SIZES


def test_a_mistyped_name_is_told_the_nearest_or_all(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    with pytest.raises(FileNotFoundError, match=r"no folder gemni.*did you mean gemini\?$"):
        encoders.load("gemni")
    with pytest.raises(FileNotFoundError, match="no folder avt.* are chatgpt, deepseek, gemini, grok, human$"):
        encoders.load("avt")


@pytest.mark.parametrize("file", ["encoder.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {file}"):
        encoders.load(folder)


@pytest.mark.parametrize("source", ["/no/such/folder", "runs/no/folder", "./nothing"])
def test_a_missing_folder_is_not_looked_for_online(source):
    with pytest.raises(FileNotFoundError, match=f"no folder {source}"):
        encoders.load(source)


def test_a_repository_is_downloaded(folder, monkeypatch):
    asked = []

    def download(repo, name):
        asked.append((repo, name))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert encoders.load("somebody/gemini").config == SIZES
    assert asked == [("somebody/gemini", "encoder.json"), ("somebody/gemini", "model.safetensors")]


def test_a_repository_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def download(repo, name):
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(FileNotFoundError) as caught:
        encoders.load("somebody/gemini")
    assert "somebody/gemini is no folder" in str(caught.value) and "no route" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [("kept/toyy", "no folder kept/toyy; did you mean kept/toy?"), ("runs/toy", "no folder runs/toy")],
)
def test_a_mistyped_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch, source, said):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("asked the hub"))
    (tmp_path / "kept" / "toy").mkdir(parents=True)
    (tmp_path / "kept" / "toy" / "encoder.json").write_text("{}")
    with pytest.raises(FileNotFoundError) as caught:
        encoders.load(source)
    assert str(caught.value) == said
