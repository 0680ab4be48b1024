"""The reproduction on the toy world, tiny: it trains, evaluates, skips what is done and writes its section."""

import csv

import numpy as np
import pytest

from jaxsd.settings import load_config
from jaxsd.toy import reproduction
from jaxsd.toy.reproduction import COLUMNS, RECIPES, Run, reproduce


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_config(recipe):
    base, changes = RECIPES[recipe]
    config = load_config(f"toy.py:{base}", [f"--config.{key}={value}" for key, value in changes.items()])
    assert all(config[key] == value for key, value in changes.items() if "." not in key)


def test_tables_are_of_the_runs(rng):
    keys = [(recipe, encoder, seed) for recipe in ("bos", "eos") for encoder in ("human", "grok") for seed in range(3)]
    runs = {key: Run(*key, "", 1000, tuple(rng.standard_normal(len(COLUMNS)))) for key in keys}
    place = [column.head for column in COLUMNS].index("cosine_rt")
    values = np.array([runs["eos", "grok", seed].figures[place] for seed in range(3)])
    half = 4.302652729749464 * values.std(ddof=1) / 3**0.5  # Student's t with 2 degrees of freedom
    row = next(row for row in reproduction._by_run(runs).rows if row[:2] == ("eos", "grok"))
    assert row[2 + place] == f"{values.mean():.3f} ± {half:.3f}"
    (contrast,) = reproduction._by_difference(runs).rows
    gains = [runs["eos", *pair].figures[place] - runs["bos", *pair].figures[place] for _, *pair in keys if _ == "eos"]
    assert contrast[0] == "text pooled at its end, not its start"
    assert any(cell.startswith(f"{np.mean(gains):.3f} ±") for cell in contrast[1:])


@pytest.mark.full_size  # slow: it compiles training and the toy world's models
def test_runs_are_trained_once(tmp_path, monkeypatch):
    sizes = {"encoder_config.depth": 1, "batch_size": 8, "data.train_size": 16, "data.held_out": 12}
    overrides = [f"--config.{key}={value}" for key, value in sizes.items()]
    overrides += ["--config.steps=2", f"--config.data.folder={tmp_path / 'data'}"]
    options = {"encoders": ["chatgpt"], "recipes": ["bos"], "seeds": 1, "pictures": 0}
    section = reproduce(tmp_path / "runs", **options, overrides=overrides)
    text = section.read_text()
    assert "| bos | chatgpt |" in text and "reproduction.png" in text and "-∞" not in text.split("###")[0]
    assert section.with_suffix(".png").stat().st_size > 0
    (line,) = csv.DictReader(section.with_suffix(".csv").open())
    assert float(line["TCEOCS_t - 2 ln M"]) >= -1e-9 and float(line["μ(R²)_t"]) == -np.inf

    monkeypatch.setattr(reproduction, "train", lambda *_: pytest.fail("trained again"))
    assert reproduce(tmp_path / "runs", **options, overrides=overrides).read_text() == text
    with pytest.raises(ValueError, match="bos, chatgpt, 0 was run with another config"):
        reproduce(tmp_path / "runs", **options, overrides=[*overrides, "--config.steps=3"])


def test_the_file_of_runs_comes_back(tmp_path, rng):
    figures = (-np.inf, np.nan, *rng.standard_normal(len(COLUMNS) - 2))
    run = Run("bos", "grok", 1, "0123", 1000, figures)
    reproduction._write(tmp_path / "runs.csv", {run.key: run})
    (read,) = reproduction._read(tmp_path / "runs.csv").values()
    np.testing.assert_array_equal(read.figures, figures)
    assert (read.key, read.config, read.size) == (run.key, run.config, run.size)

    (tmp_path / "other.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"other\.csv is not the file of runs"):
        reproduction._read(tmp_path / "other.csv")
