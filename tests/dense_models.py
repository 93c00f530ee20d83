"""A small image-text model that can be asked about places, of the full-size shape: pictures of 64 pixels, 4 x 4."""

from functools import partial

import open_clip
import torch
from fixtures import tiny_faces, tiny_vit, tiny_vlm

from wsfp_helpers.labels import CELEBAMASK, PROMPTS
from wsfp_helpers.method.fcam import FcamConfig
from wsfp_helpers.nets.dense import BACKGROUND, DenseModel
from wsfp_helpers.nets.vlm import VisionLanguageModel, WordTokenizer
from wsfp_helpers.systems.base import Batches, Parts

WORDS = sorted({word for text in (*PROMPTS, *CELEBAMASK.words, *BACKGROUND) for word in text.split()})


def tiny_clip(pool="tok", patch=16):
    """open_clip's ``CLIP`` with random weights."""
    torch.manual_seed(0)
    vision = dict(image_size=64, patch_size=patch, width=64, layers=3, head_width=32, pool_type=pool)
    text = dict(context_length=24, vocab_size=len(WORDS) + 3, width=32, heads=2, layers=2)
    return open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)


def tiny_dense(pool="tok"):
    """The opened model."""
    vlm = VisionLanguageModel("tiny", tiny_clip(pool), WordTokenizer(WORDS, 24), 64, (0.5,) * 3, (0.25,) * 3)
    return DenseModel(vlm, 64, BACKGROUND)


def dense_parts(pool="tok"):
    """Parts for six steps of four of ``tiny_faces``."""
    return Parts(
        build_vit=tiny_vit, trained_vit=lambda disentangled, speed, seed: tiny_vit(seed + 1), vlm=tiny_vlm(),
        dense=partial(tiny_dense, pool), fcam=FcamConfig(scales=(1.0,)), batch=4, epochs=2, pace=1.0,
        backbone_lr=0.1,
    )  # fmt: skip


def batch_of(dense, side, count=4):
    """A batch of ``tiny_faces``."""
    return Batches(tiny_faces(), dense.inputs, count, side)(0)
