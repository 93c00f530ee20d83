from math import log2

import numpy as np
import pytest

from wsfp_helpers.data.sets import open_dataset
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.cooccurrence import (
    class_frequency,
    conditional,
    imbalance,
    joint_counts,
    label_information,
    label_set_entropy,
    lift,
    mean_conditional,
)

TABLE = np.random.default_rng(0).random((60, 5)) < [0.99, 0.6, 0.5, 0.2, 0.0]
TABLE[:, 2] |= TABLE[:, 1]
N, K = TABLE.shape


def naive(k, l):  # noqa: E741
    """Images that have both classes, counted one by one."""
    return sum(1 for row in TABLE if row[k] and row[l])


def test_counts_frequency_conditional_and_lift_are_those_counted_one_by_one():
    counts = joint_counts(TABLE.astype(np.uint8))
    assert counts.dtype == np.int64
    for k in range(K):
        assert class_frequency(counts, N)[k] == naive(k, k) / N
        for l in range(K):  # noqa: E741
            assert counts[k, l] == naive(k, l)
            if naive(k, k):
                assert conditional(counts)[k, l] == pytest.approx(naive(k, l) / naive(k, k))
                if naive(l, l):
                    p = (naive(k, k) / N) * (naive(l, l) / N)
                    assert lift(counts, N)[k, l] == pytest.approx(naive(k, l) / N / p)


def test_a_class_that_never_occurs_is_nan_and_left_out_of_the_mean():
    counts = joint_counts(TABLE)
    assert np.isnan(conditional(counts)[4]).all() and np.isnan(lift(counts, N)[4]).all()
    pairs = [naive(k, l) / naive(k, k) for k in range(4) for l in range(K) if k != l]  # noqa: E741
    assert mean_conditional(counts) == pytest.approx(np.mean(pairs))


def test_a_class_in_all_images_has_conditional_1_but_lift_1():
    labels = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 0, 0]])
    counts = joint_counts(labels)
    assert conditional(counts)[:, 0].tolist() == [1, 1, 1] and lift(counts, 4)[0].tolist() == [1, 1, 1]
    assert label_information(class_frequency(counts, 4)).tolist() == [0, 1, 1]


def test_label_information_is_the_binary_entropy():
    for p in (0.01, 0.3, 0.5, 0.999):
        assert label_information(np.array([p]))[0] == pytest.approx(-p * log2(p) - (1 - p) * log2(1 - p))
    assert label_information(np.array([0.0, 1.0])).tolist() == [0, 0]


def test_entropy_of_independent_labels_is_the_sum_and_of_copies_that_of_one():
    independent = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    assert label_set_entropy(independent) == pytest.approx(3)
    assert label_set_entropy(independent[:, [0, 0, 0]]) == pytest.approx(1)
    assert label_set_entropy(np.ones((7, 4))) == 0


def test_imbalance_is_the_mean_difference_of_all_pairs():
    frequency = np.array([0.9, 0.1, 0.5, 0.5])
    pairs = [abs(a - b) for a in frequency for b in frequency]
    assert imbalance(frequency) == pytest.approx(np.mean(pairs) / (2 * frequency.mean()))
    assert imbalance(np.full(6, 0.3)) == pytest.approx(0)
    assert imbalance(np.array([0, 0, 0, 1.0])) == pytest.approx(3 / 4)


def test_a_typed_matrix_of_counts_is_enough():
    typed = [[50, 10, 0], [10, 20, 5], [0, 5, 30]]
    assert class_frequency(typed, 90).tolist() == pytest.approx([5 / 9, 2 / 9, 1 / 3])
    assert conditional(typed)[1].tolist() == [0.5, 1, 0.25]
    assert lift(typed, 90)[0, 1] == pytest.approx(10 / 90 / (50 / 90 * 20 / 90))


def test_slips_of_the_typist_are_sentences():
    with pytest.raises(ValueError, match="expected a symmetric matrix"):
        conditional([[5, 1], [2, 5]])
    with pytest.raises(ValueError, match=r"expected a symmetric matrix of counts \(K, K\), got shape \(2, 3\)"):
        conditional(np.ones((2, 3)))
    with pytest.raises(ValueError, match="more often than one of them alone"):
        conditional([[5, 6], [6, 9]])
    with pytest.raises(ValueError, match="a class comes 50 times in 40 images"):
        lift([[50, 10], [10, 20]], 40)
    with pytest.raises(ValueError, match=r"expected a table of image-level labels \(n, K\) of 0 and 1"):
        joint_counts([[0, 2], [1, 1]])
    with pytest.raises(ValueError, match="no class occurs"):
        imbalance(np.zeros(3))


def test_faces_co_occur_as_the_paper_says():
    # Section 3.1: skin and nose appear in over 99 % of the images, so their labels say almost nothing.
    labels = open_dataset("synthfaces").labels
    frequency = class_frequency(joint_counts(labels), len(labels))
    bits = label_information(frequency)
    for name in ("skin", "nose"):
        assert frequency[COMPONENTS.index(name)] > 0.99 and bits[COMPONENTS.index(name)] < 0.1
    assert label_set_entropy(labels) <= bits.sum() + 1e-9
