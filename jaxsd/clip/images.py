"""Images of any size as the vision tower takes them."""

from PIL import Image

from jaxsd.images import rgb_image


def resize_and_crop(
    image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Resize the shortest side to `size` and cut out the square in the middle, as CLIP's image processor does.

    `image` has any mode and becomes RGB; `resample` is bicubic in CLIP. Raises ValueError for an image so narrow that
    it would grow beyond Pillow's limit of pixels.
    """
    image = rgb_image(image)
    scale = size / min(image.size)
    width, height = (max(size, int(side * scale)) for side in image.size)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"image is {image.width} x {image.height}, too narrow to be resized to {size} pixels")
    image = image.resize((width, height), resample)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
