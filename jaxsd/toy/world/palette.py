"""The colors, backgrounds and sides of the toy world's images, by name."""

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

COLOR_RGB: dict[str, Color] = {
    "red": (224, 36, 36),
    "yellow": (255, 214, 20),
    "green": (34, 160, 62),
    "blue": (38, 104, 240),
    "purple": (134, 56, 196),
    "pink": (255, 128, 192),
}

BACKGROUND_RGB: dict[str, tuple[Color, Color]] = {
    "day": ((170, 216, 250), (176, 214, 138)),
    "night": ((24, 28, 70), (52, 54, 92)),
    "desert": ((253, 234, 200), (222, 176, 118)),
    "snow": ((218, 222, 228), (250, 251, 254)),
}

SIDE_CENTER: dict[str, float] = {"left": 21.5, "middle": 32.0, "right": 42.5}
