"""A temperature, and the class frequencies that a network assumes, fitted to its logits: functions of tensors.

A network's probabilities are those of a world with certain class frequencies: the training ones after plain cross
entropy, about equal ones behind a rebalanced loss. With its logits z, the frequencies p of that world and q of another,

    P(y | x) ~ exp(z_y / T) * q_y / p_y        Saerens et al., Neural Computation 2002

holds in the other one. T (temperature scaling, Guo et al., ICML 2017, arXiv:1706.04599) and p are fitted together by
maximum likelihood on images that were not trained on, q being their own frequencies (Alexandari et al., ICML 2020,
arXiv:1901.06852): a temperature fitted alone would take other frequencies for too much or too little confidence. At the
optimum the probability of a class, averaged over these images, is its share of them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import ttest_1samp
from torch import Tensor
from torch.nn import functional as F

from glmc.metrics import reliability
from glmc.random import Draws
from glmc.runs.tally import Tally

FOLDS = 10
TRIALS = 200  # simulated sets of labels, for the ECE that chance alone gives


class Fitted(NamedTuple):
    """A fit, and how good it is; see `crossfit`."""

    temperature: float  # > 0
    error: float  # standard error of the temperature
    prior: Tensor  # float64 [C], sums to 1: the class frequencies that the network assumes
    before: dict[str, float]  # `metrics_of`
    after: dict[str, float]
    gain: tuple[float, float]  # 95 % interval of how much the log-likelihood of an image grows, in nats
    ece_by_chance: float  # percent
    held_out: Tensor  # float64 [N, C], log-probabilities for the assumed frequencies, by the fit to the other folds

    @property
    def helps(self) -> bool:
        """Whether held-out images gain by more than noise, and their ECE does not rise above what chance explains."""
        return self.gain[0] > 0 and self.after["ece"] <= max(self.before["ece"], self.ece_by_chance)


def crossfit(logits: Tensor, labels: Tensor, assumed: Tensor, progress: Callable[[int], None]) -> Fitted:
    """Fit to all images, and evaluate on each tenth of them what is fitted to the other nine.

    Both are for the class frequencies of these images: "before" with the assumed prior and no temperature.

    Args:
        logits: float64 [N, C], N >= `FOLDS`.
        labels: int64 [N].
        assumed: float64 [C], > 0, sums to 1: see `fit`.
        progress: called with the number of fits done, up to `FOLDS` + 1.
    """
    shares = class_shares(labels, logits.shape[1])
    fold = torch.from_numpy(Draws(0, "calibration").permutation(len(labels)) % FOLDS)
    temperature, prior = fit(logits, labels, assumed)
    after, held_out, others = torch.empty_like(logits), torch.empty_like(logits), []
    for number in range(FOLDS):
        progress(number + 1)
        kept, held = fold != number, fold == number
        without, its_prior = fit(logits[kept], labels[kept], assumed)
        after[held] = reweighted(logits[held], without, its_prior, shares)
        held_out[held] = reweighted(logits[held], without, its_prior, assumed)
        others.append(math.log(without))
    progress(FOLDS + 1)
    spread = float(np.var(others)) * (FOLDS - 1)  # delete-a-group jackknife, Kott, J. Official Statistics 2001
    before = reweighted(logits, 1.0, assumed, shares)
    more = (after - before).gather(1, labels[:, None]).flatten()  # [N], nats; paired, as both are of the same image
    gain = ttest_1samp(more.numpy(), 0).confidence_interval(0.95)
    return Fitted(
        temperature=temperature,
        error=temperature * math.sqrt(spread),
        prior=prior,
        before=metrics_of(before, labels),
        after=metrics_of(after, labels),
        gain=(float(gain.low), float(gain.high)),
        ece_by_chance=ece_by_chance(after),
        held_out=held_out,
    )


def fit(logits: Tensor, labels: Tensor, assumed: Tensor) -> tuple[float, Tensor]:
    """Temperature and class frequencies that make the labels most probable, by LBFGS.

    A normal distribution of deviation 1 around log T = 0, and one around the logarithm of each assumed frequency, join
    the likelihood. Each weighs about as much as one image; they keep the temperature finite where every image is
    recognised, and near its place the frequency of a class with few images. One without images keeps its place.

    Args:
        logits: float64 [N, C].
        labels: int64 [N].
        assumed: float64 [C], > 0, sums to 1: the class frequencies that the network is thought to assume.

    Returns:
        The temperature, and float64 [C] that sums to 1.
    """
    offset = class_shares(labels, logits.shape[1]).log() - assumed.log()  # [C], -inf without images
    log_t = torch.zeros((), dtype=logits.dtype, requires_grad=True)
    shift = torch.zeros_like(assumed, requires_grad=True)  # log of fitted over assumed frequencies
    optimizer = torch.optim.LBFGS(
        [log_t, shift], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(logits * torch.exp(-log_t) + (offset - shift), labels)
        found = found + 0.5 * (log_t**2 + (shift**2).sum()) / len(labels)
        found.backward()
        return found

    optimizer.step(loss)
    prior = assumed * shift.detach().exp()
    return float(log_t.detach().exp()), prior / prior.sum()


def reweighted(logits: Tensor, temperature: float, source: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities, float [B, C], in a world where classes have the frequencies `target`.

    Args:
        logits: float [B, C].
        temperature: > 0.
        source: float [C], > 0, the frequencies that the logits assume.
        target: float [C], >= 0; a class of frequency 0 gets probability 0.
    """
    return (logits / temperature + (target.log() - source.log())).log_softmax(1)


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """float64 [C], sums to 1: the share of each class in labels (int64 [N])."""
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def metrics_of(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """nll in nats, ece and top1 in percent, of logits (float [N, C]) and labels (int64 [N])."""
    tally = Tally(logits.shape[1], "cpu")
    tally.update(logits, labels)
    confusion, extras = tally.compute()
    return {"nll": extras["nll"], "ece": extras["ece"], "top1": float(100 * confusion.trace() / len(labels))}


def ece_by_chance(log_probabilities: Tensor) -> float:
    """The ECE in percent that N images show on average though these probabilities (logarithms, [N, C]) are right.

    Labels are drawn from the probabilities (Bröcker and Smith, Weather and Forecasting 2007).
    """
    confidence, draws = log_probabilities.exp().amax(1).numpy(), Draws(0, "ece")
    trials = [reliability(confidence, draws.uniform(len(confidence)) < confidence)[1] for _ in range(TRIALS)]
    return float(np.mean(trials))
