"""Pictures and label maps: what is read is upright RGB or class ids, what cannot be read is a sentence."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from wsfp_helpers.common import pictures
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import (
    normalise,
    picture_size,
    read_image,
    read_label_map,
    resize,
    square,
    to_tensor,
    write_index_png,
)

PALETTE = np.arange(57, dtype=np.uint8).reshape(19, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[8:, 16:] = (255, 0, 0), (0, 0, 255)
    # How a camera held in that way stores the upright picture: the inverse of each turn.
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert picture_size(path) == (16, 24)


@pytest.mark.parametrize(("least", "shape"), [(1, (38, 50)), (37, (38, 50)), (38, (75, 100)), (151, (300, 400))])
def test_a_jpeg_that_need_not_be_whole_comes_at_a_part_of_its_size(tmp_path, least, shape):
    picture = Image.fromarray(np.linspace(0, 255, 300 * 400).reshape(300, 400).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.rotate(180).save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture.save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.jpg", least)
    assert found.shape == (*shape, 3) and read_image(tmp_path / "a.png", least).shape == (300, 400, 3)
    assert np.abs(np.array(picture.resize(shape[::-1], Image.Resampling.BOX)).astype(int) - found).max() < 12


def tiff(kind, value, tag=0x0112):
    """EXIF with one entry of any type."""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, tag, kind, 1, value, 0)


DAMAGED_METADATA = {
    "a letter": b"x",
    "half a header": b"Exif\0\0II",
    "a header that leads nowhere": b"Exif\0\0II*\0\xff\xff\xff\xff",
    "more entries than there are": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    "an orientation in bytes": tiff(7, b"\6\0\0\0"),
    "an orientation in letters": tiff(2, b"6\0\0\0"),
    "an orientation of 0": tiff(3, b"\0\0\0\0"),
    "an orientation of 9": tiff(3, b"\x09\0\0\0"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", DAMAGED_METADATA.values(), ids=DAMAGED_METADATA)
def test_a_picture_with_damaged_metadata_is_read_as_it_is_stored(tmp_path, kind, exif):
    stored = Image.new("RGB", (24, 16), "orange")
    stored.save(tmp_path / "a", format=kind, exif=exif, lossless=True)
    assert read_image(tmp_path / "a").shape == (16, 24, 3) and picture_size(tmp_path / "a") == (16, 24)


def test_an_orientation_beside_damaged_metadata_is_applied(tmp_path):
    # The first entry, a width in letters, cannot be written back by Pillow.
    entries = struct.pack("<HHHI4s", 2, 0x0100, 2, 4, b"251\0") + struct.pack("<HHIII", 0x0112, 3, 1, 6, 0)
    Image.new("RGB", (24, 16)).save(tmp_path / "a", format="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + entries)
    with Image.open(tmp_path / "a") as picture, pytest.raises(struct.error):
        ImageOps.exif_transpose(picture)
    assert read_image(tmp_path / "a").shape == (24, 16, 3) and picture_size(tmp_path / "a") == (24, 16)


def test_pillow_says_nothing_beside_our_sentence(tmp_path):
    tags = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (277, 61955), (279, 1)]
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    (tmp_path / "a").write_bytes(content)
    code = "import sys; from wsfp_helpers.common.pictures import read_image; read_image(sys.argv[1])"
    # pytest takes what is logged, so only another process shows what a user sees.
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert "InputError" in done.stderr and "samples per pixel" not in done.stderr


def test_every_mode_of_picture_becomes_rgb(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([grey] * 4)).save(tmp_path / "alpha.png")
    for name in ("grey", "deep", "alpha"):
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), np.dstack([grey] * 3)), name


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_and_foreign_files_are_sentences(tmp_path, suffix):
    good, cut, text = (tmp_path / f"{name}{suffix}" for name in ("good", "cut", "text"))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(good)
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    text.write_text("no picture")
    for path in (cut, text):
        with pytest.raises(InputError, match=f"{path.name} cannot be read as an image"):
            read_image(path)
    with pytest.raises(InputError, match="no image at"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="no image at"):
        picture_size(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder: expected the image itself"):
        read_image(tmp_path)


@pytest.mark.parametrize("classes", [2, 11, 19])  # of up to 16 colours Pillow would keep 4 bits, and no 255
def test_index_png_round_trip(tmp_path, classes):
    label_map = np.random.default_rng(0).choice([*range(classes), 255], (9, 7)).astype(np.uint8)
    path, palette = tmp_path / "a.png", PALETTE[:classes]
    write_index_png(path, label_map, palette)
    assert np.array_equal(read_label_map(path, classes), label_map)
    with Image.open(path) as picture:
        assert picture.mode == "P" and picture.getpalette()[: 3 * classes] == palette.ravel().tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_grey_label_map_is_read_and_255_is_allowed(tmp_path):
    label_map = np.array([[0, 18, 255]], np.uint8)
    Image.fromarray(label_map).save(tmp_path / "a.png")
    assert np.array_equal(read_label_map(tmp_path / "a.png", 19), label_map)


@pytest.mark.parametrize("value", [19, 254])
def test_label_value_out_of_range(tmp_path, value):
    Image.fromarray(np.array([[0, value]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png has label value {value}: expected class ids 0 to 18 or 255"):
        read_label_map(tmp_path / "a.png", 19)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "LA", "1"])
def test_label_map_of_another_mode(tmp_path, mode):
    dtype = np.uint16 if mode == "I;16" else np.uint8
    picture = Image.fromarray(np.zeros((4, 4), dtype))
    (picture if mode == "I;16" else picture.convert(mode)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png is a label map of mode {mode}: expected 8-bit"):
        read_label_map(tmp_path / "a.png", 19)


def test_picture_bomb_is_a_sentence(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures.Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_image, picture_size):
        with pytest.raises(InputError, match=r"a\.png has too many pixels: expected at most 2,000; make .* smaller"):
            read(tmp_path / "a.png")


def test_a_large_picture_is_read_without_a_warning(tmp_path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    code = (
        "from wsfp_helpers.common.pictures import Image, read_image; Image.MAX_IMAGE_PIXELS = 4000; read_image('a.png')"
    )
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")


def test_floating_point_numbers_are_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match=r"a\.tiff holds floating-point numbers .*save it as"):
        read_image(tmp_path / "a.tiff")


def test_the_way_from_uint8_to_what_a_network_takes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 6, 8, 3), np.uint8)
    tensor = to_tensor(images)
    assert tensor.shape == (2, 3, 6, 8) and tensor[1, 2, 5, 7].item() == pytest.approx(images[1, 5, 7, 2] / 255)
    ready = normalise(tensor, (0.1, 0.2, 0.3), (0.5, 0.4, 0.2))
    for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.4, 0.2), strict=True)):
        expected = torch.from_numpy((images[..., channel] / 255 - mean) / std).float()
        torch.testing.assert_close(ready[:, channel], expected, atol=1e-6, rtol=1e-6)


def test_resizing_keeps_the_range_and_leaves_the_right_size_alone():
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    assert resize(edge, (8, 8)) is edge
    free = F.interpolate(edge, (20, 12), mode="bicubic", antialias=True)
    assert free.min() < 0 < 1 < free.max()  # bicubic overshoots at an edge
    assert torch.equal(resize(edge, (20, 12)), free.clamp(0, 1))


def test_a_picture_comes_to_the_middle_of_a_square():
    image = np.full((3, 6, 3), 7, np.uint8)
    padded = square(image)
    assert padded.shape == (6, 6, 3) and (padded[1:4] == 7).all() and not padded[[0, 4, 5]].any()
    assert square(padded) is padded
