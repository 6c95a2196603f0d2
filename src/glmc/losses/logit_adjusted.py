"""Cross entropy with the training prior inside: logit adjustment and Balanced Softmax.

Menon et al., ICLR 2021, arXiv:2007.07314, equation 10. Ren et al., NeurIPS 2020, arXiv:2007.10740.
"""

from torch import Tensor

from glmc.losses.base import Loss, precise


class LogitAdjusted(Loss):
    """Cross entropy after tau * log n_c has been added to every logit.

    The shift absorbs the training prior, so that the bare logits suit classes of equal frequency: nothing is added when
    predicting. Equal counts give plain cross entropy, and a common factor of the counts changes nothing.

    Args:
        tau: how much of the prior: 0 is plain cross entropy, 1 the consistent choice.
    """

    def __init__(self, counts: Tensor, *, tau: float = 1.0) -> None:
        super().__init__(counts)
        self.prior = "uniform" if tau else "training"
        self.shift: Tensor
        self.register_buffer("shift", tau * counts.double().log().float(), persistent=False)  # [C]

    def each(self, logits: Tensor) -> Tensor:  # noqa: D102
        return -(precise(logits) + self.shift).log_softmax(1)


class BalancedSoftmax(LogitAdjusted):
    """Logit adjustment with tau = 1, under the name that long-tailed recognition knows best."""

    def __init__(self, counts: Tensor) -> None:
        super().__init__(counts, tau=1.0)
