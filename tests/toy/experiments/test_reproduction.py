"""The reproduction on the toy world, tiny: it trains, evaluates, skips what is done and writes its section."""

import csv
from pathlib import Path

import numpy as np
import pytest

from jaxsd.config import load_config
from jaxsd.toy.experiments import reproduction, runs
from jaxsd.toy.experiments.reproduction import RUN_COLUMNS, VARIANTS, reproduce
from jaxsd.toy.experiments.runs import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("recipe", VARIANTS)
def test_every_recipe_is_a_config(recipe):
    base, changes = VARIANTS[recipe]
    config = load_config(f"toy.py:{base}", [f"--config.{key}={value}" for key, value in changes.items()])
    assert all(getattr(config, key) == value for key, value in changes.items() if "." not in key)


def test_tables_are_of_the_runs(rng):
    keys = [
        (recipe, encoder, seed) for recipe in ("bos", "eos") for encoder in ("human", "gemini") for seed in range(3)
    ]
    heads = [column.head for column in RUN_COLUMNS]
    made = {key: Run("", 1000, dict(zip(heads, rng.standard_normal(len(heads)), strict=True))) for key in keys}
    values = np.array([made["eos", "gemini", seed].figures["cosine_rt"] for seed in range(3)])
    half = 4.302652729749464 * values.std(ddof=1) / 3**0.5  # Student's t with 2 degrees of freedom
    table = reproduction._every_run(made)
    row = next(row for row in table.rows if row[:2] == ("eos", "gemini"))
    assert row[table.head.index("cosine_rt")] == f"{values.mean():.3f} ± {half:.3f}"
    table = reproduction._compare_changes(made)
    (contrast,) = table.rows
    gains = [made["eos", *pair].figures["cosine_rt"] - made["bos", *pair].figures["cosine_rt"] for _, *pair in keys[6:]]
    assert contrast[:2] == ("text pooled at its end, not its start", "6")
    assert contrast[table.head.index("cosine_rt")].startswith(f"{np.mean(gains):.3f} ±")
    (contrast,) = reproduction._compare_encoders(made).rows
    gains = [
        made[recipe, "human", seed].figures["cosine_rt"] - made[recipe, "gemini", seed].figures["cosine_rt"]
        for recipe in ("bos", "eos")
        for seed in range(3)
    ]
    assert contrast[:2] == ("human, not gemini", "6")
    assert contrast[table.head.index("cosine_rt")].startswith(f"{np.mean(gains):.3f} ±")


@pytest.mark.full_size  # slow: it compiles training and the toy world's models
def test_runs_are_trained_once(tmp_path, monkeypatch):
    sizes = {"encoder_config.depth": 1, "batch_size": 8, "data.train_size": 16, "data.held_out": 12}
    overrides = [f"--config.{key}={value}" for key, value in sizes.items()]
    overrides += ["--config.steps=2", f"--config.data.folder={tmp_path / 'data'}"]
    options = {"encoders": ["chatgpt"], "recipes": ["bos"], "seeds": 1, "images": 0}
    section = reproduce(tmp_path / "runs", **options, overrides=overrides)
    text = section.read_text()
    assert "| bos | chatgpt |" in text and "reproduction.png" in text and "-∞" not in text.split("###")[0]
    assert section.with_suffix(".png").stat().st_size > 0
    (line,) = csv.DictReader(section.with_suffix(".csv").open())
    assert float(line["TCEOCS_t - 2 ln M"]) >= -1e-9 and float(line["μ(R²)_t"]) == -np.inf

    monkeypatch.setattr(runs, "train", lambda *_: pytest.fail("trained again"))
    assert reproduce(tmp_path / "runs", **options, overrides=overrides).read_text() == text
    with pytest.raises(ValueError, match="bos, chatgpt, 0 was run with another config"):
        reproduce(tmp_path / "runs", **options, overrides=[*overrides, "--config.steps=3"])


def test_the_file_of_runs_comes_back(tmp_path, rng):
    names = [column.head for column in RUN_COLUMNS]
    figures = dict(zip(names, (-np.inf, np.nan, *rng.standard_normal(len(names) - 2)), strict=True))
    runs._write_runs(tmp_path / "runs.csv", names, {("bos", "grok", 1): Run("0123", 1000, figures)})
    ((key, read),) = runs._read_runs(tmp_path / "runs.csv", names).items()
    np.testing.assert_equal(read.figures, figures)
    assert (key, read.asked, read.size) == (("bos", "grok", 1), "0123", 1000)

    (tmp_path / "other.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"other\.csv is not the file of runs"):
        runs._read_runs(tmp_path / "other.csv", names)


def test_a_dry_run_counts_what_is_left_and_trains_nothing(tmp_path, capsys):
    assert reproduce(tmp_path, encoders=["gemini"], recipes=["bos", "eos"], seeds=3, images=0, dry_run=True) is None
    assert "6 trainings, 6 of them to do: 7,200 steps,\nabout 0.4 to 1.0 hours" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_recorded_runs_are_those_of_the_documented_commands(capsys):
    """Each run in docs/reproduction-runs.csv has the digest of what the command in docs/reproduction.md asks for."""
    section = Path(__file__).parents[3] / "docs" / "reproduction-runs.md"
    overrides = ["--config.batch_size=32", "--config.dropout=false"]
    for encoders, steps in ((["gemini", "chatgpt", "deepseek", "grok"], 300), (["human"], 100)):
        options = {"encoders": encoders, "recipes": list(VARIANTS), "seeds": 3, "images": 20, "section": section}
        reproduce(Path("none"), **options, overrides=[*overrides, f"--config.steps={steps}"], dry_run=True)
        assert ", 0 of them to do" in capsys.readouterr().out
