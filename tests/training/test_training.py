"""Training by the recipes: exact however it is computed, on any prepared data, refusing what does not fit."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import encoders
from jaxsd.clip.pooling import pool_embeddings
from jaxsd.config import DataConfig, load_config
from jaxsd.data.columns import open_columns, write_columns
from jaxsd.data.loader import Loader
from jaxsd.evaluation import metrics
from jaxsd.runtime.files import read_json
from jaxsd.runtime.sharding import replicate
from jaxsd.training import optimizers
from jaxsd.training import train as training
from jaxsd.training.frozen_models import load_models
from jaxsd.training.initialization import initial_encoder, make_encoder, scale_initial
from jaxsd.training.loop import init_state, make_step
from jaxsd.training.losses import LOSSES, Loss, loss_columns, make_gradient
from jaxsd.training.metric_writers import read_metrics
from jaxsd.training.run_config import check_run_config, write_run_config
from jaxsd.training.run_data import identify_splits
from jaxsd.training.validation import make_validation
from tests.helpers import models
from tests.helpers.processes import environment_of_devices
from tests.helpers.training_curve import losses

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SIZES = {"width": 24, "depth": 1, "heads": 2, "mlp": 32}
TINY = [f"--config.encoder_config.{key}={value}" for key, value in SIZES.items()]


def config_of(spec, data, *overrides):
    more = [f"--config.{override}" for override in overrides]
    return load_config(spec, [f"--config.data.folder={data}", *TINY, *more])


OWN_ENCODER = """
import jax.numpy as jnp
from flax import nnx


class Own(nnx.Module):
    def __init__(self, *, width=8, rngs):
        self.width = width
        self.out = nnx.Linear(1, width, rngs=rngs)

    @property
    def config(self):
        return {"width": self.width}

    def __call__(self, pcm):
        return self.out(jnp.reshape(pcm[:, :77] / 32768, (len(pcm), 77, 1)).astype(jnp.float32))
"""
EVERYTHING = ("batch_size=10", "denoise_batch=4", "weights.denoise=1", "weights.sequence=1", "learned_temperature=true")


def frozen_models(data, *names):
    metadata = read_json(data / "train" / "dataset.json")
    return load_models(metadata, with_diffusion="unet" in names, dtype=jnp.float32).frozen(names)


def one_step(data, *overrides):
    """State and metrics after a step of all parts of the objective, from parameters drawn by NumPy."""
    config = config_of("gemini.py:aligned", data, *EVERYTHING, "dropout=false", *overrides)
    encoder = models.randomised(partial(encoders.create, "gemini", **SIZES), 7)
    frozen = frozen_models(data, "text_model", "unet", "schedule")
    if config.remat:
        encoders.layers.rematerialize(encoder)
        encoders.layers.rematerialize(frozen)
    graph, params = nnx.split(encoder)
    models_graph, frozen = nnx.split(frozen)
    optimizer = optax.sgd(0.1)
    loader = Loader(open_columns(data / "train"), loss_columns(config), config.batch_size, 0, parts=config.accumulate)
    step = make_step(make_gradient(config, graph, models_graph), optimizer, 0)
    params = {"encoder": nnx.as_pure(params), "log_scale": jnp.float32(1.0)}
    state, frozen = replicate((init_state(params, optimizer), nnx.as_pure(frozen)))
    return step(state, frozen, next(loader.batches()))


@pytest.fixture(scope="module")
def whole(data):
    with jax.default_matmul_precision("highest"):
        return one_step(data)


def test_one_step_is_what_it_was(whole):
    golden = {"contrastive": 1.604340, "sequence": 2.025648, "denoise": 2.272523, "gradient_norm": 2.623725}
    found = {name: float(whole[1][name]) for name in golden}
    assert found == pytest.approx(golden, rel=1e-4), (
        "the first training step has changed: if `contrastive` differs, look at cross_entropies and pooling; if "
        "`sequence`, at the text tower; if `denoise`, at draw_noise and the U-Net; if all three, at the encoder; if "
        "`gradient_norm` alone, at value_and_gradient. Where the change is meant, put the new figures here"
    )


@pytest.mark.long
def test_accumulated_and_rematerialized_a_step_is_the_same(data, whole):
    state, figures = one_step(data, "accumulate=4", "remat=true")  # 10 rows become 12
    assert float(figures["loss"]) == pytest.approx(float(whole[1]["loss"]), rel=1e-5)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(same, state.params, whole[0].params)


@pytest.mark.long
def test_on_any_number_of_devices_and_in_parts_the_losses_are_the_same():
    """20 steps of the paper's batch, 1,151, which is a prime."""
    command = [sys.executable, "-m", "tests.helpers.training_curve"]
    others = subprocess.run(command, cwd=ROOT, env=environment_of_devices(8), capture_output=True, text=True)
    assert others.returncode == 0, others.stderr
    one = losses()
    assert one[-1] < one[0]
    np.testing.assert_allclose(json.loads(others.stdout), one, rtol=1e-5)
    np.testing.assert_allclose(losses(accumulate=4), one, rtol=1e-5)


@pytest.mark.long
def test_the_papers_recipe_trains_on_prepared_data_and_starts_from_another_run(data, tmp_path):
    options = ("text_pooling=bos", "epochs=0", "steps=2", "batch_size=16", "eval_every=2")
    trained = training.train(config_of("gemini.py", data, *options), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "encoder.json", "model.safetensors", "metrics.jsonl", "checkpoints"} <= names
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    figures = {key: value for line in lines for key, value in line.items()}
    # A constant text says nothing: what the published numbers show.
    assert figures["validation_TCEOCS_t"] == pytest.approx(2 * np.log(21), rel=1e-3)
    assert {"validation_R@10_i2a", "validation_mu(MSE)_i", "validation_chance"} <= figures.keys()
    assert "validation_denoise" not in figures  # the U-Net is neither trained through nor loaded

    (tmp_path / "next").mkdir()
    write_run_config(tmp_path / "next", config_of("gemini.py:denoise", data, f"init={tmp_path / 'run'}"), {})
    again = initial_encoder(tmp_path / "next", trained)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(trained))


@pytest.mark.long
def test_an_own_encoder_trains_and_another_run_starts_from_it_only_with_the_same_code(data, tmp_path):
    code = tmp_path / "own.py"
    code.write_text((ROOT / "examples" / "own_encoder.py").read_text())

    def config(*overrides):
        options = ("encoder_config.width=24", "encoder_config.channels=16", "steps=2", "batch_size=16", *overrides)
        flags = [
            f"--config.{option}"
            for option in (f"data.folder={data}", "data.maker=", f"encoder={code}:OwnEncoder", *options)
        ]
        return load_config("toy.py:paper", flags)

    trained = training.train(config("audio_pooling=first"), tmp_path / "run")
    assert encoders.read_config(tmp_path / "run")["audio_pooling"] == "first"
    loaded = encoders.load(tmp_path / "run", trust_code=True)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded), nnx.state(trained))

    code = code.rename(tmp_path / "moved.py")
    shutil.copy(code, tmp_path / "run" / "own.py")
    begun = make_encoder(config(f"init={tmp_path / 'run'}"), jnp.dtype("float32"))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(begun), nnx.state(trained))
    code.write_text(code.read_text() + "\n")
    with pytest.raises(ValueError, match="which holds an encoder of other code than"):
        make_encoder(config(f"init={tmp_path / 'run'}"), jnp.dtype("float32"))


def test_validation_is_over_the_whole_split_at_once(data):
    config = config_of("gemini.py", data, "batch_size=8")  # 21 rows: the last batch is not full
    held_out = {name: x for name, x in open_columns(data / "validation").items() if name != "latents"}
    encoder = encoders.create("gemini", rngs=nnx.Rngs(0), **SIZES)
    graph, params = nnx.split(encoder)
    loaded = frozen_models(data)
    models_graph, frozen = nnx.split(loaded)
    evaluate = make_validation(config, graph, models_graph, nnx.as_pure(frozen), held_out)
    figures = evaluate(init_state({"encoder": nnx.as_pure(params)}, optax.sgd(0.1)))
    vectors = pool_embeddings(encoder(np.asarray(held_out["audio"])), loaded.projection[...])
    expected = metrics.alignment(vectors, held_out["text"], held_out["image"])
    for name, value in expected.items():
        assert figures[f"validation_{name}"] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("name", ["gemini", "human"])
def test_only_kernels_decay(name):
    encoder = nnx.eval_shape(lambda: encoders.create(name, rngs=nnx.Rngs(0)))
    decays = optimizers.is_kernel({"encoder": nnx.as_pure(nnx.state(encoder)), "log_scale": 0})
    flat = {jax.tree_util.keystr(path): value for path, value in jax.tree_util.tree_leaves_with_path(decays)}
    assert any(flat.values())
    for path, value in flat.items():
        assert value == (path.endswith("['kernel']")), path
    assert not any("norm" in path or "bias" in path or "embed" in path for path, value in flat.items() if value)


def test_branches_and_positions_start_small():
    config = load_config("deepseek:aligned")
    assert config.branch_init == pytest.approx(24**-0.5) and config.position_init == 0.02
    for name in ("deepseek", "gemini:aligned"):
        assert load_config(name).branch_init == load_config(name).position_init == 1
    encoder = encoders.create("deepseek", rngs=nnx.Rngs(0), **SIZES)
    before = nnx.as_pure(nnx.state(encoder))
    after = nnx.as_pure(nnx.state(scale_initial(encoder, branches=0.25, positions=0.5)))
    np.testing.assert_array_equal(after["pos_embed"], 0.5 * before["pos_embed"])
    before, after = (state["transformer"]["layers"][0] for state in (before, after))
    for name, ratio in (("linear1", 1), ("linear2", 0.25)):
        np.testing.assert_allclose(after[name]["kernel"], ratio * before[name]["kernel"])
    np.testing.assert_allclose(
        after["self_attn"]["out_proj"]["kernel"], 0.25 * before["self_attn"]["out_proj"]["kernel"]
    )
    np.testing.assert_array_equal(after["self_attn"]["in_proj"]["kernel"], before["self_attn"]["in_proj"]["kernel"])


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer=sgd", "unknown optimizer 'sgd'; choose from adam, adamw, muon"),
        ("schedule=linear", "unknown schedule 'linear'; choose from constant, cosine"),
        ("text_pooling=mean", "unknown text_pooling 'mean'; choose from eos, bos"),
        ("audio_pooling=max", "unknown audio_pooling 'max'; choose from mean, first, last"),
        ("dtype=float16", "unknown dtype 'float16'; choose from auto, float32, bfloat16"),
        ("steps=10", "epochs is 32 and steps is 10; one of them must be 0, not both"),
        ("epochs=0", "epochs is 0 and steps is 0; one of them must be 0, not both"),
        ("batch_size=0", "batch_size is 0; it must be at least 1"),
        ("seed=-1", "seed is -1; it must not be negative"),
        ("learning_rate=nan", "learning_rate is nan; it must be finite"),
        ("weights.contrastive=nan", "allowed: none below 0, one above"),
        ("batch_size=41", "batch_size is 41; allowed with 40 examples: 1 to 40"),
        ("weight_decay=0.1", "weight_decay is 0.1, which needs --config.optimizer=adamw"),
        ("weights.contrastive=0", "allowed: none below 0, one above"),
        ("denoise_batch=20", "denoise_batch is 20; allowed: 0 to batch_size, 16"),
        ("warmup=64", "warmup is 64; it must be less than the steps of training, 64"),
        ("encoder=human", "does not fit encoder 'human'"),
        (
            "encoder_config.width=32",
            "makes (77, 32) of a clip, but the hidden states of the data's CLIP are (77, 24); set",
        ),
        ("data.folder=nowhere", "nowhere/train holds no data; python -m jaxsd.data prepare MANIFEST --out nowhere"),
        ("init=nowhere", "no folder nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(data, tmp_path, override, message):
    config = config_of("gemini.py", data, "batch_size=16", override)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        training.train(config, tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_latents_that_are_missing_are_asked_for(data, tmp_path):
    columns = {name: np.asarray(x) for name, x in open_columns(data / "train").items() if name != "latents"}
    for split in ("train", "validation"):
        write_columns(tmp_path / split, columns, {"clip": str(data / "clip")})
    with pytest.raises(ValueError, match="has no column latents; python -m jaxsd.data prepare .* --latents makes it"):
        training.train(config_of("gemini.py:denoise", tmp_path), tmp_path / "run")


def test_another_config_is_refused_with_the_difference(data, tmp_path):
    write_run_config(tmp_path, config_of("gemini.py", data), {})
    check_run_config(tmp_path, config_of("gemini.py", data))
    with pytest.raises(
        ValueError, match=r"\(learning_rate was 0.001, is 0.1; seed was 0, is 1\); choose another --out"
    ):
        check_run_config(tmp_path, config_of("gemini.py", data, "learning_rate=0.1", "seed=1"))


def test_a_run_whose_config_is_gone_does_not_go_on(data, tmp_path):
    config = config_of("gemini.py", data)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"config\.json is missing, though .* holds a run; bring it back, or choose"):
        check_run_config(tmp_path, config)
    write_run_config(tmp_path, config, {})
    check_run_config(tmp_path, config)


def test_data_that_are_damaged_are_not_trained_on(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    config = config_of("gemini.py", tmp_path / "data")
    identify_splits(config, ["train", "validation"], ["audio", "tokens"])
    audio = np.load(tmp_path / "data" / "validation" / "audio.npy")
    np.save(tmp_path / "data" / "validation" / "audio.npy", audio[::-1])
    with pytest.raises(ValueError, match=r"validation/audio\.npy: its content is not what dataset\.json says"):
        identify_splits(config, ["train", "validation"], ["audio", "tokens"])


def test_what_does_not_change_the_result_may_change(data, tmp_path):
    config = config_of("gemini.py", data)
    write_run_config(tmp_path, config, {})
    assert check_run_config(tmp_path, replace(config, save_every=7, data=DataConfig(folder="elsewhere"))) == ""
    assert "goes on to 40 epochs in place of 32" in check_run_config(tmp_path, replace(config, epochs=40))
    with pytest.raises(ValueError, match="epochs was 32, is 31"):
        check_run_config(tmp_path, replace(config, epochs=31))


def test_more_steps_of_a_schedule_say_what_that_means(data, tmp_path):
    config = replace(config_of("gemini.py:aligned", data), epochs=0, steps=3000)
    write_run_config(tmp_path, config, {})
    assert "the learning rate may rise" in check_run_config(tmp_path, replace(config, steps=4000))


@pytest.mark.long
def test_a_run_goes_on_where_its_data_moved_and_not_on_other_data(data, tmp_path):
    options = ("epochs=0", "batch_size=16", "eval_every=2", "save_every=1")
    training.train(config_of("gemini.py", data, *options, "steps=1"), tmp_path / "run")
    before = (tmp_path / "run" / "encoder.json").read_text()

    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    longer = config_of("gemini.py", moved, *options, "steps=2")
    training.train(longer, tmp_path / "run", clip=str(moved / "clip"))
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line] == [0, 1]
    assert (tmp_path / "run" / "encoder.json").read_text() == before

    columns = {name: np.asarray(x) for name, x in open_columns(moved / "train").items()}
    columns["audio"] = columns["audio"] + np.int16(1)
    metadata = {"clip": str(data / "clip"), "diffusion": str(data / "diffusion")}
    write_columns(moved / "train", columns, metadata)
    with pytest.raises(ValueError, match="holds a run on other data than those in"):
        training.train(longer, tmp_path / "run")


def test_an_own_encoder_trains_and_its_folder_says_how_it_pools(data, tmp_path):
    (tmp_path / "own.py").write_text(OWN_ENCODER)
    own = f"encoder={tmp_path / 'own.py'}:Own"
    options = ("epochs=0", "steps=1", "batch_size=16", "audio_pooling=last", "warmup=0", "data.maker=")
    overrides = [f"--config.{one}" for one in (own, *options, f"data.folder={data}", "encoder_config.width=24")]
    training.train(load_config("toy.py:aligned", overrides), tmp_path / "run")
    assert encoders.read_config(tmp_path / "run") | {"audio_pooling": "last", "width": 24} == encoders.read_config(
        tmp_path / "run"
    )
    trained = encoders.load(tmp_path / "run", trust_code=True)
    assert trained(np.zeros((1, 16_000), np.int16)).shape == (1, 77, 24)

    with pytest.raises(ValueError, match=r"makes \(77, 8\) of a clip, .* are \(77, 24\); set .*width=24"):
        training.train(load_config("toy.py:aligned", [*overrides, "--config.encoder_config.width=8"]), tmp_path / "b")
    with pytest.raises(ValueError, match="has no size 'widht'; allowed: width"):
        training.train(load_config("toy.py:aligned", [*overrides, "--config.encoder_config.widht=8"]), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("warmup=4000", "warmup is 4000; it must be less than the steps of training, 3600"),
        ("batch_size=30000", "batch_size is 30000; allowed with 20,000 examples: 1 to 20,000"),
        ("encoder_config.width=32", r"makes \(77, 32\) of a clip"),
        ("init=nowhere", "nowhere"),
    ],
)
def test_data_are_not_made_for_what_cannot_be_trained(tmp_path, override, message):
    overrides = [f"--config.data.folder={tmp_path / 'data'}", f"--config.{override}"]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        training.train(load_config("toy.py", overrides), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "samples", "loaded"),
    [("paper", 0, False), ("aligned", 0, False), ("aligned", 2, True), ("aligned+denoise", 0, True)],
)
def test_the_unet_is_loaded_for_denoising_and_samples_alone(data, tmp_path, monkeypatch, recipe, samples, loaded):
    class Asked(Exception):
        pass

    def load_nothing(*_, with_diffusion, **__):
        raise Asked(with_diffusion)

    monkeypatch.setattr(training, "load_models", load_nothing)
    overrides = (f"data.folder={data}", "data.maker=", "batch_size=8", f"sample_images={samples}")
    config = load_config(f"toy.py:{recipe}", [f"--config.{one}" for one in overrides])
    with pytest.raises(Asked, match=str(loaded)):
        training.train(config, tmp_path / "run")


def test_wandb_that_is_missing_is_refused_before_anything(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = load_config("toy.py", [f"--config.data.folder={tmp_path / 'data'}"])
    with pytest.raises(ValueError, match="Weights & Biases is not installed"):
        training.train(config, tmp_path / "run", wandb=True)
    assert not list(tmp_path.iterdir())


def test_a_new_loss_is_a_class_and_a_weight(data, monkeypatch):
    class Smallness(Loss):
        """The mean square of the embeddings."""

        columns, models = ("class",), ()

        def encode(self, models, hidden_states, examples):
            return jnp.mean(hidden_states**2, axis=(1, 2))

        def combine(self, models, params, outputs, batch):
            return jnp.mean(outputs, where=batch["valid"])

    monkeypatch.setitem(LOSSES, "smallness", Smallness)
    config = config_of("gemini.py", data, "dropout=false")
    config = replace(config, weights=config.weights | {"contrastive": 0.0, "smallness": 2.0})
    assert loss_columns(config) == ["audio", "class"]
    encoder = encoders.create("gemini", rngs=nnx.Rngs(0), **SIZES)
    graph, params = nnx.split(encoder)
    models_graph, frozen = nnx.split(frozen_models(data))
    batch = {"audio": jnp.ones((4, 16_000), jnp.int16), "valid": jnp.arange(4) < 3}
    gradient = make_gradient(config, graph, models_graph)
    (loss, parts), _ = gradient({"encoder": nnx.as_pure(params)}, nnx.as_pure(frozen), batch, jax.random.key(0))
    assert loss == pytest.approx(2 * parts["smallness"]) and loss > 0
    with pytest.raises(ValueError, match="weights.smalness is of no loss; the losses are contrastive, sequence"):
        loss_columns(replace(config, weights={"smalness": 1.0}))
