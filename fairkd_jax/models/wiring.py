"""What writes into the residual streams of a net and what reads from them: the edges of a circuit.

Where a block reads its own normalisation of a stream and adds to the stream (pre-LN), each reader
sees the sum of all that was written before it, so an edge is well defined: it carries what one
writer added, to one reader (arXiv 2304.14997, section 2; arXiv 2403.17806, section 2). Where sums
are normalised before they go on (post-LN), no reader sees what a writer added, and there are none.
"""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Writer:
    """A tap whose values are added to a stream."""

    tap: str  # of the node: what is patched, "block07/head_out"
    stream: str = ""
    heads: int = 0  # each is a node by itself; 0: it has none

    @property
    def adds(self) -> str:
        """The tap, or the seam, of what it adds to the stream."""
        return self.tap.replace("head_out", "head_writes")


@dataclasses.dataclass(frozen=True)
class Reader:
    """A seam of the tape at which a node reads a stream."""

    seam: str
    feeds: str  # tap of the node; "": the logits
    stream: str = ""
    heads: int = 0


Step = Writer | Reader


def attention(block: str, heads: int, stream: str = "", cross: str | None = None) -> Iterator[Step]:
    """Queries, keys, values, what heads write; keys and values of the stream `cross`, if given."""
    name = "" if cross is None else "cross_"
    source = stream if cross is None else cross
    node = f"{block}/{name}head_out"
    for part, read in (("query", stream), ("key", source), ("value", source)):
        yield Reader(f"{block}/{name}{part}_in", node, read, heads)
    yield Writer(node, stream, heads)


def perceptron(block: str, stream: str = "") -> Iterator[Step]:
    """What it reads, what it writes."""
    yield Reader(f"{block}/mlp_in", f"{block}/mlp_out", stream)
    yield Writer(f"{block}/mlp_out", stream)
