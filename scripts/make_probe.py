#!/usr/bin/env python3
"""Logistic regressions of scikit-learn, for the tests to compare with.

Features are drawn here, with three decimals, so that they are the same numbers in f32. One of them is constant, one has a mean far
from 0. They are standardised by StandardScaler. scikit-learn minimises C sum_i loss_i + |w|^2 / 2; zotune 1/n sum_i loss_i + l2 / 2 |w|^2
with weights for every class. So C = 1 / (n l2), and for two classes, where scikit-learn has one vector, the difference of zotune's two,
C = 2 / (n l2).

Run:  python scripts/make_probe.py > tests/fixtures/probe.json        Needs numpy and scikit-learn.
"""

import json

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


def case(rng, classes, rows, width):
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    features = rng.normal(size=(rows, width)) + 0.7 * labels[:, None] * rng.normal(size=width)
    features[:, 1] += 30.0
    features[:, 2] = 0.25
    features = np.round(features, 3).astype(np.float32)
    standard = StandardScaler().fit(features.astype(np.float64))
    z = standard.transform(features.astype(np.float64))
    fits = []
    for l2 in (10.0, 0.1, 1e-3):
        c = (2 if classes == 2 else 1) / (rows * l2)
        model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-13, max_iter=1000).fit(z, labels)
        fits.append({"l2": l2, "log_probabilities": model.predict_log_proba(z).tolist()})
    return {"classes": classes, "width": width, "labels": labels.tolist(),
            "features": [[float(f"{x:.3f}") for x in row] for row in features], "mean": standard.mean_.tolist(), "fits": fits}


def main():
    rng = np.random.default_rng(0)
    cases = [case(rng, 2, 40, 5), case(rng, 3, 60, 70)]
    text = json.dumps({"made_with": f"scikit-learn {sklearn.__version__}, numpy {np.__version__}", "cases": cases})
    print(text.replace("], [", "],\n["))


if __name__ == "__main__":
    main()
