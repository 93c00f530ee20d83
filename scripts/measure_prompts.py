"""Measure TCD with prompts that are as close to each other as a real CLIP's, and write prompts.json with its page.

usage: python scripts/measure_prompts.py [FOLDER]   rows of `wsfp ablate table4`, three seeds, minutes each

FOLDER is where the results go, by default results/.  mini-FLIP was trained to keep its prompts apart, so what is close
to one text is away from the others already, and Eq. 11 and 12 have little to do.  The texts of CLIP lie in a narrow
cone, and its pictures in another (Liang et al., 2022).  Here every text vector of mini-FLIP gets one further component,
the same for all, and every picture one of its own: the order of the texts for a picture stays, their distances shrink.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.labels import PROMPTS
from wsfp_helpers.nets.vlm import VisionLanguageModel, mini_flip
from wsfp_helpers.profiles import VLMS, Profile, profile
from wsfp_helpers.stages import SHIPPED
from wsfp_helpers.tooling.ablate import Row, measure, table4
from wsfp_helpers.tooling.results import scores_row, write_results

SEEDS = (0, 1, 2)
BETWEEN_TEXTS, OTHER_TEXT = 0.85, 0.2
"""Mean cosine of two prompts, and the cosine of a picture with a text that was orthogonal to it: as in CLIP."""
NAME = "mini_flip_close"


class Cone(nn.Module):
    """open_clip's ``CLIP`` whose text vectors all have the component ``shared`` and whose pictures have ``pictured``.

    Both are lengths beside the unit length of the vectors that they are added to, along one new dimension.
    """

    def __init__(self, clip: Any, shared: float, pictured: float) -> None:
        super().__init__()
        self.clip, self.shared, self.pictured = clip, shared, pictured

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, D + 1)``, not of unit length."""
        return F.pad(F.normalize(self.clip.encode_image(images).float(), dim=-1), (0, 1), value=self.pictured)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(n, D + 1)``, not of unit length."""
        return F.pad(F.normalize(self.clip.encode_text(tokens).float(), dim=-1), (0, 1), value=self.shared)


def close_prompts(prompts: Sequence[str] = PROMPTS) -> VisionLanguageModel:
    """mini-FLIP in which two of the prompts have the mean cosine :data:`BETWEEN_TEXTS`."""
    model = mini_flip()
    texts = model.text(prompts)
    now = (texts.sum(0).square().sum() - len(texts)).item() / (len(texts) * (len(texts) - 1))
    shared = ((BETWEEN_TEXTS - now) / (1 - BETWEEN_TEXTS)) ** 0.5
    # shared * pictured / sqrt((1 + shared^2) (1 + pictured^2)) = OTHER_TEXT
    sine = OTHER_TEXT * (1 + shared**2) ** 0.5 / shared
    cone = Cone(model.clip, shared, sine / (1 - sine**2) ** 0.5)
    return VisionLanguageModel(
        NAME, cone, model.tokenize, model.size, model.mean.flatten().tolist(), model.std.flatten().tolist()
    )


def lines(config: Profile) -> list[Row]:
    """The rows of Table 4 before and after Eq. 11 and 12; the sums over l of these as means and as they are printed."""
    rows = {row.name: row for row in table4(config)}
    chosen = [rows["+ pos_ffc"], rows["+ neg_ffc"]]
    summed = replace(rows["+ neg_ffc"], name="+ neg_ffc, sums over l")
    if summed.tcd is not None:
        summed = replace(summed, tcd=replace(summed.tcd, reduction="sum_texts"))
    return [replace(row, name=f"{row.name}, close prompts", vlm=NAME) for row in [*chosen, summed]]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) == 2 else "results"
    VLMS[NAME] = close_prompts
    with exit_on_bad_input():
        settings, scores = profile("embedded"), {}
        for seed in SEEDS:
            for row in lines(settings):
                found = measure(row, settings, SHIPPED, seed, cache_dir() / "ablate")
                scores.setdefault(row.name, []).append(found)
                print(f"seed {seed}  {row.name:40} mean F1 {found.mean_f1:5.1f}", flush=True)
        table = [scores_row(name, each) for name, each in scores.items()]
        print(write_results("prompts", "python scripts/measure_prompts.py", table, target))
