"""What data cost: a large set read first and again, waits of a step for data, and padding."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fairkd_jax import registry, sharding
from fairkd_jax.benchmark import measure
from fairkd_jax.benchmark.synthetic import write_celeba
from fairkd_jax.config import Data, Mix, Optim, Train, TrainStage, as_dict, parse
from fairkd_jax.data import pipeline, preparing
from fairkd_jax.data.archives import Source
from fairkd_jax.data.padding import PADDINGS
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.registry import UnknownName
from fairkd_jax.train import loop, optim
from fairkd_jax.train.step import compile_step, fresh_state, table_of
from fairkd_jax.types import Now

LABELS = ("entailment", "neutral", "contradiction")
BLOCK = 16  # steps of a padding before the next has its turn
PAIRS = {  # made-up pairs in the lengths of MNLI, in words: mean of the logarithm, deviation, most
    "premise": (2.75, 0.6, 150),
    "hypothesis": (2.2, 0.4, 40),
}


def write_pairs(path: pathlib.Path, rows: int, seed: int = 0) -> None:
    """A .tsv of sentence pairs of made-up words, frequent and rare ones as in a language."""
    rng = np.random.default_rng(seed)
    letters, share = np.array([*"etaoinshrdlucmfwypvbgkjqxz"]), 1 / np.arange(1, 27)
    sizes = np.clip(rng.poisson(5, 60000) + 2, 1, 14)
    words = np.array(["".join(rng.choice(letters, n, p=share / share.sum())) for n in sizes])
    often = np.cumsum(1 / np.arange(1, len(words) + 1))

    def sentences(name: str, n: int) -> list[str]:
        mean, deviation, most = PAIRS[name]
        lengths = np.clip(rng.lognormal(mean, deviation, n).astype(int), 2, most)
        drawn = np.searchsorted(often, rng.random(int(lengths.sum())) * often[-1])
        return [" ".join(part) for part in np.split(words[drawn], np.cumsum(lengths)[:-1])]

    with path.open("w", encoding="utf-8") as file:
        file.write("label\tpremise\thypothesis\n")
        for i in range(0, rows, 10_000):
            n = min(10_000, rows - i)
            columns = rng.choice(LABELS, n), sentences("premise", n), sentences("hypothesis", n)
            file.writelines(f"{a}\t{b}.\t{c}.\n" for a, b, c in zip(*columns))


def pairs_in(folder: pathlib.Path, train: str, length: int, padding: str = "longest") -> Data:
    """Pairs of a file, as word pieces of a tokenizer trained on them."""
    view = {"name": "wordpiece", "length": length}
    files = {"name": "nli_files", "folder": str(folder), "train": train}
    return Data(set=files, views={"wordpiece": view}, padding=padding)


ALONE = """
import time; start = time.perf_counter()
import json, sys
from fairkd_jax.benchmark import data
print(json.dumps(getattr(data, sys.argv[1])(sys.argv[2], start)))
"""


def read_epoch(config: str, start: float) -> dict[str, Any]:
    """Opens a set and goes through an epoch of batches of 128: seconds since `start`, and rates."""
    source = pipeline.open_data(parse(Data, json.loads(config))).source("train")
    batches = pipeline.train_batches(source, seed=0, steps=len(source) // 128, batch_size=128)
    batches[0]
    begun, tokens = time.perf_counter(), 0
    for batch in batches:
        tokens += sum(int(v["mask"].sum()) for v in batch["views"].values() if "mask" in v)
    seconds = time.perf_counter() - begun
    return {
        "start_s": round(begun - start, 2),  # to the first batch, imports included
        "epoch_s": round(seconds, 2),
        "rows_per_s": round(len(batches) * 128 / seconds),
        **({"tokens_per_s": round(tokens / seconds)} if tokens else {}),
        "peak_rss_mib": measure.peak_rss_mib(),
    }


def prepare_faces(folder: str, start: float) -> dict[str, Any]:
    """Prepares the CelebA of `folder`/source in `folder`, as `fairkd-data` does."""
    original = registry.plugin("sets", "celeba").original
    preparing.prepare(original, Source(f"{folder}/source"), folder, part=True)
    return {"s": round(time.perf_counter() - start, 2), "peak_rss_mib": measure.peak_rss_mib()}


def pairs(rows: int, length: int) -> dict[str, Any]:
    """A set of made-up pairs read by one process, then by another; each alone with its memory."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        begun = time.perf_counter()
        write_pairs(folder / "train.tsv", rows)
        found: dict[str, Any] = {"rows": rows, "length": length}
        found["write_s"] = round(time.perf_counter() - begun, 2)
        found["file_mib"] = (folder / "train.tsv").stat().st_size // 2**20
        return found | _first_and_second(pairs_in(folder, "train.tsv", length), folder)


def images(rows: int, size: int) -> dict[str, Any]:
    """JPEGs in the layout of CelebA, prepared, then read as `pairs` are."""
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        write_celeba(pathlib.Path(place) / "source", rows)
        found = {"rows": rows, "size": size, "write_s": round(time.perf_counter() - begun, 2)}
        made = _alone("prepare_faces", place, pathlib.Path(place))
        data = Data(set={"name": "celeba", "data_dir": place, "size": size})
        found |= {f"prepare_{k}": v for k, v in made.items()}
        return found | _first_and_second(data, pathlib.Path(place))


def _first_and_second(data: Data, folder: pathlib.Path) -> dict[str, Any]:
    config = json.dumps(as_dict(data))
    return {
        f"{name}_{k}": v
        for name in ("first", "second")
        for k, v in _alone("read_epoch", config, folder).items()
    }


def _alone(function: str, argument: str, folder: pathlib.Path) -> dict[str, Any]:
    """What a function of this file gives in a process of its own, with its cache in a folder."""
    command = [sys.executable, "-c", ALONE, function, argument]
    cache = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(command, env=cache, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def waits(mesh: Mesh, steps: int) -> list[dict[str, Any]]:
    """The share of a step for which it waits for data, and what the pipeline alone gives."""
    cases = {
        "bert mini": (
            Data(
                set={"name": "template_nli"},
                views={"wordpiece": {"name": "wordpiece", "length": 64}},
            ),
            {"name": "bert", "preset": "mini"},
        ),
        "resnet cifar20": (
            Data(
                set={"name": "colored_digits", "image_size": 32},
                views={"image": {"name": "image", "crop": 4, "flip": True}},
            ),
            {"name": "resnet", "preset": "cifar20"},
        ),
    }
    found = []
    for name, (data, model) in cases.items():
        train = Train(steps=steps, batch_size=32, log_every=max(steps // 2, 1))
        none = ({"name": "none"},)
        config = TrainStage(data, model, {"name": "erm"}, none, Mix(), Optim(), train, 0)
        with tempfile.TemporaryDirectory() as place:
            loop.run(config, pathlib.Path(place), mesh)
            lines = (pathlib.Path(place) / "metrics.jsonl").read_text().splitlines()
        source = pipeline.open_data(data).source("train")
        batches = pipeline.train_batches(source, seed=0, steps=400, batch_size=32)
        views = batches[0]["views"]
        begun = time.perf_counter()
        for i in range(len(batches)):
            batches[i]
        seconds = time.perf_counter() - begun
        rate = {"rows_per_s": round(32 * len(batches) / seconds)}
        if "image" not in views:
            rate["tokens_per_s"] = round(rate["rows_per_s"] * _tokens_in_mean(source))
        # the first half holds the compilation
        wait = json.loads(lines[-1])["time/data_wait"]
        found.append({"net": name, "batch": 32, "data_wait": wait} | rate)
    return found


def _tokens_in_mean(source: Any) -> float:
    return float(source.view("wordpiece").lengths.mean())


def paddings(
    mesh: Mesh, file: pathlib.Path, length: int, batch_size: int, rounds: int
) -> dict[str, Any]:
    """Steps of BERT tiny under a teacher's table, padded in each way, by turns within one process.

    `ratio` is the median over rounds of fixed / this, seconds of the same number of steps, with
    reading and sending of batches. Raises UnknownName for a file of pairs that is not there.
    """
    if not file.is_file():
        raise UnknownName(str(file), "file of pairs:", [p.name for p in file.parent.glob("*")])
    runs = {}
    with tempfile.TemporaryDirectory() as place:
        for padding in PADDINGS:
            data = pairs_in(file.parent, file.name, length, padding)
            runs[padding] = _Run(data, mesh, batch_size, pathlib.Path(place))
        times: dict[str, list[float]] = {padding: [] for padding in runs}
        for _ in range(rounds):
            for padding, run in runs.items():
                times[padding].append(run(BLOCK))
    lengths = runs["fixed"].lengths
    found: dict[str, Any] = {
        "rows": len(lengths),
        "tokens_in_mean": round(float(lengths.mean()), 1),
        "most_tokens": int(lengths.max()),
        "length": length,
        "batch": batch_size,
        "rounds": rounds,
    }
    for padding, run in runs.items():
        ratios = np.array(times["fixed"]) / np.array(times[padding])
        found[padding] = {
            "ms": round(1e3 * float(np.median(times[padding])) / BLOCK, 2),
            "ratio": round(float(np.median(ratios)), 3),
            "ratio_of_sums": round(float(np.sum(times["fixed"]) / np.sum(times[padding])), 3),
            "shapes": sorted(run.compiled),
        }
    return found


class _Run:
    """A run of one padding on its way; all its shapes are compiled before a step is timed."""

    def __init__(self, data: Data, mesh: Mesh, batch_size: int, place: pathlib.Path):
        source = pipeline.open_data(data).source("train")
        self.lengths, self.mesh, self.step, classes = source.view("wordpiece").lengths, mesh, 0, 3
        random = np.random.default_rng(0).standard_normal((len(source), classes))
        ids = source.split.columns["id"]
        write_table(place / "t", ids, {"logits": random.astype(np.float32)}, {})
        train = Train(steps=10**6, batch_size=batch_size)
        model = {"name": "bert", "preset": "tiny"}
        distill = ({"name": "logits"},)
        config = TrainStage(data, model, {"name": "erm"}, distill, Mix(), Optim(), train, 0)
        program, methods = loop.build(config, {"teacher": None})
        self.batches = pipeline.train_batches(
            source,
            seed=0,
            steps=10**6,
            batch_size=batch_size,
            tables={table_of("teacher"): read_table(place / "t")},
            hide_attributes=True,
            padding=data.padding,
        )
        groups = np.full(6, np.nan, np.float32)
        counts = np.bincount(source.split.columns["label"], minlength=classes).astype(np.float32)
        now, rates = Now(np.float32(10**6), groups, counts), np.float32(1e-4)
        self.rate, numbers = rates, optim.numbers(config.optim, 1e-4)
        constants = sharding.put_replicated((methods, numbers, now, np.uint32(0)), mesh)
        self.methods, self.numbers, self.now, self.seed = constants
        first = sharding.put_batch(self.batches[0], mesh)
        self.state = fresh_state(program, mesh, *constants[:3], first, constants[3])
        self.function = compile_step(program, mesh)
        self.compiled: set[int] = set()
        for i in range(400):
            tokens = self.batches[i]["views"]["wordpiece"]["tokens"].shape[1]
            if tokens not in self.compiled:
                self.compiled.add(tokens)
                self._take(i)

    def _take(self, i: int) -> Any:
        batch, rate = sharding.put_step(self.batches[i], self.rate, self.mesh)
        numbers = self.numbers.replace(learning_rate=rate)
        arguments = self.methods, numbers, self.now, batch, {}, self.seed
        self.state, metrics = self.function(self.state, *arguments)
        return metrics["loss"]

    def __call__(self, steps: int) -> float:
        """Seconds of so many steps."""
        begun = time.perf_counter()
        for _ in range(steps):
            loss = self._take(self.step)
            self.step += 1
        jax.block_until_ready(loss)
        return time.perf_counter() - begun


def describe() -> dict[str, Any]:
    """What the machine was doing beside: processes that wanted a core, in the last minute."""
    return {"load": os.getloadavg()[0], "cores": os.cpu_count()}
