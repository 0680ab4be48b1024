"""Manifests of three formats, and how their rows are split."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxsd.data.manifest import TEST_SHARE, VALIDATION_SHARE, ManifestRow, _held_out_count, draw_splits, read_manifest
from tests.helpers.data_files import write_manifest

ROWS = [
    {"audio": "a.wav", "image": "a.png", "text": 'a dog, "loud"\nand near', "start": 1.5, "group": "7", "class": "dog"},
    {"audio": "b.wav", "image": "b.png", "text": "", "start": None, "group": "8", "class": "bell"},
    {"audio": "c.wav", "image": "c.png", "text": "ein Hündchen", "start": 0.0, "group": "7", "class": "dog"},
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
    assert source.classes == ["bell", "dog"]
    expected = [
        ManifestRow(i, row["audio"], row["image"], row["text"], row["start"], source.classes.index(row["class"]))
        for i, row in enumerate(ROWS)
    ]
    assert source.rows(np.array([2, 0])) == [expected[2], expected[0]]
    assert source.rows(np.array([1])) == [expected[1]]
    splits = draw_splits(source, "1", "0", seed=0)  # rows 0 and 2 are of one group
    assert {name: rows.tolist() for name, rows in splits.items()} in (
        {"train": [1], "validation": [0, 2]},
        {"train": [0, 2], "validation": [1]},
    )


def test_json_lines_may_be_long_and_hold_anything_beside(tmp_path):
    rows = [
        {"audio": "a.wav", "image": "a.png", "text": "a " * 600_000, "note": 1},
        {"audio": "b.wav", "image": "b.png", "text": "b", "note": {"by": ["me"]}, "start": 2},
        {"text": "c", "note": "x", "image": "c.png", "audio": None},
    ]
    source = read_manifest(manifest(tmp_path, rows, "manifest.jsonl"))
    found = source.rows(np.arange(3))
    assert [(row.audio, row.image, row.text, row.start) for row in found] == [
        ("a.wav", "a.png", "a " * 600_000, None),
        ("b.wav", "b.png", "b", 2.0),
        (None, "c.png", "c", None),
    ]


def test_rows_of_csv_may_be_long_too(tmp_path):
    rows = [f"{row}.wav,{row}.png,{str(row) * 3_000_000}" for row in range(3)]
    (tmp_path / "a.csv").write_text("\n".join(["audio,image,text", *rows]))
    manifest = read_manifest(tmp_path / "a.csv")
    assert [len(row.text or "") for row in manifest.rows(np.arange(3))] == [3_000_000] * 3


def test_a_value_of_several_lines_is_read_and_warned_of(tmp_path):
    """A quote that begins one caption and another that ends a later one make one row of several."""
    (tmp_path / "a.csv").write_text('audio,image,text\n0,1,one line\n2,3,"two\nlines"\n')
    with pytest.warns(UserWarning, match=r"a\.csv: row 1 has a value of several lines, within quotes"):
        assert read_manifest(tmp_path / "a.csv").table["text"].to_pylist() == ["one line", "two\nlines"]


def test_captions_may_be_more_than_a_string_column_of_32_bit_offsets_holds(tmp_path):
    table = read_manifest(manifest(tmp_path, ROWS)).table
    assert {table.schema.field(name).type for name in ("audio", "image", "text")} == {pa.large_string()}


def test_without_a_start_there_is_none(tmp_path):
    source = read_manifest(manifest(tmp_path, [{"audio": "a.wav", "image": "a.png", "text": "t", "other": 1}]))
    assert source.classes == []
    assert source.rows(np.array([0])) == [ManifestRow(0, "a.wav", "a.png", "t", None, None)]


@pytest.mark.parametrize(
    ("validation", "test", "sizes"),
    [
        ("100", "0.2", {"train": 700, "validation": 100, "test": 200}),
        ("0.001", "0", {"train": 999, "validation": 1}),
        (None, None, {"train": 750, "validation": 125, "test": 125}),
    ],
)
def test_splits_are_drawn_by_seed_and_hold_every_row_once(tmp_path, validation, test, sizes):
    source = many(tmp_path)
    splits = draw_splits(source, validation, test, seed=3)
    assert {name: len(rows) for name, rows in splits.items()} == sizes
    assert np.array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(1000))
    again, other = (draw_splits(source, validation, test, seed)["validation"] for seed in (3, 4))
    assert np.array_equal(again, splits["validation"]) and not np.array_equal(other, splits["validation"])


@pytest.mark.parametrize(
    ("rows", "held_out"),
    [(1, (0, 0)), (2, (0, 0)), (3, (1, 1)), (60, (8, 8)), (50_000, (500, 526)), (500_000, (843, 5251))],
)
def test_by_default_small_manifests_keep_enough_to_evaluate_on(rows, held_out):
    # Of the largest, the paper's shares: 3,774 and 23,524 of 2,240,231, rounded up.
    assert tuple(_held_out_count("", None, share, rows) for share in (VALIDATION_SHARE, TEST_SHARE)) == held_out


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
        ("a.csv", 'audio,image,text\n1,2,"3\n4,5,6\n', r"a\.csv: row 0 has a quote that does not end"),
        (
            "a.csv",
            'audio,image,text\n1,2,"3\n4,5,6\n7,8,say "9"\n',
            r"a\.csv: row 0 has a quote that does not end as it",
        ),
        ("a.csv", "audio,image,text,text\n1,2,3,4\n", r"a\.csv: has more than one column text"),
        ("a.csv", "audio,image,text,class\n1,2,3,\n", r"a\.csv: row 0 has no class"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\n", r"a\.csv is a pointer of Git LFS"),
        ("a.jsonl", '{"text": "\\ud800"}\n', r'line 1: text is "\\ud800", which is not Unicode'),
        ("a.jsonl", '{"audio": "a", "image": "b"\n', r"a\.jsonl: line 1 is not valid JSON \(Expecting"),
        ("a.jsonl", "\n[1]\n", r"a\.jsonl: line 2 holds a JSON list, not an object"),
        ("a.jsonl", '{"text": "a", "text": "b"}\n', r"line 1 is not valid JSON \(it has 'text' more than once\)"),
        ("a.jsonl", '{"text": ["a"]}\n', r'line 1: text is \["a"\]; it must be a string'),
        ("a.jsonl", '{"start": "soon"}\n', r'line 1: start is "soon"; it must be a number'),
        ("a.jsonl", '{"audio": "a", "image": "b"}\n', r"a\.jsonl: has no column text"),
        ("a.parquet", "no", r"a\.parquet: "),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("audio,image,text\na,b,c, d\n".encode("utf-16"), "it is in UTF-16; save it as UTF-8"),
        ("sep=,\naudio,image,text\na,b,c\n".encode("utf-8-sig"), "it begins with a line sep=, which spreadsheets"),
        (b"audio;image;text\na;b;c, d\n", "commas must be between the columns, not semicolons or tabs"),
        ("audio,image,text\na,b,c\na,b,läuft\n".encode("cp1252"), "line 3 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_what_spreadsheets_write_is_told_in_a_sentence(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.csv: {message}"):
        read_manifest(tmp_path / "a.csv")


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
