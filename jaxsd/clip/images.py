"""Pictures of any size as the vision tower takes them."""

from PIL import Image


def resize_and_crop(
    image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """The shortest side to `size`, then the square in the middle, RGB, as CLIP's image processor does (bicubic).

    Raises ValueError for a picture so narrow that it would grow beyond Pillow's limit of pixels.
    """
    image = image.convert("RGB")
    scale = size / min(image.size)
    width, height = (max(size, int(side * scale)) for side in image.size)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"image is {image.width} x {image.height}, too narrow to be resized to {size} pixels")
    image = image.resize((width, height), resample)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
