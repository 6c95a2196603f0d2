"""Everything random in a run, as a pure function of (seed, stream, epoch, position).

There is no generator state to save: a run resumes at any step by asking for the same numbers again. The bits come from
Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), whose raw output numpy guarantees; the
mappings to uniforms, integers, permutations and Beta are ours, because numpy's own may change between versions
(NEP 19).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Draws:
    """The random numbers of one place in a run.

    Each call continues where the last one ended, so the order of calls belongs to the definition of a stream.

    Args:
        seed: the run's seed, any int.
        path: what the numbers are for, e.g. ("rows", "rebalanced", epoch). Other paths give independent numbers.
    """

    def __init__(self, seed: int, *path: str | int) -> None:
        digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
        self._philox = np.random.Philox(key=np.frombuffer(digest, dtype="<u8", count=2))

    def bits(self, count: int) -> NDArray[np.uint64]:
        """uint64 [count], all bits random."""
        return np.asarray(self._philox.random_raw(count), dtype=np.uint64)

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """float64 [*shape] in [0, 1), multiples of 2**-53."""
        return (self.bits(int(np.prod(shape))) >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def below(self, n: int, *shape: int) -> NDArray[np.int64]:
        """int64 [*shape] in [0, n); for n up to 2**32 the probabilities are equal to within 2**-21 of each other."""
        return np.floor(self.uniform(*shape) * n).astype(np.int64)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """int64 [n]: 0 .. n-1 in random order."""
        return np.argsort(self.bits(n), kind="stable").astype(np.int64)

    def beta(self, a: float, b: float, *shape: int) -> NDArray[np.float64]:
        """float64 [*shape] in [0, 1] ~ Beta(a, b), by the inverse of its distribution function.

        Beta(1, 1) is `uniform`.
        """
        u = self.uniform(*shape)
        if a == b == 1:
            return u
        from scipy.special import betaincinv

        return np.asarray(betaincinv(a, b, u), dtype=np.float64)


def grown(epochs: int, between: Sequence[int] | None) -> float:
    """The factor of a probability that grows from 0 to 1 between two lengths of runs, for a run of so many epochs.

    Only long runs learn images by heart, and need what keeps them from it. None: the factor is 1 in all of them.

    Raises:
        ValueError: `between` is not two ascending lengths.

    >>> grown(10, [15, 65]), grown(40, [15, 65]), grown(200, [15, 65])
    (0.0, 0.5, 1.0)
    """
    if between is None:
        return 1.0
    if len(between) != 2 or not 0 <= between[0] < between[1]:
        raise ValueError(f"growing must be two ascending numbers of epochs, not {list(between)}")
    shortest, longest = between
    return min(max(epochs - shortest, 0) / (longest - shortest), 1.0)
