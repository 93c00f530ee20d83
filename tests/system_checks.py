"""What every system that trains the class-token ViT is put through: gradients, a kill, both worlds' inputs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import same, tiny_faces, tiny_vit, tiny_vlm

from wsfp_helpers.common.pictures import Pictures, to_tensor
from wsfp_helpers.method.fcam import FcamConfig
from wsfp_helpers.method.vit import vit_inputs
from wsfp_helpers.parsing.fit import FitConfig
from wsfp_helpers.systems.base import Batches, Parts, VitSystem


def tiny_parts(**changes: object) -> Parts:
    """Parts of the full-size shape: pictures of 64 pixels, six steps of four of :func:`tiny_faces`."""
    return Parts(
        build_vit=lambda seed: tiny_vit(seed, **changes),
        trained_vit=lambda disentangled, lr, seed: tiny_vit(seed + 1, **changes),
        vlm=tiny_vlm(), dense=lambda: None, fcam=FcamConfig(scales=(1.0,)), batch=4, epochs=2, pace=1.0,
        backbone_lr=0.1,
    )  # fmt: skip


EMBEDDED = {"frozen_blocks": 2, "blocks": 1}
"""Changes that make the tiny network take features of a trunk."""


def tiny_features(pictures: Pictures) -> torch.Tensor:
    """``(B, 16, 24)``: for a trunk of 4 x 4 tokens, the colours of eight blocks of pixels each."""
    blocks = F.avg_pool2d(to_tensor([pictures[i] for i in range(len(pictures))]), (8, 4))  # (B, 3, 8, 16)
    tokens = blocks.unflatten(2, (4, 2)).unflatten(4, (4, 4)).permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(len(pictures), 16, 24) - 0.5


def check_gradients(system: VitSystem, frozen: str = "teacher.") -> None:
    """Late steps reach every parameter of the network but those named ``frozen``, and none of the image-text model."""
    vit = system.network.vit
    batches = Batches(tiny_faces(), tiny_features if vit.frozen_blocks else partial(vit_inputs, vit), 4, 32)
    system.steps = 6
    for step in (4, 5):  # what one step remembers counts in the next
        loss = system.loss(batches(step), step)
        loss.backward()
    assert loss.isfinite()
    for name, parameter in system.network.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached != name.startswith(frozen), name
    assert all(parameter.grad is None for parameter in system.parts.vlm.parameters())


def check_resumes(make: Callable[[], VitSystem], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that dies in its sixth step and goes on from the fourth equals one that never stopped."""
    monkeypatch.setattr("wsfp_helpers.systems.base.FitConfig", partial(FitConfig, save_every=4))
    whole, broken, resumed, steps = make(), make(), make(), []
    whole.fit(tiny_faces())
    losses = {broken: broken.loss, resumed: resumed.loss}

    def dying(batch, step):
        if step == 5:
            raise KeyboardInterrupt
        return losses[broken](batch, step)

    def noted(batch, step):
        steps.append(step)
        return losses[resumed](batch, step)

    monkeypatch.setattr(broken, "loss", dying)
    monkeypatch.setattr(resumed, "loss", noted)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(tiny_faces(), folder)
    resumed.fit(tiny_faces(), folder)
    assert steps == [4, 5]
    assert same(whole.network, resumed.network)
    assert not same(whole.network, broken.network)


def check_finds(system: VitSystem) -> None:
    """Finite scores of the present components, in order, and label maps of the pictures' sizes with no other class."""
    faces = tiny_faces(3, 70)
    found = list(system.find(faces))
    assert [each.id for each in found] == list(faces.ids)
    for each, labels in zip(found, faces.labels, strict=True):
        assert each.classes.tolist() == labels.nonzero()[0].tolist()
        assert len(each.scores) == len(each.classes) and each.scores.isfinite().all()
        label = each.label()
        assert label.shape == (70, 70) and set(np.unique(label)) <= {0, *(each.classes + 1)}
