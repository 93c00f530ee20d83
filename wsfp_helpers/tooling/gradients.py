"""What each term of the loss asks of each part of the network, for reports."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from wsfp_helpers.labels import COMPONENTS, PROMPTS
from wsfp_helpers.method.tcd import Objective, TcdConfig, encode_renders, sample_components
from wsfp_helpers.method.train import DisFaceRep
from wsfp_helpers.method.vit import patch_attention
from wsfp_helpers.nets.vlm import VisionLanguageModel

PARTS = {
    "patch head": ("vit.patch_head.",),
    "class tokens": ("vit.cls_token", "vit.pos_embed_cls"),
    "trained block": ("vit.blocks.",),
}
EYES = [COMPONENTS.index("l_eye"), COMPONENTS.index("r_eye")]
WIDEN = "maps of the eyes"


def weights(tcd: TcdConfig | None) -> dict[str, float]:
    """The weight of every term in the loss: 1 for the base losses, those of Eq. 10, 14 and 16 for the others."""
    base = dict.fromkeys(("class_mlsm", "contrast", "patch_mlsm"), 1.0)
    if tcd is None:
        return base
    positive = {"pos_cls": tcd.alpha0, "pos_ffc": tcd.alpha1}
    negative = {"neg_cls": tcd.beta0, "neg_ffc": tcd.beta1, "neg_bfc": tcd.beta2}
    return base | positive | negative | {"reg": tcd.reg}


def gradients(
    model: DisFaceRep, objective: Objective, batch: Mapping[str, Tensor], weight: Mapping[str, float]
) -> dict[str, dict[str, Tensor]]:
    """The gradient of each weighted term, flat, by part of the network.

    Under :data:`WIDEN` it is that of the patch map of the eyes ``(B, 2, h, w)``, before the sigmoid of Eq. 4.
    """
    output, v_cls = model(batch["input"])
    terms = objective(output, v_cls, batch["picture"], batch["labels"])[1]
    named = dict(model.named_parameters())
    parameters = {part: [named[key] for key in named if key.startswith(begins)] for part, begins in PARTS.items()}
    wanted = [output.patch_map, *(each for some in parameters.values() for each in some)]
    found: dict[str, dict[str, Tensor]] = {}
    for term, factor in weight.items():
        loss = factor * terms[term]
        maps, *rest = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        found[term] = {WIDEN: maps[:, EYES]}
        for part, some in parameters.items():
            found[term][part] = torch.cat([rest.pop(0).flatten() for _ in some])
    return found


@torch.no_grad()
def cosines(
    model: DisFaceRep, vlm: VisionLanguageModel, batch: Mapping[str, Tensor], most: int
) -> dict[tuple[str, str], float]:
    """Mean cosines of class tokens and foregrounds with their own and the other texts, by vector and what it is.

    Where a cosine with another text is not above 0, Eq. 11 and 12 have no gradient.
    """
    output, v_cls = model(batch["input"])
    rendered = sample_components(batch["labels"], most)
    v_ffc, _ = encode_renders(patch_attention(output.patch_map), batch["picture"], rendered, vlm, with_background=False)
    text, found = vlm.text(PROMPTS), {}
    for name, vectors, present in (("v_cls", v_cls, batch["labels"].bool()), ("v_ffc", v_ffc, rendered)):
        assert vectors is not None
        every = F.cosine_similarity(vectors[:, :, None], text, dim=-1)[present]  # (n, K)
        own = torch.eye(len(text), dtype=torch.bool, device=text.device).expand(len(present), -1, -1)[present]
        found[name, "cosine with its own text"] = float(every[own].mean())
        found[name, "cosine with other texts"] = float(every[~own].mean())
        found[name, "share of other texts not above 0"] = float((every[~own] <= 0).float().mean())
    return found
