"""FCAMs against the reference procedure (one picture, one scale, one flip a time), sides, storage and resume."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import normalise, resize, to_tensor
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, K
from wsfp_helpers.method.fcam import Fcam, FcamConfig, FcamFolder, extract, extract_to_folder, save_fcam
from wsfp_helpers.method.vit import MultiClassTokenViT


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return MultiClassTokenViT(blocks=3, size=64, width=48, heads=3).eval()


def faces(n=3):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (n, 50, 40, 3), np.uint8)
    labels = rng.integers(0, 2, (n, K), np.uint8)
    labels[:, 3:9] = 1
    return WeakFaces("tiny", [f"id{i}" for i in range(n)], lambda key: pictures[int(key[2:])], labels)


def reference(vit, picture, label, config):
    """Literal steps 1-6 of docs/design.md, 1.5: all attention kept, all classes enlarged, and sides exchanged."""
    total = np.zeros((K, *picture.shape[:2]))
    for scale in config.scales:
        size = round(64 * scale / 16) * 16
        for mirrored in (False, True) if config.flip else (False,):
            image = normalise(resize(to_tensor([picture]), (size, size)))
            image = image.flip(-1) if mirrored else image
            attention = []
            for block in vit.blocks:
                block.attn.fused_attn = False
            hooks = [
                block.attn.attn_drop.register_forward_hook(lambda m, i, o, kept=attention: kept.append(o[0].mean(0)))
                for block in vit.blocks
            ]
            with torch.no_grad():
                conv = vit(image).patch_map[0]
            for hook in hooks:
                hook.remove()
            side = size // 16
            m = torch.stack(attention).mean(0)[:K, K:].view(K, side, side)
            f = conv.clamp(min=0)
            c = {"fused": (m * f).sqrt(), "patch": f, "attention": m}[config.variant]
            if config.affinity:
                r = torch.stack(attention).sum(0)[K:, K:]
                c = torch.stack([(r @ c[k].flatten()).view(side, side) for k in range(K)])
            c = F.interpolate(c[None], picture.shape[:2], mode="bilinear", align_corners=False)[0].numpy()
            if mirrored:
                c = c[:, :, ::-1]
                swapped = c.copy()
                for a, b in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")):
                    i, j = CELEBAMASK.index(a) - 1, CELEBAMASK.index(b) - 1
                    swapped[i], swapped[j] = c[j], c[i]
                c = swapped
            total += c * label[:, None, None]
    maps = []
    for k in np.flatnonzero(label):
        low, high = total[k].min(), total[k].max()
        maps.append((total[k] - low) / (high - low + 1e-8))
    return np.stack(maps)


@pytest.mark.parametrize("variant", ["fused", "patch", "attention"])
@pytest.mark.parametrize("affinity", [True, False])
def test_equals_the_reference_procedure(vit, variant, affinity):
    data, config = faces(), FcamConfig(scales=(1.0, 0.75, 1.25), variant=variant, affinity=affinity)
    for i, fcam in enumerate(extract(vit, data, config, batch_size=2)):
        assert fcam.id == data.ids[i]
        assert fcam.classes.tolist() == np.flatnonzero(data.labels[i]).tolist()
        expected = reference(vit, data.image(i), data.labels[i], config)
        assert np.abs(fcam.maps() - expected).max() < 1e-4


def test_a_mirrored_face_gives_mirrored_maps_with_sides_exchanged(vit):
    """With flips averaged the procedure itself must be symmetric, whatever the network has learned."""
    data = faces(1)
    mirrored = WeakFaces(
        "m", ["id0"], lambda key: data.image(0)[:, ::-1].copy(), data.labels[:, CELEBAMASK.flip_components]
    )
    plain, other = (next(extract(vit, some, FcamConfig(scales=(1.0,)))) for some in (data, mirrored))
    where = {int(k): i for i, k in enumerate(other.classes)}
    for i, k in enumerate(plain.classes):
        partner = where[int(CELEBAMASK.flip_components[k])]
        assert np.abs(plain.maps()[i] - other.maps()[partner][:, ::-1]).max() < 1e-4


def test_lips_are_never_exchanged():
    for name in ("u_lip", "l_lip"):
        k = CELEBAMASK.index(name) - 1
        assert CELEBAMASK.flip_components[k] == k


def test_maps_reach_one_and_zero(vit):
    fcam = next(extract(vit, faces(1)))
    maps = fcam.maps((33, 21))
    assert maps.shape == (len(fcam.classes), 33, 21)
    assert maps.min((1, 2)) == pytest.approx(0)
    assert maps.max((1, 2)) == pytest.approx(1, abs=1e-4)


def test_saved_in_half_precision_and_read_again(vit, tmp_path):
    data = faces()
    folder = extract_to_folder(vit, data, tmp_path)
    assert folder.ids == sorted(data.ids)
    for fresh, stored in zip(extract(vit, data), folder, strict=True):
        assert stored.size == fresh.size == (50, 40)
        assert stored.grids[0].dtype == torch.float16
        assert np.abs(stored.maps() - fresh.maps()).max() < 5e-3
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 10_000


def test_tiny_activations_survive_half_precision(tmp_path):
    grid = torch.rand(1, 4, 4) * 1e-7
    save_fcam(Fcam("a", np.array([2]), (grid,), (8, 8)), tmp_path)
    fresh = Fcam("a", np.array([2]), (grid / grid.max(),), (8, 8)).maps()
    assert np.abs(FcamFolder(tmp_path)[0].maps() - fresh).max() < 5e-3


def test_goes_on_where_it_was_and_shards(vit, tmp_path):
    data = faces(5)
    extract_to_folder(vit, data, tmp_path, shard=(1, 2))
    assert FcamFolder(tmp_path).ids == ["id1", "id3"]
    asked = []
    spied = replace(data, read=lambda key: asked.append(key) or data.read(key))
    assert len(extract_to_folder(vit, spied, tmp_path)) == 5
    assert sorted(set(asked)) == ["id0", "id2", "id4"]
    asked.clear()
    extract_to_folder(vit, spied, tmp_path)
    assert asked == []


def test_refuses_a_folder_of_other_maps(vit, tmp_path):
    data = faces(2)
    extract_to_folder(vit, data, tmp_path / "maps")
    with pytest.raises(InputError, match="holds FCAMs made with"):
        extract_to_folder(vit, data, tmp_path / "maps", FcamConfig(variant="patch"))
    other = copy.deepcopy(vit)
    with torch.no_grad():
        other.patch_head.bias += 1
    with pytest.raises(InputError, match="choose another folder"):
        extract_to_folder(other, data, tmp_path / "maps")
    (tmp_path / "maps/settings.json").unlink()
    with pytest.raises(InputError, match="not FCAMs of this command"):
        extract_to_folder(vit, data, tmp_path / "maps")


def test_errors(tmp_path):
    with pytest.raises(InputError, match="no folder of FCAMs"):
        FcamFolder(tmp_path / "none")
    with pytest.raises(InputError, match="run `wsfp fcam`"):
        FcamFolder(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"short")
    unreadable = r"x\.safetensors cannot be read as FCAMs .* truncated .*; remove it and run `wsfp fcam` again"
    with pytest.raises(InputError, match=unreadable):
        FcamFolder(tmp_path)[0]
    save_weights(tmp_path / "x.safetensors", {"classes": torch.zeros(1), "scale0": torch.zeros(1, 2, 2)})
    with pytest.raises(InputError, match=r"x\.safetensors is not a saved FCAM \(it has no 'size'\)"):
        FcamFolder(tmp_path)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": torch.tensor(1)}, "classes are not some of 0 to 17 in order"),
        ({"classes": torch.tensor([[0, 1]])}, "classes are not some of 0 to 17 in order"),
        ({"classes": torch.tensor([1, 1])}, "classes are not some of 0 to 17 in order"),
        ({"classes": torch.tensor([5, 1])}, "classes are not some of 0 to 17 in order"),
        ({"classes": torch.tensor([1, 18])}, "classes are not some of 0 to 17 in order"),
        ({"scale0": torch.ones(2, 0, 4)}, "maps are not one for each class"),
        ({"scale0": torch.ones(2, 4, 0)}, "maps are not one for each class"),
        ({"scale0": -torch.ones(2, 4, 4)}, "maps are below 0"),
        ({"size": torch.tensor([[8, 8]])}, "its size is"),
        ({"size": torch.tensor([2**62, 2**62])}, "its size is"),
        ({"size": torch.tensor([99_999, 99_999])}, "its size is"),
    ],
    ids=str,
)
def test_maps_that_cannot_be_are_refused(tmp_path, changes, words):
    whole = {"scale0": torch.ones(2, 4, 4), "classes": torch.tensor([0, 1]), "size": torch.tensor([8, 8])}
    save_weights(tmp_path / "x.safetensors", whole)
    assert FcamFolder(tmp_path)[0].size == (8, 8)
    save_weights(tmp_path / "x.safetensors", whole | changes)
    with pytest.raises(InputError, match=rf"x\.safetensors .*{words}.*remove it and run `wsfp fcam` again"):
        FcamFolder(tmp_path)[0]
