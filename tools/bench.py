"""Time the fast procedures beside the literal ones, in one process, on the same numbers and threads.

usage: python -m tools.bench [--results FOLDER]                  three rows, under two minutes on two cores
       python -m tools.bench --paper N [--set KEY=VALUE ...]     a training step of the paper profile on N pictures
       python -m tools.bench --pairs 30000 [--results FOLDER]    evaluate so many label pairs, and watch memory
       python -m tools.bench --evaluate [--results FOLDER]       wsfp evaluate beside a plain loop, idle and busy
       python -m tools.bench --parse [--results FOLDER]          wsfp parse beside a plain loop; needs FRL London
       python -m tools.bench --trunk [--results FOLDER]          how much of that is the trunk, at what speed; the same
       python -m tools.bench --page [--results FOLDER]           answers of the page in Chromium; needs it, and npm once

Three rows, ``tcd_step``, ``fcam_extraction`` and ``confusion_matrix``, each with the ratio of the median times
(``speedup``), the worst difference between the results (``max_abs_diff``) and the memory that each side adds.  Both
sides take turns, after a warm-up, so that a busy machine slows both.
"""

import argparse
import gc
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, thread_time
from unittest.mock import patch

import numpy as np
import open_clip
import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tools.browser import WAIT, open_tab
from tools.page_check import served
from tools.reference import counts_by_class, fcam_by_views, tcd_by_pairs
from wsfp_helpers.common.configs import change
from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.machine import cpu_count, device, multiplies_bfloat16
from wsfp_helpers.common.pictures import read_image, read_label_map, resize_label_map, to_tensor, write_index_png
from wsfp_helpers.data.frl import find_frl_london
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK, IGNORE, PROMPTS
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.tcd import Objective, TcdConfig
from wsfp_helpers.method.train import train
from wsfp_helpers.method.vit import MultiClassTokenViT, Projector, vit_inputs
from wsfp_helpers.nets.clip import FLIP_ARCHITECTURE
from wsfp_helpers.nets.trunk import Trunk, load_trunk
from wsfp_helpers.nets.vlm import VisionLanguageModel, embedded_model, mini_flip
from wsfp_helpers.palette import PALETTE, paint
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.parsing.page import write_page
from wsfp_helpers.parsing.photographs import parse_photographs
from wsfp_helpers.profiles import profile
from wsfp_helpers.score.confusion import confusion, evaluate_pairs
from wsfp_helpers.score.folders import evaluate_folders
from wsfp_helpers.tooling.results import row, write_results


@dataclass(frozen=True)
class Comparison:
    """One row of the bench: median seconds of both sides, worst difference, megabytes that each side adds."""

    name: str
    seconds: float
    reference_seconds: float
    max_abs_diff: float
    megabytes: float
    reference_megabytes: float
    first_seconds: float | None = None

    @property
    def speedup(self) -> float:
        """How many times faster than the reference."""
        return self.reference_seconds / self.seconds

    def rows(self) -> list[dict]:
        """The comparison as rows of a results file."""
        rows = [
            row(self.name, "speedup", "times", [self.speedup]),
            row(self.name, "max_abs_diff", "", [self.max_abs_diff]),
            row(self.name, "seconds", "s", [self.seconds]),
            row(self.name, "reference_seconds", "s", [self.reference_seconds]),
            row(self.name, "memory", "MB", [self.megabytes]),
            row(self.name, "reference_memory", "MB", [self.reference_megabytes]),
        ]
        if self.first_seconds is not None:
            rows.append(row(self.name, "first_seconds", "s", [self.first_seconds]))
        return rows

    def line(self) -> str:
        """The comparison as one line of text."""
        text = (
            f"{self.name:<18}{self.speedup:>7.1f}x faster  {1e3 * self.seconds:>9.2f} ms against "
            f"{1e3 * self.reference_seconds:>9.2f} ms   difference {self.max_abs_diff:.1e}   "
            f"memory {self.megabytes:.0f} MB against {self.reference_megabytes:.0f} MB"
        )
        if self.first_seconds is not None:
            text += f"\n{'':<18}with an empty cache {1e3 * self.first_seconds:.0f} ms"
        return text


def compare(
    name: str,
    fast: Callable[[], object],
    reference: Callable[[], object],
    difference: Callable[[object, object], float],
    seconds: float = 15,
    repeats: int = 30,
) -> Comparison:
    """Run both sides in turns ``repeats`` times, fewer (but at least 3) when that takes more than ``seconds``."""
    result, megabytes = _with_memory(fast)
    reference_result, reference_megabytes = _with_memory(reference)
    times, reference_times, start = [], [], perf_counter()
    while len(times) < min(3, repeats) or (len(times) < repeats and perf_counter() - start < seconds):
        for side, record in ((fast, times), (reference, reference_times)):
            begin = perf_counter()
            side()
            record.append(perf_counter() - begin)
    worst = difference(result, reference_result)
    return Comparison(name, median(times), median(reference_times), worst, megabytes, reference_megabytes)


def _with_memory(call: Callable[[], object]) -> tuple[object, float]:
    """Result of ``call`` and by how many MB the memory of this process rose at its highest while it ran."""
    process, done, peak = psutil.Process(), threading.Event(), 0
    gc.collect()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = call()
    finally:
        done.set()
        watcher.join()
    peak = max(peak, process.memory_info().rss)
    return result, max(0, peak - before) / 2**20


def tcd_step(batch: int = 4, repeats: int = 8) -> Comparison:
    """Eq. 3-16 of the embedded profile; see :func:`compare_tcd`."""
    vit, plain = profile("embedded").model.build(), embedded_model("mini_flip", folded=False)
    return compare_tcd("tcd_step", vit, mini_flip(), plain, batch, repeats)


def compare_tcd(
    name: str,
    vit: MultiClassTokenViT,
    vlm: VisionLanguageModel,
    plain_vlm: VisionLanguageModel,
    batch: int,
    repeats: int,
) -> Comparison:
    """Forward and backward of Eq. 3-16 on rendered faces, against loops over b, k and l.

    A step starts at the ViT's class tokens and patch map, which are the same on both sides, and ends at their gradients
    and the projector's.  The literal side runs the image-text model ``plain_vlm``, as open_clip builds it.  The
    difference is that of all loss terms and gradients.
    """
    tcd, where = TcdConfig(), device()
    faces, vit = synthfaces("celeb/train").subset(range(batch)).weak, vit.to(where).eval()
    vlm.to(where), plain_vlm.to(where)
    objective, projector = Objective(tcd, vlm, base=False), Projector(out=vlm.text(PROMPTS).shape[-1]).to(where)
    pictures, labels = [faces.image(i) for i in range(batch)], torch.from_numpy(faces.labels).float().to(where)
    shown = F.interpolate(to_tensor(pictures), (vlm.size, vlm.size)).to(where)
    with torch.no_grad():
        output = vit(vit_inputs(vit, pictures).to(where))
    output.class_tokens.requires_grad_()
    output.patch_map.requires_grad_()
    leaves = {"class_tokens": output.class_tokens, "patch_map": output.patch_map, **dict(projector.named_parameters())}

    def finished(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        gradients = torch.autograd.grad(terms["loss"], list(leaves.values()))
        return {name: term.detach() for name, term in terms.items()} | dict(zip(leaves, gradients, strict=True))

    def fast() -> dict[str, Tensor]:
        return finished(objective(output, projector(output.class_tokens[-1]), shown, labels)[1])

    def encode_text(prompt: str) -> Tensor:
        return plain_vlm.clip.encode_text(plain_vlm.tokenize([prompt]).to(where))[0]

    def literal() -> dict[str, Tensor]:
        v_cls = torch.stack([torch.stack([projector(token) for token in tokens]) for tokens in output.class_tokens[-1]])
        return finished(
            tcd_by_pairs(
                output.patch_map.sigmoid(),
                v_cls,
                plain_vlm.prepare(shown),
                labels,
                plain_vlm.encode_image,
                encode_text,
                PROMPTS,
                asdict(tcd),
            )
        )

    def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        return max(float((a[name] - value).abs().max()) for name, value in b.items())

    return compare(name, fast, literal, difference, seconds=30, repeats=repeats)


def random_flip() -> VisionLanguageModel:
    """FLIP-B/16 with random weights."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(FLIP_ARCHITECTURE)
    tokenizer, size = open_clip.SimpleTokenizer(), config["vision_cfg"]["image_size"]
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return VisionLanguageModel("FLIP, random", open_clip.CLIP(**config), tokenizer, size, mean, std)


def paper_step(batch: int, settings: Sequence[str] = (), say: Callable[[str], None] = print) -> list[dict]:
    """Time training steps of the paper profile on ``batch`` rendered faces, with random weights; rows of results.

    Images a second include reading the pictures.  The work in matrices is what torch counts in one step, renders that
    are encoded twice included, and its share is of what products of large matrices of the step's precision reach here.
    Then the losses of TCD alone, for one picture, beside the literal equations.
    """
    config = change(profile("paper"), [f"train.batch_size={batch}", "train.epochs=1", *settings])
    steps, faces, vlm = 5 if torch.cuda.is_available() else 2, synthfaces("celeb/train").weak, random_flip()
    times: list[float] = []

    def run(count: int) -> None:
        pictures = faces.subset(range(count * batch))
        torch.manual_seed(0)
        train(config.model.empty(), pictures, config.train, vlm=vlm, on_step=lambda *_: times.append(perf_counter()))

    with FlopCounterMode(display=False) as counter:
        run(1)
    times.clear()
    _, megabytes = _with_memory(partial(run, steps + 1))
    if torch.cuda.is_available():
        megabytes = torch.cuda.max_memory_allocated() / 2**20
    seconds = (times[-1] - times[0]) / steps
    share = counter.get_total_flops() / seconds / matrix_peak(config.train.precision)
    say(f"{batch / seconds:.2f} images a second, {megabytes:,.0f} MB at most, {100 * share:.0f} % of the matrix peak")
    literal = compare_tcd("paper_tcd", config.model.empty(), vlm, random_flip(), 1, 1)
    say(literal.line())
    name = f"paper step, batch {batch}"
    return [
        row(name, "images_per_second", "1/s", [batch / seconds]),
        row(name, "memory", "MB", [megabytes]),
        row(name, "share_of_matrix_peak", "percent", [100 * share]),
        *literal.rows(),
    ]


def matrix_peak(precision: str, repeats: int = 5) -> float:
    """Operations a second in products of large matrices, at accelerate's ``precision``: the fastest of some."""
    where, kind = device(), {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    side, times = 8192 if torch.cuda.is_available() else 1024, []
    a, b = (torch.randn(side, side, device=where, dtype=kind) for _ in range(2))
    for _ in range(repeats):
        start = perf_counter()
        (a @ b)[0, 0].item()
        times.append(perf_counter() - start)
    return 2 * side**3 / min(times)


def fcam_extraction(images: int = 3, repeats: int = 8) -> Comparison:
    """Maps of rendered faces, embedded profile, against one forward for every picture, scale and flip.

    The trunk's features come from disk, where they are from the first run over a set of pictures on; that first run is
    ``first_seconds``.  Both sides take the features in half precision, which is how they are defined.
    """
    faces, vit = synthfaces("celeb/train").subset(range(images)).weak, profile("embedded").model.build().eval()
    trunk = load_trunk()

    def forward(picture: Tensor, scale: float) -> tuple[list[Tensor], Tensor]:
        tokens = trunk(trunk.prepare(picture, round(vit.size * scale / 16) * 16)).half().float()
        attention: list[Tensor] = []
        hooks = []
        for block in vit.blocks:
            block.attn.fused_attn = False
            keep = lambda module, inputs, weights: attention.append(weights[0].mean(0))  # noqa: E731
            hooks.append(block.attn.attn_drop.register_forward_hook(keep))
        patch_map = vit(tokens).patch_map[0]
        for hook in hooks:
            hook.remove()
        return attention, patch_map

    def fast() -> list[np.ndarray]:
        return [fcam.maps() for fcam in extract(vit, faces)]

    def literal() -> list[np.ndarray]:
        found = []
        for i in range(images):
            picture, labels = to_tensor([faces.image(i)])[0], faces.labels[i]
            found.append(np.stack(list(fcam_by_views(forward, picture, labels, CELEBAMASK.flip_components).values())))
        return found

    def difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
        return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))

    with TemporaryDirectory() as folder, patch.dict(os.environ, WSFP_CACHE=folder):
        begin = perf_counter()
        fast()
        first = perf_counter() - begin
        comparison = compare("fcam_extraction", fast, literal, difference, seconds=30, repeats=repeats)
    return replace(comparison, first_seconds=first)


def label_pairs(n: int, size: tuple[int, int] = (512, 512), seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``n`` synthetic (prediction, truth) pairs ``(H, W)`` uint8 of 19 classes: patches, 80 % right, 2 % ignored."""
    rng = np.random.default_rng(seed)
    classes, patch = len(CELEBAMASK), 16
    cells = rng.integers(0, classes, [side // patch + 1 for side in size], dtype=np.uint8)
    truth = np.kron(cells, np.ones((patch, patch), np.uint8))[: size[0], : size[1]]
    prediction = np.where(rng.random(size) < 0.8, truth, rng.integers(0, classes, size)).astype(np.uint8)
    truth[rng.random(size) < 0.02] = IGNORE
    for shift in rng.integers(0, size[1], n):
        yield np.roll(prediction, shift, 1), np.roll(truth, shift, 1)


def confusion_matrix(repeats: int = 200) -> Comparison:
    """One pair of label maps of 512 x 512 pixels and 19 classes, against three boolean passes for every class."""
    (prediction, truth), classes = next(label_pairs(1)), len(CELEBAMASK)

    def difference(matrix: np.ndarray, counts: np.ndarray) -> float:
        fast = np.stack([np.diagonal(matrix), matrix.sum(1), matrix.sum(0)], 1)
        return float(np.abs(fast - counts).max())

    return compare(
        "confusion_matrix",
        lambda: confusion(prediction, truth, classes),
        lambda: counts_by_class(prediction, truth, classes),
        difference,
        repeats=repeats,
    )


def stream(pairs: int = 30_000, size: tuple[int, int] = (512, 512), say: Callable[[str], None] = print) -> list[dict]:
    """Evaluate ``pairs`` synthetic label pairs one by one, and say after every tenth how much memory is in use.

    Returns rows of a results file: seconds, and the growth of memory in MB from the first tenth to the end.
    """
    if pairs < 1:
        raise InputError(f"expected at least 1 label pair, got {pairs}")
    process, marks, start = psutil.Process(), [], perf_counter()

    def watched() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for done, pair in enumerate(label_pairs(pairs, size), 1):
            yield pair
            if done % max(1, pairs // 10) == 0:
                marks.append(process.memory_info().rss / 2**20)
                say(f"{done:>8,} pairs {perf_counter() - start:8.1f} s {marks[-1]:8.1f} MB")

    scores = evaluate_pairs(watched())
    seconds, growth = perf_counter() - start, marks[-1] - marks[0]
    say(f"mean F1 {scores.mean_f1:.2f} over {scores.images:,} pairs of {size[0]} x {size[1]}")
    say(f"memory grew by {growth:.1f} MB")
    name = f"{pairs} label pairs"
    return [row(name, "seconds", "s", [seconds]), row(name, "memory_growth", "MB", [growth])]


def plain_loop(pred: Path, gt: Path) -> np.ndarray:
    """Confusion matrix ``(19, 19)`` of two folders of index PNGs, as a short script would count it."""
    classes = len(CELEBAMASK)
    matrix = np.zeros((classes, classes), np.int64)
    for path in sorted(gt.glob("*.png")):
        truth, prediction = np.array(Image.open(path)), np.array(Image.open(pred / path.name))
        counted = truth != IGNORE
        joint = truth[counted].astype(np.int64) * classes + prediction[counted]
        matrix += np.bincount(joint, minlength=classes**2).reshape(classes, classes)
    return matrix


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes computing beside this one."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def evaluation(pairs: int = 200, size: int = 512, repeats: int = 10) -> list[Comparison]:
    """``wsfp evaluate`` of folders against :func:`plain_loop`, alone and beside as many busy processes as cores.

    The maps are rendered ones, enlarged; the predictions are shifted by a few pixels.
    """
    faces = synthfaces("celeb/test")
    with TemporaryDirectory() as folder:
        pred, gt = Path(folder, "pred"), Path(folder, "gt")
        for i in range(pairs):
            truth = resize_label_map(faces.label_map(i % len(faces)), (size, size))
            write_index_png(gt / f"{i}.png", truth, PALETTE)
            write_index_png(pred / f"{i}.png", np.roll(truth, (3, 2), (0, 1)), PALETTE)

        def compared(name: str) -> Comparison:
            return compare(
                name,
                lambda: evaluate_folders(pred, gt).matrix,
                lambda: plain_loop(pred, gt),
                lambda a, b: float(np.abs(a - b).max()),
                seconds=60,
                repeats=repeats,
            )

        idle = compared(f"evaluate, {pairs} pairs")
        with busy(cpu_count()):
            return [idle, compared(f"evaluate, {pairs} pairs, busy")]


def plain_parse(photographs: list[Path], out: Path) -> list[np.ndarray]:
    """Label maps of photographs as a short script would make them: in float32, one after the other, and a sheet."""
    parser, tiles, maps = load_parser("weak"), [], []
    for photograph in photographs:
        image = read_image(photograph)
        parsed = parser.parse(image)
        whole = F.interpolate(parsed.probability[None], image.shape[:2], mode="bilinear", align_corners=False)[0]
        maps.append(whole.argmax(0).byte().numpy())
        write_index_png(out / f"{photograph.stem}.png", maps[-1], PALETTE)
        small = resize_label_map(maps[-1], (240, 240))
        tiles.append(np.hstack([np.array(Image.fromarray(image).resize((240, 240))), paint(small)]))
    Image.fromarray(np.vstack(tiles)).save(out / "sheet.png")
    return maps


@contextmanager
def some_of_frl(photographs: int) -> Iterator[Path]:
    """A folder with the first photographs of FRL London alone."""
    root = find_frl_london()
    if root is None:
        raise InputError("no FRL London in $WSFP_DATA or the cache: fetch it with wsfp data get frl-london")
    with TemporaryDirectory() as folder:
        for path in sorted(root.glob("inst/neutral_front/*.jpg"))[:photographs]:
            Path(folder, path.name).symlink_to(path)
        yield Path(folder)


def parsing(photographs: int = 12, repeats: int = 5) -> list[Comparison]:
    """``wsfp parse`` of photographs of FRL London against :func:`plain_parse`: with one parser, and with both.

    The difference is the largest share of a photograph's pixels that get another class.
    """
    with some_of_frl(photographs) as source, TemporaryDirectory() as folder:
        out = Path(folder)

        def fast(parser: str | None) -> list[np.ndarray]:
            written = parse_photographs(source, out / (parser or "both"), parser).written
            return [read_label_map(path, len(CELEBAMASK)) for path in written if path.parent.name == "weak"]

        def difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
            return max(float((x != y).mean()) for x, y in zip(a, b, strict=True))

        return [
            compare(
                f"parse, {photographs} photographs, {'one parser' if parser else 'both parsers'}",
                lambda parser=parser: fast(parser),
                lambda: plain_parse(sorted(source.iterdir()), out),
                difference,
                seconds=120,
                repeats=repeats,
            )
            for parser in ("weak", None)
        ]


def trunk_share(source: Path, parser: str | None, name: str) -> list[dict]:
    """Rows: the trunk's share of the time of ``wsfp parse``, and the trunk's share of the peak of matrix products.

    All on one thread and in the processor's time, which a busy machine changes little.  The trunk's work is what torch
    counts; the peak is :func:`products_peak` of as many tokens as go through it together most often.
    """
    forward, seconds, shown = Trunk.forward, 0.0, Counter[torch.Size]()

    def timed(trunk: Trunk, prepared: Tensor) -> Tensor:
        nonlocal seconds
        begin = thread_time()
        tokens = forward(trunk, prepared)
        seconds += thread_time() - begin
        shown[prepared.shape] += 1
        return tokens

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as out, patch.object(Trunk, "forward", timed):
            begin = process_time()
            parse_photographs(source, out, parser)
            whole = process_time() - begin
        work, trunk = 0, load_trunk()
        for shape, times in shown.items():
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others are not counted
                trunk(torch.zeros(shape))
            work += times * counter.get_total_flops()
        batch, _, height, width = shown.most_common(1)[0][0]
        peak = products_peak(batch * (1 + height * width // trunk.patch**2), trunk.width)
    finally:
        torch.set_num_threads(threads)
    return [
        row(name, "trunk_share_of_time", "percent", [100 * seconds / whole]),
        row(name, "trunk_share_of_peak", "percent", [100 * work / seconds / peak]),
        row(name, "peak", "GFLOP/s a thread", [peak / 1e9]),
    ]


def products_peak(tokens: int, width: int, repeats: int = 9) -> float:
    """Operations a second on this thread in the four products of weights in a block of a ViT: the fastest of some.

    In bfloat16 where ``wsfp parse`` computes in it, else in float32.
    """
    kind = torch.bfloat16 if multiplies_bfloat16() else torch.float32
    sides = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
    pairs = [(torch.randn(tokens, a, dtype=kind), torch.randn(b, a, dtype=kind)) for a, b in sides]
    times = []
    for _ in range(repeats):
        begin = thread_time()
        for given, weights in pairs:
            F.linear(given, weights)
        times.append(thread_time() - begin)
    return 2 * tokens * sum(a * b for a, b in sides) / min(times)


def answers(visits: int = 3) -> list[dict]:
    """Rows of a results file: how long the page of ``wsfp page`` takes in Chromium, in a new browser for each visit.

    From the address to the networks being ready (from this machine, so without a network), then from a photograph to
    its map on the screen: the first one, and one as large as a phone takes them.  Beside the seconds that passed are
    the processor's, of all cores together, which a busy machine changes less.
    """
    rows: dict[tuple[str, str], list[float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begin, before = perf_counter(), _seconds_of_children()
        yield
        rows.setdefault((name, "seconds"), []).append(perf_counter() - begin)
        rows.setdefault((name, "processor"), []).append(_seconds_of_children() - before)

    with TemporaryDirectory() as folder:
        write_page(page := Path(folder, "page"))
        phone = Path(folder, "phone.jpg")
        Image.open(page / "example.jpg").resize((3024, 3024)).save(phone)
        given = {"first answer, 512 x 512": page / "example.jpg", "next answer, 3024 x 3024": phone}
        for _ in range(visits):
            with served(page) as address, open_tab(1200, 900) as tab:
                loaded: set[str] = set()
                tab.context.on("response", lambda response, loaded=loaded: loaded.add(response.url))
                with timed("page, until it is ready"):
                    tab.goto(address)
                    tab.wait_for_selector("body[data-ready]", timeout=WAIT)
                threads = tab.get_attribute("body", "data-ready")
                for number, (name, photograph) in enumerate(given.items(), 1):
                    with timed(f"page, {name}, {threads} threads"):
                        tab.set_input_files("#file", photograph)
                        tab.wait_for_selector(f"body[data-parsed='{number}']", timeout=WAIT)
        names = [url.removeprefix(address).lstrip("/") or "index.html" for url in loaded if url.startswith(address)]
        megabytes = sum((page / name).stat().st_size for name in names) / 1e6
    measured = [row(name, metric, "s", found) for (name, metric), found in rows.items()]
    return [*measured, row("page, files that are loaded", "size", "MB", [megabytes])]


def _seconds_of_children() -> float:
    """Processor time of all processes below this one that run, with that of processes of theirs that have ended."""
    found = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += sum(child.cpu_times()[:4])
    return found


def run_bench(say: Callable[[str], None] = print) -> list[Comparison]:
    """Measure all three rows, and say a line each."""
    say(f"{torch.get_num_threads()} threads; median times, both sides in turns")
    comparisons = []
    for measure in (tcd_step, fcam_extraction, confusion_matrix):
        comparisons.append(measure())
        say(comparisons[-1].line())
    return comparisons


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="evaluate so many label pairs instead")
    parser.add_argument("--evaluate", action="store_true", help="time wsfp evaluate beside a plain loop instead")
    parser.add_argument("--parse", action="store_true", help="time wsfp parse beside a plain loop instead")
    parser.add_argument("--trunk", action="store_true", help="say how much of wsfp parse is the trunk's instead")
    parser.add_argument("--page", action="store_true", help="time the page of wsfp page in Chromium instead")
    parser.add_argument("--paper", type=int, metavar="N", help="time training steps of the paper profile on N pictures")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="another value for a setting of it")
    parser.add_argument("--results", type=Path, help="also write a results file and its page to this folder")
    chosen = parser.parse_args(arguments)
    if chosen.paper is not None:
        settings = chosen.set or []
        rows, name = paper_step(chosen.paper, settings), "paper_step"
        command = " ".join([f"python -m tools.bench --paper {chosen.paper}", *(f"--set {each}" for each in settings)])
    elif chosen.evaluate or chosen.parse:
        name = "evaluate" if chosen.evaluate else "parse"
        comparisons = evaluation() if chosen.evaluate else parsing()
        print(*(one.line() for one in comparisons), sep="\n")
        rows = [each for one in comparisons for each in one.rows()]
        command = f"python -m tools.bench --{name}"
    elif chosen.trunk:
        with some_of_frl(12) as source:
            rows = trunk_share(source, "weak", "parse, 12 photographs, one parser")
            rows += trunk_share(source, None, "parse, 12 photographs, both parsers")
        name, command = "trunk", "python -m tools.bench --trunk"
        print(
            *(f"{each['name']:<36}{each['metric']:<22}{each['seeds'][0]:6.1f} {each['unit']}" for each in rows),
            sep="\n",
        )
    elif chosen.page:
        rows, name, command = answers(), "page", "python -m tools.bench --page"
        print(
            *(f"{each['name']:<48}{each['metric']:<10}{max(each['seeds']):8.2f} {each['unit']}" for each in rows),
            sep="\n",
        )
    elif chosen.pairs is None:
        rows, name, command = [each for one in run_bench() for each in one.rows()], "bench", "python -m tools.bench"
    else:
        rows, name = stream(chosen.pairs), "stream"
        command = f"python -m tools.bench --pairs {chosen.pairs}"
    if chosen.results is not None:
        write_results(name, command, rows, chosen.results)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()
