"""What is prepared is written as it is read: in its order, in files of bounded length."""

from layouts import snli
from tensorflow_datasets.core import shuffle

from fairkd_jax import registry
from fairkd_jax.data import preparing
from fairkd_jax.data.archives import Source
from fairkd_jax.data.prepared import Records


def test_a_split_larger_than_memory_is_written_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)  # beyond it TFDS needs TensorFlow
    monkeypatch.setattr(preparing, "AT_ONCE", 4)
    monkeypatch.setattr(preparing, "SHARD", 10)
    snli.write(tmp_path / "source")
    original = registry.plugin("sets", "snli").original
    seen = []

    def watch(split, total, examples):
        for place, example in examples:
            seen.append(example)
            yield place, example

    source = Source(tmp_path / "source")
    folder = preparing.prepare(original, source, str(tmp_path), part=True, watch=watch)
    shards = sorted(path.name for path in folder.glob("*-train.array_record*"))
    assert shards == [f"snli-train.array_record-0000{i}" for i in range(len(shards))]
    records = Records(folder, "train", original.splits["train"])
    train = seen[: len(records)]
    assert len(shards) == -(-len(train) // 10) > 1
    assert records.columns("premise", "hypothesis") == {
        name: [example[name] for example in train] for name in ("premise", "hypothesis")
    }
    assert sum(preparing.verify(original, folder).values()) == len(seen)
