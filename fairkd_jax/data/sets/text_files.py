"""Single texts from the user's own files, each with a label: toxicity, reviews and sets like them.

{"name": "text_files", "folder": F, "test": "toxicity.csv", "text": "comment_text",
 "label_names": ("nontoxic", "toxic"), "attribute": "mentions_identity",
 "attribute_names": ("0", "1"), "suggests": {"0": "nontoxic", "1": "toxic"},
 "subpopulations": {"test": "identity"}}
"""

import dataclasses
from typing import ClassVar

from fairkd_jax.data.columns import ColumnFiles
from fairkd_jax.data.dataset import DataSet


@dataclasses.dataclass(frozen=True)
class TextFiles(ColumnFiles, DataSet):
    """Splits of texts from files with columns; all other options are those of `data/columns.py`.

    Raises as `nli_files` does.
    """

    text: str = "text"  # name of a column

    inputs: ClassVar[tuple[str, ...]] = ("text",)
