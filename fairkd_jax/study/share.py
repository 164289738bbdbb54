"""How the devices of some machines are shared out among workers."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

MEMORY = 2 * 2**30  # bytes that a worker on CPU is given where no one says how many there are


@dataclasses.dataclass(frozen=True)
class Share:
    """What each of some workers has for itself."""

    number: int  # of workers
    reserved: Mapping[str, Any]  # as options of a Ray actor
    devices: int  # that JAX sees there
    cores: int = 0  # on CPU those that are its alone


def share(
    asked: int | None, nodes: Iterable[Mapping[str, float]], on_cpu: bool, devices: int = 1
) -> Share:
    """What workers are given of machines with these resources, as Ray names them.

    One GPU each where there are any, all chips of a TPU host, else, or `on_cpu`, a share of the
    cores, of which JAX makes so many devices. Without a number, as many as there is room for.
    Raises ValueError where there is room for fewer.
    """
    nodes = [*nodes]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    chips = sorted(int(node["TPU"]) for node in nodes if node.get("TPU"))
    if on_cpu or not (gpus or chips):
        return _of_cores(asked, nodes, devices)
    if chips:
        _check(asked, len(chips), "TPU hosts")
        if chips[0] != chips[-1]:
            raise ValueError(f"workers are to be alike, and these TPU hosts have {chips} chips")
        return Share(asked or len(chips), {"num_cpus": 0, "resources": {"TPU": chips[0]}}, chips[0])
    _check(asked, gpus, "GPUs")
    return Share(asked or gpus, {"num_cpus": 0, "num_gpus": 1}, 1)


def _check(asked: int | None, most: int, unit: str) -> None:
    if (asked or 1) > most:
        raise ValueError(f"--workers={asked}: a worker has one of the {unit}, and there are {most}")


def _of_cores(asked: int | None, nodes: list[Mapping[str, float]], devices: int) -> Share:
    """As many whole cores each as go round; where there are too few, a part of one."""
    cores = [int(node.get("CPU", 0)) for node in nodes]
    if not sum(cores):
        raise ValueError("there are no cores for workers: start machines of Ray with --num-cpus")
    room = (min(n, node.get("memory", MEMORY) // MEMORY) for n, node in zip(cores, nodes))
    number = asked or max(1, int(sum(room)))
    for each in range(sum(cores) // number, 0, -1):
        if sum(n // each for n in cores) >= number:
            return Share(number, {"num_cpus": each}, devices, each)
    parts = next(p for p in itertools.count(2) if sum(cores) * p >= number)
    return Share(number, {"num_cpus": 1 / parts}, devices)
