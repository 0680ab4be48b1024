"""Near-duplicates across splits are found, and only those."""

import numpy as np

from jaxsd.data.twins import describe_twins, find_twins, fingerprint


def tones(seed: int, count: int) -> np.ndarray:
    at = np.arange(16_000) / 16_000
    rng = np.random.default_rng(seed)
    pitches, pulses = rng.uniform(100, 6_000, (count, 3, 1)), rng.uniform(1, 9, (count, 1))
    waves = np.sin(2 * np.pi * pitches * at).sum(axis=1) * (1 + np.sin(2 * np.pi * pulses * at))
    return (4_000 * waves + rng.normal(0, 30, waves.shape)).astype(np.int16)


def test_copies_that_are_softer_and_noisier_are_twins_and_others_are_not():
    rng = np.random.default_rng(5)
    images = rng.normal(size=(40, 64)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    train = {"audio": tones(0, 40), "image": images.astype(np.float16)}
    test = {"audio": tones(1, 6), "image": rng.permutation(images.T).T[:6] @ np.roll(np.eye(64), 9, 0)}
    test["audio"][2] = train["audio"][31] // 2
    test["image"][4] = images[7]
    found = find_twins(test, train, "test")
    assert np.flatnonzero(found["audio"]).tolist() == [2] and np.flatnonzero(found["image"]).tolist() == [4]
    assert describe_twins(found, "test").startswith(
        "test: 2 of 6 examples (33.3%) have a twin in train,\n  1 by the image"
    )


def test_silence_is_nobodys_twin():
    silent = np.zeros((2, 16_000), np.int16)
    assert not fingerprint(silent).any()
