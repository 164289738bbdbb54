"""Which stages of a study may run now: those whose inputs are done, longest remaining path first.

Nothing here knows who runs them.
"""

from collections.abc import Iterable, Mapping

from fairkd_jax.config import Stage


class Agenda:
    """Stages that are to be done. Each is taken, and then given back, finished or dropped."""

    def __init__(self, stages: Iterable[Stage], remaining: Mapping[str, float]):
        """Inputs that are not among the stages are done; `remaining` as cost.py tells it."""
        self._stages = {one.identity: one for one in stages}
        self._place = {identity: i for i, identity in enumerate(self._stages)}
        self._remaining = remaining
        self._waits = {  # for which of its inputs each stage waits
            identity: {s.identity for s in one.inputs.values()} & self._stages.keys()
            for identity, one in self._stages.items()
        }

    def __len__(self) -> int:
        """Stages that are not taken, be they ready or not."""
        return len(self._waits)

    def ready(self) -> list[Stage]:
        """Those that may run now, the longest remaining path first; of equals as they came."""
        found = [identity for identity, inputs in self._waits.items() if not inputs]
        found.sort(key=lambda identity: (-self._remaining[identity], self._place[identity]))
        return [self._stages[identity] for identity in found]

    def remaining(self, one: Stage) -> float:
        """Cost of the longest path that begins with a stage."""
        return self._remaining[one.identity]

    def take(self, one: Stage) -> Stage:
        """It runs: no one else takes it."""
        del self._waits[one.identity]
        return one

    def give_back(self, one: Stage) -> None:
        """It was taken, did not end, and may run again."""
        self._waits[one.identity] = set()

    def finish(self, one: Stage) -> None:
        """It was taken and is done: what waits for it may run."""
        for inputs in self._waits.values():
            inputs.discard(one.identity)

    def drop(self, one: Stage) -> list[Stage]:
        """It was taken and will not be done: what waits for it leaves too, and is returned."""
        lost, gone = {one.identity}, []
        for identity in [*self._waits]:  # inputs come first
            if self._waits[identity] & lost:
                lost.add(identity)
                gone.append(self._stages[identity])
                del self._waits[identity]
        return gone
