"""Where the parts of a data set are made: by processes of this machine, or on a Ray cluster. Both make the same."""

import logging
import os
import pickle
import socket
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxsd.data.workers import Examples, MakeExamples, Workers, concatenate

RAY_LOCAL = "local"  # the address that stands for a cluster of this machine alone
RAY_PARTS = 10_000  # parts that Ray Data is told of at once
CONNECTION_SECONDS = 10


@dataclass(frozen=True)
class Work:
    """What is done to every part.

    items: the items that a part consists of, in the sequences in which they are made. make: the examples of a sequence;
    of parts of one item, anything. give_up: as `Workers` has it. towers: makes further columns of the examples of a
    part; None: there are none. Ray sends all of these to other processes.
    """

    items: Callable[[Any], Iterable[Sequence]]
    make: MakeExamples
    give_up: MakeExamples | None
    towers: Callable[[Examples], Any] | None = None


class Made(NamedTuple):
    """A part, its examples, and the columns that the towers make of them; a device may not be done with these."""

    part: Any
    examples: Any
    features: Any


@runtime_checkable
class Executor(Protocol):
    """Does the work. waited: seconds that the towers waited for examples, where that is known."""

    waited: float | None

    def run(self, work: Work, parts: Sequence[Any]) -> Generator[Made, None, None]:
        """What is made of the parts, in any order."""
        ...


def choose_executor(workers: int | None, ray: str | None, ahead: int = 2) -> Executor:
    """The executor that the flags --workers and --ray name; `ahead` is of `LocalExecutor`. Raises ValueError."""
    if workers is not None and workers < 0:
        raise ValueError(f"--workers is {workers}; allowed: from 0")
    return LocalExecutor(workers, ahead) if ray is None else RayExecutor(ray, workers)


class LocalExecutor:
    """Processes of this machine make the examples, the towers run in this process. The parts come in their order.

    Args:
        workers: the number of processes. None: one a core. 0: this process.
        ahead: how many sequences of items are made before they are asked for.
    """

    def __init__(self, workers: int | None = None, ahead: int = 2):
        self.workers, self.ahead = workers, ahead
        self.waited: float | None = None

    def run(self, work: Work, parts: Sequence[Any]) -> Generator[Made, None, None]:
        self.waited = 0.0
        with Workers(work.make, work.give_up, self.workers, self.ahead) as pool:
            made = pool.map(block for part in parts for block in work.items(part))
            for part in parts:
                asked = time.monotonic()
                examples = _join([next(made) for _ in work.items(part)])
                self.waited += time.monotonic() - asked
                yield Made(part, examples, work.towers(examples) if work.towers else {})


class RayExecutor:
    """Ray Data streams the parts through actors that make examples and through actors that hold the towers.

    A process or a node that is lost costs nothing but time: Ray does its parts again elsewhere. Each actor that makes
    examples has processes of its own, as `Workers` has, so that an item that ends its process costs that item alone.
    Where the cluster has GPUs, the towers run on them, one actor a GPU; else there is one such actor a node.

    Args:
        address: of the cluster, as `ray.init` takes it; "local": a cluster of this machine alone, which ends with this
            process.
        workers: the processes, and CPUs, of each actor that makes examples (1).

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """

    waited: float | None = None

    def __init__(self, address: str, workers: int | None = None):
        if find_spec("ray") is None:
            raise ValueError("--ray needs Ray; install it with: pip install 'jaxsd[ray]'")
        self.address, self.workers = address, max(1, workers or 1)

    def run(self, work: Work, parts: Sequence[Any]) -> Generator[Made, None, None]:
        with _ray_cluster(self.address):
            for first in range(0, len(parts), RAY_PARTS):
                yield from self._stream(work, parts[first : first + RAY_PARTS])

    def _stream(self, work: Work, parts: Sequence[Any]) -> Generator[Made, None, None]:
        import ray

        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        if cores < self.workers:
            raise ValueError(f"--workers is {self.workers}, but the Ray cluster has {cores} CPUs")
        made = ray.data.from_items([{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts))
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, cores // self.workers))
        made = made.map(
            _Maker, fn_constructor_args=(work, self.workers, os.getcwd()), num_cpus=self.workers, compute=pool
        )
        if work.towers:
            count = gpus or sum(node["Alive"] for node in ray.nodes())
            pool = ray.data.ActorPoolStrategy(min_size=1, max_size=count)
            made = made.map(
                _Towers, fn_constructor_args=(work.towers,), num_cpus=0, num_gpus=1 if gpus else 0, compute=pool
            )
        for row in made.iter_rows():
            result = pickle.loads(row["made"])
            if isinstance(result, Exception):
                raise result
            yield result


class _Maker:
    """The actor that makes the examples of parts."""

    def __init__(self, work: Work, workers: int, folder: str):
        with suppress(FileNotFoundError):  # on a node without it, absolute paths and URLs still hold
            os.chdir(folder)  # what paths are relative to
        self.work = work
        self.pool = Workers(work.make, work.give_up, workers, 2)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        return _pickled(self.make, row["part"])

    def make(self, part: Any) -> Made:
        return Made(part, _join(list(self.pool.map(self.work.items(part)))), {})


class _Towers:
    """The actor that holds the towers; the images end here."""

    def __init__(self, towers: Callable[[Examples], Any]):
        self.towers = towers

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        return _pickled(self.add_features, row["made"])

    def add_features(self, made: Made | Exception) -> Made | Exception:
        if isinstance(made, Exception):
            return made
        features = {name: np.asarray(column) for name, column in self.towers(made.examples).items()}
        return Made(made.part, replace(made.examples, images=None, vae_images=None), features)


def _pickled(function: Callable[[Any], Any], argument: bytes) -> dict[str, bytes]:
    """A row of Ray Data. An error is a result as well: Ray would turn it into a text of its own."""
    try:
        return {"made": pickle.dumps(function(pickle.loads(argument)))}
    except Exception as error:
        return {"made": pickle.dumps(error)}


def _join(blocks: list) -> Any:
    return blocks[0] if len(blocks) == 1 else concatenate(blocks)


@contextmanager
def _ray_cluster(address: str) -> Iterator[None]:
    """Connect to a Ray cluster, or start one of this machine, and say nothing of it."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    started = not ray.is_initialized()
    if started:
        _check_answers(address)
        own = {"include_dashboard": False} if address == RAY_LOCAL else {}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "os.fork")  # JAX's; what is forked here runs another program
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"--ray {address}: no Ray cluster answers there ({str(error).splitlines()[0]})") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the command has one of its own
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _check_answers(address: str):
    """Raise ValueError where nothing listens at `host:port`, which Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "://" not in address:
        try:
            socket.create_connection((host, int(port)), CONNECTION_SECONDS).close()
        except OSError as error:
            raise ValueError(f"--ray {address}: no Ray cluster answers there ({error})") from None
