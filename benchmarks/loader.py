"""Times loading alone beside Grain record by record and PyTorch's DataLoader, over the same files in one run.

python -m benchmarks.loader [--clips 20000] [--batch 1151] [--batches 34] [--rounds 5]
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grain
import jax
import numpy as np

from benchmarks.parity import torch
from jaxsd.data.columns import open_columns, write_columns
from jaxsd.data.loader import Loader
from jaxsd.runtime import cli

AHEAD = 8  # batches not timed: what was prefetched while the others had their turn
NAMES = ("audio", "text", "image")


def write_random(folder: Path, clips: int):
    """Random columns of the shapes and dtypes of the paper's data."""
    rng = np.random.default_rng(0)
    columns = {"audio": rng.integers(-8000, 8000, (clips, 16_000), np.int16)}
    columns |= {name: rng.standard_normal((clips, 768), np.float32).astype(np.float16) for name in NAMES[1:]}
    write_columns(folder, columns, {"source": "random"})


def ours(columns, batch: int) -> Iterator:
    return Loader(columns, NAMES, batch, seed=0).batches()


def grain_by_record(columns, batch: int) -> Iterator:
    def record(index):
        return {name: columns[name][index] for name in NAMES}

    indices = grain.MapDataset.range(len(columns["audio"])).shuffle(seed=0).repeat()
    return iter(indices.map(record).to_iter_dataset().batch(batch))


class Records(torch.utils.data.Dataset):
    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["audio"])

    def __getitem__(self, index):
        return {name: torch.from_numpy(np.array(self.columns[name][index])) for name in NAMES}


def torch_by_record(workers: int):
    def loader(columns, batch: int) -> Iterator:
        context = "forkserver" if workers else None  # JAX's threads are not to be forked
        batches = torch.utils.data.DataLoader(
            Records(columns),
            batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            multiprocessing_context=context,
            persistent_workers=workers > 0,
        )
        return itertools.chain.from_iterable(itertools.repeat(batches))

    return loader


LOADERS: dict[str, Callable] = {
    "jaxsd, on the device": ours,
    "Grain, record by record": grain_by_record,
    "PyTorch DataLoader, no workers": torch_by_record(0),
    "PyTorch DataLoader, 2 workers": torch_by_record(2),
}


def main():
    parser = cli.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1151)
    parser.add_argument("--batches", type=int, default=34, help="in one timing")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_random(Path(folder), arguments.clips)
        columns = open_columns(folder)
        for column in columns.values():
            np.asarray(column).sum()  # into the page cache
        rates = {name: [] for name in LOADERS}
        iterators = {name: make(columns, arguments.batch) for name, make in LOADERS.items()}
        for turn in range(arguments.rounds + 1):  # the first is not counted
            for name, iterator in iterators.items():
                for _ in itertools.islice(iterator, AHEAD):
                    pass
                start = time.perf_counter()
                for batch in itertools.islice(iterator, arguments.batches):
                    jax.block_until_ready(batch)
                seconds = time.perf_counter() - start
                if turn:
                    rates[name].append(arguments.batches * arguments.batch / seconds)
    print(
        f"{arguments.clips} clips, batches of {arguments.batch}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print("| loader | clips/s, median | slowest to fastest round |")
    print("|---|---|---|")
    for name, measured in rates.items():
        print(f"| {name} | {statistics.median(measured):,.0f} | {min(measured):,.0f} to {max(measured):,.0f} |")


if __name__ == "__main__":
    main()
