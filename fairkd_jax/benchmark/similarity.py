"""What comparing all pairs of layers of two nets costs: in one pass, or pair by pair from files.

"pass" is `compare_nets`: features stay on the devices and what is made of one layer is made once.
"pairs" reads both nets, writes each layer's features to a file, and compares one pair of layers at
a time from the files, by the same functions: debiased CKA with null and interval, and biased. Both
must find the same numbers.
"""

import contextlib
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fairkd_jax import sharding
from fairkd_jax.benchmark.workload import VIEWS, Workload, synthetic_batch
from fairkd_jax.models.net import Net, make_net
from fairkd_jax.representation import all_pairs
from fairkd_jax.representation.collect import read
from fairkd_jax.representation.compare import STANDARD, compare_nets

MODES = ("pass", "pairs", "both")
TAPS = r"embed|.*block\d+/out"
NETS = {"preset": "base"}, {"preset": "small", "depth": 6}  # of BERT: 13 layers and 7
MIB = 2**20


def cost(
    mesh: Mesh,
    mode: str,
    *,
    examples: int = 2048,
    length: int = 32,
    batch: int = 64,
    rounds: int = 2,
    nets: tuple[dict[str, Any], dict[str, Any]] = NETS,
) -> dict[str, Any]:
    """Seconds, processor seconds of all threads, and memory above what was held before.

    "both" lets them take turns, `rounds` times; the first round, which compiles, counts only where
    it is the only one. Ratios are pairs / pass.
    """
    case = _Case(mesh, examples, length, batch, nets)
    found: dict[str, list[dict[str, Any]]] = {}
    results: dict[str, dict[str, np.ndarray]] = {}
    for _ in range(rounds):
        for name in ("pass", "pairs") if mode == "both" else (mode,):
            results[name], told = case.measured(name)
            found.setdefault(name, []).append(told)
    counted = {k: v[1:] or v for k, v in found.items()}
    told: dict[str, Any] = {
        "similarity": mode,
        "layers": list(next(iter(results.values()))["aligned"].shape),
        "examples": examples,
        "length": length,
        "batch": batch,
        "rounds": rounds,
        "device": jax.devices()[0].device_kind,
    }
    for name, every in counted.items():
        told[name] = {k: round(float(np.median([one[k] for one in every])), 2) for k in every[0]}
    if mode == "both":
        one, other = results["pass"], results["pairs"]
        told["ratio"] = {
            k: round(told["pairs"][k] / max(told["pass"][k], 1e-9), 2) for k in told["pass"]
        }
        told["furthest"] = float(max(np.nanmax(np.abs(one[k] - other[k])) for k in other))
    return told


class _Case:
    """Two nets of random weights, batches of random tokens."""

    def __init__(self, mesh: Mesh, examples: int, length: int, batch: int, nets: Any):
        self.mesh, self.examples = mesh, examples
        self.work = Workload("bert", "", "", seq=length, batch=batch)
        facts = {"wordpiece": VIEWS["wordpiece"][1](self.work)}
        made = [make_net({"name": "bert", **spec}, self.work.classes, facts) for spec in nets]
        with jax.transfer_guard("allow"):
            self.nets = [(net, self._variables(net, i)) for i, net in enumerate(made)]

    def _variables(self, net: Net, seed: int) -> Any:
        out = sharding.replicated(self.mesh)
        return jax.jit(net.init, out_shardings=out)(jax.random.key(seed))

    def _batches(self) -> Iterator[Any]:
        for i in range(-(-self.examples // self.work.batch)):
            yield synthetic_batch(self.work, ["wordpiece"], i, self.work.batch)
            self.read = time.perf_counter()

    def measured(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """(what was found, what it cost; "nets_s": of it until the last batch was read)."""
        ways = {"pass": self._in_one_pass, "pairs": self._pair_by_pair}
        with _peak() as peak:
            self.start, cpu = time.perf_counter(), time.process_time()
            found = ways[name]()
            told = {"s": time.perf_counter() - self.start, "cpu_s": time.process_time() - cpu}
        told |= {"nets_s": self.read - self.start, "peak_mib": peak[0] / MIB}
        return found, told

    def _in_one_pass(self) -> dict[str, np.ndarray]:
        told = compare_nets(
            *self.nets[0],
            *self.nets[1],
            self._batches(),
            aligned=np.ones(self.work.classes * 2, bool),
            first_taps=TAPS,
            second_taps=TAPS,
            examples=self.examples,
            put=self._put,
            streamed=False,
        )
        names = ("aligned", "aligned_low", "aligned_high", "aligned_biased", "null_aligned")
        return {k: told[k] for k in names}

    def _put(self, batch: Any) -> Any:
        return sharding.put_batch(batch, self.mesh)

    def _pair_by_pair(self) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as place:
            layers = self._store(pathlib.Path(place))
            order = np.random.default_rng(0).permutation(self.examples)
            shape, found = tuple(map(len, layers)), {}
            for at in np.ndindex(shape):
                pair = [{"": self._load(net[i])} for net, i in zip(layers, at)]
                for name, value in self._one(*pair, order).items():
                    found.setdefault(name, np.full(shape, np.nan))[at] = value[0, 0]
        return found

    def _one(self, first: Any, second: Any, order: np.ndarray) -> dict[str, np.ndarray]:
        n = self.examples
        one = all_pairs.of_rows(STANDARD[""], first, second, n, order, self.mesh)
        biased = all_pairs.value_of_rows(STANDARD["biased"], first, second, n, self.mesh)
        told = {"aligned": one.value, "aligned_low": one.low, "aligned_high": one.high}
        return told | {"aligned_biased": biased, "null_aligned": one.null}

    def _store(self, place: pathlib.Path) -> list[list[pathlib.Path]]:
        """The files of each net's layers, written as batches come."""
        files: list[dict[str, Any]] = [{}, {}]
        readers = [(*net, TAPS) for net in self.nets]
        done = 0
        with contextlib.ExitStack() as stack:
            for nets, rows in read(readers, self._batches(), put=self._put):
                for i, (net, taps) in enumerate(zip(files, nets)):
                    for j, (name, x) in enumerate(taps.items()):
                        if name not in net:
                            path = place / f"{i}_{j}.f32"
                            net[name] = stack.enter_context(path.open("wb"))
                        net[name].write(x[: self.examples - done].tobytes())
                done += len(rows["id"])
            return [[pathlib.Path(file.name) for file in net.values()] for net in files]

    def _load(self, path: pathlib.Path) -> jax.Array:
        x = np.fromfile(path, np.float32).reshape(self.examples, -1)
        return jax.device_put(x, sharding.replicated(self.mesh))


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    """[the most bytes that this process holds within, above what it held before]."""
    before, most, over = _held(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], _held() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def _held() -> int:
    """Bytes on the first device where it counts them, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_in_use" in stats:
        return int(stats["bytes_in_use"])
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
