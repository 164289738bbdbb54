"""Prepares a set once, from its authors' files, and verifies what was prepared.

What is written is a TFDS folder, DATA_DIR/NAME/VERSION. It appears when it is whole: a run that is
killed leaves a folder that the next one starts over.
"""

import collections
import contextlib
import fcntl
import functools
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fairkd_jax import buckets, files
from fairkd_jax.data.archives import Missing, Source
from fairkd_jax.data.prepared import Example, Original, Records, folder_of
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path

AT_ONCE = 256  # examples that are in memory
SHARD = 50_000  # examples in a file at most
Examples = Iterable[tuple[str, Example]]
Watch = Callable[[str, int | None, Examples], Examples]  # (split, how many if known, examples)


def prepare(
    original: Original,
    source: Source,
    data_dir: str,
    *,
    part: bool = False,
    watch: Watch = lambda split, total, examples: examples,
) -> Path:
    """Writes the folder unless it is there, and returns it.

    `part`: fewer examples than the literature reports are taken as they are, and so are splits
    without files. `watch` sees all examples on their way. Raises ValueError naming the file and
    line of what is wrong, before anything appears under the folder's name, or where another process
    prepares it.
    """
    with contextlib.suppress(ValueError):
        return folder_of(original, data_dir)
    top = buckets.path(data_dir)
    if not buckets.is_local(top):
        raise ValueError(f"data_dir = {top}: prepare on a disk, then copy the folder there")
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(dict(original.features(tfds.features)))
    started = _started(original, source, part)
    folder = top / original.name / original.version
    with _alone(folder.parent):
        for left in folder.parent.glob(f"incomplete.*{original.version}"):
            files.remove(left)
        with tfds.core.utils.incomplete_dir(folder) as incomplete:
            writer = _writer(original, features, incomplete)
            writer.initialize_splits([original.splits[split][0] for split in started])
            for split, examples in started.items():
                total = original.published.get(split, {}).get("examples")
                watched = watch(split, total, examples)
                checked = _checked(original, features, source, split, watched, part)
                while some := [*itertools.islice(checked, AT_ONCE)]:
                    writer.add_examples({original.splits[split][0]: some})
            writer.close_all()
    return folder


def _writer(original: Original, features: Any, folder: str) -> Any:
    """What writes splits into the folder as examples come: in their order, holding none of them.

    (TFDS's builders hold a split in memory to shuffle it, also where it is not to be shuffled, and
    beyond 1000 MiB need TensorFlow.)
    """
    import tensorflow_datasets as tfds

    identity = tfds.core.DatasetIdentity(
        original.name, tfds.core.Version(original.version), folder, __name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=features,
        citation=original.citation,
        disable_shuffling=True,  # in the order of the files
    )
    return tfds.core.SequentialWriter(info, SHARD, file_format="array_record")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises ValueError where another process prepares in the folder; one that died does not."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".preparing").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process prepares {folder}: wait until it ends") from error
        yield


def verify(original: Original, folder: Path) -> dict[str, int]:
    """Examples by split of a folder that is there, whose files are looked at but not read through.

    Raises ValueError for files that are missing, cut or not those that the folder was written with.
    """
    found = {}
    try:
        for split, names in original.splits.items():
            with contextlib.suppress(UnknownName):
                records = Records(folder, split, names)
                wanted = records.written
                if len(records) != wanted:
                    raise ValueError(f"{split} holds {len(records)} examples, not {wanted}")
                ends = [0, len(records) - 1] if len(records) else []
                records.rows(ends, *(k for k in records.features if k in ("label", "image")))
                found[split] = len(records)
    except Exception as error:
        raise ValueError(
            f"{folder} is damaged, remove it and prepare the set again: {error}"
        ) from error
    if not found:
        raise ValueError(f"{folder} has no split of {original.name}")
    return found


def _started(original: Original, source: Source, part: bool) -> dict[str, Examples]:
    """The examples of each split, of which the first has been read: so its files are there."""
    found, missing = {}, []
    for split in original.splits:
        examples = iter(original.read(source, split))
        try:
            first = [*itertools.islice(examples, 1)]
            if not first:
                raise Missing(f"{source.path} holds no example of split {split!r}")
        except Missing as error:
            missing.append(error)
        else:
            found[split] = itertools.chain(first, examples)
    if missing and not (part and found):
        more = "; --part prepares the splits that are there" if found else ""
        raise Missing(f"{missing[0]}{more}")
    return found


def _checked(
    original: Original,
    features: Any,
    source: Source,
    split: str,
    examples: Examples,
    part: bool,
) -> Iterator[Example]:
    """The examples of a split. Raises ValueError for a repeated key, a name that is none of its
    feature, a broken image, or counts that are not those published.
    """
    places: dict[Any, str] = {}
    named = {k: v.names for k, v in features.items() if getattr(v, "names", None)}
    expected = {k: _conditions(k) for k in original.published.get(split, {})}
    counts: collections.Counter[str] = collections.Counter()
    place = f"{source.path}"
    for place, example in examples:
        key = example[original.key]
        if key in places:
            raise ValueError(
                f"{original.key} {key!r} of {place} is that of {places[key]} too: which is right?"
            )
        places[key] = place
        for feature, names in named.items():
            if example[feature] not in names and example[feature] != -1:
                raise UnknownName(str(example[feature]), f"{feature} in {place}:", names)
        if "image" in example:
            _require_image(example["image"], place)
        for told, conditions in expected.items():
            counts[told] += all(str(_at(example, k)) == v for k, v in conditions.items())
        yield example
    published = original.published.get(split, {})
    wrong = [f"{k}: {counts[k]}, expected {n:,}" for k, n in published.items() if counts[k] != n]
    if wrong and not part:
        raise ValueError(
            f"split {split!r} of {original.name}, which ends with {place}, is not that of the "
            f"literature: {'; '.join(wrong)}. It may be cut, or another version; --part takes it "
            "as it is"
        )


def _conditions(told: str) -> Mapping[str, str]:
    """What a count of `Original.published` is of: feature -> value; of all examples nothing."""
    return {} if told == "examples" else dict(c.split("=", 1) for c in told.split(", "))


def _at(example: Example, feature: str) -> Any:
    """The value of a feature; "a/b" is b within a."""
    return functools.reduce(lambda part, key: part[key], feature.split("/"), example)


def _require_image(image: Any, place: str) -> None:
    """Raises ValueError for a file that does not decode whole."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image.getvalue())) as opened:
            opened.load()
    except Exception as error:
        raise ValueError(f"{place} is no whole image: {error}") from error
