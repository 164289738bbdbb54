"""Given balanced subsets, fitted one by one to the solver's limit; the head of their mean."""

import jax
import jax.numpy as jnp
import numpy as np
from method_oracles.cases import Case, on_host

from fairkd_jax.debias.infer.balanced_logistic import as_head, fitted, standardiser


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    subsets, groups = x["subset_index"].shape[0], 4
    features = x["x_train"].shape[1]

    def fit(x_train, x_val, y_val, g_val, x_test, y_test, g_test, subset_index):
        mean, deviation = standardiser(x_train)
        z = (np.float64(x_val) - mean) / deviation
        solved = [fitted(z[s], y_val[s], 2, hyper["C"], 1e-12) for s in subset_index]
        coefficients, intercepts = (np.array(part) for part in zip(*solved))
        objective = []
        for s, (w,), (b,) in zip(subset_index, coefficients, intercepts):
            margins = np.where(y_val[s] == 1, 1, -1) * (z[s] @ w + b)
            lost = hyper["C"] * np.logaddexp(0, -margins).sum()
            objective.append(np.abs(w).sum() + np.abs(b) + lost)
        head = as_head(coefficients.mean(0), intercepts.mean(0), mean, deviation)
        answers = np.argmax(np.float64(x_test) @ head["head/kernel"] + head["head/bias"], axis=1)
        right = answers == y_test
        found = {
            "coef_tight": coefficients.mean(0)[0],
            "intercept_tight": intercepts.mean(),
            "coef_per_resample_tight": coefficients[:, 0],
            "objective_tight": np.array(objective),
            "test_group_acc_code": np.array([right[g_test == g].mean() for g in range(groups)]),
            "test_mean_acc_code": right.mean(),
        }
        return jax.tree.map(lambda v: np.asarray(v, case.dtype), found)

    shapes = {
        "coef_tight": (features,),
        "intercept_tight": (),
        "coef_per_resample_tight": (subsets, features),
        "objective_tight": (subsets,),
        "test_group_acc_code": (groups,),
        "test_mean_acc_code": (),
    }
    like = {k: jax.ShapeDtypeStruct(shape, jnp.dtype(case.dtype)) for k, shape in shapes.items()}
    names = ("x_train", "x_val", "y_val", "g_val", "x_test", "y_test", "g_test", "subset_index")
    return on_host(fit, like, *(x[name] for name in names))
