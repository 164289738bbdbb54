"""The last layer of deep feature reweighting (arXiv 2204.02937), as its authors' code fits it.

Features are standardised by the mean and the (biased) deviation of the training split; then
`||w||_1 + |b| + C sum log(1 + exp(-y f))`, in which liblinear penalises the intercept too, on
subsets with as many examples of each group, and the mean of all solutions. C is the one with the
largest worst-group accuracy on half of the examples, when fitted to the other half. The authors
choose it under the deviations of that half; here the same features serve for both.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression

from fairkd_jax.debias.inference import Inference, balanced, require_affine


def standardiser(
    features: Float[np.ndarray, "N D"],
) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D"]]:
    """(mean, deviation) of the columns, float64; 1 for a column that does not vary."""
    features = np.asarray(features, np.float64)
    deviation = features.std(axis=0)
    return features.mean(axis=0), np.where(deviation > 0, deviation, 1.0)


def fitted(
    x: Float[np.ndarray, "n D"],
    label: Int[np.ndarray, "n"],
    classes: int,
    strength: float,
    tolerance: float,
) -> tuple[Float[np.ndarray, "K D"], Float[np.ndarray, "K"]]:
    """(coefficients, intercepts) of label 1 against 0, K = 1; of each label against others, K = C.

    A label without examples is never the answer.
    """
    found = []
    for y in range(classes) if classes > 2 else (1,):
        if 0 < np.count_nonzero(label == y) < len(label):
            solver = LogisticRegression(
                C=strength, l1_ratio=1, solver="liblinear", tol=tolerance, max_iter=1000
            )
            solver = solver.set_params(random_state=0).fit(x, label == y)
            found.append((solver.coef_[0], solver.intercept_[0]))
        else:
            found.append((np.zeros(x.shape[1]), -100.0 if (label != y).all() else 100.0))
    coefficients, intercepts = zip(*found)
    return np.array(coefficients), np.array(intercepts)


def as_head(
    coefficients: Float[np.ndarray, "K D"],
    intercepts: Float[np.ndarray, "K"],
    mean: Float[np.ndarray, "D"],
    deviation: Float[np.ndarray, "D"],
) -> dict[str, np.ndarray]:
    """The head, on features as they are, whose logits differ by the decision values."""
    if len(coefficients) == 1:  # two logits, half the value up and half of it down
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel = (coefficients / deviation).T
    return {"head/kernel": kernel, "head/bias": intercepts - mean @ kernel}


def worst_accuracy(
    head: dict[str, np.ndarray],
    features: Float[np.ndarray, "N D"],
    label: Int[np.ndarray, "N"],
    group: Int[np.ndarray, "N"],
) -> float:
    """The accuracy in the group where it is least."""
    right = np.argmax(features @ head["head/kernel"] + head["head/bias"], axis=1) == label
    return min(right[group == g].mean() for g in np.unique(group))


@dataclasses.dataclass(frozen=True)
class BalancedLogistic(Inference):
    """A head from `resamples` group-balanced subsets; of more than two labels, one against others.

    Their decision values are then the logits, whose probabilities are not those of a softmax fit.
    """

    tables: ClassVar = {"features": ("features",), "train": ("features",)}
    elsewhere = ("train",)
    sees_attributes = True
    replaces = "head/.*"

    strengths: tuple[float, ...] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)  # C, to choose from
    resamples: int = 20
    tolerance: float = 1e-4

    def __post_init__(self):
        if not self.strengths or min(*self.strengths, self.tolerance, self.resamples, 1) <= 0:
            raise ValueError(f"{self}: expected numbers above 0")

    def check(self, examples):
        """Raises ValueError for a group of which there are no two examples, to choose C by."""
        counts = np.bincount(examples.columns["group"], minlength=len(examples.info.group_names))
        if few := [name for name, n in zip(examples.info.group_names, counts) if n < 2]:
            raise ValueError(
                f"balanced_logistic needs two examples of each group at least; of {few} it is "
                f"given fewer: there are {counts.tolist()} of {list(examples.info.group_names)}"
            )

    def check_shapes(self, shapes):
        """Raises ValueError for a head that is more than one product."""
        require_affine(self, shapes)

    def variables(self, old, examples, tables, seed):
        """The head of the mean coefficients."""
        x = np.asarray(tables["features"]["features"], np.float64)
        label, group = examples.columns["label"], examples.columns["group"]
        scaled = standardiser(tables["train"]["features"])
        generator = np.random.default_rng(seed)
        strength = self.strengths[0]
        if len(self.strengths) > 1:
            strength = self.choose(x, label, group, scaled, len(old["head/bias"]), generator)
        orders = (generator.permutation(len(group)) for _ in range(self.resamples))
        subsets = [balanced(group, order) for order in orders]
        return self.fit(x, label, subsets, scaled, len(old["head/bias"]), strength)

    def fit(self, x, label, subsets, scaled, classes, strength):
        """The head of the mean solution on some subsets, rows of `x` [N, D]."""
        mean, deviation = scaled
        z = (x - mean) / deviation
        found = [fitted(z[s], label[s], classes, strength, self.tolerance) for s in subsets]
        coefficients, intercepts = (np.mean(part, axis=0) for part in zip(*found))
        return as_head(coefficients, intercepts, mean, deviation)

    def choose(self, x, label, group, scaled, classes, generator):
        """C: fitted to a balanced subset of half of each group, judged by the other half."""
        order = generator.permutation(len(group))
        place = np.zeros(len(group), np.int64)
        for g in np.unique(group):
            rows = order[group[order] == g]
            place[rows] = np.arange(len(rows)) % 2
        first, second = np.flatnonzero(place == 0), np.flatnonzero(place == 1)
        subset = first[balanced(group[first], generator.permutation(len(first)))]

        def judged(strength: float) -> float:
            head = self.fit(x, label, [subset], scaled, classes, strength)
            return worst_accuracy(head, x[second], label[second], group[second])

        return max(self.strengths, key=judged)
