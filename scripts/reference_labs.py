#!/usr/bin/env python3
"""Curves of the synthetic labs, and their alignment with true gradients, from the definitions alone, for the tests to compare with.

Functions, estimator and rules are written here in NumPy, in double precision and independently of the program; the directions are
those of reference_rules.py. Function values are rounded to f32, as the program's log has them.

Run:  python scripts/reference_labs.py > tests/fixtures/labs.json        Needs numpy.
"""

import json

import numpy as np

from reference_rules import direction, mix

D, STEPS, EVERY, K, MU, SEED, B1, B2, ZETA = 64, 120, 20, 3, 5e-3, 3, 0.9, 0.99, 1e-8
RATES = {"zo-sgd": 1e-3, "zo-sign": 1e-2, "zo-rmsprop": 1e-2, "zo-adamm": 1e-2, "r-adazo": 1e-2}


def quadratic(x):
    return 0.5 * np.sum(x**2), x


def cubic(x):
    return np.sum(np.abs(x) ** 3 + x**2 / 2), 3 * x * np.abs(x) + x


def levy(x):
    w = 1 + (x - 1) / 4
    a, b = np.pi * w[:-1] + 1, 2 * np.pi * w[-1]
    f = np.sin(np.pi * w[0]) ** 2 + np.sum((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(a) ** 2)) + (w[-1] - 1) ** 2 * (1 + np.sin(b) ** 2)
    g = np.zeros_like(x)
    g[0] += np.pi * np.sin(2 * np.pi * w[0])
    g[:-1] += 2 * (w[:-1] - 1) * (1 + 10 * np.sin(a) ** 2) + (w[:-1] - 1) ** 2 * 10 * np.pi * np.sin(2 * a)
    g[-1] += 2 * (w[-1] - 1) * (1 + np.sin(b) ** 2) + (w[-1] - 1) ** 2 * 2 * np.pi * np.sin(2 * b)
    return f, g / 4


def rosenbrock(x):
    off = x[1:] - x[:-1] ** 2
    g = np.zeros_like(x)
    g[:-1] += -400 * x[:-1] * off - 2 * (1 - x[:-1])
    g[1:] += 200 * off
    return np.sum(100 * off**2 + (1 - x[:-1]) ** 2), g


def cosine(a, b):
    return a @ b / np.sqrt(a @ a * (b @ b))


def run(f, rule):
    x = direction(mix(SEED ^ mix(0x574741525453)), "x", D)
    # The slope of Rosenbrock is a hundred times as steep.
    lr = RATES[rule] / (100 if f is rosenbrock and rule == "zo-sgd" else 1)
    m, v, of_m, of_g, truth = (np.zeros(D) for _ in range(5))
    losses, alignment = [f(x)[0]], []
    for t in range(1, STEPS + 1):
        base, g = np.float32(f(x)[0]), np.zeros(D)
        for k in range(K):
            z = direction(mix(mix(mix(SEED) ^ t) ^ k), "x", D)
            u = z / np.linalg.norm(z)
            g += D / K * (float(np.float32(f(x + MU * u)[0])) - float(base)) / MU * u
        true = f(x)[1]
        m = B1 * m + (1 - B1) * g
        of_m, of_g, truth = (B2 * old + (1 - B2) * new**2 for old, new in ((of_m, m), (of_g, g), (truth, true)))
        v = of_m if rule == "r-adazo" else of_g
        step = {"zo-sgd": g, "zo-sign": np.sign(g), "zo-rmsprop": g / np.sqrt(v + ZETA)}.get(rule, m / np.sqrt(v + ZETA))
        x = x - lr * step
        if t % EVERY == 0:
            losses.append(f(x)[0])
            errors = [np.linalg.norm(w - truth) / np.linalg.norm(truth) for w in (of_m, of_g)]
            alignment.append([cosine(g, true), cosine(m, true), *errors])
    rounded = [[float(f"{number:.7g}") for number in numbers] for numbers in alignment]
    return {"learning_rate": lr, "losses": [float(f"{loss:.8g}") for loss in losses], "alignment": rounded if rule == "r-adazo" else None}


def main():
    np.seterr(over="ignore")
    out = {"made_with": f"numpy {np.__version__}, float64", "dimension": D, "max_steps": STEPS, "every": EVERY, "num_directions": K,
           "zo_eps": MU, "seed": SEED,
           "runs": {f.__name__: {rule: run(f, rule) for rule in RATES} for f in (quadratic, cubic, levy, rosenbrock)}}
    print(json.dumps(out, indent=1))


main()
