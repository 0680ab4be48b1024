"""The comparison of recipes on the toy world: its tables, and the whole of it tiny."""

import numpy as np
import pytest

from jaxsd.evaluation import metrics
from jaxsd.toy.experiments import recipes
from jaxsd.toy.experiments.recipes import COMPARED_RECIPES, FIGURE_NAMES, compare
from jaxsd.toy.experiments.runs import Run

pytestmark = pytest.mark.slow


def test_shares_are_pooled_over_seeds():
    runs = {
        (recipe, "gemini", seed): Run("", 100, dict.fromkeys(FIGURE_NAMES, 0.0) | {"all@3": share})
        for recipe, shares in {"paper": (0.1, 0.2), "denoise": (0.8, 1.0)}.items()
        for seed, share in enumerate(shares)
    }
    table, _ = recipes._recipe_tables(runs, images=50)
    cells = {row[0]: row[table.head.index("guidance 3, %")] for row in table.rows}
    low, high = metrics.wilson(0.9, 100)
    assert cells["denoise"] == f"90 [{100 * low:.0f}, {100 * high:.0f}]"
    assert cells["paper"].startswith("15 [")


@pytest.mark.full_size  # slow: it compiles training and the toy world's models
def test_the_whole_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "GUIDANCES", recipes.GUIDANCES[:1])
    monkeypatch.setattr(recipes, "COMPARED_RECIPES", COMPARED_RECIPES[:1])
    monkeypatch.setattr(recipes, "FIGURE_NAMES", FIGURE_NAMES[:15])
    sizes = {"encoder_config.depth": 1, "batch_size": 8, "data.train_size": 16, "data.held_out": 12, "steps": 2}
    overrides = [f"--config.{key}={value}" for key, value in sizes.items()]
    section = compare(
        tmp_path / "runs",
        encoder="chatgpt",
        seeds=1,
        images=10,
        overrides=[*overrides, f"--config.data.folder={tmp_path / 'data'}"],
        section=None,
    )
    assert "| paper |" in section.read_text()
    assert section.with_suffix(".png").stat().st_size > 0
    _, line = section.with_suffix(".csv").read_text().splitlines()
    assert np.isfinite(list(map(float, line.split(",")[5:]))).all()


@pytest.mark.parametrize("images", [9, 1001])
def test_too_few_and_too_many_images_are_refused_before_the_work(tmp_path, images):
    with pytest.raises(ValueError, match=f"number of images is {images}; allowed: 10 to 1000"):
        compare(tmp_path / "a", encoder="gemini", seeds=1, images=images, overrides=[], section=None)
    assert not list(tmp_path.iterdir())
