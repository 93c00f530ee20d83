"""The three mistakes of the field are named, from maps that were made wrong on purpose, and nothing else is."""

import numpy as np
import pytest
from fixtures import face_map, make_lapa, random_pairs, save

from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK, LAPA, flip_label_map, lookup, to_lapa
from wsfp_helpers.palette import palette
from wsfp_helpers.score.folders import evaluate_folders
from wsfp_helpers.score.mistakes import OTHER_ORDER, Looks, look
from wsfp_helpers.tooling.verify import verify

EXCHANGED, MIRRORED, ORDER = "left and right exchanged", "mirrored without exchanging", "other order of the 19 classes"
TO_OTHER = lookup(np.array([OTHER_ORDER.index(name) for name in CELEBAMASK.classes], np.uint8))


@pytest.fixture(scope="module")
def faces():
    found = synthfaces("celeb/val")
    return [found.label_map(i) for i in range(20)]


def mistakes_of(maps, scheme=CELEBAMASK):
    looks = Looks()
    for each in maps:
        looks.add(look(each, scheme))
    return looks.mistakes("the maps")


def exchange(label_map, scheme):
    return lookup(scheme.flip.astype(np.uint8))[label_map]


def wrong(faces, mistake, scheme):
    """The maps with a mistake; of mirroring every other one has it."""
    if mistake == EXCHANGED:
        return [exchange(each, scheme) for each in faces]
    if mistake == MIRRORED:
        return [each[:, ::-1] if i % 2 else each for i, each in enumerate(faces)]
    return [TO_OTHER[each] for each in faces] if mistake == ORDER else faces


@pytest.mark.parametrize("scheme", [CELEBAMASK, LAPA], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("mistake", [EXCHANGED, MIRRORED, ORDER, None])
def test_each_mistake_is_named_and_only_that(faces, mistake, scheme):
    maps = faces if scheme is CELEBAMASK else [to_lapa(each) for each in faces]
    if not (mistake == ORDER and scheme is LAPA):
        found = mistakes_of(wrong(maps, mistake, scheme), scheme)
        assert len(found) == (mistake is not None) and all(mistake in text for text in found)


@pytest.mark.promise("data sets", "mirrored maps whose classes were exchanged", "nothing", "-")
def test_mirrored_maps_with_exchanged_classes_are_right(faces):
    assert mistakes_of(flip_label_map(each) for each in faces) == []


def test_noise_empty_maps_and_few_maps_tell_nothing():
    assert mistakes_of(each for pair in random_pairs(20) for each in pair) == []
    assert mistakes_of([np.zeros((9, 9), np.uint8)] * 9) == []
    assert mistakes_of([face_map()[:, ::-1]] * 3) == []
    assert len(mistakes_of([face_map()[:, ::-1]] * 4)) == 1


@pytest.mark.parametrize("side", ["pred", "gt"])
@pytest.mark.parametrize("mistake", [EXCHANGED, MIRRORED, ORDER, None])
@pytest.mark.promise(
    "data sets",
    "`evaluate` of maps with sides exchanged, mirrored alone, or in the other order of the 19 classes",
    "a warning that names folder, mistake and evidence",
    "the scores",
)
def test_evaluate_names_the_folder_with_the_mistake(faces, tmp_path, side, mistake):
    for folder in ("pred", "gt"):
        maps = wrong(faces, mistake, CELEBAMASK) if folder == side else faces
        for i, label_map in enumerate(maps):
            write_index_png(tmp_path / folder / f"{i}.png", label_map, palette(CELEBAMASK))
    notes = [note for note in evaluate_folders(tmp_path / "pred", tmp_path / "gt").notes if "warning: the " in note]
    words = {"pred": "the predictions", "gt": "the label maps"}[side]
    assert len(notes) == (mistake is not None) and all(words in note and mistake in note for note in notes)


@pytest.mark.parametrize("mistake", [EXCHANGED, MIRRORED, ORDER, None])
@pytest.mark.promise(
    "data sets",
    "`data verify` of maps with sides exchanged, mirrored alone, or in the other order of the 19 classes",
    "a fault that names the mistake",
    "as it was",
)
def test_verify_names_the_mistake(faces, tmp_path, mistake):
    for i, label_map in enumerate(wrong(faces, mistake, CELEBAMASK)):
        save(np.full((*label_map.shape, 3), i, np.uint8), tmp_path / "images" / f"{i}.png")
        save(np.ascontiguousarray(label_map), tmp_path / "labels" / f"{i}.png")
    found = verify(tmp_path).faults
    assert [fault.kind for fault in found] == ["mistake"] * (mistake is not None)
    assert all(mistake in fault.text for fault in found)


def test_a_small_right_copy_has_no_mistake(tmp_path):
    assert not [fault for fault in verify(make_lapa(tmp_path)).faults if fault.kind == "mistake"]
