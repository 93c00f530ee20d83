"""Maps of mirrored pictures: added class by class they cannot tell sides that the exchange keeps apart."""

import torch
from fixtures import tiny_faces, tiny_vit

from scripts.measure_mirror import without_exchange
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.method.fcam import FcamConfig, extract


def test_only_sided_components_differ_from_the_exchanged_maps():
    faces, config = tiny_faces(3), FcamConfig(scales=(1.0,), variant="patch", affinity=False)
    vit = tiny_vit()
    sided = {k for k, other in enumerate(CELEBAMASK.flip_components) if k != other}
    seen = set()
    for plain, exchanged in zip(without_exchange(vit, faces, config), extract(vit, faces, config), strict=True):
        for k, a, b in zip(plain.classes.tolist(), plain.grids[0], exchanged.grids[0], strict=True):
            same = torch.allclose(a, b, atol=1e-5)
            assert same is (k not in sided)
            seen.add(k)
    assert seen & sided and seen - sided
