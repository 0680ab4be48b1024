"""One-second sounds of the toy world's classes, synthesized from simple physical recipes.

Every recipe returns floats (16000,) at any level. `_record` adds the room, the microphone, background noise and
loudness. All variation comes from the random generator, so the generator's state determines the sound.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16
from scipy import fft as scipy_fft
from scipy import signal as scipy_signal

fft: Any = scipy_fft  # whose annotations say nothing of the arrays that they return
signal: Any = scipy_signal

SAMPLE_RATE = 16_000
"""Samples per second of every sound."""
LENGTH = 16_000

_SPECTRUM_LENGTH = 20_000  # padded, so that a filter's ringing does not wrap to the start
_TIME = np.arange(LENGTH) / SAMPLE_RATE
_FREQUENCY = fft.rfftfreq(_SPECTRUM_LENGTH, 1 / SAMPLE_RATE)
_ROOM_LENGTH = 25_600
_ROOM_FREQUENCY = fft.rfftfreq(_ROOM_LENGTH, 1 / SAMPLE_RATE)
_NOISE_OCTAVES = np.log2(np.maximum(fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE), 20.0) / 1000.0)

Rng = np.random.Generator


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _decibels(level: float) -> float:
    return 10.0 ** (level / 20.0)


def _unit(sound: np.ndarray) -> np.ndarray:
    """Scale to a root mean square of one."""
    return sound / (np.sqrt(np.mean(sound**2)) + 1e-9)


def _noise(rng: Rng, slope: float = 0.0) -> np.ndarray:
    """Unit noise whose spectrum tilts by `slope` decibels per octave."""
    white = rng.standard_normal(LENGTH)
    if slope == 0.0:
        return white
    return _unit(fft.irfft(fft.rfft(white) * 10.0 ** (slope / 20.0 * _NOISE_OCTAVES), LENGTH))


def _wander(rng: Rng, rate: float) -> np.ndarray:
    """Smooth random curve, about standard normal, with `rate` independent values a second."""
    knots = rng.standard_normal(int(rate) + 3)
    return np.interp((_TIME + rng.random() / rate) * rate, np.arange(len(knots)), knots)


def _pulses(pitch: np.ndarray, sharpness: np.ndarray | float) -> np.ndarray:
    """Smooth pulse train following a pitch in hertz; sharper pulses have more harmonics."""
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    pulses = np.exp(sharpness * (np.cos(phase) - 1.0))
    return pulses - pulses.mean()


def _resonances(centers: Sequence[float] | np.ndarray, widths: Sequence[float], gains: Sequence[float]) -> np.ndarray:
    """Transfer function of parallel decaying resonances."""
    center, half_width, gain = (np.asarray(values, float)[:, None] for values in (centers, widths, gains))
    half_width = half_width / 2
    # Alternate signs keep neighboring resonances from cancelling between their peaks.
    sign = (-1.0) ** np.arange(len(center))[:, None]
    return np.sum(sign * gain * half_width / (half_width + 1j * (_FREQUENCY - center)), axis=0)


def _filter(sound: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    return fft.irfft(fft.rfft(sound, _SPECTRUM_LENGTH) * transfer, _SPECTRUM_LENGTH)[..., :LENGTH]


def _band(sound: np.ndarray, low: float, high: float) -> np.ndarray:
    """Gentle second-order band-pass."""
    with np.errstate(divide="ignore"):
        gain = 1.0 / ((1.0 + (low / np.maximum(_FREQUENCY, 1.0)) ** 4) * (1.0 + (_FREQUENCY / high) ** 4))
    return _filter(sound, np.sqrt(gain))


def _swell(start: float, attack: float, hold: float, release: float) -> np.ndarray:
    """Envelope rising from `start` for `attack`, staying for `hold` and falling for `release` seconds."""
    corners = np.cumsum([start, attack, hold, release])
    return np.sin(0.5 * np.pi * np.interp(_TIME, corners, [0.0, 1.0, 1.0, 0.0])) ** 2


def _hit(start: float, attack: float, decay: float) -> np.ndarray:
    """Envelope rising within `attack` seconds and then decaying exponentially."""
    since = np.maximum(_TIME - start, 0.0)
    return (1.0 - np.exp(-since / attack)) * np.exp(-since / decay)


def _ringing(strikes: np.ndarray, frequency: float, decay: float) -> np.ndarray:
    """Decaying sinusoid started by every sample of a strike signal."""
    radius = np.exp(-1.0 / (decay * SAMPLE_RATE))
    angle = 2 * np.pi * frequency / SAMPLE_RATE
    return signal.lfilter([np.sin(angle)], [1.0, -2.0 * radius * np.cos(angle), radius**2], strikes)


def _bell(rng: Rng) -> np.ndarray:
    alarm = rng.random() < 0.2
    pitch = _log_uniform(rng, 900, 2400) if alarm else _log_uniform(rng, 260, 1900)
    ratios = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 2.66, 3.0, 4.0, 5.4, 6.8, 8.3]) * rng.normal(1.0, 0.02, 12)
    longest = _log_uniform(rng, 0.1, 0.3) if alarm else _log_uniform(rng, 0.5, 3.0)
    damping = rng.uniform(0.5, 0.9)
    strikes = np.zeros(LENGTH)
    if alarm:
        at = np.arange(rng.uniform(0, 0.1), 1.0, 1 / rng.uniform(9, 24))
    else:
        at = rng.uniform(0.0, 0.35) + np.arange(rng.integers(1, 4)) * rng.uniform(0.2, 0.6)
    at = at[at < 0.95]
    strikes[(at * SAMPLE_RATE).astype(int)] = rng.uniform(0.6, 1.0, len(at))
    # A clapper is soft: a few tenths of a millisecond of contact.
    strikes = signal.lfilter([1.0], [1.0, -rng.uniform(0.1, 0.75)], strikes)
    sound = np.zeros(LENGTH)
    tilt = rng.uniform(0.2, 1.0)
    for ratio in ratios:
        frequency = pitch * ratio
        if frequency > 7600:
            continue
        level = rng.uniform(0.3, 1.0) * ratio**-tilt
        decay = longest * ratio**-damping
        beat = 1.0 + rng.uniform(0.0, 0.004)
        sound += level * (_ringing(strikes, frequency, decay) + 0.6 * _ringing(strikes, frequency * beat, decay))
    clank = _band(_noise(rng), 1500, 7000) * signal.lfilter([1.0], [1.0, -0.99], strikes)
    return _unit(sound) + rng.uniform(0.0, 0.15) * _unit(clank)


def _song(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Frequency in hertz and level of one bird's phrase."""
    frequency, level = np.full(LENGTH, 3000.0), np.zeros(LENGTH)
    register = _log_uniform(rng, 2000, 5000)
    trill = rng.random() < 0.45
    syllable = _log_uniform(rng, 0.03, 0.09) if trill else _log_uniform(rng, 0.06, 0.25)
    spacing = syllable * rng.uniform(1.15, 2.2)
    first = rng.uniform(0.0, 0.25)
    motif = np.clip(register * np.exp(rng.normal(0.0, 0.25, 3)), 1500, 7400)
    flutter, depth = rng.uniform(15, 60), rng.uniform(0.0, 0.05)
    for start in np.arange(first, 0.96, spacing)[: rng.integers(2, 24 if trill else 7)]:
        if not trill:
            motif = np.clip(register * np.exp(rng.normal(0.0, 0.25, 3)), 1500, 7400)
        where = slice(int(start * SAMPLE_RATE), min(LENGTH, int((start + syllable) * SAMPLE_RATE)))
        t = np.linspace(0.0, 1.0, where.stop - where.start)
        path = np.interp(t, [0.0, 0.5, 1.0], motif)
        frequency[where] = path * (1.0 + depth * np.sin(2 * np.pi * flutter * syllable * t))
        level[where] = np.sin(np.pi * t) ** rng.uniform(0.5, 1.5) * rng.uniform(0.5, 1.0)
    return frequency, level


def _bird(rng: Rng) -> np.ndarray:
    sound = np.zeros(LENGTH)
    for loudness in (1.0, rng.uniform(0.05, 0.5))[: rng.integers(1, 3)]:
        frequency, level = _song(rng)
        phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
        overtone = np.where(frequency < 3800, rng.uniform(0.0, 0.35), 0.0)
        sound += loudness * level * (np.sin(phase) + overtone * np.sin(2 * phase))
    rustle = _band(_noise(rng, -4.0), 200, 6000)
    return _unit(sound) + _decibels(rng.uniform(-45, -14)) * _unit(rustle)


def _bonfire(rng: Rng) -> np.ndarray:
    crackle = np.zeros(LENGTH)
    density = _log_uniform(rng, 8, 70)
    burst = np.exp(0.6 * _wander(rng, 6.0))
    for _ in range(4):
        chance = density / 4 / SAMPLE_RATE * burst
        clicks = (rng.random(LENGTH) < chance) * np.exp(rng.normal(0.0, 0.9, LENGTH))
        grain = rng.standard_normal(LENGTH) * signal.lfilter([1.0], [1.0, -np.exp(-1 / rng.uniform(3, 40))], clicks)
        crackle += _ringing(grain, _log_uniform(rng, 600, 6000), _log_uniform(rng, 0.0002, 0.002))
    # One loud pop must not leave all the rest inaudible.
    crackle = np.tanh(_unit(crackle) / 4.0)
    # The flames' low flutter and the soft hiss of hot gas.
    flutter = np.exp(0.35 * _wander(rng, 12.0))
    rumble = _unit(_band(_noise(rng, -5.0), 40, _log_uniform(rng, 200, 600)) * flutter)
    hiss = _unit(_band(_noise(rng), 1500, 6500))
    return _unit(crackle) + _decibels(rng.uniform(-22, -4)) * rumble + _decibels(rng.uniform(-30, -13)) * hiss


# First three formants in hertz of five vowels.
_VOWELS = ((300, 2300, 3000), (500, 1850, 2500), (700, 1200, 2500), (450, 850, 2400), (320, 900, 2250))


def _babble(rng: Rng, voices: int) -> np.ndarray:
    """Several people talking at once, each moving from vowel to vowel."""
    excitation = np.zeros((len(_VOWELS), LENGTH))
    for _ in range(voices):
        pitch = _log_uniform(rng, 90, 260) * np.exp(0.12 * _wander(rng, 4.0))
        source = _pulses(pitch, rng.uniform(8, 30))
        syllables = _TIME * rng.uniform(3.0, 6.5) + rng.random()
        loudness = rng.uniform(0.2, 1.0) * np.sin(np.pi * syllables) ** 2
        loudness *= np.interp(_TIME, np.linspace(0, 1, 6), rng.random(6) < 0.75)
        vowel = rng.integers(len(_VOWELS), size=16)[syllables.astype(int)]
        excitation[vowel, np.arange(LENGTH)] += source * loudness
    excitation += rng.uniform(0.02, 0.1) * np.abs(excitation) * _noise(rng)
    length = rng.uniform(0.95, 1.15)
    spoken = fft.rfft(excitation, _SPECTRUM_LENGTH, axis=-1)
    transfers = [_resonances(np.array(vowel) * length, (90, 120, 180), (1.0, 0.5, 0.25)) for vowel in _VOWELS]
    return fft.irfft(np.sum(spoken * transfers, axis=0), _SPECTRUM_LENGTH)[:LENGTH]


def _clinks(rng: Rng, count: int) -> np.ndarray:
    """Cups and spoons touching."""
    sound = np.zeros(LENGTH)
    for _ in range(count):
        strikes = np.zeros(LENGTH)
        at = rng.integers(LENGTH)
        strikes[at] = rng.uniform(0.3, 1.0)
        strikes[min(LENGTH - 1, at + rng.integers(200, 1500))] = rng.uniform(0.0, 0.5)
        for frequency in rng.uniform(1800, 7200, 4):
            sound += rng.uniform(0.3, 1.0) * _ringing(strikes, frequency, _log_uniform(rng, 0.006, 0.06))
    return sound


def _cafe(rng: Rng) -> np.ndarray:
    murmur = _unit(_babble(rng, int(rng.integers(4, 9))))
    hum = _unit(_band(_noise(rng, -5.0), 60, 1500))
    sound = murmur + _decibels(rng.uniform(-20, -6)) * hum
    clinks = _clinks(rng, int(rng.integers(1, 6)))
    sound += rng.uniform(0.8, 4.0) * clinks / (np.abs(clinks).max() + 1e-9)
    if rng.random() < 0.2:
        steam = _band(_noise(rng), 1500, 7000) * _swell(rng.uniform(-0.5, 0.5), 0.1, rng.uniform(0.3, 1.0), 0.1)
        sound += rng.uniform(0.1, 0.5) * steam
    return sound


def _car(rng: Rng) -> np.ndarray:
    cylinders = int(rng.choice([3, 4, 4, 6, 8]))
    idle = _log_uniform(rng, 18, 90)
    manner = rng.random()
    if manner < 0.5:
        revs = np.ones(LENGTH)
    elif manner < 0.75:
        revs = 1.0 + rng.uniform(0.3, 1.8) * _swell(rng.uniform(-0.2, 0.4), 0.3, 0.1, rng.uniform(0.3, 0.7))
    else:
        revs = np.linspace(1.0, rng.uniform(0.6, 2.2), LENGTH)
    firing = idle * revs * (1.0 + 0.01 * _wander(rng, 30.0))
    phase = np.cumsum(firing) / SAMPLE_RATE
    # Cylinders never fire quite alike, which gives the engine its slow lope.
    strength = rng.uniform(0.6, 1.0, cylinders)[phase.astype(int) % cylinders]
    pulses = np.exp(rng.uniform(4, 40) * (np.cos(2 * np.pi * phase) - 1.0)) * strength
    blast = pulses * (1.0 + rng.uniform(0.1, 0.8) * _noise(rng))
    exhaust = _resonances(
        [rng.uniform(50, 130), rng.uniform(150, 350), rng.uniform(400, 900), rng.uniform(1200, 2600)],
        [60, 120, 300, 900],
        [1.0, rng.uniform(0.3, 1.0), rng.uniform(0.1, 0.5), rng.uniform(0.03, 0.25)],
    )
    engine = _unit(_filter(blast - blast.mean(), exhaust))
    whir = _unit(_band(_noise(rng, -3.0), 150, _log_uniform(rng, 1000, 5000)) * (0.6 + pulses))
    sound = engine + _decibels(rng.uniform(-24, -6)) * whir
    return sound * (0.5 + 0.5 * revs / revs.max())


def _dog(rng: Rng) -> np.ndarray:
    pitch = _log_uniform(rng, 190, 900)
    # Small dogs have high voices and short vocal tracts.
    tract = (pitch / 420) ** 0.3
    contour, level = np.full(LENGTH, pitch), np.zeros(LENGTH)
    bark = _log_uniform(rng, 0.07, 0.26)
    gap = rng.uniform(0.08, 0.35)
    first = rng.uniform(0.0, 0.35)
    for start in first + np.arange(rng.integers(1, 4)) * (bark + gap):
        if start > 0.9:
            break
        length = bark * rng.uniform(0.85, 1.15)
        t = (_TIME - start) / length
        inside = (t >= 0.0) & (t < 1.0)
        t = t[inside]
        peak = rng.uniform(0.1, 0.4)
        contour[inside] = pitch * rng.uniform(0.9, 1.1) * np.interp(t, [0, peak, 1], [0.8, 1.2, rng.uniform(0.5, 0.8)])
        rise, fall = rng.uniform(0.04, 0.2), rng.uniform(0.5, 1.5)
        level[inside] = rng.uniform(0.6, 1.0) * np.minimum(t / rise, 1.0) * (1.0 - t) ** fall
    source = _pulses(contour * (1.0 + 0.015 * _wander(rng, 200.0)), rng.uniform(6, 30))
    breath = rng.uniform(0.08, 0.5) * _noise(rng)
    voice = (source + breath * 0.3) * level
    formants = np.array([rng.uniform(550, 950), rng.uniform(1200, 1900), rng.uniform(2400, 3300), 4300.0]) * tract
    throat = _resonances(formants, [180, 260, 400, 700], [1.0, rng.uniform(0.4, 1.0), rng.uniform(0.2, 0.6), 0.2])
    return np.tanh(rng.uniform(0.3, 2.0) * _unit(_filter(voice, throat)) / 3.0)


# Decay of the circle on which strings' spectra are taken: their sound, which outlasts the clip, has faded enough
# after one spectrum length not to wrap to the start.
_FADE = 10.0 ** (-5.0 / _SPECTRUM_LENGTH * np.arange(_SPECTRUM_LENGTH))
_DELAY = -2j * np.pi * _FREQUENCY / SAMPLE_RATE + np.log(_FADE[1])
_AVERAGE = 0.5 + 0.5 * np.exp(_DELAY)


def _pluck(rng: Rng, pitch: float, start: float, decay: float, brightness: float) -> np.ndarray:
    """Spectrum of a faded plucked string: a burst of noise going round a lossy delay loop."""
    period = SAMPLE_RATE / pitch
    length = int(period)
    burst = rng.uniform(-1.0, 1.0, length)
    burst = signal.lfilter([1.0 - brightness], [1.0, -brightness], burst)
    # Plucking near the bridge cancels the harmonics that have a node there.
    burst -= np.roll(burst, int(length * rng.uniform(0.08, 0.3)))
    first = int(start * SAMPLE_RATE)
    excitation = np.zeros(_SPECTRUM_LENGTH)
    excitation[first : first + length] = burst * _FADE[first : first + length]
    loss = np.exp(-6.9 * period / (decay * SAMPLE_RATE))
    # The delay need not be a whole number of samples, which keeps high notes in tune.
    return fft.rfft(excitation) / (1.0 - loss * np.exp((period - 0.5) * _DELAY) * _AVERAGE)


_STRINGS = np.array([82.4, 110.0, 146.8, 196.0, 246.9, 329.6])


def _guitar(rng: Rng) -> np.ndarray:
    frets = 2.0 ** (rng.integers(0, 8) / 12)
    chord = np.array([0, 0, 2, 2, 1, 0]) if rng.random() < 0.5 else np.array([0, 2, 2, 0, 0, 0])
    pitches = _STRINGS * frets * 2.0 ** (chord / 12)
    decay = _log_uniform(rng, 0.5, 5.0)
    brightness = rng.uniform(0.0, 0.75)
    first = rng.uniform(0.0, 0.2)
    if rng.random() < 0.45:
        spread = rng.uniform(0.004, 0.04)
        strums = first + np.arange(rng.integers(1, 3)) * rng.uniform(0.25, 0.6)
        notes = [(pitch, at + spread * k) for at in strums for k, pitch in enumerate(pitches[rng.integers(0, 3) :])]
    else:
        times = np.arange(first, 0.95, _log_uniform(rng, 0.12, 0.5))
        notes = [(rng.choice(pitches) * rng.choice([1.0, 1.0, 1.0, 2.0]), at) for at in times]
    spectrum = sum(
        rng.uniform(0.5, 1.0) * _pluck(rng, pitch, at, decay, brightness) for pitch, at in notes if at < 0.95
    )
    body = 0.4 + _resonances(
        [rng.uniform(90, 120), rng.uniform(180, 230), rng.uniform(350, 500)], [40, 50, 90], [1] * 3
    )
    sound = fft.irfft(spectrum * body, _SPECTRUM_LENGTH)[:LENGTH]
    return sound / _FADE[:LENGTH]


def _lion(rng: Rng) -> np.ndarray:
    pitch = _log_uniform(rng, 38, 110)
    if rng.random() < 0.7:
        level = _swell(rng.uniform(-0.5, 0.25), rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.6))
    else:
        at = rng.uniform(0.0, 0.2) + np.arange(3) * rng.uniform(0.3, 0.5)
        level = sum(_swell(start, 0.08, rng.uniform(0.02, 0.12), rng.uniform(0.1, 0.2)) for start in at)
    rough = 1.0 + rng.uniform(0.03, 0.12) * _wander(rng, 90.0)
    source = _pulses(pitch * (0.75 + 0.5 * level) * rough, rng.uniform(10, 45))
    source = source * (1.0 + rng.uniform(0.2, 0.6) * _wander(rng, 45.0))
    # Breath passes in the same pulses as the voice.
    breath = _noise(rng, -2.0) * np.maximum(source + 0.3, 0.0)
    openness = rng.uniform(0.85, 1.2)
    throat = _resonances(
        np.array([rng.uniform(220, 420), rng.uniform(600, 950), rng.uniform(1100, 1700), 2600.0]) * openness,
        [110, 180, 280, 600],
        [1.0, rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.5), rng.uniform(0.05, 0.2)],
    )
    voice = _unit(_filter((source + rng.uniform(0.2, 0.9) * breath) * level, throat))
    return np.tanh(rng.uniform(0.3, 1.5) * voice / 2.0)


def _pipe(rng: Rng, pitch: float, stops: np.ndarray, softness: float) -> np.ndarray:
    """One held organ note: every drawn stop sounds a multiple of the pitch."""
    harmonics = np.zeros(1025)
    for multiple, level in zip((1, 2, 3, 4, 8), stops, strict=True):
        for overtone in range(1, 9):
            if multiple * overtone * pitch < 7500:
                harmonics[multiple * overtone] += level * overtone**-softness
    cycle = fft.irfft(harmonics * np.exp(2j * np.pi * rng.random(1025)), 2048)
    phase = (pitch / SAMPLE_RATE * np.arange(LENGTH) + rng.random()) % 1.0
    return cycle[(phase * 2048).astype(int)]


_CHORDS = ((0,), (0, 12), (0, 4, 7), (0, 3, 7), (0, 4, 7, 12), (-12, 0, 7, 12), (-12, 0, 4, 7, 12), (-12, 0, 3, 7))


def _organ(rng: Rng) -> np.ndarray:
    stops = rng.random(5) * (rng.random(5) < 0.7) + np.array([0.4, 0.0, 0.0, 0.0, 0.0])
    softness = rng.uniform(0.7, 2.5)
    key = _log_uniform(rng, 110, 480)
    sound = np.zeros(LENGTH)
    change = rng.uniform(0.3, 0.8) if rng.random() < 0.4 else 2.0
    for start, end in ((rng.choice([-1.0, rng.uniform(0.0, 0.25)]), change), (change, 2.0)):
        if start >= 1.0:
            continue
        held = _swell(start, rng.uniform(0.02, 0.08), end - start - 0.05, 0.05)
        root = key * 2.0 ** (rng.integers(-4, 6) / 12)
        for step in _CHORDS[rng.integers(len(_CHORDS))]:
            detune = 1.0 + rng.normal(0.0, 0.0008)
            sound += held * _pipe(rng, root * 2.0 ** (step / 12) * detune, stops, softness)
    if rng.random() < 0.3:
        sound *= 1.0 + rng.uniform(0.05, 0.25) * np.sin(2 * np.pi * (rng.uniform(4, 7) * _TIME + rng.random()))
    wind = _unit(_band(_noise(rng, -3.0), 300, 4000))
    return _unit(sound) + _decibels(rng.uniform(-50, -26)) * wind


def _waves(rng: Rng) -> np.ndarray:
    crash = rng.uniform(-0.3, 0.8)
    build, ebb = rng.uniform(0.15, 0.8), rng.uniform(0.3, 1.2)
    body = 0.25 + _swell(crash - build, build, 0.1, ebb)
    spray = rng.uniform(0.05, 0.5) + rng.uniform(0.3, 1.5) * _hit(crash, rng.uniform(0.01, 0.1), ebb)
    low = _unit(_band(_noise(rng, -4.0), 50, _log_uniform(rng, 250, 700))) * body
    middle = _unit(_band(_noise(rng, -3.0), 300, _log_uniform(rng, 1500, 3000))) * body
    high = _unit(_band(_noise(rng), 1500, 7000)) * spray * np.exp(0.15 * _wander(rng, 40.0))
    return rng.uniform(0.3, 1.0) * low + rng.uniform(0.5, 1.0) * middle + _decibels(rng.uniform(-14, -2)) * high


_SYNTHESIZERS: dict[str, Callable[[Rng], np.ndarray]] = {
    "bell": _bell,
    "bird": _bird,
    "bonfire": _bonfire,
    "cafe": _cafe,
    "car": _car,
    "dog": _dog,
    "guitar": _guitar,
    "lion": _lion,
    "organ": _organ,
    "waves": _waves,
}
_INDOORS = frozenset({"cafe", "guitar", "organ"})


def _room(rng: Rng, indoors: bool) -> np.ndarray:
    """Impulse response: the direct sound, a few early reflections and a decaying tail."""
    seconds = _log_uniform(rng, 0.15, 1.5) if indoors else _log_uniform(rng, 0.05, 0.6)
    count = min(_ROOM_LENGTH - LENGTH, int(seconds * SAMPLE_RATE))
    tail = rng.standard_normal(count) * np.exp(-6.9 * np.arange(count) / (seconds * SAMPLE_RATE))
    wet = rng.uniform(0.1, 0.8) if indoors else rng.uniform(0.0, 0.4)
    response = wet * tail / np.sqrt(np.sum(tail**2))
    echoes = rng.integers(20, min(count, 600), 5)
    response[echoes] += wet * rng.uniform(-0.6, 0.6, 5)
    response[0] = 1.0
    return response


def _microphone(rng: Rng) -> np.ndarray:
    """Gain over frequency: no very low end, a slight tilt and sometimes, as on a telephone, no top at all."""
    frequency = np.maximum(_ROOM_FREQUENCY, 10.0)
    gain = 1.0 / np.sqrt(1.0 + (rng.uniform(20, 110) / frequency) ** 4)
    gain *= 10.0 ** (rng.uniform(-1.5, 1.5) / 20.0 * np.log2(frequency / 1000.0))
    if rng.random() < 0.3:
        gain /= np.sqrt(1.0 + (frequency / rng.uniform(3200, 8000)) ** rng.uniform(8, 60))
    return gain


def _background(rng: Rng) -> np.ndarray:
    """Unit noise of the recording: anything between hiss and wind, sometimes with mains hum."""
    noise = _noise(rng, rng.uniform(-7.0, 0.0))
    if rng.random() < 0.15:
        mains = rng.choice([50.0, 60.0])
        noise += rng.uniform(0.2, 1.5) * np.sin(2 * np.pi * (mains * rng.integers(1, 4) * _TIME + rng.random()))
    return _unit(noise)


def _record(dry: np.ndarray, rng: Rng, indoors: bool) -> np.ndarray:
    """Put a dry sound into a room and record it at some loudness as int16."""
    heard = fft.rfft(_unit(dry), _ROOM_LENGTH) * fft.rfft(_room(rng, indoors), _ROOM_LENGTH)
    wet = fft.irfft(heard, _ROOM_LENGTH)[:LENGTH]
    sound = _unit(wet) + _decibels(rng.uniform(-50, -15)) * _background(rng)
    sound = fft.irfft(fft.rfft(sound, _ROOM_LENGTH) * _microphone(rng), _ROOM_LENGTH)[:LENGTH]
    peak = _decibels(rng.uniform(-26.0, -0.5))
    return np.round(sound * (peak * 32767 / np.abs(sound).max())).astype(np.int16)


def synthesize(class_name: str, rng: np.random.Generator) -> Int16[np.ndarray, " samples"]:
    """Synthesize one sound of a class.

    Args:
        class_name: one of the world's classes.
        rng: the source of all variation: pitch, tempo, onset, room, background noise and loudness.

    Returns:
        int16 (16000,), one second at 16 kHz.
    """
    return _record(_SYNTHESIZERS[class_name](rng), rng, class_name in _INDOORS)
