"""Columns written in place, and what is left of them where rows are bad."""

import hashlib
import json
import os

import numpy as np
import pytest

from jaxsd.data import columns
from jaxsd.data.columns import ColumnType, create_columns, finish_columns, open_columns, write_columns, write_examples

SIZE = 1000
BAD = np.array([0, 5, 6, 640, 990, 998, 999])
VALUES = {
    "row": np.arange(SIZE),
    "text": np.arange(SIZE * 3, dtype=np.float16).reshape(SIZE, 3) % 2048,
    "tokens": np.arange(SIZE * 2, dtype=np.int32).reshape(SIZE, 2),
}


def begin(folder):
    create_columns(folder, SIZE, {name: ColumnType(values.dtype, values.shape[1:]) for name, values in VALUES.items()})
    for first in (600, 0, 300, 900):  # any order
        write_examples(folder, first, {name: values[first : first + 300] for name, values in VALUES.items()})


def check(folder):
    there = open_columns(folder)
    good = np.delete(np.arange(SIZE), BAD)
    assert np.array_equal(np.sort(there["row"]), good)
    for name, values in VALUES.items():
        np.testing.assert_array_equal(there[name], values[there["row"]])
        assert there[name].dtype == values.dtype
    assert json.loads((folder / "dataset.json").read_text()) == {
        "size": len(good),
        "columns": sorted(VALUES),
        "sha256": {name: hashlib.sha256(values[there["row"]].tobytes()).hexdigest() for name, values in VALUES.items()},
        "seed": 3,
    }


def test_bad_rows_are_taken_out(tmp_path):
    begin(tmp_path)
    assert not (tmp_path / "dataset.json").exists()
    finish_columns(tmp_path, VALUES, SIZE, BAD, {"seed": 3})
    check(tmp_path)


def test_taking_bad_rows_out_may_be_stopped_anywhere(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    begin(tmp_path)
    monkeypatch.setattr(columns, "MOVED", 2)
    places = [(os, "truncate"), (np.lib.format, "write_array_header_1_0"), (columns, "write_json")]
    stopped = 0
    for after in range(4):
        for module, name in places:
            calls, real = 0, getattr(module, name)

            def stop(*arguments, real=real, after=after):
                nonlocal calls
                calls += 1
                if calls > after:
                    raise Stop
                return real(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(module, name, stop)
                try:
                    finish_columns(tmp_path, VALUES, SIZE, BAD, {"seed": 3})
                except Stop:
                    stopped += 1
    assert stopped >= 5
    finish_columns(tmp_path, VALUES, SIZE, BAD, {"seed": 3})
    check(tmp_path)


def test_rows_that_do_not_fit_are_refused(tmp_path):
    begin(tmp_path)
    for first, rows in ((999, np.zeros((2, 3), np.float16)), (0, np.zeros((2, 4), np.float16)), (0, np.zeros((2, 3)))):
        with pytest.raises(ValueError, match=r"text\.npy: .* does not fit"):
            write_examples(tmp_path, first, {"text": rows})


def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch):
    begin(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*text\.npy"):
        write_examples(tmp_path, 0, {"text": VALUES["text"]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), r"dataset\.json: no such file"),
        (lambda folder: (folder / "text.npy").unlink(), r"text\.npy: missing, though .*dataset\.json lists it"),
        (lambda folder: os.truncate(folder / "text.npy", 5000), r"text\.npy is damaged \(mmap length is greater"),
        (lambda folder: os.truncate(folder / "text.npy", 0), r"text\.npy is damaged"),
        (lambda folder: np.save(folder / "text.npy", np.zeros((3, 3))), r"text\.npy: 3 examples, expected 1000"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    write_columns(tmp_path, VALUES, {})
    assert all(np.array_equal(column, VALUES[name]) for name, column in open_columns(tmp_path).items())
    damage(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_columns(tmp_path)
