#!/usr/bin/env python3
"""Trajectories of R-AdaZO and ZO-AdaMM, from the definitions alone, for the tests to compare with.

The noise (Threefry-2x32-13, Box-Muller) and both rules are written here in NumPy in a few lines, in double precision and
independently of the program.

Run:  python scripts/reference_rules.py > tests/fixtures/rules.json        Needs numpy.
"""

import json

import numpy as np

M64 = (1 << 64) - 1


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & M64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def fnv1a(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & M64
    return h


def threefry(key, c0, c1):
    keys = [key[0], key[1], 0x1BD11BDA ^ key[0] ^ key[1]]
    x0, x1 = (c0 + np.uint32(keys[0])).astype(np.uint32), (c1 + np.uint32(keys[1])).astype(np.uint32)
    for r in range(13):
        x0 = x0 + x1
        n = np.uint32([13, 15, 26, 6, 17, 29, 16, 24][r % 8])
        x1 = ((x1 << n) | (x1 >> (np.uint32(32) - n))) ^ x0
        if r % 4 == 3:
            x0 = x0 + np.uint32(keys[(r // 4 + 1) % 3])
            x1 = x1 + np.uint32(keys[(r // 4 + 2) % 3]) + np.uint32(r // 4 + 1)
    return x0, x1


def direction(seed, name, length):
    """Groups of 128: 32 counters give 64 words, their first ones and then their second ones, and each word two elements, 64 apart."""
    k = mix(mix(seed) ^ fnv1a(name))
    groups = -(-length // 128)
    counters = np.arange(groups * 32, dtype=np.uint32)
    a, b = threefry((k & 0xFFFFFFFF, k >> 32), counters, np.zeros_like(counters))
    words = np.stack([a, b]).reshape(2, groups, 32).transpose(1, 0, 2).reshape(groups, 64).astype(np.int64)
    radius = np.sqrt(-2 * np.log(((words >> 12) + 0.5) / 2**20))
    angle = np.pi / 4 * ((words & 511) + 0.5) / 512
    exchanged = words >> 9 & 1 == 1
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = np.where(exchanged, sin, cos), np.where(exchanged, cos, sin)
    signs = [1 - 2 * (words >> bit & 1) for bit in (10, 11)]
    return np.stack([radius * signs[0] * first, radius * signs[1] * second], 1).reshape(-1)[:length]


def main():
    np.seterr(over="ignore")
    length, steps, lr, b1, b2, zeta = 300, 20, 0.01, 0.9, 0.99, 1e-8
    coeffs = [[3 * np.sin(7 * t + k) for k in range(2)] for t in range(1, steps + 1)]
    out = {"made_with": f"numpy {np.__version__}, float64", "name": "w", "length": length, "learning_rate": lr,
           "coeffs": coeffs, "seeds": [[10 * t + k for k in range(2)] for t in range(1, steps + 1)], "theta": {}}
    for rule in ["r-adazo", "zo-adamm"]:
        theta, m, v = np.sin(np.arange(length)), np.zeros(length), np.zeros(length)
        for seeds, cs in zip(out["seeds"], coeffs):
            g = sum(c * direction(s, "w", length) for s, c in zip(seeds, cs))
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * (m if rule == "r-adazo" else g) ** 2
            theta = theta - lr * m / np.sqrt(v + zeta)
        out["theta"][rule] = [round(x, 8) for x in theta.tolist()]
    print(json.dumps(out))


if __name__ == "__main__":
    main()
