"""The real data that scikit-learn carries, as plain arrays; nothing is downloaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer, load_digits

from phloem.tensors import Array


@dataclass(frozen=True)
class Examples:
    """Inputs and their labels, row by row."""

    inputs: Array
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: npt.NDArray[np.int64]) -> Examples:
        """The examples at `indices`, copied."""
        return Examples(self.inputs[indices], self.labels[indices])

    @property
    def digest(self) -> str:
        """SHA-256 of inputs and labels, in hexadecimal."""
        total = hashlib.sha256(np.ascontiguousarray(self.inputs, "<f4").tobytes())
        total.update(np.ascontiguousarray(self.labels, "<i8").tobytes())
        return total.hexdigest()


def digits() -> Examples:
    """1,797 handwritten digits: images (n, 1, 8, 8) in [0, 1], labels 0 to 9.

    Source: the test set of UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).
    """
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return Examples(images, labels.astype(np.int64))


def breast_cancer() -> Examples:
    """569 tumours: 30 measurements (n, 30) in their own units, label 1 malignant (212), 0 benign (357).

    Source: UCI "Breast Cancer Wisconsin (Diagnostic)" (Street, Wolberg, Mangasarian 1993).
    """
    measured, benign = load_breast_cancer(return_X_y=True)
    return Examples(measured.astype(np.float32), 1 - benign.astype(np.int64))
