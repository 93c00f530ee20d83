"""Bootstrap intervals over images, and scores by group."""

import numpy as np
import pytest
from fixtures import random_pairs

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.score.confusion import Scores, confusions
from wsfp_helpers.score.intervals import bootstrap, by_group


def test_the_interval_of_several_seeds_is_that_of_their_mean():
    rng = np.random.default_rng(4)
    matrices = rng.integers(0, 9, (3, 8, 19, 19)) * (rng.random((3, 8, 19, 1)) > 0.2)
    draws = np.random.default_rng(5).multinomial(8, [1 / 8] * 8, size=200)
    means = [np.mean([Scores((times[:, None, None] * each).sum(0)).mean_f1 for each in matrices]) for times in draws]
    found = bootstrap(matrices, samples=200, seed=5)
    assert found.mean_f1 == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert found.f1.shape == (19, 2)


def test_bootstrap_draws_images_again():
    matrices = confusions(random_pairs(30, size=(6, 6)))
    assert matrices.shape == (30, 19, 19)
    intervals = bootstrap(matrices, samples=300, seed=3)
    rng, samples = np.random.default_rng(3), []
    for _ in range(300):
        times = rng.multinomial(30, np.full(30, 1 / 30))
        samples.append(Scores(sum(t * m.astype(np.int64) for t, m in zip(times, matrices, strict=True))))
    assert intervals.mean_f1 == pytest.approx(np.percentile([each.mean_f1 for each in samples], [2.5, 97.5]))
    np.testing.assert_allclose(intervals.f1, np.nanpercentile([each.f1 for each in samples], [2.5, 97.5], axis=0).T)
    assert bootstrap(matrices, samples=300, seed=3, scored=["nose"]).mean_f1 == pytest.approx(tuple(intervals.f1[2]))
    low, high = intervals.mean_f1
    assert low < Scores(matrices.sum(0)).mean_f1 < high
    same = np.repeat(matrices[:1], 5, axis=0)
    assert bootstrap(same, samples=50).mean_f1 == pytest.approx([Scores(matrices[0]).mean_f1] * 2)
    with pytest.raises(InputError, match="at least 2 images"):
        bootstrap(matrices[:1])


def test_groups_add_up_to_the_whole():
    matrices = confusions(random_pairs(7))
    groups = by_group(matrices, ["f", "m", "f", "m", "m", "f", "m"])
    assert {name: scores.images for name, scores in groups.items()} == {"f": 3, "m": 4}
    assert (groups["f"].matrix + groups["m"].matrix == matrices.sum(0)).all()
    assert groups["f"].mean_f1 == pytest.approx(Scores(matrices[[0, 2, 5]].sum(0)).mean_f1)
    with pytest.raises(ValueError, match="2 group names for 7 images: expected one per image"):
        by_group(matrices, ["f", "m"])
