"""Tables 1 and 2 of the paper in the embedded world: parsers trained on each method's pseudo labels, on every test set.

A parser is trained once for a method and a seed; tables share them, and a killed table goes on where it was.  The upper
bound stands beside: the same parser, trained with the rendered masks, with the first seed only.

A rendered face already has the framing of the training pictures, so it is looked at once, as a whole, averaged with its
mirror image; all parsers share the trunk's tokens of the two.  A photograph is looked at as ``wsfp parse`` does, as a
whole and then closer at its face.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from wsfp_helpers import runs
from wsfp_helpers.ablate import Row, folder_of, key_of, train_row
from wsfp_helpers.augment import WITH_MASKS
from wsfp_helpers.data.base import Faces
from wsfp_helpers.data.cache import cache_dir
from wsfp_helpers.data.frl import SCORED, find_frl_london, of_photographs
from wsfp_helpers.detect.boxes import Boxes
from wsfp_helpers.evaluate import confusions, mapped
from wsfp_helpers.fcam import extract_to_folder
from wsfp_helpers.labels import CELEBAMASK, LAPA, to_lapa_table
from wsfp_helpers.parser import Parser, load_parser, make_copies, train_parser
from wsfp_helpers.profiles import Profile, Source
from wsfp_helpers.pseudo import write_pseudo_labels
from wsfp_helpers.results import group_rows, scored_rows, write_results
from wsfp_helpers.runs import device
from wsfp_helpers.segment import remove_state
from wsfp_helpers.storage import InputError, atomic_path, read_label_map
from wsfp_helpers.train import load_model
from wsfp_helpers.trunk import features, load_trunk

BASELINE, FULL, SUPERVISED = "MCTformer+ (baseline)", "DisFaceRep (CCD + TCD)", "full supervision"
METHODS = (BASELINE, FULL, SUPERVISED)
TONES = (2, 4, 6)
"""Where skin tones of SynthFaces (0 light to 10 dark) are cut into bands."""
LONG_HAIR = ("long", "wavy", "curly", "bob", "medium")


def table1(
    config: Profile,
    boxes: Boxes,
    seeds: Sequence[int] = (0, 1, 2),
    folder: str | Path | None = None,
    results: Path | None = None,
) -> Path:
    """Table 1: mean F1 of the pseudo masks, and of the parsers on val and test; returns the results file.

    It is written to the folder ``results`` (default: :func:`wsfp_helpers.ablate.folder_of` the profile).
    """
    study = Study(config, boxes, folder)
    rows = []
    for method in (BASELINE, FULL):
        masks = np.stack([study.masks(method, seed) for seed in seeds])
        rows += scored_rows(f"{method}: pseudo masks", masks)
    for method in METHODS:
        for part in ("val", "test"):
            faces = config.faces(part)
            rows += scored_rows(f"{method}: {part}", study.matrices(method, seeds, faces), scored=scored(faces))
    return write_results("table1", study.command("table1", seeds), rows, results or folder_of(config))


def table2(
    config: Profile,
    boxes: Boxes,
    seeds: Sequence[int] = (0, 1, 2),
    folder: str | Path | None = None,
    results: Path | None = None,
) -> Path:
    """Table 2: the parsers of Table 1 on LaPa-like and Helen-like faces (11 classes) and on real photographs.

    19 classes become 11 by place; in LaPa, ears count as skin.  FRL London is left out where there is no copy.  The
    results file ``groups`` is written as well: mean F1 by group on celeb/test and on FRL London.  For ``results`` see
    :func:`table1`.
    """
    study = Study(config, boxes, folder)
    eleven = {
        "LaPa-like": (Source("synthfaces", "lapa/test").open(), to_lapa_table(ears_to_skin=True)),
        "Helen-like": (Source("synthfaces", "helen/test").open(), to_lapa_table()),
    }
    grouped = {"SynthFaces test": Source("synthfaces", "celeb/test").open()}
    if find_frl_london() is not None:
        grouped["FRL London"] = Source("frl-london").open()
    rows, groups = [], []
    for method in METHODS:
        for name, (faces, table) in eleven.items():
            matrices = mapped(study.matrices(method, seeds, faces), table, len(LAPA))
            rows += scored_rows(f"{method}: {name}", matrices, LAPA)
        for name, faces in grouped.items():
            matrices = study.matrices(method, seeds, faces)
            groups += group_rows(f"{method}, {name}", matrices, groups_of(faces), scored=scored(faces))
            if of_photographs(faces):
                rows += scored_rows(f"{method}: {name} (real)", matrices, scored=scored(faces))
    write_results("groups", study.command("table2", seeds), groups, results or folder_of(config))
    return write_results("table2", study.command("table2", seeds), rows, results or folder_of(config))


def scored(faces: Faces) -> tuple[str, ...] | None:
    """The classes of a set's mean F1: all (``None``), or those that the points of FRL London outline."""
    return SCORED if of_photographs(faces) else None


def groups_of(faces: Faces) -> dict[str, np.ndarray]:
    """Names of groups ``(n,)``, one an image, by what they are groups of.

    SynthFaces: bands of the skin tone (:data:`TONES`), hair, glasses; FRL London: what the people said of themselves.
    """
    facts = faces.attributes
    if "skin_tone" not in facts:
        return {"gender": facts["gender"], "age band": facts["age_band"], "ethnicity": facts["ethnicity"]}
    ends = (0, *TONES, 10)
    bands = np.array([f"{low} to {high}" for low, high in pairwise(ends)])
    return {
        "skin tone": bands[np.digitize(facts["skin_tone"].astype(float), TONES)],
        "hair": np.where(np.isin(facts["hair_style"], LONG_HAIR), "longer", "short or none"),
        "glasses": facts["glasses"],
    }


def framed(parser: Parser, faces: Faces, batch: int = 8) -> Iterator[np.ndarray]:
    """Label maps ``(S, S)`` uint8 of faces that have the framing and size of the training pictures.

    The whole picture is averaged with its mirror image.  The trunk's tokens of both come from the disk cache: they are
    computed once for all parsers.
    """
    for start in range(0, len(faces), batch):
        pictures = np.stack([faces.image(i) for i in range(start, min(start + batch, len(faces)))])
        tokens = features([*pictures, *pictures[:, :, ::-1]], parser.trunk)
        yield from parser.probabilities(pictures, tokens=tokens.float()).argmax(1).byte().numpy()


def answers(parser: Parser, faces: Faces) -> Iterator[np.ndarray]:
    """Label maps ``(H, W)`` uint8 of a test set: of photographs as ``wsfp parse`` gives them, else :func:`framed`."""
    if of_photographs(faces):
        return (parser.predict(faces.image(i))[0] for i in range(len(faces)))
    return framed(parser, faces)


def scores_of(parser: Parser, faces: Faces, desc: str = "scores") -> np.ndarray:
    """Confusion matrices ``(n, 19, 19)`` of a parser on a test set, one a picture, from :func:`answers`."""
    bar = tqdm(answers(parser, faces), f"{desc}, {faces.name}", len(faces), unit="face", leave=False)
    return confusions(zip(bar, (faces.label_map(i) for i in range(len(faces))), strict=True))


class Study:
    """Networks (``ablate/``), pseudo labels, parsers and scores (``tables/``) below a folder (default: the cache)."""

    def __init__(self, config: Profile, boxes: Boxes, folder: str | Path | None = None) -> None:
        if config.train_data.name != "synthfaces":
            raise InputError(f"tables 1 and 2 are made with a profile that trains on synthfaces, not {config.name}")
        self.config, self.boxes = config, boxes
        self.folder, self.ablations = (Path(folder or cache_dir()) / part for part in ("tables", "ablate"))
        self.rows = {BASELINE: Row("Base.", ccd=False), FULL: Row("Base. + CCD + TCD", tcd=config.train.tcd)}

    def command(self, table: str, seeds: Sequence[int]) -> str:
        """What a reader types to get the numbers again."""
        return f"wsfp {table} --profile {self.config.name} --seeds {','.join(map(str, seeds))}"

    def labels(self, method: str, seed: int) -> Path:
        """Pseudo labels of the whole training set."""
        run = train_row(self.rows[method], self.config, self.boxes, seed, self.ablations)
        vit = load_model(self.config.model.empty(), run / "model.safetensors")
        faces = self.config.faces("train").weak()
        way = key_of({"fcam": asdict(self.config.fcam), "theta": self.config.theta})
        place = self.folder / f"{run.name}-{way}"
        fcams = extract_to_folder(vit.to(device()), faces, place / "fcams", self.config.fcam)
        return write_pseudo_labels(fcams, place / "labels", self.config.theta)

    def masks(self, method: str, seed: int) -> np.ndarray:
        """Confusion matrices ``(n, 19, 19)`` of the pseudo labels, for the report only."""
        labels, faces = self.labels(method, seed), self.config.faces("train")
        found = (read_label_map(labels / f"{key}.png", len(CELEBAMASK)) for key in faces.ids)
        return confusions(zip(found, (faces.label_map(i) for i in range(len(faces))), strict=True))

    def parser(self, method: str, seed: int) -> tuple[Parser, Path]:
        """The parser of a method and the folder that it is kept in.

        All parsers see the same augmented copies of the pictures, so their features are computed once.
        """
        faces, trunk, settings = self.config.faces("train"), load_trunk(), self.config.parser
        if method == SUPERVISED:
            settings = replace(settings, augment=WITH_MASKS)
            source, target = "rendered masks", faces.label_map
        else:
            labels, faces = self.labels(method, seed), faces.weak()
            source = labels.parent.name

            def target(index: int) -> np.ndarray:
                return read_label_map(labels / f"{faces.ids[index]}.png", len(CELEBAMASK))

        folder = self.folder / f"parser-{source.replace(' ', '-')}-seed{seed}"
        folder = runs.start_run(folder, {"parser": settings, "targets": source}, seed)
        path = folder / "parser.safetensors"
        if not path.exists():
            copies = make_copies(faces, target, settings, trunk)
            network, _ = train_parser(copies, settings, seed=seed, folder=folder, desc=f"{method}, seed {seed}")
            Parser(network, trunk, settings, {"targets": source, "seed": seed}).save(path)
            remove_state(folder)
        return load_parser(path), folder

    def matrices(self, method: str, seeds: Sequence[int], faces: Faces) -> np.ndarray:
        """Confusion matrices ``(S, n, 19, 19)`` of a method's parsers on a test set, one a seed and picture.

        Full supervision, the upper bound, has the first seed only.
        They are kept beside the parser and found again by its content, the set and the way of looking.
        """
        way = "looks" if of_photographs(faces) else "mirrored"
        result = []
        for seed in seeds[:1] if method == SUPERVISED else seeds:
            parser, folder = self.parser(method, seed)
            key = hashlib.sha256((folder / "parser.safetensors").read_bytes()).hexdigest()[:12]
            name = faces.name.lower().replace(" ", "-").replace("/", "-")
            known = folder / f"matrices-{name}-{len(faces)}-{way}-{key}.npy"
            if not known.exists():
                found = scores_of(parser, faces, f"{method}, seed {seed}")
                with atomic_path(known) as part, part.open("wb") as file:
                    np.save(file, found)
            result.append(np.load(known, allow_pickle=False))
        return np.stack(result)
