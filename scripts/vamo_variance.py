#!/usr/bin/env python3
"""How much of a mini-batch's variance VAMO's correction leaves, with shared directions and with one set of directions for each example.

For v = g_I - alpha (P g_I - P g), g_I the gradient of a mini-batch I and g that of all examples, at the snapshot itself; P g_i is the
two-point estimate of the gradient of example i along q directions on the sphere, in the limit of a small mu: P g_i = (d/q) sum_j u_j (u_j . g_i).
Shared directions are the same u_j for every example. Printed is E|v - g|^2 / E|g_I - g|^2 at alpha = q / (d + q - 1), beside the closed form
1 - 2 alpha + alpha^2 (d + q - 1) / q of shared directions. The gradients are those of zotune's lab least-squares at x = 0.

Run:  python scripts/vamo_variance.py [--d 100] [--n 1000] [--batch-size 16] [--draws 300]
"""

import argparse

import numpy as np


def sphere(random, *shape):
    z = random.standard_normal(shape)
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description="How much of a mini-batch's variance VAMO's correction leaves.")
    parser.add_argument("--d", type=int, default=100)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--draws", type=int, default=300)
    args = parser.parse_args()
    d, n, random = args.d, args.n, np.random.default_rng(0)

    # f_i(x) = (y_i - s(a_i . x))^2 at x = 0, where s = 1/2 and s' = 1/4.
    a = random.standard_normal((n, d))
    y = (a @ random.standard_normal(d) > 0).astype(float)
    wrong = random.permutation(n)[:n // 10]
    y[wrong] = 1 - y[wrong]
    gradients = 2 * (0.5 - y)[:, None] * 0.25 * a
    g = gradients.mean(0)

    print("| q | alpha | closed form | shared directions | directions of each example |\n|---|---|---|---|---|")
    for q in (1, 5, 25, 100):
        alpha = q / (d + q - 1)
        plain, shared, own = 0.0, 0.0, 0.0
        for _ in range(args.draws):
            batch = random.permutation(n)[:args.batch_size]
            off = gradients[batch].mean(0) - g
            plain += off @ off
            u = sphere(random, q, d)
            v = off - alpha * d / q * (u.T @ (u @ off))
            shared += v @ v
            u = sphere(random, n, q, d)
            slopes = np.einsum("iqd,id->iq", u, gradients)
            estimates = d / q * np.einsum("iqd,iq->id", u, slopes)
            v = off - alpha * (estimates[batch].mean(0) - estimates.mean(0))
            own += v @ v
        closed = 1 - 2 * alpha + alpha**2 * (d + q - 1) / q
        print(f"| {q} | {alpha:.3f} | {closed:.3f} | {shared / plain:.3f} | {own / plain:.3f} |")


if __name__ == "__main__":
    main()
