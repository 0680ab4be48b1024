"""An evaluation equals one computed literally, all rows at once; reports hold it; mistakes get one sentence."""

import base64
import csv
import dataclasses
import html.parser
import json
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy.special import log_softmax
from sklearn.metrics import mean_squared_error, r2_score

import encoders
from jaxsd.clip.tokens import tokenize
from jaxsd.config import TrainConfig
from jaxsd.data.columns import write_columns
from jaxsd.evaluation import denoising, metrics
from jaxsd.evaluation.conditionings import REFERENCES, TextTower
from jaxsd.evaluation.denoising import FrozenUNet
from jaxsd.evaluation.embeddings import Targets, add_alignment
from jaxsd.evaluation.evaluate import evaluate
from jaxsd.evaluation.figures import FIGURES, reference_table
from jaxsd.evaluation.images import draw_images
from jaxsd.evaluation.inputs import EvaluatedEncoder, EvaluationSplit, load_evaluated_encoders, open_evaluation_split
from jaxsd.evaluation.report import write_report
from jaxsd.evaluation.report.tables import tables
from jaxsd.evaluation.results import Entry, merge_results, read_results
from jaxsd.evaluation.similarity import AudioImageEmbedding
from jaxsd.training.initialization import initial_encoder
from jaxsd.training.initialization import make_encoder as make_encoder_of
from tests.helpers import models

pytestmark = pytest.mark.slow

SIZE = 53  # more than one batch, and not a multiple of it
WORDS = ("dog", "bell", "waves")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_columns(rng, size=SIZE):
    text, image = (unit(rng.standard_normal((size, 20))) for _ in range(2))
    captions = [f"a {WORDS[row % 3]} {row}" for row in range(size)]
    return {
        "audio": rng.integers(-9000, 9000, (size, 16000), np.int16),
        "text": text.astype(np.float16),
        "image": image.astype(np.float16),
        "tokens": tokenize(models.TOKENS, captions),
        "latents": rng.standard_normal((size, 8, 8, 4)).astype(np.float16),
        "class": np.arange(size, dtype=np.int32) % 3,
    }


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> EvaluationSplit:
    folder = tmp_path_factory.mktemp("data") / "test"
    columns = make_columns(np.random.default_rng(0))
    about = {"clip": "toy", "diffusion": "toy", "classes": WORDS, "class_captions": [f"a {word}" for word in WORDS]}
    write_columns(folder, columns, about)
    return EvaluationSplit(folder, about, columns, models.clip(), models.stable_diffusion())


def make_encoder(seed):
    return encoders.create("gemini", width=24, depth=1, heads=3, mlp=24, rngs=nnx.Rngs(seed))


class Silent(nnx.Module):
    """Says nothing: the hidden states of the empty text, whatever it hears."""

    def __init__(self, states):
        self.states = nnx.Param(states)

    def __call__(self, pcm):
        return jnp.broadcast_to(self.states[...], (len(pcm), *self.states.shape[1:]))


@pytest.fixture(scope="module")
def silent(split):
    return Silent(TextTower(split).hidden_states(tokenize(models.TOKENS, [""])))


@pytest.fixture(scope="module")
def results(split, silent):
    subjects = [
        EvaluatedEncoder("gemini", "runs/gemini", make_encoder(0), "first", make_encoder(1)),
        EvaluatedEncoder("silent", "silent.py", silent),
    ]
    with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("raise"):  # as in the tests: compiled once
        return evaluate(subjects, split, repeats=1)


def literal(encoder, split, pooling):
    """Every figure from all rows at once, in float64."""
    rows = np.asarray(nnx.jit(lambda encoder, pcm: encoder(pcm))(encoder, split.columns["audio"]), np.float64)
    states = nnx.jit(lambda model, tokens: model(tokens).hidden_states)(
        split.clip.model.text_model, split.columns["tokens"]
    )
    states = np.asarray(states, np.float64)
    pooled = rows[:, 0] if pooling == "first" else rows.mean(axis=1)
    vectors = unit(pooled @ np.asarray(split.clip.model.text_projection.kernel[...], np.float64))
    figures = {"loss": 0.0, "cosine_rt": (unit(rows) * unit(states)).sum(axis=-1).mean()}
    for kind, name, way, back in (("t", "text", "a2t", "t2a"), ("i", "image", "a2i", "i2a")):
        target = unit(split.columns[name].astype(np.float64))
        cosines = vectors @ target.T
        tceocs = -sum(np.diag(log_softmax(cosines, axis=axis)).mean() for axis in (0, 1))
        figures |= {f"TCEOCS_{kind}": tceocs, "loss": figures["loss"] + tceocs / 6}
        figures |= {f"cosine_{kind}": np.diag(cosines).mean(), f"mu(MSE)_{kind}": mean_squared_error(target, vectors)}
        figures[f"cosine of others_{kind}"] = cosines[~np.eye(SIZE, dtype=bool)].mean()
        r2 = r2_score(target, vectors, multioutput="raw_values")
        figures |= {f"mu(R2)_{kind}": r2.mean(), f"sigma(R2)_{kind}": r2.std(), f"constant_{kind}": 0}
        for direction, matrix in ((way, cosines), (back, cosines.T)):
            ranks = np.array([1 + (row > row[i]).sum() for i, row in enumerate(matrix)])
            figures |= {f"R@{k}_{direction}": np.mean(ranks <= k) for k in (1, 5, 10)}
            figures[f"medR_{direction}"] = np.median(ranks)
    raw, wanted = (x.reshape(SIZE, -1) for x in (rows, states))
    varying = np.ptp(wanted, axis=0) > 1e-4
    r2 = r2_score(wanted[:, varying], raw[:, varying], multioutput="raw_values")
    figures |= {"mu(MSE)_rt": mean_squared_error(wanted, raw), "constant_rt": (~varying).sum()}
    return figures | {"mu(R2 varying)_rt": r2.mean(), "sigma(R2 varying)_rt": r2.std()}


def test_every_figure_equals_a_literal_computation(results, split):
    entry = results["encoders"]["gemini"]
    for found, encoder in ((entry["figures"], make_encoder(0)), (entry["before"], make_encoder(1))):
        expected = literal(encoder, split, "first")
        assert expected["constant_rt"] == 2 * 24  # of a causal tower the first row, and of these captions the second
        np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), rtol=2e-5, atol=1e-6)
    assert results["bounds"]["chance"] == pytest.approx(2 * math.log(SIZE))


def test_intervals_hold_their_figures(results):
    for entry in (*results["encoders"].values(), *results["references"].values()):
        for name, (low, high) in entry["intervals"].items():
            assert low <= entry["figures"][name] + 1e-9 and entry["figures"][name] <= high + 1e-9, name
    assert {"loss", "TCEOCS_t", "R@1_i2a", "denoising gain"} <= results["encoders"]["gemini"]["intervals"].keys()


def test_what_says_nothing_scores_so(results, split):
    figures = results["encoders"]["silent"]["figures"]
    assert figures["TCEOCS_t"] >= results["bounds"]["chance"]
    assert figures["p_t"] == 1 and figures["R@5_a2t"] < 0.3
    assert figures["medR_t2a"] == (SIZE + 1) / 2 and figures["R@10_t2a"] == pytest.approx(10 / SIZE)  # all tie
    assert figures["denoising gain"] == pytest.approx(0, abs=1e-6)  # the rows of no caption, with the same noise
    references = results["references"]
    assert references["no caption"]["figures"]["denoising"] == pytest.approx(figures["denoising"], rel=1e-5)
    assert references["own caption"]["figures"]["R@1_a2t"] == 1  # the caption's embedding finds itself
    assert np.allclose(references["own caption"]["curves"]["positions"], 1)
    assert references["wrong caption"]["curves"]["positions"][0] == pytest.approx(1)  # the row all captions share
    assert references["wrong caption"]["curves"]["positions"][-1] < 0.999


def test_denoising_is_of_every_clip_at_all_levels_of_noise(split):
    unet = FrozenUNet(split.pipe, split.columns["latents"])
    steps = split.pipe.schedule.num_train_timesteps
    assert np.array_equal(np.sort(unet.timesteps) * SIZE // steps, np.arange(SIZE))


def test_text_pooled_at_its_start_is_the_papers_trap(split, results):
    found = evaluate([EvaluatedEncoder("gemini", "g", make_encoder(0), "first")], split, text_pooling="bos")
    figures, honest = found["encoders"]["gemini"]["figures"], results["encoders"]["gemini"]["figures"]
    assert figures["constant_t"] == 20 and figures["mu(R2)_t"] == -math.inf
    assert figures["TCEOCS_t"] >= found["bounds"]["chance"] - 1e-9
    for name in ("TCEOCS_i", "R@5_a2t", "cosine_t", "mu(MSE)_rt"):
        assert figures[name] == pytest.approx(honest[name], rel=1e-6)


def test_times_and_layers_stand_beside(results):
    figures = results["encoders"]["gemini"]["figures"]
    assert 0 < figures["tau"] <= figures["tau with transfer"]
    assert results["references"]["own caption"]["figures"]["tau"] > 0  # CLIP's text tower
    layers = results["encoders"]["gemini"]["table 2"]
    assert layers["MultiheadAttention"] == 1 and layers["parameters"] > 0 and layers["FLOPs"] > 0


def test_the_report_holds_every_figure(results, tmp_path):
    page = write_report(results, tmp_path / "out")
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "report.html",
        "results.csv",
        "results.json",
        "results.md",
    ]
    json.loads((page.parent / "results.json").read_text(), parse_constant=pytest.fail)  # no NaN, which JSON lacks
    again = read_results(page.parent / "results.json")
    figures = again["encoders"]["gemini"]["figures"]
    assert figures["mu(R2)_rt"] == -math.inf
    np.testing.assert_equal(figures, results["encoders"]["gemini"]["figures"])

    lines = list(csv.DictReader((page.parent / "results.csv").open()))
    line = next(line for line in lines if line["name"] == "gemini" and line["figure"] == "TCEOCS_i")
    assert float(line["value"]) == figures["TCEOCS_i"] and float(line["low"]) <= float(line["value"])
    assert float(line["before"]) == again["encoders"]["gemini"]["before"]["TCEOCS_i"]
    markdown = (page.parent / "results.md").read_text()
    assert f"{results['encoders']['gemini']['before']['loss']:.5f} → {figures['loss']:.5f}" in markdown

    seen = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: seen.append((tag, dict(attributes)))
    parser.feed(page.read_text())
    assert [tag for tag, _ in seen].count("table") == len(tables(results)) == 5
    assert [tag for tag, _ in seen].count("svg") == 4
    links = [
        value for _, attributes in seen for name, value in attributes.items() if name in ("src", "href", "xlink:href")
    ]
    assert all(link.startswith(("#", "data:")) for link in links)


def test_figures_are_declared_where_results_and_docs_have_them(results):
    entries = (*results["encoders"].values(), *results["references"].values())
    assert {key for entry in entries for key in entry["figures"]} <= FIGURES.keys()
    assert reference_table() in (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    summary, *_ = tables(results)
    assert summary.rows[-1] == ("chance", *[f"{100 * 10 / SIZE:.1f} %"] * 2, "")
    assert summary.rows[1][1] == f"{100 * results['encoders']['silent']['figures']['R@10_a2t']:.1f} %"


def test_tables_fit_the_terminal(results):
    for table in tables(results):
        parts = table.split_columns(80)
        assert [head for part in parts for head in part.head[1:]] == list(table.head[1:])
        for part in parts:
            widths = [max(len(line[column]) for line in (part.head, *part.rows)) for column in range(len(part.head))]
            assert sum(width + 2 for width in widths) <= 82 or len(part.head) == 2


def test_results_of_other_data_are_not_compared(results):
    named = {**results, "encoders": {"other": results["encoders"]["gemini"]}}
    assert list(merge_results([results, named])["encoders"]) == ["gemini", "silent", "other"]
    elsewhere = {**named, "data": {**named["data"], "identity": "0"}}
    with pytest.raises(ValueError, match="differ in data"):
        merge_results([results, elsewhere])
    with pytest.raises(ValueError, match="two results for gemini, silent"):
        merge_results([results, results])


def test_identity_is_of_what_the_columns_hold(split, tmp_path):
    columns = dict(split.columns)
    write_columns(tmp_path / "same", columns, {})
    write_columns(tmp_path / "other", columns | {"text": columns["image"]}, {})
    same, other = (dataclasses.replace(split, folder=tmp_path / name) for name in ("same", "other"))
    assert same.identity() == split.identity() != other.identity()


SIMILARITY = """
import jax.numpy as jnp
from flax import nnx

class Means(nnx.Module):
    def embed_audio(self, audio):
        return jnp.stack([jnp.ones(len(audio)), jnp.asarray(audio, jnp.float32)[:, :1000].mean(axis=1)], axis=1)

    def embed_images(self, images):
        return jnp.ones((len(images), 2))

class Halfway(nnx.Module):
    def embed_audio(self, audio):
        return audio
"""


def test_ais_by_an_embedding_of_ones_own(split, rng, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(SIMILARITY)
    with pytest.raises(ValueError, match="has no method embed_images"):
        AudioImageEmbedding(f"{tmp_path}/own.py:Halfway")
    with pytest.raises(ValueError, match="--similarity is 'gemini'"):
        AudioImageEmbedding("gemini")
    made = rng.uniform(size=(4, 8, 8, 3)).astype(np.float32)
    monkeypatch.setattr("jaxsd.evaluation.evaluate.draw_images", lambda *_, **__: made)
    own = AudioImageEmbedding(f"{tmp_path}/own.py:Means")
    found = evaluate([EvaluatedEncoder("gemini", "g", make_encoder(0), "first")], split, image_count=4, similarity=own)
    means = np.stack([np.ones(4), split.columns["audio"][:4, :1000].astype(np.float64).mean(axis=1)], axis=1)
    expected = (unit(means) @ np.full(2, 0.5**0.5)).mean()
    for entry in (found["encoders"]["gemini"], found["references"]["own caption"]):  # it needs no encoder
        assert entry["figures"]["AIS cosine"] == pytest.approx(expected, abs=1e-4)
    assert found["settings"]["similarity"].endswith("own.py:Means")


def test_kernel_distances_are_the_textbooks(rng):
    a, b = unit(rng.normal(size=(7, 5))), unit(rng.normal(size=(7, 5)) + 1)

    def expected(kernel):
        pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
        return np.mean(
            [kernel(a[i], a[j]) + kernel(b[i], b[j]) - kernel(a[i], b[j]) - kernel(a[j], b[i]) for i, j in pairs]
        )

    gauss = expected(lambda x, y: 1000 * np.exp(-((x - y) ** 2).sum() / 200))
    cubic = expected(lambda x, y: (x @ y / 5 + 1) ** 3)
    assert metrics.kernel_distances(a, b, metrics.cmmd_kernel).mean() == pytest.approx(gauss)
    assert metrics.kernel_distances(a, b, metrics.kid_kernel).mean() == pytest.approx(cubic)
    # The interval holds the true distance, 0 of two sets of one distribution, about 95 times in 100.
    held = 0
    for _ in range(200):
        x, y = rng.normal(size=(2, 60, 3)) + np.array([0, 1])[:, None, None]
        low, high = metrics.normal_interval(metrics.kernel_distances(x, y, lambda p, q: p @ q.T))
        held += low < 3 < high  # the squared distance of the means
    assert held > 170


def test_images_are_measured_by_clip_and_by_the_judge(split, results, monkeypatch, rng, tmp_path):
    count, size = 12, split.clip.model.vision_model.config.image_size
    made = rng.uniform(size=(count, size, size, 3)).astype(np.float32)
    monkeypatch.setattr("jaxsd.evaluation.evaluate.draw_images", lambda *_, **__: made)
    judge = lambda pictures: {"class": pictures.mean(axis=(1, 2, 3)) > 0.5}  # noqa: E731
    encoder = EvaluatedEncoder("gemini", "g", make_encoder(0), "first")
    kept = tmp_path / "report" / "images"
    found = evaluate([encoder], split, image_count=count, judge=judge, real_images=made, images_folder=kept)
    figures = found["encoders"]["gemini"]["figures"]

    seen = np.asarray(split.clip.embed_arrays(np.round(made * 255).astype(np.uint8)), np.float64)
    text, image = (unit(split.columns[name][:count].astype(np.float64)) for name in ("text", "image"))
    score = 100 * np.maximum(0, (seen * text).sum(axis=1)).mean()
    assert figures["CLIP score"] == pytest.approx(score, rel=1e-5)
    similarity = seen @ image.T
    others = [np.mean(np.delete(row, i) < row[i]) for i, row in enumerate(similarity)]
    assert figures["IIS"] == pytest.approx(np.mean(others))
    assert figures["IIS cosine"] == pytest.approx(np.diag(similarity).mean(), rel=1e-5)
    low, high = found["encoders"]["gemini"]["intervals"]["CMMD"]
    assert low < figures["CMMD"] < high
    nearest = (seen @ np.asarray(split.clip.embed_text([f"a {word}" for word in WORDS]), np.float64).T).argmax(axis=1)
    assert figures["AIC"] == np.mean(nearest == np.arange(count) % 3)
    assert 0 <= figures["AIS"] <= 1 and figures["pictures"] == count
    assert figures["class"] == judge(made)["class"].mean()
    shown = {table.title: table for table in tables(found)}
    assert shown["Images"].head == (
        *("conditioning", "AIS", "IIS", "AIS, cosine", "IIS, cosine", "AIC", "CLIP score", "CMMD", "KID on CLIP"),
        "images",
    )
    assert shown["What a classifier sees"].rows[0][1].startswith(f"{100 * figures['class']:.0f} % [")
    assert found["references"]["real images"]["figures"]["IIS"] == figures["IIS"]
    assert "AIS" not in found["references"]["own caption"]["figures"]  # it has no sound

    pixels = np.asarray(Image.open(kept / "gemini" / "0003.png"))
    np.testing.assert_array_equal(pixels, np.round(made[3] * 255))
    assert len(list(kept.glob("*/0011.png"))) == len(REFERENCES) + 2  # and the encoder's and the real ones
    page = write_report(found, tmp_path / "report")
    (tmp_path / "report").rename(tmp_path / "moved")
    page = write_report(read_results(tmp_path / "moved" / "results.json"), tmp_path / "elsewhere").read_text()
    assert page.count("<audio") == 10 and page.count('src="data:image/png') == 10 * (len(REFERENCES) + 3)
    wrong = np.count_nonzero(~judge(made)["class"][:10])
    assert page.count('<td class="wrong" ') == wrong * (len(REFERENCES) + 2)
    sound = base64.b64encode((tmp_path / "moved" / "images" / "sounds" / "0000.wav").read_bytes()).decode()
    assert sound in page


def test_images_that_are_not_finite_are_an_error(split, monkeypatch):
    monkeypatch.setattr(type(split.pipe), "__call__", lambda *_, **__: np.full((50, 8, 8, 3), np.nan))
    with pytest.raises(ValueError, match="the U-Net or the VAE makes images that are not finite"):
        draw_images(split.pipe, np.zeros((3, 77, 24)))


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_are_refused(rng, tmp_path, rows):
    columns = make_columns(rng, 2)
    write_columns(tmp_path / "test", {name: column[:rows] for name, column in columns.items()}, {"clip": "toy"})
    with pytest.raises(ValueError, match=f"test has {rows} examples?; an evaluation needs at least 2"):
        open_evaluation_split(tmp_path / "test")


def test_missing_data_are_named(rng, tmp_path):
    columns = make_columns(rng, 2)
    del columns["class"]
    write_columns(tmp_path / "train", columns, {"clip": "toy"})
    with pytest.raises(FileNotFoundError, match="splits beside it: train"):
        open_evaluation_split(tmp_path / "test")
    np.save(tmp_path / "train" / "audio.npy", columns["audio"][::-1])
    with pytest.raises(ValueError, match=r"audio\.npy: its content is not what dataset\.json says"):
        open_evaluation_split(tmp_path / "train")
    del columns["tokens"]
    write_columns(tmp_path / "test", columns, {"clip": "toy"})
    with pytest.raises(ValueError, match="has no column tokens"):
        open_evaluation_split(tmp_path / "test")


def test_encoders_that_do_not_fit_are_named(split, silent, tmp_path):
    wide = EvaluatedEncoder(
        "wide", "runs/wide", encoders.create("gemini", width=12, depth=1, heads=3, mlp=8, rngs=nnx.Rngs(0))
    )
    with pytest.raises(ValueError, match=r"runs/wide makes \(77, 12\) of a clip; .* needs \(77, 24\)"):
        evaluate([wide], split)
    for value in (jnp.nan, 0.0):
        broken = EvaluatedEncoder("broken", "runs/broken", Silent(silent.states[...] * value))
        with pytest.raises(
            ValueError, match="runs/broken makes values that are not finite, or nothing but zeros, of clip 0"
        ):
            evaluate([broken], split)
    with pytest.raises(ValueError, match="given twice: a"):
        load_evaluated_encoders(["a", "b", "a"])
    with pytest.raises(ValueError, match="text pooling is 'mean'; allowed: eos, bos"):
        evaluate([], split, text_pooling="mean")
    with pytest.raises(ValueError, match="number of images is 99; allowed: 0, or 2 to 53"):
        evaluate([], split, image_count=99)
    with pytest.raises(ValueError, match="repeats is -1; allowed: from 0"):
        evaluate([], split, repeats=-1)
    encoders.save(make_encoder(0), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="config.json: missing, so how this encoder began is not known"):
        load_evaluated_encoders([str(tmp_path / "run")], before=make_encoder)


@pytest.mark.long
def test_large_latents_go_through_the_unet_a_few_at_a_time(split, monkeypatch):
    unet = FrozenUNet(split.pipe, split.columns["latents"])
    indices, states = np.arange(5), jnp.ones((5, 77, 24))
    at_once = unet.errors(indices, states)
    sizes, errors = [], denoising._denoising_errors
    monkeypatch.setattr(denoising, "MOST_POSITIONS", 2 * 8 * 8)
    monkeypatch.setattr(denoising, "_denoising_errors", lambda *batch: sizes.append(len(batch[2])) or errors(*batch))
    np.testing.assert_allclose(unet.errors(indices, states), at_once, rtol=1e-5)
    assert sizes == [2, 2, 1]


def test_what_an_encoder_began_from_runs_no_other_code(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text(
        "import jax.numpy as jnp\nfrom flax import nnx\n\n"
        "class Mine(nnx.Module):\n"
        "    def __init__(self, *, rngs):\n"
        "        self.scale = nnx.Param(jnp.ones(3))\n\n"
        "    def __call__(self, pcm):\n"
        "        return self.scale[...] * pcm[:, :3, None]\n"
    )
    config = TrainConfig.from_dict({"encoder": f"{code}:Mine", "encoder_config": {}})
    encoders.save(make_encoder_of(config, jnp.dtype("float32")), tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    load = partial(load_evaluated_encoders, [str(tmp_path / "run")], before=initial_encoder, trust_code=True)
    (found,) = load()
    assert type(found.before) is type(found.encoder)
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n" + code.read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict() | {"encoder": f"{trap}:Mine"}))
    load()
    code.write_text(trap.read_text())
    with pytest.raises(ValueError, match="has changed: its SHA-256 begins with"):
        load()
    assert not (tmp_path / "sprung").exists()


def test_encoders_come_from_folders_and_files(tmp_path):
    encoders.save(make_encoder(0), tmp_path / "run", audio_pooling="last")
    (tmp_path / "mine.py").write_text(
        "from flax import nnx\n\n"
        "class Mine(nnx.Module):\n"
        "    def __init__(self, *, rngs):\n"
        "        self.dropout = nnx.Dropout(0.5, rngs=rngs)\n\n"
        "    def __call__(self, pcm):\n"
        "        return self.dropout(pcm[:, None, :24] + 0.0)\n"
    )
    run, mine = load_evaluated_encoders([str(tmp_path / "run"), str(tmp_path / "mine.py")])
    assert (run.name, run.pooling, mine.name, mine.pooling) == ("run", "last", "mine", "mean")
    assert np.all(np.asarray(mine.encoder(jnp.ones((1, 16000)))) == 1)  # in evaluation nothing is dropped
    (tmp_path / "run" / "config.json").write_text('{"audio_pooling": "first"}')
    with pytest.raises(ValueError, match="audio_pooling is 'first', but 'last' in encoder.json"):
        load_evaluated_encoders([str(tmp_path / "run")])


@pytest.mark.full_size
def test_the_published_pattern_at_the_papers_size(rng):
    """M = 23,524, text targets constant up to float noise, audio orthogonal to them: Table 4's text half."""
    size, width = 23_524, 768
    constant = unit(rng.standard_normal(width))
    text = (constant + 2e-7 * rng.standard_normal((size, width))).astype(np.float32)
    image = unit(rng.standard_normal((size, width), np.float32))
    vectors = 0.2 * image + unit(rng.standard_normal((size, width), np.float32))
    vectors = unit(vectors - (vectors @ constant)[:, None] * constant).astype(np.float32)
    entry = Entry()
    add_alignment(entry, vectors, Targets(text, image, None))
    results = {
        "data": {"size": size},
        "settings": {"text_pooling": "eos"},
        "bounds": {"chance": 20.1316, "floor": 18.1},
        "encoders": {"synthetic": entry.to_json()},
        "references": {},
    }
    rows = {row[0]: row[2] for table in tables(results) if len(table.head) == 4 for row in table.rows}
    assert f"{float(rows['TCEOCS_t']):.4f}" == "20.1316"
    assert rows["μ(MSE)_t"] == "0.0026" and entry.figures["mu(R2)_t"] < -1e9
    assert rows["variables of t that do not vary"] == "768"
    assert float(rows["TCEOCS_i"]) < 20
