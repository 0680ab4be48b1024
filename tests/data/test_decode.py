"""Rows of a manifest as arrays, and pictures of every mode."""

import numpy as np
import pytest
from PIL import Image

from jaxsd.clip.images import rgb_array, rgb_image
from jaxsd.data.decode import decode_rows
from jaxsd.data.manifest import ManifestRow
from tests.helpers.data_files import picture, sound, write_sound

PICTURE = Image.fromarray(picture(0))


def transparent() -> Image.Image:
    image = PICTURE.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def palette() -> Image.Image:
    image = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    image.info["transparency"] = 3
    return image


def turned() -> Image.Image:
    image = PICTURE.copy()
    image.getexif()[0x0112] = 6  # to be turned by 90 degrees
    return image


IMAGES = {
    "RGB": PICTURE.copy,
    "turned": turned,
    "grey": lambda: PICTURE.convert("L"),
    "grey, transparent": lambda: transparent().convert("LA"),
    "1 bit": lambda: PICTURE.convert("1"),
    "16 bits": lambda: Image.fromarray(picture(0)[..., 0].astype(np.uint16) * 257),
    "CMYK": lambda: PICTURE.convert("CMYK"),
    "YCbCr": lambda: PICTURE.convert("YCbCr"),
    "palette": lambda: PICTURE.convert("P"),
    "palette, transparent": palette,
    "transparent": transparent,
}


@pytest.mark.parametrize("kind", IMAGES)
def test_pictures_of_every_mode_become_rgb(kind):
    image = rgb_image(IMAGES[kind]())
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.round(rgb_array(IMAGES[kind]()) * 255))


def test_a_turned_picture_is_turned():
    np.testing.assert_array_equal(np.asarray(rgb_image(turned())), np.rot90(picture(0), -1))


def test_a_bad_row_is_zeros_and_costs_no_other(tmp_path):
    write_sound(tmp_path / "a.wav", 3)
    PICTURE.save(tmp_path / "a.png")
    good = ManifestRow(3, "a.wav", "a.png", "a dog", 3_000 / 16_000, None)
    examples = decode_rows(
        [good, good._replace(row=4, image=None), good._replace(row=5, text=None)], tmp_path, clip_size=16, vae_size=32
    )
    assert examples.columns["row"].tolist() == [3, 4, 5]
    assert examples.images.shape == (3, 16, 16, 3) and examples.vae_images.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(examples.columns["audio"][0], sound(3))
    assert examples.images[0].any() and examples.vae_images[0].any()
    assert not examples.images[1:].any() and not examples.vae_images[1:].any()
    assert examples.captions == ["a dog", "a dog", ""]
    assert examples.bad == {
        1: {"row": 4, "file": "", "reason": "no file is named"},
        2: {"row": 5, "file": "", "reason": "the caption is empty"},
    }
