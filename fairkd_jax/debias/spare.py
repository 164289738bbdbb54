"""SPARE (arXiv 2305.18761): what a net learns early is spurious, so clusters of it are balanced.

Early answers of an ERM net are clustered class by class (`infer/clusters.py`); a second net learns
by the plain mean over examples drawn, with replacement, in proportion to `n_cluster^-power`.
"""

from flax import struct

from fairkd_jax.config import InferStage, Stage
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.types import Array


@struct.dataclass
class SPARE(Debiaser):
    """Only stages; a table says how examples are drawn. SpuCo's experiments have two clusters."""

    tables = ("draw",)
    search = {"early_share": (0.02, 0.05, 0.1, 0.2)}

    early_share: Array = 0.05  # of the steps: how long the first net trains (one or two epochs)
    fewest_clusters: Array = 2  # of a class; as many as the silhouette likes best
    most_clusters: Array = 5
    apart: Array = 0.9  # silhouette from which on the power is 1, and not 2

    def stages(self, base: Stage) -> Stage:
        """A first net, its answers, their clusters, and the base, which draws by them."""
        config = base.config
        infer = {
            "name": "clusters",
            "fewest": int(self.fewest_clusters),
            "most": int(self.most_clusters),
            "apart": float(self.apart),
        }
        inputs = {"early": base.first_net(self.early_share).asked("logits")}
        return base.hang(draw=Stage("infer", InferStage(config.data, infer, config.seed), inputs))
