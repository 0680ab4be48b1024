"""What a job says of itself while it runs."""

import re

import pytest

from jaxsd.runtime import progress
from jaxsd.runtime.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_how_much_is_done_how_fast_and_how_long_it_takes(clock, capsys):
    with Progress("verify", 100) as bar:
        clock[0] = 20
        bar.update({"loss": 0.25})
        bar.advance(10)
    assert capsys.readouterr().err == "verify 10/100 steps, 0.50/s, 180 s left, loss 0.25\n"


def test_compilation_counts_apart(clock, capsys):
    with Progress("denoising", 25, compiles=True) as bar:
        clock[0] = 30  # the first step compiled
        bar.advance(1)
        clock[0] = 42
        bar.advance(13)
        clock[0] = 54
        bar.advance(25)
    assert capsys.readouterr().err.splitlines() == [
        "denoising: compiled in 30 s",
        "denoising 25/25 steps, 1.00/s, 0 s left",
    ]


def test_the_time_left_is_known_after_some_seconds(clock):
    with Progress("train", 100, shown=False) as bar:
        clock[0] = 1
        bar.advance(1)
        assert bar.seconds_left() is None
        clock[0] = 10
        bar.advance(20)
        assert bar.seconds_left() == 40


def test_a_pause_does_not_change_the_rate_and_those_to_come_are_in_the_time_left(clock, capsys):
    with Progress("train", 100, pauses={"validating": 40, "never": 0}) as bar:
        clock[0] = 40
        bar.advance(40)
        with bar.pause("validating"):
            clock[0] = 70
        clock[0] = 80
        bar.advance(50)
        assert bar.seconds_left() == 50 + 2 * 30  # after 80 steps and at the end
        clock[0] = 110
        bar.advance(80)  # before the pause
        with bar.pause("validating"):
            clock[0] = 120
        clock[0] = 135
        bar.advance(95)
        clock[0] = 140
        bar.advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "train 40/100 steps, 1.00/s, over 60 s left",  # the length of a validation is not known
        "train 50/100 steps, 1.00/s, 110 s left",
        "train 80/100 steps, 1.00/s, 50 s left",
        "train 95/100 steps, 1.00/s, 15 s left",
        "train 100/100 steps, 1.00/s, 0 s left",
    ]


def test_the_bar_shows_the_time_left_of_steps_and_pauses(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with Progress("train", 100, pauses={"validating": 40}) as bar:
        clock[0] = 40
        bar.advance(40)
        assert bar.bar
        bar.bar.refresh()
        with bar.pause("validating"):
            clock[0] = 70
        bar.bar.refresh()
    shown = re.split(r"[\r\n]+", capsys.readouterr().err)
    assert any("<over 01:00,  1.00step/s]" in line for line in shown)
    assert "<02:00,  1.00step/s]" in shown[-2]


def test_compilation_that_is_over_at_once_is_not_mentioned(clock, capsys):
    with Progress("denoising", 3, compiles=True) as bar:
        for step in range(3):
            clock[0] += 1
            bar.advance(step + 1)
    assert capsys.readouterr().err == "denoising 3/3 steps, 1.00/s, 0 s left\n"


def test_on_a_terminal_the_first_step_says_that_it_compiles(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with Progress("denoising", 25, compiles=True) as bar:
        clock[0] = 30
        bar.advance(1)
    shown = re.split(r"[\r\n]+", capsys.readouterr().err)
    assert any(line.startswith("denoising: compiling:   0%") for line in shown)
    assert "denoising: compiled in 30 s" in shown
    assert shown[-2].startswith("denoising:   4%")
