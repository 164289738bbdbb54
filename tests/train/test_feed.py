"""Batches come in order, ahead of the step; a wait counts while nothing else is done."""

import threading
import time

import pytest

from fairkd_jax.train.feed import AHEAD, Feed

pytestmark = pytest.mark.quick


def test_two_are_on_their_way_and_all_come_in_order():
    asked, begun = [], threading.Event()

    def load(i):
        asked.append(i)
        if len(asked) == 3 + AHEAD:
            begun.set()
        return i * 10

    with Feed(load, 3, 30) as feed:
        taken = [feed.take(lambda: False) for _ in range(3)]
        assert begun.wait(10) and sorted(asked) == [*range(3, 3 + 3 + AHEAD)]
        taken += [feed.take(lambda: False) for _ in range(24)]
    assert taken == [i * 10 for i in range(3, 30)]
    with Feed(load, 5, 5):
        pass


@pytest.mark.parametrize("idle", [True, False])
def test_only_waits_of_idle_devices_count(idle):
    def slow(i):
        time.sleep(0.05)
        return i

    with Feed(slow, 0, 3) as feed:
        for _ in range(3):
            feed.take(lambda: idle)
    assert (feed.waited > 0.02) == idle


def test_what_loading_raises_is_raised_where_it_is_taken():
    def load(i):
        if i == 1:
            raise ValueError("row 1")
        return i

    with Feed(load, 0, 5) as feed:
        assert feed.take(lambda: False) == 0
        with pytest.raises(ValueError, match="row 1"):
            feed.take(lambda: False)
