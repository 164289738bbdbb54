"""Clusters of early answers (SPARE, arXiv 2305.18761), and how often each is to be drawn.

k-means on the logits of each class, with as many clusters as the silhouette likes best. An example
is then drawn in proportion to `n_cluster^-power`, each class as often as another, with a power of 1
where clusters are well apart (silhouette from .9 on), else of 2.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from fairkd_jax.debias.inference import Inference

LOOKED_AT = 2000  # examples of a class for its silhouette, whose cost grows with their square


def sampling_weights(
    cluster: Int[np.ndarray, "N"], label: Int[np.ndarray, "N"], powers: Float[np.ndarray, "C"]
) -> Float[np.ndarray, "N"]:
    """`n_cluster^-power` of the label's power, divided by its sum over the label's examples.

    `cluster` counts within each label.
    """
    _, place, size = np.unique(
        np.stack([label, cluster]), axis=1, return_inverse=True, return_counts=True
    )
    weight = size[place.ravel()] ** -powers[label]
    return weight / np.bincount(label, weight)[label]


def clustered(
    answers: Float[np.ndarray, "n F"], counts: range, seed: int
) -> tuple[Int[np.ndarray, "n"], float]:
    """(clusters, silhouette) of the number of clusters with the largest one.

    One cluster, and 1, where there are too few different answers to tell any apart.
    """
    best = np.zeros(len(answers), np.int64), -np.inf
    different = len(np.unique(answers, axis=0))
    for count in (k for k in counts if k < different):
        found = KMeans(count, random_state=seed).fit_predict(answers)
        size = min(LOOKED_AT, len(answers))
        chosen = np.random.default_rng(seed).permutation(len(answers))[:size]
        apart = -1.0
        if 1 < len(np.unique(found[chosen])) < size:
            apart = float(silhouette_score(answers[chosen], found[chosen]))
        if apart > best[1]:
            best = found, apart
    return best if best[1] > -np.inf else (best[0], 1.0)


@dataclasses.dataclass(frozen=True)
class Clusters(Inference):
    """Columns "cluster", counted within each label, and "weight", how often it is drawn."""

    tables: ClassVar = {"early": ("logits",)}

    fewest: int = 2  # clusters of a class
    most: int = 5
    apart: float = 0.9  # silhouette from which on the power is 1

    def __post_init__(self):
        if not 2 <= self.fewest <= self.most:
            raise ValueError(
                f"clusters: fewest = {self.fewest}, most = {self.most}, expected numbers from 2 on"
            )

    def columns(self, examples, tables, seed):
        """Clusters of the logits, class by class."""
        label, counts = examples.columns["label"], range(self.fewest, self.most + 1)
        cluster = np.zeros(len(label), np.int64)
        powers = np.ones(len(examples.info.label_names))
        for y in np.unique(label):
            rows = label == y
            cluster[rows], apart = clustered(tables["early"]["logits"][rows], counts, seed)
            powers[y] = 1.0 if apart >= self.apart else 2.0
        return {"cluster": cluster, "weight": sampling_weights(cluster, label, powers)}
