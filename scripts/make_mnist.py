#!/usr/bin/env python3
"""Make the numbers that the tests of MNIST's networks compare with.

Writes tests/fixtures/mnist.json: for each network of `zotune --lab mnist`, computed by PyTorch in
float64 with weights w[i] = a sin(0.7 i + 0.3 k), for the k-th tensor, a = 2 / sqrt(inputs), and
three images with pixels 0.5 + 0.5 sin(0.37 i + 1.1 image) and labels 3, 1, 4:
  logits      [3][10]
  loss        the mean cross-entropy
  gradients   of the loss by each tensor: its sum, its norm, and its elements 0, 1/7, 2/7 ... of the way
  margin      of image 0 with target 5: max_{j != 5} log p_j - log p_5
  by_image    the gradient of that by the 784 pixels, likewise

Run:  python scripts/make_mnist.py > tests/fixtures/mnist.json
Needs torch.
"""

import json

import torch
from torch import nn

torch.set_default_dtype(torch.float64)


class Scaled(nn.Module):
    def forward(self, x):
        return (x - 0.1307) / 0.3081


def head(features):
    return [nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 10), nn.LogSoftmax(-1)]


NETWORKS = {
    "mlp": nn.Sequential(Scaled(), nn.Flatten(), *head(784)),
    "cnn": nn.Sequential(
        Scaled(), nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *head(9216)
    ),
}
LABELS = torch.tensor([3, 1, 4])
TARGET = 5


def fill(network):
    """The weights of the formula."""
    inputs = 1
    for k, p in enumerate(network.parameters()):
        inputs = p[0].numel() if p.dim() > 1 else inputs
        values = 2 / inputs**0.5 * torch.sin(0.7 * torch.arange(p.numel()) + 0.3 * k)
        p.data = values.float().double().reshape(p.shape)


def shown(gradient):
    flat = gradient.flatten()
    return {"sum": flat.sum().item(), "norm": flat.norm().item(), "elements": [flat[len(flat) * i // 7].item() for i in range(7)]}


def numbers(network):
    fill(network)
    i = torch.arange(784)
    pixels = torch.stack([0.5 + 0.5 * torch.sin(0.37 * i + 1.1 * image) for image in range(3)])
    x = pixels.float().double().reshape(3, 1, 28, 28).requires_grad_()
    logits = network[:-1](x)
    loss = nn.functional.cross_entropy(logits, LABELS)
    gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    log_p = network(x)[0]
    margin = log_p[torch.arange(10) != TARGET].max() - log_p[TARGET]
    (by_image,) = torch.autograd.grad(margin, x)
    return {
        "logits": logits.tolist(),
        "loss": loss.item(),
        "gradients": [shown(g) for g in gradients],
        "margin": margin.item(),
        "by_image": shown(by_image[0]),
    }


if __name__ == "__main__":
    print(json.dumps({name: numbers(network) for name, network in NETWORKS.items()}, indent=1))
