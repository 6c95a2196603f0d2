"""VS: the vector-scaling loss. Kini et al., NeurIPS 2021, arXiv:2103.01550."""

from torch import Tensor

from glmc.losses.base import Loss, precise


class VectorScaling(Loss):
    """Cross entropy after logits were multiplied by (n_c / n_max) ** gamma and tau * log n_c was added.

    The sum helps rare classes early, the factor late, when training images are all classified right. Bare logits suit
    classes of equal frequency. Equal counts give plain cross entropy; gamma = 0 is logit adjustment, tau = 0 the CDT
    loss.

    Args:
        gamma: of the factors, at least 0.
        tau: of the summands, at least 0.
    """

    def __init__(self, counts: Tensor, *, gamma: float = 0.2, tau: float = 1.2) -> None:
        super().__init__(counts)
        for name, value in (("gamma", gamma), ("tau", tau)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, not {value}")
        self.prior = "uniform" if gamma or tau else "training"
        counts = counts.double()
        self.factor: Tensor
        self.shift: Tensor
        self.register_buffer("factor", ((counts / counts.max()) ** gamma).float(), persistent=False)  # [C], in (0, 1]
        self.register_buffer("shift", (tau * counts.log()).float(), persistent=False)  # [C]

    def each(self, logits: Tensor) -> Tensor:  # noqa: D102
        return -(self.factor * precise(logits) + self.shift).log_softmax(1)
