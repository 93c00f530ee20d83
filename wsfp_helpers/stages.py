"""The stages of a profile, each from a folder to a folder: the one way to train, label, parse, score and key a run.

Commands, tables, ablations and scripts call these.  Every stage may be interrupted and started again with the same
arguments; other arguments in the same folder are refused.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from wsfp_helpers.common.accelerator import processes
from wsfp_helpers.common.cache import cache_dir, find
from wsfp_helpers.common.checkpoints import fingerprint, load_strictly, read_weights, save_weights
from wsfp_helpers.common.configs import check_range, key_of, read_config
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import (
    ASSETS,
    CONFIG,
    atomic_path,
    claim_folder,
    existing,
    existing_file,
    hold_folder,
    read_json,
    sha256_of,
    write_json,
)
from wsfp_helpers.common.machine import device
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.common.runs import start_run
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import Detector
from wsfp_helpers.detect.boxes import (
    Boxes,
    check_complete,
    detect_dataset,
    gather_boxes,
    read_boxes,
    shipped_boxes,
)
from wsfp_helpers.detect.load import load_detector
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method import ccd
from wsfp_helpers.method.fcam import FcamFolder, extract_to_folder
from wsfp_helpers.method.pseudo import read_targets, write_pseudo_labels
from wsfp_helpers.method.regions import Accepted, RegionConfig, find_regions
from wsfp_helpers.method.train import CHECKPOINT, MODEL, load_model, load_vit, newest_weights, preset, train
from wsfp_helpers.method.vit import MultiClassTokenViT
from wsfp_helpers.nets.trunk import features
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing.deeplab import DeepLabConfig, DeepLabParser
from wsfp_helpers.parsing.fit import remove_state
from wsfp_helpers.parsing.light import LightParser, ParserConfig
from wsfp_helpers.parsing.zoom import FaceParser, ZoomSettings
from wsfp_helpers.profiles import BERT, GROUNDING_DINO, Profile, profile
from wsfp_helpers.score.confusion import confusions
from wsfp_helpers.systems.base import Parts, System
from wsfp_helpers.systems.class_tokens import McTformerPlus
from wsfp_helpers.systems.every import make_system

SHIPPED = "shipped"
"""In place of a boxes file: the boxes of SynthFaces-19 that come with the package."""
PARSER = "parser.safetensors"
"""The trained parser in its run directory."""
_READING = "run.json"


@dataclass(frozen=True)
class Reading:
    """What the maps of a run are read with."""

    theta: float
    step: int | None = None
    """Of the checkpoint that the maps are of; ``None`` at the end of the training."""

    def __post_init__(self) -> None:
        check_range(self, theta=(0, 1))


def run_ccd(
    config: Profile,
    out: str | Path,
    part: str = "train",
    weights: str | Path | None = None,
    text_encoder: str | Path | None = None,
    seed: int = 0,
    images: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> dict | None:
    """Detect components into ``out/boxes.jsonl`` and report what CCD does in ``out/report.json`` (section 3.3).

    Of several processes (``accelerate launch``) each detects its share; their number may change when the same call is
    made again after a kill.  ``shard=(i, n)`` does without accelerate: it only detects the i-th of n shares, and the
    call without it does what is missing and joins them.  Returns the report, or ``None`` where another process has it.
    ``weights`` and ``text_encoder`` are as of :func:`find_detector`.
    ``images=True`` also writes the authors' offline set: ``out/masked/ID.png`` and ``out/labels.csv`` with y-hat.
    """
    faces, boxes, state = config.faces(part).weak, Path(out) / "boxes.jsonl", processes()
    detector = find_detector(config, weights, text_encoder, shard[0])
    if shard[1] > 1:
        detect_dataset(faces, detector, boxes, shard=shard)
        return None
    with state.main_process_first():
        if state.is_main_process:
            gather_boxes(boxes, faces, detector.name)
        done = read_boxes(boxes) if boxes.exists() else {}
    if state.num_processes == 1:
        detect_dataset(faces, detector, boxes)
    elif missing := [i for i, key in enumerate(faces.ids) if key not in done]:
        detect_dataset(faces.subset(missing), detector, boxes, shard=(state.process_index, state.num_processes))
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    records, masking = gather_boxes(boxes, faces, detector.name), config.ccd or ccd.CCDConfig()
    report = ccd.report_ccd(faces, records, masking, seed)
    write_json(Path(out) / "report.json", report)
    if images:
        _write_masked(ccd.mask_faces(faces, records, masking, seed), Path(out))
    return report


def find_detector(
    config: Profile, weights: str | Path | None = None, text_encoder: str | Path | None = None, share: int = 0
) -> Detector:
    """The detector of a profile; Grounding DINO is that of ``wsfp weights get``, unless ``weights`` name another.

    ``share`` is as of :func:`wsfp_helpers.common.machine.device`.
    """
    if config.detector == "groundingdino" and weights is None:
        weights, text_encoder = find(GROUNDING_DINO), text_encoder or find(BERT)
    return load_detector(config.detector, weights, text_encoder, device(share))


def _write_masked(masked: WeakFaces, out: Path) -> None:
    for i, key in enumerate(tqdm(masked.ids, desc="masked images", unit="image")):
        with atomic_path(out / "masked" / f"{key}.png") as part:
            Image.fromarray(masked.image(i)).save(part, format="PNG")
    rows = [",".join([key, *map(str, y)]) for key, y in zip(masked.ids, masked.labels.tolist(), strict=True)]
    with atomic_path(out / "labels.csv") as part:
        part.write_text("\n".join([",".join(["id", *COMPONENTS]), *rows]) + "\n", encoding="utf-8")


def format_ccd(report: Mapping) -> str:
    """The report of :func:`run_ccd` as text: a line for each component, then the labels before and after."""
    counts = ("present", "found", "accepted", "masked", "on_both_sides")
    heads = "".join(f"{count:>15}" for count in counts) + "".join(f"{test:>8}" for test in ccd.TESTS)
    lines = [f"{report['images']} images; candidates rejected by: {', '.join(ccd.TESTS)}", f"{'':8}{heads}"]
    for component, row in report["components"].items():
        cells = "".join(f"{row[count]:15d}" for count in counts)
        lines.append(f"{component:8}{cells}" + "".join(f"{row['rejected'][test]:8d}" for test in ccd.TESTS))
    before, after = report["labels"]["before"], report["labels"]["after"]
    changed = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    return "\n".join([*lines, f"labels that changed: {', '.join(changed) or 'none'}"])


def open_boxes(boxes: str | Path, config: Profile) -> Boxes:
    """Boxes of a profile's training set: those of a file, or :data:`SHIPPED`."""
    return shipped_boxes(config.train_data.split) if str(boxes) == SHIPPED else read_boxes(boxes)


def name_boxes(boxes: str | Path) -> str:
    """Name of boxes by which results of others are told apart: :data:`SHIPPED`, or a digest of the file."""
    if str(boxes) == SHIPPED:
        return SHIPPED
    return f"boxes-{sha256_of(existing_file(boxes, 'boxes file', 'boxes.jsonl'))[:12]}"


def run_train(
    config: Profile,
    out: str | Path,
    boxes: str | Path = SHIPPED,
    redraw: bool = False,
    mix_originals: bool = False,
) -> Path:
    """Train the class-token ViT of a profile in the run directory ``out`` (section 3.2-3.4); returns ``out``.

    Args:
        config: With ``ccd=None`` nothing is masked, with ``train.tcd=None`` the text-guided losses are left out:
            without both it is the baseline, MCTformer+.  ``train.seed`` is the seed of all.
        out: A finished run is left as it is.
        boxes: Boxes file for CCD, or :data:`SHIPPED`.
        redraw: Draws the masks anew in each epoch.
        mix_originals: Trains on the unmasked pictures as well.

    Raises:
        InputError: ``out`` is of another run, the boxes do not fit, or options of masking without CCD.
    """
    seed, faces = config.train.seed, config.faces("train").weak
    masking: dict[str, object] = {"boxes": None, "redraw": redraw, "mix_originals": mix_originals}
    data: WeakFaces | Callable[[int], WeakFaces] = faces
    if config.ccd is None:
        if redraw or mix_originals:
            raise InputError("redraw and mix_originals say how CCD masks pictures: leave them out, or use CCD")
    else:
        records, masking["boxes"] = open_boxes(boxes, config), name_boxes(boxes)
        check_complete(records, faces, f"the boxes of {boxes}")

        def mask(epoch: int | None = None) -> WeakFaces:
            return ccd.mask_faces(faces, records, config.ccd, seed, epoch, mix_originals)

        data = mask()  # also with redraw: boxes that cannot be used are refused before the folder is claimed
        data = mask if redraw else data
    vit = config.model.build(seed)
    vlm = config.load_vlm() if config.train.tcd is not None else None
    cache_dir()  # one that cannot be made is told before the folder is claimed
    out, state = Path(out), processes()
    with hold_folder(out) if state.is_main_process else nullcontext():
        if state.is_main_process:
            start_run(out, {"profile": asdict(config), **masking}, seed)
        state.wait_for_everyone()
        if not (out / MODEL).exists():
            train(vit, data, config.train, out, vlm)
    return out


def run_keyed(config: Profile, boxes: str | Path, work: Path) -> Path:
    """:func:`run_train` in a folder of ``work`` that is named by all that the trained network depends on."""
    vlm = fingerprint(config.load_vlm().clip) if config.train.tcd is not None else None
    key = key_of({"profile": config, "boxes": name_boxes(boxes) if config.ccd else None, "vlm": vlm})
    return run_train(config, work / f"{key}-seed{config.train.seed}", boxes)


def load_run(folder: str | Path) -> tuple[MultiClassTokenViT, Profile]:
    """The trained network of a run directory and the profile that it was made with.

    Raises:
        InputError: The folder is no run, or its training has not ended.
    """
    made, path = read_run(folder), Path(folder) / MODEL
    if not path.exists() and (Path(folder) / CHECKPOINT).exists():
        raise InputError(
            f"the training in {folder} has not ended: wait, start it again, or look at its last checkpoint with "
            f"`wsfp fcam --checkpoint`"
        )
    model = existing(path, "trained model (did the training end? start it again)")
    return load_model(made.model.empty(), model), made


def read_run(folder: str | Path) -> Profile:
    """The profile that a run directory was made with; raises :class:`InputError` for any other folder."""
    about = existing(Path(folder) / CONFIG, "run directory")
    content = read_json(about)
    try:
        content = content["config"]
        stored, masked = content["profile"], content["boxes"] is not None
    except (KeyError, TypeError) as error:
        raise InputError(f"{about} is not that of a run of `wsfp train`: choose the run directory of one") from error
    made = read_config(Profile, stored, about)
    return made if masked else replace(made, ccd=None)


def load_shipped(name: str = "full") -> MultiClassTokenViT:
    """A trained network of the embedded world (card: assets/fcam.md): ``"base"``, ``"ccd"`` or ``"full"``, seed 0."""
    if name not in ("base", "ccd", "full"):
        raise InputError(f"unknown shipped model {name!r}: expected base, ccd or full")
    return load_model(profile("embedded").model.empty(), ASSETS / f"fcam_{name}.safetensors")


def run_fcam(
    run: str | Path,
    out: str | Path,
    part: str = "train",
    shard: tuple[int, int] = (0, 1),
    config: Profile | None = None,
    checkpoint: bool = False,
) -> FcamFolder:
    """Extract the FCAMs of ``part`` with the model of a run directory; what is there already is kept.

    Of several processes (``accelerate launch``) each takes its share; ``shard=(i, n)`` is the i-th of n without it.
    ``config`` reads the maps in another way, or of other data, than the profile of the run says.  ``checkpoint`` takes
    the last checkpoint of a training that has not ended; :func:`unfinished` says so of the folder.
    """
    if checkpoint:
        made = read_run(run)
        weights, step = newest_weights(Path(run), made.train)
        vit = load_vit(made.model.empty(), weights, run)
    else:
        (vit, made), step = load_run(run), None
    config, state = config or made, processes()
    share = shard if shard[1] > 1 else (state.process_index, state.num_processes)
    extract_to_folder(vit.to(device(shard[0])), config.faces(part).weak, out, config.fcam, share)
    if state.is_main_process:
        write_json(Path(out) / _READING, asdict(Reading(config.theta, step)))
    state.wait_for_everyone()
    return FcamFolder(out)


def unfinished(fcams: str | Path) -> str:
    """In words, that the maps of a folder are of a training that had not ended; empty where it had."""
    step = _read_reading(fcams).step
    return f", of step {step:,} of a training that had not ended" if step else ""


def _read_reading(fcams: str | Path) -> Reading:
    """What the maps of a folder are read with; those of version 0.1 do not say, and are of the paper's threshold."""
    path = Path(fcams) / _READING
    return read_config(Reading, read_json(path), path) if path.exists() else Reading(profile("paper").theta)


def run_pseudo(fcams: str | Path, out: str | Path, theta: float | None = None, workers: int = 1) -> Path:
    """Pseudo labels of a folder of FCAMs, by default at the ``theta`` of the run that they are of; returns ``out``."""
    theta = _read_reading(fcams).theta if theta is None else theta
    return write_pseudo_labels(fcams, out, theta, workers=workers)


def run_regions(
    config: Profile,
    fcams: str | Path,
    out: str | Path,
    boxes: str | Path = SHIPPED,
    settings: RegionConfig | None = None,
    seed: int = 0,
) -> Path:
    """Better pseudo labels from the same supervision (``method/regions.py``; not the paper's): index PNGs in ``out``.

    Clusters and names need all pictures at once, so an interrupted run finds them again; PNGs
    that are there are kept.

    Raises:
        InputError: A picture has no maps or boxes, or ``out`` holds other labels.
    """
    faces, settings, folder, out = config.faces("train").weak, settings or RegionConfig(), FcamFolder(fcams), Path(out)
    if missing := sorted(set(faces.ids) - set(folder.ids)):
        raise InputError(
            f"{fcams} lacks the FCAMs of {len(missing):,} of {len(faces):,} pictures, the first is {missing[0]}: run "
            f"`wsfp fcam` on the whole training set, it goes on where it stopped"
        )
    source = {"fcams": str(folder.folder.resolve()), "boxes": name_boxes(boxes)}
    with hold_folder(out):
        claim_folder(out, {"regions": asdict(settings), **source, "seed": seed}, "pseudo labels", "*.png")
        if all((out / f"{key}.png").exists() for key in faces.ids):
            return out
        regions = find_regions(faces, folder, accept_all(faces, open_boxes(boxes, config), config.ccd), settings, seed)
        for i, key in enumerate(tqdm(faces.ids, "pseudo labels", unit="image", leave=False)):
            if not (out / f"{key}.png").exists():
                write_index_png(out / f"{key}.png", regions.label(i), PALETTE)
    return out


def accept_all(faces: WeakFaces, boxes: Boxes, config: ccd.CCDConfig | None = None) -> list[Accepted]:
    """The boxes that Eq. 1 accepts in every picture, in order."""
    check_complete(boxes, faces)
    records, config = (boxes[key] for key in faces.ids), config or ccd.CCDConfig()
    return [ccd.accepted_boxes(record.candidates, record.size, config) for record in records]


def open_parts(config: Profile, boxes: str | Path = SHIPPED, work: Path | None = None) -> Parts:
    """What the compared systems share in a profile; trained class-token networks are kept below ``work``."""

    def trained_vit(disentangled: bool, speed: float, seed: int) -> MultiClassTokenViT:
        tcd = config.train.tcd if disentangled else None
        training = replace(config.train, lr=config.train.lr * speed, tcd=tcd, seed=seed)
        own = replace(config, train=training, ccd=config.ccd if disentangled else None)
        return load_run(run_keyed(own, boxes, (work or cache_dir()) / "ablate"))[0]

    train = config.train
    return Parts(
        config.model.build, trained_vit, config.load_vlm(), config.load_dense, config.fcam, train.batch_size,
        train.epochs, pace=train.lr / preset("embedded").lr, backbone_lr=train.backbone_lr,
    )  # fmt: skip


def run_system(
    name: str, config: Profile, work: Path, boxes: str | Path = SHIPPED, settings: object = None, seed: int = 0
) -> tuple[System, Path]:
    """Train a compared system (Tables 1 and 2) and load it, with its run directory below ``work``.

    The directory is named by all that its training depends on; a finished one is read, an interrupted one goes on.  A
    system that trains nothing has one for all seeds.

    Raises:
        InputError: The name is unknown, or the directory holds weights of another system.
    """
    system = make_system(name, open_parts(config, boxes, work), settings, seed)
    if not system.network.state_dict():
        seed = 0
    opened = {"vlm": lambda: config.load_vlm().clip, "dense": lambda: config.load_dense().vlm.clip}
    models = {model: fingerprint(opened[model]()) for model in system.models}
    trained = {key: value for key, value in asdict(system.settings).items() if key not in system.reads}
    facts = {"system": name, "settings": trained, "profile": config, "boxes": name_boxes(boxes), "models": models}
    out = work / "systems" / f"{name}-{key_of(facts)}-seed{seed}"
    with hold_folder(out):
        path = start_run(out, facts, seed) / MODEL
        if not path.exists():
            system.fit(config.faces("train").weak, out)
            save_weights(path, system.network.state_dict(), system=name)
        remove_state(out)
    load_strictly(system.network, read_weights(path), path, f"remove {out} and train {name} again")
    system.network.to(device()).eval()
    return system, out


def load_shipped_system(name: str) -> System:
    """A compared system of the embedded world, trained with seed 0 (card: assets/systems.md).

    MCTformer+ and DisFaceRep are the networks of :func:`load_shipped`; CLIP-ES has none.
    """
    system = make_system(name, open_parts(profile("embedded")))
    if isinstance(system, McTformerPlus):
        system.network = load_shipped("full" if system.disentangled else "base")
    elif system.shipped.state_dict():
        path = ASSETS / f"system_{name}.safetensors"
        load_strictly(system.shipped, read_weights(path, f"weights of {name}", "restore them"), path, "restore it")
    system.network.eval()
    return system


def label_faces(system: System, faces: WeakFaces, run: Path) -> Path:
    """Label maps ``ID.png`` that a system gives for every picture, in a folder of its run directory, which is returned.

    The folder is named by the data and the settings; maps that are there are kept.
    """
    out = run / f"labels-{key_of({'data': faces.name, 'settings': system.settings})}"
    with hold_folder(out):
        missing = [i for i, key in enumerate(faces.ids) if not (out / f"{key}.png").exists()]
        found = system.find(faces.subset(missing)) if missing else ()
        for each in tqdm(found, f"labels, {system.title}", len(missing), leave=False):
            write_index_png(out / f"{each.id}.png", each.label(), PALETTE)
    return out


def run_parser(config: Profile, labels: str | Path, out: str | Path, seed: int = 0) -> Path:
    """Train the parser of a profile on a folder of pseudo labels, ``labels/ID.png``; returns its file in ``out``.

    Raises:
        InputError: A label is missing, or ``out`` is of another run.
    """
    faces = config.faces("train").weak
    target = read_targets(labels, faces)
    facts = {"profile": config.name, "labels": _name_labels(Path(labels), faces, Path(out) / CONFIG)}
    return train_parser(config.parser, faces, target, Path(out), facts, seed)


def _name_labels(labels: Path, faces: WeakFaces, about: Path) -> str:
    """A digest of the pseudo labels of a set; a run of version 0.1, whose file is ``about``, named their folder."""
    match read_json(about) if about.exists() else None:
        case {"config": {"labels": str(old)}} if Path(old).exists() and labels.samefile(old):
            return old
    digest = hashlib.sha256()
    for key in faces.ids:
        digest.update(f"{key} {sha256_of(labels / f'{key}.png')}\n".encode())
    return f"labels-{digest.hexdigest()[:12]}"


def train_parser(
    settings: ParserConfig | DeepLabConfig,
    faces: WeakFaces,
    target: Callable[[int], np.ndarray],
    out: Path,
    facts: Mapping[str, object],
    seed: int = 0,
    desc: str = "parser",
) -> Path:
    """Train a parser in the run directory ``out``; a finished one is left as it is.

    Args:
        settings: Network and training.
        faces: Pictures and image-level labels.
        target: Gives the label map ``(H, W)`` uint8 that a picture is trained with.
        out: The run directory.
        facts: What the training depends on beside ``settings``: kept in the run and in the header of the file.
        seed: Of everything random.
        desc: Words of the progress bar.

    Returns:
        The parser's file.
    """
    state, path = processes(), out / PARSER
    with hold_folder(out) if state.is_main_process else nullcontext():
        if state.is_main_process:
            start_run(out, {"parser": settings, **facts}, seed)
        state.wait_for_everyone()
        if not path.exists():
            parser = settings.train(faces, target, seed=seed, folder=out, desc=desc)
            if state.is_main_process:
                parser.save(path, **facts, seed=seed)
        state.wait_for_everyone()
        if state.is_main_process:
            remove_state(out)
    return path


def predict_faces(parser: FaceParser, faces: WeakFaces, batch: int = 8) -> Iterator[np.ndarray]:
    """Label maps ``(H, W)`` uint8 of a set: as ``wsfp parse`` gives them where faces have to be looked for.

    Framed faces are seen once, as a whole, averaged with their mirror image.  For a light parser they have its size,
    and the trunk's tokens of both come from the disk cache, so that they are computed once for all light parsers.
    """
    if isinstance(parser, DeepLabParser) or not faces.framed:
        settings = ZoomSettings(most=0) if faces.framed else ZoomSettings()
        yield from (parser.predict(faces.image(i), settings)[0] for i in range(len(faces)))
        return
    for start in range(0, len(faces), batch):
        pictures = np.stack([faces.image(i) for i in range(start, min(start + batch, len(faces)))])
        if isinstance(parser, LightParser):
            tokens = features([*pictures, *pictures[:, :, ::-1]], parser.trunk, 2 * len(pictures)).float()
            probabilities = parser.probabilities(pictures, tokens=tokens)
        else:
            probabilities = parser.probabilities(pictures)
        yield from probabilities.argmax(1).byte().numpy()


def score_parser(parser: FaceParser, faces: Faces, desc: str = "scores", table: np.ndarray | None = None) -> np.ndarray:
    """Confusion matrices ``(n, C, C)`` of a parser on a test set, one a picture.

    ``table`` ``(19,)`` has the class of the set for each class of the parser, where they differ.
    """
    found = tqdm(predict_faces(parser, faces.weak), f"{desc}, {faces.name}", len(faces), unit="face", leave=False)
    mapped = found if table is None else (table[label_map] for label_map in found)
    return confusions(zip(mapped, (faces.label_map(i) for i in range(len(faces))), strict=True), faces.scheme)
