"""Slow, literal versions of what the package computes fast: what tests and ``wsfp bench`` hold it against."""

import numpy as np


def confusion_by_class(prediction: np.ndarray, truth: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """Confusion matrix ``(C, C)`` int64 by one boolean pass for every pair of classes."""
    valid = truth != ignore
    matrix = np.zeros((classes, classes), np.int64)
    for row in range(classes):
        for column in range(classes):
            matrix[row, column] = ((truth == row) & (prediction == column) & valid).sum()
    return matrix


def counts_by_class(prediction: np.ndarray, truth: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """``(C, 3)`` int64 hits, true and predicted pixels, three boolean passes a class (MCTformer; design notes 1.6)."""
    valid = truth != ignore
    counts = np.zeros((classes, 3), np.int64)
    for k in range(classes):
        predicted, true = (prediction == k) & valid, (truth == k) & valid
        counts[k] = (predicted & true).sum(), true.sum(), predicted.sum()
    return counts
