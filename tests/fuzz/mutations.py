"""Ways to damage bytes, text and JSON; all that is random comes from a generator."""

import copy
import json
from typing import Any

import numpy as np

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    3,
    77,
    2**31,
    10**30,
    1e308,
    0.5,
    -0.0,
    "",
    "a",
    "\ud800",
    "☃" * 99,
)
ODD_VALUES += ([], [[]], [1, 2], ["a", None], {}, {"a": {"b": []}}, float("nan"), float("inf"))
ODD_TEXTS = (
    b"",
    b'"',
    b"\n",
    b",",
    b"\x00",
    b"\xff\xfe",
    b"{",
    b"}",
    b"[" * 5000,
    b"a" * 70_000,
    b"1e999",
    b"null",
    b"\r",
)


def mutate_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    """One to four of: bits flipped, bytes overwritten, cut out, repeated, inserted; or the end cut off."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        # Headers decide more than the rest does.
        limit = len(data) if rng.random() < 0.5 else min(len(data), 256)
        at = int(rng.integers(limit))
        length = int(rng.integers(1, 1 + min(64, len(data) - at)))
        kind = rng.integers(7)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + length] = rng.bytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 9))
        elif kind == 4:
            data[at:at] = rng.bytes(length)
        elif kind == 5:
            del data[at:]
        else:
            size = int(rng.choice([1, 2, 4, 8]))
            order = "little" if rng.random() < 0.5 else "big"
            value = int(EDGES[rng.integers(len(EDGES))]) % 256**size
            data[at : at + size] = value.to_bytes(size, order)
    return bytes(data)


def mutate_text(rng: np.random.Generator, data: bytes) -> bytes:
    """As `mutate_bytes`, or an odd piece of text put in somewhere."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, data)
    at = int(rng.integers(len(data) + 1))
    return data[:at] + ODD_TEXTS[rng.integers(len(ODD_TEXTS))] + data[at + int(rng.integers(3)) :]


def mutate_json(rng: np.random.Generator, data: bytes) -> bytes:
    """One to three values of JSON replaced by odd ones or left out, or the text damaged; other bytes are damaged."""
    if rng.random() < 0.2:
        return mutate_text(rng, data)
    try:
        value = json.loads(data)
    except ValueError:
        return mutate_bytes(rng, data)
    for _ in range(rng.integers(1, 4)):
        holder, key = value, None
        while isinstance(holder, dict | list) and len(holder):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = keys[rng.integers(len(keys))]
            if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.3:
                break
            holder = holder[key]
        if key is None:
            break
        if rng.random() < 0.25:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
    return json.dumps(value).encode()
