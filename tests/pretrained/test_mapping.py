"""The mapping engine: names, layouts, and the one error that lists all that is wrong."""

import weakref

import jax
import numpy as np
import pytest
from flax import nnx

from jaxsd.pretrained.mapping import Rule, export_parameters, import_parameters, module, parameters
from jaxsd.pretrained.weights import open_tensors, read_parameters, write_parameters


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.convs = nnx.List([nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(4, 4, (3, 3), rngs=rngs)])
        self.out = nnx.Linear(4, 5, rngs=rngs)
        self.scale = nnx.Param(jax.numpy.ones(()))


MAPPING = (
    *module("blocks.{n}.conv", "convs.{n}", "conv2d", n=r"\d+"),
    *module("head", "out", "linear"),
    Rule("scale", "scale"),
)


@pytest.fixture
def net():
    return Net()


def test_layouts_follow_torch(net):
    exported = export_parameters(net, MAPPING)
    assert exported["blocks.0.conv.weight"].shape == (4, 3, 3, 3)
    assert exported["head.weight"].shape == (5, 4)
    assert exported["scale"].shape == ()
    kernel = np.asarray(net.convs[0].kernel[...])
    assert exported["blocks.0.conv.weight"][1, 2, 0, 1] == kernel[0, 1, 2, 1]


def test_there_and_back_is_exact(net):
    again = parameters(import_parameters(export_parameters(net, MAPPING), MAPPING, nnx.eval_shape(Net)))
    assert all(np.array_equal(again[name], value) for name, value in parameters(net).items())


def test_one_error_lists_everything_wrong(net):
    source = export_parameters(net, MAPPING)
    source["extra.weight"] = np.zeros(3)
    del source["head.bias"]
    source["blocks.1.conv.weight"] = source["blocks.1.conv.weight"][:, :2]
    with pytest.raises(ValueError) as error:
        import_parameters(source, MAPPING, net, name="file.safetensors")
    assert str(error.value) == (
        "file.safetensors does not fit: blocks.1.conv.weight has shape (4, 2, 3, 3), expected (4, 4, 3, 3); "
        "missing key head.bias; unknown key extra.weight"
    )


def test_many_problems_are_cut_short(net):
    source = export_parameters(net, MAPPING) | {f"extra.{n:02}": np.zeros(1) for n in range(28)}
    with pytest.raises(ValueError) as error:
        import_parameters(source, MAPPING, net)
    assert str(error.value).endswith("unknown key extra.19 and 8 more")


def test_two_keys_of_one_parameter(net):
    source = export_parameters(net, MAPPING)
    source["top.weight"] = source["head.weight"]
    rules = (*MAPPING, *module("top", "out", "linear"))
    with pytest.raises(ValueError, match="top.weight and head.weight are the same parameter$"):
        import_parameters(source, rules, net)


class Tracked:
    """A stored tensor that knows whether what it has given out is still alive."""

    given: list[weakref.ref] = []

    def __init__(self, value):
        self.value, self.shape = value, value.shape

    def __array__(self, dtype=None, copy=None):
        assert not any(reference() is not None for reference in self.given)
        array = self.value.astype(np.float16)
        self.given.append(weakref.ref(array))
        return array


def test_one_tensor_at_a_time_is_held(net):
    source = {key: Tracked(value) for key, value in export_parameters(net, MAPPING).items()}
    import_parameters(source, MAPPING, nnx.eval_shape(Net))
    assert len(Tracked.given) == len(source)


def test_a_1x1_convolution_is_a_linear_layer():
    linear = nnx.Linear(3, 5, rngs=nnx.Rngs(0))
    exported = export_parameters(linear, ONE_BY_ONE)
    assert exported["weight"].shape == (5, 3, 1, 1)
    again = import_parameters(exported, ONE_BY_ONE, linear)
    assert np.array_equal(again.kernel[...], linear.kernel[...])


ONE_BY_ONE = (Rule("weight", "kernel", "conv1x1"), Rule("bias", "bias"))


def test_a_square_kernel_is_transposed_too():
    square = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    exported = export_parameters(square, SQUARE)
    assert np.array_equal(exported["weight"], np.asarray(square.kernel[...]).T)


SQUARE = (Rule("weight", "kernel", "linear"), Rule("bias", "bias"))


def test_ignored_keys_are_no_error(net):
    source = export_parameters(net, MAPPING) | {"position_ids": np.arange(3)}
    import_parameters(source, MAPPING, net, ignore=(".*position_ids",))


def test_own_files_round_trip(net, tmp_path):
    write_parameters(net, tmp_path / "net.safetensors")
    again = read_parameters(nnx.eval_shape(Net), tmp_path / "net.safetensors")
    assert all(np.array_equal(parameters(again)[name], value) for name, value in parameters(net).items())
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\xff" * 100])
def test_files_that_are_no_safetensors(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.safetensors is "):
        open_tensors([path])


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, np.float32, r"infinity\)$"),
        (1e6, np.float16, r"infinity\); in 16 bits they may overflow: save as float32$"),
    ],
)
def test_parameters_that_are_not_finite_are_not_written(net, tmp_path, value, dtype, message):
    net.out.bias[...] = jax.numpy.full(5, value)
    with pytest.raises(
        ValueError, match=rf"net.safetensors is not written: out.bias has values that are not .*{message}"
    ):
        write_parameters(net, tmp_path / "net.safetensors", dtype)
    assert not list(tmp_path.iterdir())
