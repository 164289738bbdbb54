"""Prepares a set once, from its authors' files, and verifies what was prepared.

What is written is a TFDS folder, DATA_DIR/NAME/VERSION. It appears when it is whole: a run that is
killed leaves a folder that the next one starts over.
"""

import collections
import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

from fairkd_jax import buckets, files
from fairkd_jax.data.archives import Source
from fairkd_jax.data.prepared import Example, Original, folder_of
from fairkd_jax.types import Path


def prepare(original: Original, source: Source, data_dir: str, *, part: bool = False) -> Path:
    """Writes the folder unless it is there, and returns it.

    `part`: fewer examples than the literature reports are taken as they are. Raises ValueError
    naming the file and line of what is wrong, before anything appears under the folder's name.
    """
    with contextlib.suppress(ValueError):
        return folder_of(original, data_dir)
    top = buckets.path(data_dir)
    if not buckets.is_local(top):
        raise ValueError(f"data_dir = {top}: prepare on a disk, then copy the folder there")
    import tensorflow_datasets as tfds

    for left in (top / original.name).glob(f"incomplete.*{original.version}"):
        files.remove(left)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = original.name
        VERSION = tfds.core.Version(original.version)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(dict(original.features(tfds.features))),
                citation=original.citation,
                disable_shuffling=True,  # in the order of the files
            )

        def _split_generators(self, manager: Any) -> dict[str, Any]:
            return {
                names[0]: self._generate_examples(split) for split, names in original.splits.items()
            }

        def _generate_examples(self, split: str) -> Iterator[tuple[int, Example]]:
            yield from enumerate(_checked(original, source, split, part))

    Builder(data_dir=top, file_format="array_record").download_and_prepare()
    return top / original.name / original.version


def _checked(original: Original, source: Source, split: str, part: bool) -> Iterator[Example]:
    """The examples of a split. Raises ValueError for a repeated key, a broken image, or counts
    that are not those published.
    """
    places: dict[Any, str] = {}
    expected = original.published.get(split, {})
    counts: collections.Counter[str] = collections.Counter()
    for place, example in original.read(source, split):
        key = example[original.key]
        if key in places:
            raise ValueError(
                f"{original.key} {key!r} of {place} is that of {places[key]} too: which is right?"
            )
        places[key] = place
        if "image" in example:
            _require_image(example["image"], place)
        counts["examples"] += 1
        counts.update(f"{k}={v}" for k, v in example.items() if f"{k}={v}" in expected)
        yield example
    wrong = [f"{k}: {counts[k]}, expected {n}" for k, n in expected.items() if counts[k] != n]
    if wrong and not part:
        raise ValueError(
            f"split {split!r} of {original.name} is not that of the literature: "
            f"{'; '.join(wrong)}. {source.path} may be cut or another version; --part takes it as "
            "it is"
        )


def _require_image(image: Any, place: str) -> None:
    """Raises ValueError for a file that does not decode whole."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image.getvalue())) as opened:
            opened.load()
    except Exception as error:
        raise ValueError(f"{place} is no whole image: {error}") from error


def features_of(folder: Path) -> Mapping[str, Any]:
    """The features of a prepared folder, by name."""
    return files.read_json(folder / "features.json")
