"""How large a model and how many tokens a budget buys, by two published fits of the same law.

    loss(N, D) = E + A / N^alpha + B / D^beta,   spent C = 6 N D
    N = G (C/6)^(beta/(alpha+beta)),   D = (C/6) / N,   G = (alpha A / (beta B))^(1/(alpha+beta))

Both fits are used because they disagree (at 1e24 FLOP Hoffmann's rounded numbers give 98 tokens per parameter, the
refit of their data 18, which is what the paper's other methods say), and 6 N D = C holds for each exactly. The pair
"0.057 C^0.49 and 0.293 C^0.51" in circulation gives 6ND = 0.1 C and is not used.

A model that is used much should be smaller and trained longer than that: `cheapest_for_use` minimises 6 N D + 2 N D_use
at an equal predicted loss (Sardana et al. 2023, arXiv 2401.00448). Losses and everything beyond the fitted range (up to
16B parameters) are extrapolation, and are labelled so wherever they are shown.
"""

from __future__ import annotations

import math
from typing import NamedTuple

USUAL_RATIO = 20.0  # tokens per parameter, Hoffmann et al. 2022, table 3


class Fit(NamedTuple):
    """One published fit of the law."""

    name: str
    irreducible: float
    a: float
    b: float
    alpha: float
    beta: float
    source: str

    def loss(self, params: float, tokens: float) -> float:
        """Predicted loss in nats per token, an extrapolation beyond 16B parameters."""
        loss: float = self.irreducible + self.a / params**self.alpha + self.b / tokens**self.beta
        return loss

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens that `flops` are best spent on; 6 N D is `flops`."""
        sides = self.alpha + self.beta
        g = (self.alpha * self.a / (self.beta * self.b)) ** (1 / sides)
        params: float = g * (flops / 6) ** (self.beta / sides)
        return params, flops / 6 / params

    def tokens_for(self, loss: float, params: float) -> float:
        """Tokens that bring a model of `params` to `loss`; infinity where it cannot get there."""
        rest = loss - self.irreducible - self.a / params**self.alpha
        return (self.b / rest) ** (1 / self.beta) if rest > 0 else math.inf


HOFFMANN = Fit("Hoffmann 2022", 1.69, 406.4, 410.7, 0.34, 0.28, "arXiv 2203.15556, eq. 10")
BESIROGLU = Fit("Besiroglu 2024", 1.8172, 482.01, 2085.43, 0.3478, 0.3658, "arXiv 2404.10102, refit of the same data")
FITS = (BESIROGLU, HOFFMANN)


class Optimum(NamedTuple):
    """Parameters and tokens by one fit."""

    fit: str
    params: float
    tokens: float


class ForUse(NamedTuple):
    """The cheapest model of an equal predicted loss when `use_tokens` are to be produced with it.

    `saving`: share of the operations of training and use together. An extrapolation of the named fit.
    """

    fit: str
    params: float
    tokens: float
    use_tokens: float
    saving: float


def compute_optimal(flops: float) -> tuple[Optimum, ...]:
    """What `flops` are best spent on, by each fit."""
    return tuple(Optimum(fit.name, *fit.optimum(flops)) for fit in FITS)


def verdict(tokens_per_param: float) -> str:
    """One line on the ratio of tokens to parameters."""
    times = tokens_per_param / USUAL_RATIO
    if times < 0.5:
        return f"too few tokens by {1 / times:.3g}x: a smaller model is better"
    if times <= 2:
        return "near compute-optimal (20 per parameter)"
    return f"{times:,.0f}x the compute-optimal tokens: dear to train, cheap to use"


def cheapest_for_use(params: float, tokens: float, use_tokens: float, fit: Fit = BESIROGLU) -> ForUse:
    """The model of the same predicted loss that costs least to train and to use.

    The total is convex in log N between the smallest model that can reach the loss and one a hundred times larger, so
    a golden-section search finds it.
    """
    loss = fit.loss(params, tokens)

    def total(log_params: float) -> float:
        n = math.exp(log_params)
        return 6 * n * fit.tokens_for(loss, n) + 2 * n * use_tokens

    smallest = (fit.a / (loss - fit.irreducible)) ** (1 / fit.alpha)
    low, high = math.log(smallest * (1 + 1e-9)), math.log(params * 100)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if total(left) <= total(right) else (left, high)
    best = (low + high) / 2
    saving = 1 - total(best) / (6 * params * tokens + 2 * params * use_tokens)
    n = math.exp(best)
    return ForUse(fit.name, n, fit.tokens_for(loss, n), use_tokens, saving)
