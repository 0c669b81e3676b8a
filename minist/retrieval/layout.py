"""Many dimensions drawn in two: PCA keeps the directions in which texts differ most, t-SNE keeps their neighbours.

t-SNE (van der Maaten and Hinton 2008) moves places y in the plane until neighbours are likely alike:

    p_j|i = exp(-|x_i - x_j|^2 b_i) / sum over k of the same    b_i: so that i has `perplexity` neighbours in effect
    p_ij  = (p_j|i + p_i|j) / 2N
    q_ij  = w_ij / sum of all w,  w_ij = 1 / (1 + |y_i - y_j|^2)    its long tail leaves room for those that are far

by the gradient of KL(P | Q), 4 sum_j (p_ij - q_ij) w_ij (y_i - y_j). It compares all with all, so of more texts than
LANDMARKS only so many are laid out, and each of the others is put among those that are nearest to it."""

import math

import torch
from torch import Tensor

from minist.progress import Update
from minist.retrieval.search import search

LANDMARKS = 1500
STEPS, EARLY = 400, 100  # steps; so many at first, in which neighbours pull harder, that clusters may pass one another
PULL = 12.0  # how much harder
NEAREST, SHARPNESS = 5, 20.0  # landmarks that place another text, and how much more the most similar one counts


def pca(x: Tensor, dims: int = 2) -> Tensor:
    """[N, D] -> [N, dims], along the directions of largest variance; each so that its largest weight is positive."""
    x = x.double() - x.double().mean(0)
    directions = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)[:, :dims]  # they come with the smallest first
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return (x @ (directions * largest.sign())).float()


def lay_out(x: Tensor, perplexity: float = 30.0, seed: int = 0, done: Update = lambda steps: None) -> Tensor:
    """[N, D] of length one -> places [N, 2], the same for the same seed. `done` hears of each of STEPS steps."""
    if len(x) <= LANDMARKS:
        return tsne(x, perplexity, done)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:LANDMARKS].sort().values
    places = tsne(x[chosen], perplexity, done)
    scores, rows = search(x, x[chosen], NEAREST, "dot")
    found = ((scores * SHARPNESS).softmax(1)[:, :, None] * places[rows]).sum(1)
    return found.index_copy(0, chosen, places)


def tsne(x: Tensor, perplexity: float, done: Update) -> Tensor:
    """The places of few texts, from those of PCA on."""
    n = len(x)
    if n <= 3:  # there is nothing to be neighbour of
        return torch.eye(3, 2)[:n]
    p, y = neighbours(x, min(perplexity, (n - 1) / 3)), pca(x)
    y, speed = y / y.std().clamp_min(1e-12) * 1e-4, torch.zeros(n, 2)
    rate = max(n / PULL / 4, 50.0)  # Belkina et al. 2019
    for step in range(STEPS):
        w = torch.cdist(y, y).square_().add_(1).reciprocal_().fill_diagonal_(0.0)  # in place: it is all memory traffic
        force = (p * PULL if step < EARLY else p).sub(w, alpha=1 / w.sum().item()).mul_(w)
        slope = 4 * (force.sum(1, keepdim=True) * y - force @ y)
        speed = speed * (0.5 if step < EARLY else 0.8) - rate * slope
        y = y + speed
        done(1)
    return y - y.mean(0)


def neighbours(x: Tensor, perplexity: float) -> Tensor:
    """p_ij [N, N] of the rows of x; the entropy of each p_.|i is log(perplexity), found by halving an interval."""
    far = torch.cdist(x, x).square()
    far -= (far + far.max() * torch.eye(len(x))).amin(1, keepdim=True)  # the same p, and the nearest is never 0 / 0
    low, high = torch.zeros(len(x), 1), torch.full((len(x), 1), 1e6)
    for _ in range(50):
        b = (low + high) / 2
        p = (-far * b).exp().fill_diagonal_(0.0)
        p = p / p.sum(1, keepdim=True)
        entropy = -(p * p.clamp_min(1e-30).log()).sum(1, keepdim=True)
        wide = entropy > math.log(perplexity)  # too many neighbours: narrower
        low, high = torch.where(wide, b, low), torch.where(wide, high, b)
    return (p + p.T) / (2 * len(x))
