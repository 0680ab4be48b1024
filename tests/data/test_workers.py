"""Workers, and items that end them."""

import os
import signal
from functools import partial

import numpy as np
import pytest

from jaxsd.data.workers import Examples, Workers


def rows_of(items, dies: tuple[int, ...] = (), given_up: bool = False) -> Examples:
    """Rows that hold their item; `dies` are items that end the process."""
    if not given_up and set(items) & set(dies):
        os.kill(os.getpid(), signal.SIGSEGV)
    values = np.array(items)
    bad = {place: {"row": item} for place, item in enumerate(items)} if given_up else {}
    return Examples({"item": values}, [str(item) for item in items], values, None, bad)


@pytest.mark.parametrize(("count", "dies"), [(0, ()), (2, (8,))])
def test_every_block_is_made_in_order_but_for_items_that_end_their_process(count, dies):
    blocks = [range(first, first + 3) for first in range(0, 24, 3)]
    with Workers(partial(rows_of, dies=dies), partial(rows_of, given_up=True), count, ahead=2) as workers:
        made = list(workers.map(blocks))
    assert [rows.columns["item"].tolist() for rows in made] == [list(block) for block in blocks]
    assert [row["row"] for rows in made for row in rows.bad.values()] == list(dies)
