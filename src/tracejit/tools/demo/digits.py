"""The UCI handwritten digits as float32 rows, split once for all into training and test images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

TRAIN = 1408
"""Training images: 22 batches of 64; the other 389 are for the test."""


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 grey values in [0, 1] and their classes, as NumPy arrays."""

    train_x: npt.NDArray[np.float32]
    train_y: npt.NDArray[np.int64]
    test_x: npt.NDArray[np.float32]
    test_y: npt.NDArray[np.int64]

    def batches(self, epochs: int, batch: int, seed: int) -> Iterator[tuple[npt.NDArray, npt.NDArray]]:
        """Training batches, in a new order each epoch that depends on the seed alone; a remainder is left out."""
        rng = np.random.default_rng(seed)
        for _ in range(epochs):
            order = rng.permutation(len(self.train_x))
            for start in range(0, len(order) - batch + 1, batch):
                rows = order[start : start + batch]
                yield self.train_x[rows], self.train_y[rows]

    def steps(self, epochs: int, batch: int) -> int:
        """How many batches `batches` yields."""
        return epochs * (len(self.train_x) // batch)


def load() -> Digits:
    """The 1797 images of 8x8 pixels, in an order fixed by a seed.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.

    >>> digits = load()
    >>> digits.train_x.shape, digits.test_x.shape
    ((1408, 64), (389, 64))
    """
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = np.ascontiguousarray(x[order] / 16.0, dtype=np.float32)
    y = np.ascontiguousarray(y[order], dtype=np.int64)
    return Digits(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:])
