"""Batches on their way to the devices: read and sent by threads, two ahead of the step."""

import collections
import concurrent.futures
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

AHEAD = 2  # batches that are read and sent while a step computes
LOOK = 0.002  # seconds between looks at whether the devices still compute

Item = TypeVar("Item")


class Feed(Generic[Item]):
    """What `load` gives for start, start + 1, ... stop - 1, in order.

    A context: at its end what is on its way is waited for and dropped.
    """

    def __init__(self, load: Callable[[int], Item], start: int, stop: int):
        self._load, self._next, self._stop = load, start, stop
        self._pool = concurrent.futures.ThreadPoolExecutor(AHEAD, "feed")
        self._coming: collections.deque = collections.deque()
        self.waited = 0.0  # seconds for which the devices had nothing to do but wait for data

    def __enter__(self) -> "Feed[Item]":
        self._ask()
        return self

    def __exit__(self, *error: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, idle: Callable[[], bool]) -> Item:
        """The next one; `idle` says whether the devices have done all they were given.

        Raises what loading it raised.
        """
        coming = self._coming.popleft()
        since = None
        while not coming.done():
            if since is None and idle():
                since = time.perf_counter()
            concurrent.futures.wait([coming], timeout=LOOK)
        if since is not None:
            self.waited += time.perf_counter() - since
        self._ask()
        return coming.result()

    def _ask(self) -> None:
        while len(self._coming) < AHEAD and self._next < self._stop:
            self._coming.append(self._pool.submit(self._load, self._next))
            self._next += 1
