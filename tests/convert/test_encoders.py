"""Encoders between the names of the paper's PyTorch modules and ours, as arrays and as files."""

import json
import pickle
import string
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import encoders
from jaxsd.convert import encoder_from_torch, encoder_to_torch
from jaxsd.convert.files import convert
from jaxsd.pretrained.mapping import parameters
from tests.references.encoders import Sizes, clips, randomize, torch, torch_encoder

SMALL = Sizes(width=24, depth=2, heads=3, mlp=40)
BUFFERS = {"mel_spectrogram.spectrogram.window", "mel_spectrogram.mel_scale.fb", "window"}


def state_dict(name, sizes=SMALL):
    return randomize(torch_encoder(name, sizes)).state_dict()


def same(one: nnx.Module, other: nnx.Module) -> bool:
    """Whether two encoders have the same sizes and bits."""
    left, right = parameters(one), parameters(other)
    return (
        (type(one), one.config, left.keys()) == (type(other), other.config, right.keys())
        and all(value.dtype == jnp.float32 for value in left.values())
        and all(np.array_equal(left[key], right[key]) for key in left)
    )


# --- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_there_and_back_changes_no_bit_and_torch_computes_the_same(name):
    theirs = state_dict(name)
    encoder = encoder_from_torch(theirs, heads=None if name == "human" else 3)
    assert type(encoder) is encoders.ENCODERS[name]
    assert encoder.config == ({"width": 24, "stride": 1} if name == "human" else asdict(SMALL))

    back = encoder_to_torch(encoder)
    assert back.keys() == theirs.keys()
    for key, value in back.items():
        assert value.dtype == np.float32 and value.flags.writeable and value.flags.c_contiguous
        if key in BUFFERS:
            np.testing.assert_allclose(value, theirs[key], atol=1e-6, err_msg=key)
        else:
            np.testing.assert_array_equal(value, theirs[key], err_msg=key)

    module = torch_encoder(name, SMALL).eval()
    module.load_state_dict({key: torch.from_numpy(value) for key, value in back.items()}, strict=True)
    with torch.no_grad():
        expected = module(torch.tensor(clips()[:1], dtype=torch.float32)).numpy()
    graphdef, params = nnx.split(encoder)
    actual = jax.jit(lambda params, pcm: nnx.merge(graphdef, params)(pcm))(params, clips()[:1])
    np.testing.assert_allclose(actual, expected, atol=2e-4 * expected.std())


@pytest.mark.parametrize(
    ("cast", "step"),
    [
        (lambda x: x.half(), lambda x: x.half()),
        (lambda x: x.bfloat16(), lambda x: x.bfloat16()),
        (lambda x: x.double(), lambda x: x),
        (lambda x: x.numpy().astype(ml_dtypes.bfloat16), lambda x: x.bfloat16()),
        (lambda x: jnp.asarray(x.numpy()), lambda x: x),
        (lambda x: torch.nn.Parameter(x), lambda x: x),
    ],
)
def test_any_floating_point_type_becomes_float32(cast, step):
    theirs = state_dict("grok")
    encoder = encoder_from_torch({key: cast(value) for key, value in theirs.items()}, heads=3)
    assert same(encoder, encoder_from_torch({key: step(value).float() for key, value in theirs.items()}, heads=3))


def test_no_memory_is_shared():
    theirs = state_dict("grok")
    encoder = encoder_from_torch(theirs, heads=3)
    before = encoder_to_torch(encoder)
    for value in theirs.values():
        value.zero_()
    for value in encoder_to_torch(encoder).values():
        value[...] = 0
    after = encoder_to_torch(encoder)
    assert all(value.any() and np.array_equal(value, after[key]) for key, value in before.items())


def test_a_lost_layer_is_missing_and_makes_no_other_key_wrong():
    theirs = state_dict("grok", Sizes(24, 4, 3, 40))
    kept = {key: value for key, value in theirs.items() if not key.startswith("transformer.layers.1.")}
    with pytest.raises(ValueError) as error:
        encoder_from_torch(kept, heads=3)
    lost = sorted(f"missing key {key}" for key in theirs.keys() - kept.keys())
    assert str(error.value) == f"state dict, read as grok, does not fit: {'; '.join(lost)}"


def test_heads_are_known_only_at_the_papers_width():
    assert encoder_from_torch(state_dict("chatgpt", Sizes(768, 1, 12, 8))).config["heads"] == 12
    with pytest.raises(ValueError, match="state dict has width 24, not 768: its number of heads must be given"):
        encoder_from_torch(state_dict("grok"))
    for heads in (0, 5):
        with pytest.raises(ValueError, match=f"heads is {heads}; allowed: divisors of the width, 24"):
            encoder_from_torch(state_dict("grok"), heads=heads)
    with pytest.raises(ValueError, match="heads is 3, but state dict is human's, which has none"):
        encoder_from_torch(state_dict("human"), heads=3)


@pytest.mark.parametrize(
    ("name", "changes", "problems"),
    [
        (
            "gemini",
            {
                "input_projection.weight": (24, 79),
                "positional_embedding": (2, 77, 24),
                "window": (256,),
                "transformer_encoder.layers.0.self_attn.in_proj_weight": None,
                "transformer_encoder.layers.0.linear1.weight": (41, 24),
                "transformer_encoder.layers.1.norm1.weight": (25,),
                "transformer_encoder.norm.bias": None,
            },
            [
                "input_projection.weight has shape (24, 79), expected (24, 80)",
                "missing key transformer_encoder.layers.0.self_attn.in_proj_weight",
                "missing key transformer_encoder.norm.bias",
                "positional_embedding has shape (2, 77, 24), expected (1, 77, 24)",
                "transformer_encoder.layers.0.linear1.weight has shape (41, 24), expected (40, 24)",
                "transformer_encoder.layers.1.norm1.weight has shape (25,), expected (24,)",
                "unknown key window",
            ],
        ),
        (
            "chatgpt",
            {"proj.weight": (24, 208), "pos_embed": (1, 77, 24), "transformer.norm.weight": (24,)},
            [
                "pos_embed has shape (1, 77, 24), expected (77, 24)",
                "proj.weight has shape (24, 208), expected (24, 1, 208)",
                "unknown key transformer.norm.weight",
            ],
        ),
        (
            "deepseek",
            {"conv1.bias": (), "conv1.weight": (24, 2, 208), "transformer.layers.9999999999.norm1.scale": (24,)},
            [
                "conv1.bias has shape (), expected (24,)",
                "conv1.weight has shape (24, 2, 208), expected (24, 1, 208)",
                "unknown key transformer.layers.9999999999.norm1.scale",
            ],
        ),
        (
            "human",
            {"linealmax.weight": (24, 23), "adaptadormin.bias": None, "convolucion1d8.weight": (1,)},
            [
                "linealmax.weight has shape (24, 23), expected (24, 24)",
                "missing key adaptadormin.bias",
                "unknown key convolucion1d8.weight",
            ],
        ),
    ],
)
def test_one_error_lists_everything_wrong(name, changes, problems):
    changed = state_dict(name) | {key: np.zeros(shape) for key, shape in changes.items() if shape is not None}
    kept = {key: value for key, value in changed.items() if changes.get(key, ()) is not None}
    with pytest.raises(ValueError) as error:
        encoder_from_torch(kept, heads=None if name == "human" else 3, name="Some.pth")
    begin, listed = str(error.value).split(" does not fit: ")
    assert begin == f"Some.pth, read as {name},"
    assert listed == "; ".join(problems)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "is none of human, chatgpt, deepseek, gemini, grok: its keys are none"),
        (
            {f"module.{i}": np.ones(1) for i in range(9)},
            "its keys are module.0, module.1, module.2, module.3 and 5 more",
        ),
        # Three encoders have these.
        ({"transformer.layers.0.norm1.weight": np.ones(8)}, "is none of .* its keys are transformer.layers.0.norm1"),
        ({"state_dict": {}, "epoch": 3, "proj.bias": np.ones(1)}, r"unlike state_dict \(dict\), epoch \(int\)$"),
        (
            {"linear.weight": np.ones(3, np.int8)},
            r"nothing but floating point tensors, unlike linear.weight \(ndarray\)",
        ),
        ({"linear.weight": torch.ones(3, dtype=torch.complex64)}, r"unlike linear.weight \(Tensor\)"),
        ({"linear.weight": torch.eye(3).to_sparse()}, r"unlike linear.weight \(Tensor\)"),
        ({"a": torch.ones(3), "b": torch.tensor([1.0, np.nan])}, "has values that are not finite as float32 in b$"),
        ({"a": torch.full((3,), 1e300, dtype=torch.float64)}, "has values that are not finite as float32 in a$"),
    ],
)
def test_what_is_no_encoder_is_refused(tensors, message):
    with pytest.raises(ValueError, match=f"^Some.pth .*{message}"):
        encoder_from_torch(tensors, name="Some.pth")


def test_other_modules_have_no_torch_names():
    with pytest.raises(ValueError, match="no PyTorch names for Linear: not one of human"):
        encoder_to_torch(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))


def test_a_stride_has_no_torch_names():
    with pytest.raises(ValueError, match="the paper's human has stride 1, so one of stride 4 has no PyTorch names"):
        encoder_to_torch(encoders.create("human", width=24, stride=4, rngs=nnx.Rngs(0)))


def test_torch_is_imported_only_for_its_files():
    code = "import jaxsd.convert.__main__, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "Gemini.pth"
    torch.save(state_dict("gemini"), path)
    return path


def cut(path: Path, endings) -> list[Path]:
    """Cut a file into equal pieces with these endings."""
    content = path.read_bytes()
    size = -(-len(content) // len(endings))
    pieces = [path.with_name(f"{path.name}.part{ending}") for ending in endings]
    for i, piece in enumerate(pieces):
        piece.write_bytes(content[i * size : (i + 1) * size])
    path.unlink()
    return pieces


def gemini() -> nnx.Module:
    return encoder_from_torch(state_dict("gemini"), heads=3)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(source: Path, out: Path, message: str, around: Path, heads: int | None = None):
    """Check that converting gives one sentence that matches and changes nothing in the folder around."""
    before = contents(around)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        convert(source, out, heads)
    assert "\n" not in str(error.value)
    assert contents(around) == before


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_a_file_becomes_a_folder_and_a_folder_a_file(tmp_path, suffix):
    module = torch_encoder("gemini", SMALL)
    encoders.save(gemini(), tmp_path / "first")
    path = convert(tmp_path / "first", tmp_path / "new" / f"Gemini{suffix}")
    if suffix == ".safetensors":
        from safetensors.torch import load_file

        module.load_state_dict(load_file(path), strict=True)
    else:
        module.load_state_dict(torch.load(path, weights_only=True), strict=True)
    assert [file.name for file in path.parent.iterdir()] == [path.name]

    folder = convert(path, tmp_path / "a" / "b", heads=3)
    assert sorted(file.name for file in folder.iterdir()) == ["encoder.json", "model.safetensors"]
    assert same(encoders.load(folder), gemini())


def test_a_file_of_half_precision_and_one_of_older_torch(tmp_path):
    half = {key: value.numpy().astype(ml_dtypes.bfloat16) for key, value in state_dict("gemini").items()}
    save_file(half, tmp_path / "half.safetensors")
    torch.save({key: value.bfloat16() for key, value in state_dict("gemini").items()}, tmp_path / "half.pth")
    torch.save(state_dict("gemini"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    one, other, old = (
        encoders.load(convert(tmp_path / name, tmp_path / name.replace(".", "-"), heads=3))
        for name in ("half.safetensors", "half.pth", "old.pt")
    )
    assert same(one, encoder_from_torch(half, heads=3)) and same(other, one) and same(old, gemini())


@pytest.mark.parametrize(
    "endings",
    [["00", "01", "02"], ["1", "2"], list(map(str, range(1, 12))), [f"a{x}" for x in string.ascii_lowercase] + ["ba"]],
    ids=["from-0", "from-1", "unpadded", "letters"],
)
def test_pieces_are_joined_in_order(tmp_path, checkpoint, endings):
    cut(checkpoint, endings)
    (tmp_path / "README.md").write_text("Not a piece.")
    torch.save(state_dict("grok"), tmp_path / "Grok.pth")
    assert same(encoders.load(convert(tmp_path, tmp_path / "by-folder", heads=3)), gemini())
    cut(tmp_path / "Grok.pth", ["aa", "ab"])
    assert same(encoders.load(convert(checkpoint, tmp_path / "by-name", heads=3)), gemini())


def damage(path: Path, edit):
    path.write_bytes(edit(path.read_bytes()))


@pytest.mark.parametrize(
    ("endings", "harm", "message"),
    [
        (["00", "01", "02"], lambda p: p[1].unlink(), "a piece is missing before .*Gemini.pth.part02$"),
        (
            ["00", "01", "02"],
            lambda p: p[0].unlink(),
            r"pth \(joined from 2 pieces\) is not a PyTorch file, or its begin",
        ),
        (
            ["1", "2", "3", "4"],
            lambda p: (p[0].unlink(), p[1].unlink()),
            "a piece is missing before .*Gemini.pth.part3$",
        ),
        (["aa", "ab", "ac"], lambda p: p[0].unlink(), "a piece is missing before .*Gemini.pth.partab$"),
        (["00", "01", "02"], lambda p: p[2].unlink(), "joined from 2 pieces.* is truncated or damaged"),
        (
            ["00", "01", "02"],
            lambda p: damage(p[1], lambda b: b[:-50]),
            "joined from 3 pieces.* is truncated or damaged",
        ),
        (["00", "01", "02"], lambda p: damage(p[2], lambda b: b[:-50]), "is truncated or damaged"),
        (
            ["00", "01"],
            lambda p: p[1].rename(f"{p[1]}.tmp"),
            "order of these pieces cannot be told: .*part00, .*01.tmp",
        ),
        (["00", "01"], lambda p: p[1].rename(f"{p[0]}".replace("00", "_0")), "same number: .*part00, .*part_0"),
        (["00", "01"], lambda p: p[1].rename(f"{p[1]}".replace("Gemini", "Grok")), "pieces of several files: choose"),
    ],
)
def test_incomplete_pieces_are_refused(tmp_path, checkpoint, endings, harm, message):
    harm(cut(checkpoint, endings))
    refused(tmp_path, tmp_path / "out", message, tmp_path, heads=3)


class Attack:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("bare", [False, True])
def test_code_in_a_pickle_is_never_run(tmp_path, bare):
    path, marker = tmp_path / "Gemini.pth", tmp_path / "marker"
    tensors = state_dict("gemini") | {"attack": Attack(marker)}
    if bare:
        path.write_bytes(pickle.dumps({"attack": Attack(marker)}, protocol=2))
    else:
        torch.save(tensors, path)
    refused(path, tmp_path / "out", r"Gemini.pth holds more than tensors \(.*\), which could run code", tmp_path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Attack(marker)))
    assert marker.exists()  # elsewhere it does run


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def save_module(path: Path):
    torch.save(torch.nn.Linear(1, 1), path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: damage(path, flip), "Gemini.pth is damaged: .* does not fit its checksum"),
        (lambda path: damage(path, lambda content: content[:-1000]), "Gemini.pth is truncated or damaged"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
            "Gemini.pth is a pointer of Git LFS",
        ),
        (lambda path: path.write_bytes(b""), "Gemini.pth is not a PyTorch file"),
        (lambda path: path.write_bytes(b"\x80\x02nonsense"), "Gemini.pth (is truncated|holds more than tensors)"),
        (save_module, r"holds more than tensors \(torch.nn.modules.linear.Linear\).*save the module's state_dict"),
        (lambda path: torch.save([1, 2], path), "Gemini.pth holds no state dict, .* but a list"),
        (lambda path: torch.save({1: torch.ones(1)}, path), "Gemini.pth holds no state dict, .* but a dict"),
        (lambda path: torch.save({"epoch": 1}, path), "Gemini.pth must hold nothing .* unlike epoch"),
        (lambda path: torch.save({"window": torch.ones(1)}, path), "Gemini.pth is none of human"),
        (lambda path: path.unlink(), "Gemini.pth: no such file, nor pieces named like Gemini.pth.part00"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, checkpoint, harm, message):
    harm(checkpoint)
    refused(checkpoint, tmp_path / "out", message, tmp_path, heads=3)


def test_a_file_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "Grok.safetensors"
    tensors = {key: value.numpy() for key, value in state_dict("grok").items()}
    save_file({key: value for key, value in tensors.items() if key != "linear.bias"}, path)
    refused(
        path, tmp_path / "out", "Grok.safetensors, read as grok, does not fit: missing key linear.bias", tmp_path, 3
    )


def test_what_is_no_source_is_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, tmp_path / "out", "empty: a folder without pieces named like FILE.pth.part", tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    refused(tmp_path / "notes.txt", tmp_path / "out", "notes.txt: a checkpoint's name must end in .pth, .pt", tmp_path)
    (tmp_path / "bad.safetensors").write_text("text")
    refused(tmp_path / "bad.safetensors", tmp_path / "out", "not a safetensors file", tmp_path)


def test_other_things_at_out_are_left_alone(tmp_path, checkpoint):
    work, file = tmp_path / "work", tmp_path / "file"
    work.mkdir()
    (work / "thesis.tex").write_text("years")
    file.write_text("text")
    refused(checkpoint, work, "work holds something else than an encoder", tmp_path, heads=3)
    refused(checkpoint, file, "file is no folder", tmp_path, heads=3)
    refused(checkpoint, file / "out", "cannot be written to", tmp_path, heads=3)
    refused(checkpoint, tmp_path / "Gemini.safetensors", "Gemini.safetensors is named like a file", tmp_path, heads=3)

    encoders.save(gemini(), work)
    for out, message in [
        (tmp_path / "Gemini", "becomes a file that ends in .pth, .pt, .bin, .safetensors, not"),
        (work / "model.safetensors", "is the encoder's own file"),
    ]:
        refused(work, out, message, tmp_path)
    refused(work, tmp_path / "Gemini.pt", "heads is 3, but .*encoder.json says", tmp_path, heads=3)


def test_an_own_encoder_has_no_torch_names(tmp_path):
    (tmp_path / "mine.py").write_text("from encoders import Grok\n\nclass Mine(Grok): ...\n")
    sizes = {"width": 24, "depth": 1, "heads": 3, "mlp": 8}
    encoders.save(encoders.create(f"{tmp_path}/mine.py:Mine", rngs=nnx.Rngs(0), **sizes), tmp_path / "run")
    refused(tmp_path / "run", tmp_path / "mine.pth", "run holds mine.py:Mine; only human, .* have PyTorch", tmp_path)


def test_an_encoders_folder_is_overwritten_and_keeps_its_other_files(tmp_path, checkpoint):
    folder = tmp_path / "run"
    encoders.save(encoder_from_torch(state_dict("human")), folder)
    (folder / "metrics.jsonl").write_text("{}")
    convert(checkpoint, folder, heads=3)
    assert same(encoders.load(folder), gemini())
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.json", "metrics.jsonl", "model.safetensors"]


@pytest.mark.parametrize("out", ["run", "new"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, checkpoint, monkeypatch, out):
    encoders.save(encoder_from_torch(state_dict("human")), tmp_path / "run")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    refused(checkpoint, tmp_path / out, f"{out} cannot be written to: .*No space left", tmp_path, heads=3)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch, suffix):
    folder, path = tmp_path / "run", tmp_path / f"Gemini{suffix}"
    encoders.save(gemini(), folder)
    path.write_text("old")

    def fail(*arguments, **keywords):
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr("jaxsd.convert.files.write_safetensors", fail)
    refused(folder, path, "cannot be written to: unexpected pos", tmp_path)


def test_torch_must_be_there_and_safe(tmp_path, checkpoint, monkeypatch):
    encoders.save(gemini(), tmp_path / "run")
    for version in ("2.9.1+cu128", "1.13"):
        monkeypatch.setattr(torch, "__version__", version)
        refused(checkpoint, tmp_path / "out", rf"need torch 2.10 or newer; {version[:5]}.* is installed", tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(checkpoint, tmp_path / "out", "need torch 2.10 or newer, which is not installed", tmp_path)
    refused(tmp_path / "run", tmp_path / "Gemini.pt", "need torch 2.10 or newer, which is not installed", tmp_path)
    convert(tmp_path / "run", tmp_path / "Gemini.safetensors")


# --- the command ----------------------------------------------------------------------------------------------------


def command(*arguments, cwd: Path):
    line = [sys.executable, "-m", "jaxsd.convert", *map(str, arguments)]
    path = str(Path(__file__).parents[2])
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, env={"PYTHONPATH": path, "HOME": str(cwd)})


@pytest.mark.slow
def test_the_command_converts_pieces(tmp_path, checkpoint):
    cut(checkpoint, ["00", "01"])
    done = command("Gemini.pth", "--out", "runs/gemini", "--heads", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "runs/gemini\n"
    assert json.loads((tmp_path / "runs" / "gemini" / "encoder.json").read_text())["encoder"] == "gemini"
    assert same(encoders.load(tmp_path / "runs" / "gemini"), gemini())


def test_the_commands_mistakes_are_one_line(tmp_path):
    torch.save({"attack": Attack(tmp_path / "marker")}, tmp_path / "Gemini.pth")
    done = command("Gemini.pth", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("python -m jaxsd.convert: Gemini.pth holds more than tensors")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "marker").exists()
