"""Several images in one: strips with a label above each image."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MOST_IN_A_LINE = 12
FONT_SIZE, LABEL_HEIGHT, GAP = 11, 16, 2  # pixels


def make_strip(images: Sequence[Image.Image], labels: Sequence[str], columns: int = MOST_IN_A_LINE) -> Image.Image:
    """Images of one size side by side, `columns` in a line, each under its label, on white."""
    columns = min(columns, len(images), MOST_IN_A_LINE)
    font = ImageFont.load_default(FONT_SIZE)
    width = max(images[0].width, *(int(font.getlength(label)) + 2 for label in labels)) + GAP
    height = images[0].height + LABEL_HEIGHT + GAP
    strip = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    draw = ImageDraw.Draw(strip)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = number % columns * width, number // columns * height
        draw.text((left + 1, top + 1), label, "black", font=font)
        strip.paste(image, (left, top + LABEL_HEIGHT))
    return strip
