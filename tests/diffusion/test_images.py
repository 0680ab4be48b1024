"""Pictures of every kind Pillow opens."""

import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jaxsd.clip.images import load_image, resize_and_crop, rgb_image
from jaxsd.diffusion.images import prepare_image

ORANGE = (255, 128, 0)


def prepared(image, height=2, width=3):
    pictures = prepare_image(image, height, width)
    assert pictures.shape == (1, height, width, 3) and pictures.dtype == np.float32
    return pictures[0]


def plain(mode, colour):
    return Image.new(mode, (3, 2), colour)


def palette(transparency=None):
    image = plain("P", 1)
    image.putpalette([0, 0, 0, *ORANGE])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    "image, colour",
    [
        (plain("RGB", ORANGE), ORANGE),
        (plain("RGBA", (*ORANGE, 255)), ORANGE),
        (plain("RGBA", (0, 0, 0, 0)), (255, 255, 255)),
        (plain("RGBA", (0, 0, 0, 51)), (204, 204, 204)),
        (plain("LA", (100, 255)), (100, 100, 100)),
        (plain("La", (0, 51)), (204, 204, 204)),
        (plain("RGBa", (0, 0, 0, 51)), (204, 204, 204)),
        (palette(), ORANGE),
        (palette(1), (255, 255, 255)),
        (palette(0), ORANGE),
        (plain("L", 100), (100, 100, 100)),
        (plain("1", 1), (255, 255, 255)),
        (plain("I;16", 51 * 257), (51, 51, 51)),
        (plain("I", 51 * 257), (51, 51, 51)),
        (plain("F", 0.2), (51, 51, 51)),
        (plain("F", 51.0), (51, 51, 51)),
        (plain("I", 51), (51, 51, 51)),
        (plain("CMYK", (0, 127, 255, 0)), ORANGE),
        (plain("YCbCr", (128, 128, 128)), (128, 128, 128)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_modes(image, colour):
    np.testing.assert_allclose(prepared(image), np.broadcast_to(np.array(colour) / 255, (2, 3, 3)), atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_file_of_16_bits(tmp_path, suffix):
    values = np.array([[0, 257, 65535], [1, 32768, 300]], np.uint16)
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(values).save(path)
    np.testing.assert_allclose(prepared(load_image(path))[..., 1], values / 65535, atol=1e-6)


def test_a_file_turned_by_its_exif(tmp_path, rng):
    upright = rng.integers(0, 256, (2, 3, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter clockwise to see it upright
    path = tmp_path / "turned.png"
    Image.fromarray(np.rot90(upright)).save(path, exif=exif)
    np.testing.assert_allclose(prepared(load_image(path)), upright / 255, atol=1e-6)


def test_resizing_is_pillows(rng):
    # Grays, so that nothing overshoots: Pillow 12 cuts that off between its two passes over 8 bits, Pillow 13 after.
    image = Image.fromarray(rng.integers(64, 192, (40, 30, 3), np.uint8))
    expected = np.asarray(image.resize((16, 8), Image.Resampling.LANCZOS)) / 255
    np.testing.assert_allclose(prepared(image, 8, 16), expected, atol=1.5 / 255)


def test_arrays(rng):
    pictures = rng.random((2, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(prepare_image(pictures, 8, 8), pictures)
    larger = prepare_image(pictures, 16, 24)
    assert larger.shape == (2, 16, 24, 3) and larger.min() >= 0 and larger.max() <= 1


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((8, 8, 3)), r"image has shape \(8, 8, 3\); allowed: \(batch, height, width, 3\)"),
        (np.zeros((1, 3, 8, 8)), r"image has shape \(1, 3, 8, 8\)"),
        (np.full((1, 8, 8, 3), 255), r"image has values from 255.0 to 255.0; allowed: 0 to 1"),
        (np.full((1, 8, 8, 3), np.nan), r"image has values from nan to nan; allowed: 0 to 1"),
        (plain("I", 1 << 20), r"image has values from 1.*e\+06 to .*; allowed: 0 to 255 or 0 to 65535"),
        (plain("I", -1), "image has values from -1 to -1; allowed: 0 to 255 or 0 to 65535"),
        (plain("F", float("nan")), "image has values from nan to nan; allowed: 0 to 1 or 0 to 255"),
        (plain("F", 256.0), "image has values from 256 to 256; allowed: 0 to 1 or 0 to 255"),
    ],
)
def test_arrays_that_do_not_fit(image, message):
    with pytest.raises(ValueError, match=message):
        prepare_image(image, 8, 8)


@pytest.mark.parametrize("limit", [12, 20])  # Pillow itself raises above twice the limit and warns above it
def test_too_many_pixels(tmp_path, monkeypatch, limit):
    path = tmp_path / "large.png"
    image = Image.new("RGB", (6, 5))
    image.save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=f"large.png has too many pixels; allowed: up to {limit}$"):
        load_image(path)
    with pytest.raises(ValueError, match=f"^image has 30 pixels; allowed: up to {limit}$"):
        prepare_image(image, 8, 8)


def test_files_that_are_no_pictures(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:1000])
    for path in (text, cut):
        with pytest.raises(ValueError, match=f"{path.name} cannot be read as an image"):
            load_image(path)
    with pytest.raises(ValueError, match=f"{tmp_path.name} is a folder; give an image file"):
        load_image(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("kind", ["int32", "float32", "float32 in [0, 1]"])
def test_every_reader_sees_the_same_in_a_tiff(tmp_path, rng, kind):
    """Image to image, the columns of a data set, and CLIP."""
    values = rng.integers(0, 256, (24, 24))
    values[0, 0] = 255
    stored = values / 255 if kind.endswith("]") else values
    path = tmp_path / "gray.tiff"
    Image.fromarray(stored.astype(kind.split()[0])).save(path)
    gray = np.repeat(values[..., None], 3, axis=-1)
    np.testing.assert_allclose(prepared(load_image(path), 24, 24), gray / 255, atol=1e-6)
    for image in (rgb_image(load_image(path)), resize_and_crop(load_image(path), 24)):
        np.testing.assert_array_equal(np.asarray(image), gray)


def write_tiff(path, values, bits, photometric=1, planes=1):
    """A TIFF without compression, of one strip (in planes, one each)."""
    data, count = values.tobytes(), planes if planes == 1 else len(values)
    height, width = values.shape[-2:] if bits != 12 else (values.shape[0], values.shape[1] * 2 // 3)
    places = [8 + index * len(data) // count for index in range(count)]
    entries = [(256, [width]), (257, [height]), (258, [bits] * count), (259, [1]), (262, [photometric]), (273, places)]
    entries += [(277, [count]), (278, [height]), (279, [len(data) // count] * count), (284, [min(planes, 2)])]
    entries += [(339, [3 if values.dtype.kind == "f" else 1] * count)]
    longer, directory = b"", struct.pack("<H", len(entries))
    for tag, numbers in entries:
        packed = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(packed) > 4:
            packed, longer = struct.pack("<I", 8 + len(data) + 2 + 12 * len(entries) + 4 + len(longer)), longer + packed
        directory += struct.pack("<HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4) + longer)


GRAY = np.linspace(0, 1, 16, dtype=np.float32)[None].repeat(4, axis=0)


def test_a_tiff_of_12_bits(tmp_path):
    low, high = np.round(GRAY * 4095).astype(np.uint16).reshape(4, 8, 2).transpose(2, 0, 1)
    packed = np.stack([low >> 4, (low & 15) << 4 | high >> 8, high & 255], axis=-1).reshape(4, 24).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", packed, 12)
    np.testing.assert_allclose(prepared(load_image(tmp_path / "a.tif"), 4, 16)[..., 0], GRAY, atol=2e-4)


def test_a_tiff_whose_white_is_zero(tmp_path):
    write_tiff(tmp_path / "a.tif", np.round(GRAY * 65535).astype("<u2"), 16, photometric=0)
    np.testing.assert_allclose(prepared(load_image(tmp_path / "a.tif"), 4, 16)[..., 0], 1 - GRAY, atol=2e-5)
    write_tiff(tmp_path / "b.tif", GRAY.astype("<f4"), 32, photometric=0)
    with pytest.raises(ValueError, match="b.tif cannot be read as an image: it is a TIFF of floats whose white is 0"):
        load_image(tmp_path / "b.tif")


@pytest.mark.parametrize(("white", "dtype"), [(32767, np.uint16), (255, np.uint16), (127, np.uint8)])
def test_a_tiff_of_signed_integers(tmp_path, white, dtype):
    signed = {339: (2,)}  # SampleFormat
    Image.fromarray(np.round(GRAY * white).astype(dtype)).save(tmp_path / "a.tif", tiffinfo=signed)
    assert np.abs(prepared(load_image(tmp_path / "a.tif"), 4, 16)[..., 0] - GRAY).max() <= 0.5 / white + 1e-5
    Image.fromarray(np.full((2, 3), np.iinfo(dtype).max, dtype)).save(tmp_path / "b.tif", tiffinfo=signed)
    with pytest.raises(ValueError, match="b.tif .* TIFF of signed integers with values from -1; allowed: from 0"):
        load_image(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("beginning", "said"),
    [
        ("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n", r"a drawing \(PostScript\)"),
        ("%PDF-1.7\n", "a PDF document, which has no pixels; convert its page to PNG"),
        ("<svg xmlns='http://www.w3.org/2000/svg'/>", r"a drawing \(SVG\), which has no pixels; convert it to PNG"),
    ],
)
def test_drawings_are_refused_whatever_the_machine_has_to_draw_them(tmp_path, beginning, said):
    (tmp_path / "a.png").write_text(beginning)
    with pytest.raises(ValueError, match=f"a.png cannot be read as an image: it is {said}"):
        load_image(tmp_path / "a.png")


def test_raw_planes_of_16_bits_are_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", np.stack([GRAY * 65535] * 3).astype("<u2"), 16, photometric=2, planes=2)
    with pytest.raises(ValueError, match="a.tif cannot be read as an image: it is a TIFF of 16 bits in planes"):
        load_image(tmp_path / "a.tif")


def test_floats_that_are_no_image_are_refused_by_name(tmp_path):
    Image.fromarray(np.full((2, 3), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="nan.tif cannot be read as an image: image has values from nan to nan"):
        load_image(tmp_path / "nan.tif")


def test_the_largest_value_of_a_pgm_is_white(tmp_path):
    values = np.round(GRAY * 200).astype(">u2")
    (tmp_path / "dark.pgm").write_bytes(b"P5 16 4 65535\n" + values.tobytes())
    np.testing.assert_allclose(prepared(load_image(tmp_path / "dark.pgm"), 4, 16)[..., 0], values / 65535, atol=1e-5)


def test_the_transparent_value_of_a_gray_png_is_white(tmp_path):
    values = np.round(GRAY * 65535).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=0)
    expected = np.where(values == 0, 1, GRAY)
    np.testing.assert_allclose(prepared(load_image(tmp_path / "a.png"), 4, 16)[..., 0], expected, atol=2e-5)


def test_a_png_with_much_text_and_a_large_profile(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    path = tmp_path / "from_a_tool.png"
    plain("RGB", ORANGE).save(path, pnginfo=info, icc_profile=bytes(2_000_000))
    np.testing.assert_allclose(
        prepared(load_image(path)), np.broadcast_to(np.array(ORANGE) / 255, (2, 3, 3)), atol=1e-6
    )


@pytest.mark.parametrize("suffix", ["avif", "webp", "jpg", "gif", "bmp", "tiff", "ppm", "ico", "jp2", "png"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_of_any_format_are_read_or_refused(tmp_path, rng, suffix):
    """Each decoder has exceptions of its own."""
    path = tmp_path / f"damaged.{suffix}"
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.5 else whole)
        for place in rng.integers(0, len(damaged), 8):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            load_image(path)
        except ValueError as error:
            assert path.name in str(error) and "\n" not in str(error)


def test_a_pointer_of_git_lfs(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(ValueError, match="image.png is a pointer of Git LFS"):
        load_image(path)
