"""Manifests of three formats, and how their rows are split."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxsd.data.decode import Entry
from jaxsd.data.manifest import draw_splits, read_manifest
from tests.helpers.data_files import write_manifest

ROWS = [
    {"audio": "a.wav", "image": "a.png", "text": 'a dog, "loud"\nand near', "start": 1.5, "group": "7"},
    {"audio": "b.wav", "image": "b.png", "text": "", "start": None, "group": "8"},
    {"audio": "c.wav", "image": "c.png", "text": "ein Hündchen", "start": 0.0, "group": "7"},
]


def manifest(folder, rows, name="manifest.csv"):
    path = folder / name
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_manifest(path, rows)
    return path


def many(folder, rows=1000, **columns):
    return read_manifest(
        manifest(
            folder,
            [
                {"audio": "a", "image": "b", "text": "c", **{name: str(make(i)) for name, make in columns.items()}}
                for i in range(rows)
            ],
        )
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    rows = [{**row, "group": int(row["group"])} if suffix != "csv" else row for row in ROWS]
    source = read_manifest(manifest(tmp_path, rows, f"manifest.{suffix}"))
    expected = [Entry(i, row["audio"], row["image"], row["text"], row["start"]) for i, row in enumerate(ROWS)]
    assert source.entries(np.array([2, 0])) == [expected[2], expected[0]]
    assert source.entries(np.array([1])) == [expected[1]]
    splits = draw_splits(source, "1", "0", seed=0)  # rows 0 and 2 are of one group
    assert {name: rows.tolist() for name, rows in splits.items()} in (
        {"train": [1], "validation": [0, 2]},
        {"train": [0, 2], "validation": [1]},
    )


def test_without_a_start_there_is_none(tmp_path):
    source = read_manifest(manifest(tmp_path, [{"audio": "a.wav", "image": "a.png", "text": "t", "other": 1}]))
    assert source.entries(np.array([0])) == [Entry(0, "a.wav", "a.png", "t", None)]


@pytest.mark.parametrize(
    ("validation", "test", "sizes"),
    [
        ("100", "0.2", {"train": 700, "validation": 100, "test": 200}),
        ("0.001", "0", {"train": 999, "validation": 1}),
        (None, None, {"train": 987, "validation": 2, "test": 11}),  # 3,774 and 23,524 of 2,240,231, rounded up
    ],
)
def test_splits_are_drawn_by_seed_and_hold_every_row_once(tmp_path, validation, test, sizes):
    source = many(tmp_path)
    splits = draw_splits(source, validation, test, seed=3)
    assert {name: len(rows) for name, rows in splits.items()} == sizes
    assert np.array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(1000))
    again, other = (draw_splits(source, validation, test, seed)["validation"] for seed in (3, 4))
    assert np.array_equal(again, splits["validation"]) and not np.array_equal(other, splits["validation"])


def test_groups_stay_whole(tmp_path):
    source = many(tmp_path, group=lambda row: row % 90)
    splits = draw_splits(source, "100", "0.2", seed=0)
    groups = {name: set((rows % 90).tolist()) for name, rows in splits.items()}
    assert sum(map(len, groups.values())) == 90  # none is in two splits
    assert 100 <= len(splits["validation"]) < 112 and 200 <= len(splits["test"]) < 212


def test_the_manifest_may_say_the_split(tmp_path):
    source = many(tmp_path, 6, split=lambda row: ("test", "train", "validation")[row % 3])
    splits = draw_splits(source, None, None, seed=0)
    assert {name: rows.tolist() for name, rows in splits.items()} == {
        "train": [1, 4],
        "validation": [2, 5],
        "test": [0, 3],
    }
    with pytest.raises(ValueError, match="has a column split, which decides; leave out --validation and --test"):
        draw_splits(source, "2", None, seed=0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xlsx", "", r"a\.xlsx has the suffix '\.xlsx'; allowed: \.csv, \.jsonl, \.ndjson, \.parquet"),
        ("a.csv", "", r"a\.csv: Empty CSV file"),
        ("a.csv", "audio,image,text\n", r"a\.csv has no rows"),
        ("a.csv", "audio,picture\n1,2\n", r"a\.csv: has no column image, text; there are audio, picture"),
        ("a.csv", "audio,image,text\n1,2\n", r"a\.csv: .*Expected 3 columns, got 2"),
        ("a.csv", "audio,image,text,start\n1,2,3,soon\n", r"a\.csv: .*'soon'"),
        ("a.jsonl", '{"audio": "a", "image": "b"\n', r"a\.jsonl: JSON parse error"),
        ("a.jsonl", '{"audio": "a", "image": "b"}\n', r"a\.jsonl: has no column text"),
        ("a.parquet", "no", r"a\.parquet: "),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "validation", "message"),
    [
        ({}, "10", "--validation is '10'; allowed: 0 to 9 rows, or a share below 1, as 0.05"),
        ({}, "1.0", "--validation is '1.0'; allowed"),
        ({}, "-0.1", "--validation is '-0.1'; allowed"),
        ({}, "nan", "--validation is 'nan'; allowed"),
        ({}, "all", "--validation is 'all'; allowed"),
        ({"group": lambda row: "one"}, "1", "no rows of 10 are left for training"),
        ({"group": lambda row: "a" if row != 4 else ""}, "1", "row 4 has no group"),
        ({"split": lambda row: "train" if row != 4 else "dev"}, None, "row 4 has the split 'dev'; allowed: "),
    ],
)
def test_splits_that_cannot_be_are_refused(tmp_path, columns, validation, message):
    with pytest.raises(ValueError, match=message):
        draw_splits(many(tmp_path, 10, **columns), validation, None, seed=0)
