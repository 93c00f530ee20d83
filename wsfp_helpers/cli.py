"""The command line ``wsfp``: every command is one call that a notebook could make.

Modules are imported inside the commands, so ``wsfp --help`` answers at once.  Bad input is one sentence on stderr and
exit code 2.
"""

import atexit
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from wsfp_helpers.common.configs import LAST_SEED
from wsfp_helpers.common.errors import InputError, one_line

if TYPE_CHECKING:
    from wsfp_helpers.profiles import Profile


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


TOO_LARGE = (
    "the GPU has too little memory: see in nvidia-smi who else is using it, ask `wsfp plan` what fits, or take smaller "
    "pieces, say --set train.batch_size=18 --set train.accumulate=2, or --set parser.crop=320"
)


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


_UsageError: Any = typer.BadParameter.__base__  # click's, which newer versions of typer bring along


class _Group(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _in_one_sentence():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> object:
        with _in_one_sentence():
            return super().invoke(ctx)


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    _stand_somewhere()
    before = signal.signal(signal.SIGTERM, _terminate)
    if hasattr(sys.stdout, "reconfigure"):  # a name of a file may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except InputError as error:
        _stop(str(error), 2)
    except _UsageError as error:
        if len(error.format_message().splitlines()) != 1:  # a group without a command has explained itself
            raise
        _stop(error.format_message(), 2)
    except KeyboardInterrupt as error:
        typer.echo("wsfp: stopped; what was written is whole, and the same command goes on from there", err=True)
        _leave(128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # of torch, which is not imported for its name alone
            raise
        _stop(f"{TOO_LARGE} ({str(error).partition('. ')[0]})", 2)
    except OSError as error:
        if error.errno in (None, errno.EPIPE):
            raise
        _stop(f"could not use {error.filename or 'the output'} ({error.strerror}): check path, rights and space", 2)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stand_somewhere() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:  # torch would end the process with a line of its own
        _stop("the current folder was removed: change to another one", 2)


def _leave(code: int) -> NoReturn:
    """End the process now, with what is to be done at its end; Python's own way waits for threads as well."""
    from multiprocessing import active_children

    for process in active_children():
        process.terminate()
    if "wsfp_helpers.common.accelerator" in sys.modules:
        from wsfp_helpers.common.accelerator import leave

        atexit.unregister(leave)  # which would wait for other processes
    atexit._run_exitfuncs()
    os._exit(code)


def _stop(sentence: str, code: int) -> NoReturn:
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in [*tqdm._instances]:  # which the error left open; the sentence gets a line of its own
            bar.close()
    typer.echo(f"wsfp: {one_line(sentence)}", err=True)
    raise typer.Exit(code) from None


OPTIONS: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(help="Weakly supervised face parsing, step by step.", cls=_Group, **OPTIONS)
data = typer.Typer(help="Fetch, check and merge data sets.", **OPTIONS)
app.add_typer(data, name="data")
weights = typer.Typer(help="The files of the full-size world.", **OPTIONS)
app.add_typer(weights, name="weights")
systems = typer.Typer(help="The nine systems that the paper compares.", **OPTIONS)
app.add_typer(systems, name="systems")

ProfileName = Annotated[str, typer.Option("--profile", help="embedded, frl or paper.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a setting (wsfp profile); may come again."),
]
Part = Annotated[str, typer.Option(help="Data of the profile: train, val or test.")]
Seed = Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of every random choice.")]
Shard = Annotated[str, typer.Option(help="I/N: this process does share I (from 0) of N.")]
Seeds = Annotated[str, typer.Option(help="Seeds, with commas between them.")]
Work = Annotated[
    Path | None, typer.Option(file_okay=False, help="Folder of the run directories (default: in the cache).")
]
Results = Annotated[Path, typer.Option(file_okay=False, help="Folder of the results.")]
Names = Annotated[list[str] | None, typer.Argument(help="Systems (default: all; wsfp systems list).")]


def _boxes_file(boxes: str) -> str:
    from wsfp_helpers.common.files import existing_file

    if boxes != "shipped":  # looked for now, since some trainings open them late, or not at all
        existing_file(boxes, "boxes file", "boxes.jsonl")
    return boxes


Boxes = Annotated[
    str,
    typer.Option(callback=_boxes_file, help="Boxes of the training set: boxes.jsonl of wsfp ccd, or shipped."),
]


def _json_file(path: Path | None) -> Path | None:
    from wsfp_helpers.common.files import SETTINGS  # which stands in folders of results, as the other name in runs

    if path is not None and (path.suffix.lower() != ".json" or path.name in (SETTINGS, "config.json")):
        raise InputError(
            f"--json is {path}: expected a file that ends in .json, which is written anew, and not one of a run or of "
            f"label maps"
        )
    return path


Json = Annotated[
    Path | None, typer.Option(dir_okay=False, callback=_json_file, help="Also write the result to this JSON file.")
]


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not re.fullmatch("[0-9]{1,6}/[0-9]{1,6}", text) or int(number) >= int(count):
        raise InputError(f"--shard is {text!r}: expected I/N with I from 0 to N - 1, for example 0/4")
    return int(number), int(count)


def _profile(name: str, settings: list[str] | None) -> "Profile":
    """The profile ``name`` with the settings of ``--set``."""
    from wsfp_helpers.profiles import profile as named

    return _with_settings(named(name), settings)


def _with_settings(config: "Profile", settings: list[str] | None) -> "Profile":
    """A copy of ``config`` with the settings of ``--set``; what they change is said on stderr."""
    from dataclasses import asdict

    from wsfp_helpers.common.configs import change, differences

    changed = change(config, settings or [])
    for key, old, new in differences(asdict(config), asdict(changed)):
        _say(f"{key}: {new} (not {old})", err=True)
    return changed


def _say_where(config: "Profile") -> None:
    """Say why a stage of the full-size world will be computed on the CPU, where it will."""
    from wsfp_helpers.common.machine import no_gpu

    if config.name == "paper" and (why := no_gpu()):
        _say(f"computing on the CPU: {why}; `wsfp plan` says the hours", err=True)


def _say(text: object, err: bool = False) -> None:
    """Print ``text``, of the processes of ``accelerate launch`` in one alone."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=err)


def _seeds(text: str) -> list[int]:
    seeds = text.split(",")
    if not all(re.fullmatch(" *[0-9]{1,8} *", seed) for seed in seeds):
        raise InputError(
            f"--seeds is {text!r}: expected numbers from 0 to {LAST_SEED} with commas between them, for example 0,1,2"
        )
    numbers = [int(seed) for seed in seeds]
    if len(set(numbers)) != len(numbers):
        raise InputError(f"--seeds is {text!r}: expected each number once, for a second time gives the same again")
    return numbers


@app.command()
def doctor(json: Json = None) -> None:
    """Say what this machine has, which data and weights are found, and what to do about each gap."""
    from wsfp_helpers.common.files import write_json
    from wsfp_helpers.tooling.doctor import as_dict, examine, report

    findings = examine()
    typer.echo(report(findings))
    if json is not None:
        write_json(json, as_dict(findings))
    if not as_dict(findings)["ok"]:
        raise typer.Exit(1)


@app.command()
def smoke(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for all that is made; the same command goes on.")],
    profile: Annotated[str, typer.Option("--profile", help="paper: the others run in minutes as they are.")] = "paper",
    pictures: Annotated[int, typer.Option(min=3, max=10_000, help="Pictures in all.")] = 20,
    settings: Settings = None,
) -> None:
    """Run every stage of the paper profile on a few pictures, to see in minutes whether all fits.

    Data and weights that are not there are replaced by rendered faces and random weights of the true shape.
    """
    from wsfp_helpers.tooling.smoke import smoke as run_smoke

    _only_paper(profile)
    run_smoke(out, pictures, settings or (), _say)


@app.command()
def plan(
    profile: Annotated[str, typer.Option("--profile", help="paper: the others run in minutes as they are.")] = "paper",
    out: Annotated[Path, typer.Option(file_okay=False, help="Where the runs are to be.")] = Path(),
    work: Work = None,
    settings: Settings = None,
) -> None:
    """Time a few real steps of every stage here, and say hours, GPU memory and disk of the whole run.

    Data and weights that are not there are replaced, as in wsfp smoke.
    """
    from wsfp_helpers.tooling.plan import make_plan

    _only_paper(profile)
    made = make_plan(_profile(profile, settings), out, work)
    typer.echo(made)
    if made.problems:
        raise typer.Exit(1)


def _only_paper(profile: str) -> None:
    if profile != "paper":
        raise InputError(f"--profile is {profile!r}: expected paper, the others run in minutes as they are")


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="embedded, frl or paper.")] = "embedded", settings: Settings = None
) -> None:
    """Print every setting of a profile."""
    typer.echo(_profile(name, settings))


@data.command("get")
def data_get(name: Annotated[str, typer.Argument(help="frl-london")]) -> None:
    """Download a data set to the cache, every file checked against its SHA-256."""
    from wsfp_helpers.data.frl import LICENCE, fetch_frl_london

    if name != "frl-london":
        raise InputError(f"unknown data set {name!r}: expected frl-london (the others have to be asked for)")
    typer.echo(LICENCE, err=True)
    typer.echo(fetch_frl_london())


@data.command("verify")
def data_verify(path: Annotated[Path, typer.Argument(help="Folder of a copy of a data set.")]) -> None:
    """Read a copy of a data set to its end: counts, missing and unreadable files, wrong values, duplicates."""
    from wsfp_helpers.tooling.verify import verify

    report = verify(path)
    typer.echo(report)
    if not report.ok:
        raise typer.Exit(1)


@data.command("merge")
def data_merge(
    root: Annotated[Path, typer.Argument(help="Folder of a copy of CelebAMask-HQ or Helen.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps: train, val and test below it.")],
) -> None:
    """Merge the masks of a data set into index PNGs, which wsfp evaluate takes as truth.

    Those of CelebAMask-HQ have 19 classes, those of Helen the 11 of LaPa.
    """
    from wsfp_helpers.data import celebamask, helen

    if out.resolve() == root.resolve():
        raise InputError(f"{out} is the folder of the copy itself: choose another for --out")
    if helen.is_helen(root):
        helen.merge(root, out)
        typer.echo(f"label maps in {out}, a folder for each split")
        return
    if not (root / celebamask.MAPPING).exists() and root.is_dir() and not (root / celebamask.IMAGES).is_dir():
        raise InputError(
            f"{root} is no copy of CelebAMask-HQ ({celebamask.IMAGES}/) or Helen (exemplars.txt, or "
            f"train/*_label.png): choose the folder of one; those of other sets are label maps already"
        )
    faults = celebamask.merge(root, out)
    typer.echo(
        "\n".join(
            [
                f"label maps in {out}/train, val and test; faulty pictures: {len(faults)}",
                *map(one_line, faults.values()),
            ]
        )
    )
    if faults:
        raise typer.Exit(1)


@data.command("shard")
def data_shard(
    name: Annotated[str, typer.Argument(metavar="DATA", help="A set, as celebamask/train.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the shards, as $WSFP_DATA/shards/NAME.")],
    a_shard: Annotated[int, typer.Option(min=1, max=10**6, help="Pictures of a tar file.")] = 1000,
) -> None:
    """Copy pictures into tar files, beside an index with their image-level labels; label maps stay where they are.

    Below $WSFP_DATA/shards they are the data set shards/NAME.
    """
    from wsfp_helpers.data.shards import write_shards
    from wsfp_helpers.profiles import source

    typer.echo(write_shards(source(name).open().weak, out, a_shard))


WeightNames = Annotated[list[str], typer.Argument(help="Names (wsfp weights list).")]


@weights.command("list")
def weights_list() -> None:
    """Say of each file that the paper profile needs where it is, and its source, size, licence and sum."""
    from wsfp_helpers.tooling.weights import list_weights

    typer.echo(list_weights())


@weights.command("get")
def weights_get(
    names: WeightNames,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licences, which are asked for else.")] = False,
) -> None:
    """Download weights below $WSFP_DATA, each file checked; a download that broke off goes on."""
    from wsfp_helpers.tooling.weights import get, terms

    for name in names:
        typer.echo(terms(name))
        if not (yes or _accepted()):
            raise InputError(f"the licence of {name} was not accepted: nothing of it was downloaded; --yes accepts it")
        typer.echo(get(name, typer.echo))


def _accepted() -> bool:
    try:
        return typer.confirm("Do you accept it, and may this be downloaded?")
    except typer.Abort:  # there is nobody to ask
        return False


@weights.command("verify")
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names (default: all that are there).")] = None,
) -> None:
    """Compare the sums of weights that are there, and read each as the stage does that needs it."""
    from wsfp_helpers.tooling.weights import verify

    good = True
    for check in verify(names or ()):
        typer.echo(check)
        good &= check.ok
    if not good:
        raise typer.Exit(1)


@weights.command("convert")
def weights_convert(
    path: Annotated[Path, typer.Argument(help="ilsvrc-cls_rna-a1_cls1000_ep-0001.params")],
    out: Annotated[Path | None, typer.Option(help="The file to write (default: where the profile looks).")] = None,
) -> None:
    """Turn ResNet38's ImageNet weights, a file of MXNet that you have, into the safetensors that the parser reads."""
    from wsfp_helpers.common.cache import data_dirs
    from wsfp_helpers.profiles import RESNET38
    from wsfp_helpers.tooling.resnet38 import convert_mxnet

    typer.echo(convert_mxnet(path, out or data_dirs()[0] / RESNET38))


@app.command()
def ccd(
    out: Annotated[Path, typer.Option(help="Folder for boxes.jsonl and report.json.")],
    profile: ProfileName = "embedded",
    part: Part = "train",
    weights: Annotated[Path | None, typer.Option(help="Grounding DINO: checkpoint, or Hugging Face folder.")] = None,
    text_encoder: Annotated[Path | None, typer.Option(help="Grounding DINO: local BERT folder.")] = None,
    images: Annotated[bool, typer.Option(help="Also write the masked pictures and their labels.")] = False,
    shard: Shard = "0/1",
    seed: Seed = 0,
    settings: Settings = None,
) -> None:
    """Detect components, filter them by Eq. 1, and say what masking does to the labels (section 3.3)."""
    from wsfp_helpers.stages import format_ccd, run_ccd

    config, share = _profile(profile, settings), _shard(shard)
    _say_where(config)
    report = run_ccd(config, out, part, weights, text_encoder, seed, images, share)
    _say(f"share {shard} is done; run without --shard at the end" if report is None else format_ccd(report))


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Run directory; the same command in it goes on.")],
    profile: ProfileName = "embedded",
    boxes: Boxes = "shipped",
    ccd: Annotated[bool, typer.Option(help="Mask frequent components (section 3.3).")] = True,
    tcd: Annotated[bool, typer.Option(help="Text-guided losses (section 3.4).")] = True,
    redraw: Annotated[bool, typer.Option(help="CCD: draw the masks anew in each epoch.")] = False,
    mix_originals: Annotated[bool, typer.Option(help="CCD: train on the unmasked pictures, too.")] = False,
    seed: Seed = 0,
    settings: Settings = None,
) -> None:
    """Train the class-token network on pictures and image-level labels: DisFaceRep, or parts of it.

    The same seed gives the same weights on the same number of threads (OMP_NUM_THREADS; config.json says it).
    """
    from dataclasses import replace

    from wsfp_helpers.profiles import profile as named
    from wsfp_helpers.stages import run_train

    config = named(profile)
    training = replace(config.train, seed=seed, tcd=config.train.tcd if tcd else None)
    config = _with_settings(replace(config, train=training, ccd=config.ccd if ccd else None), settings)
    _say_where(config)
    _say(run_train(config, out, boxes, redraw, mix_originals))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run directory of wsfp train, under way or ended.")],
    images: Annotated[int, typer.Option(min=6, help="Faces of val whose pseudo labels are scored.")] = 60,
    follow: Annotated[bool, typer.Option(help="Report on every new checkpoint until the training ends.")] = False,
) -> None:
    """Say how a training goes: scores of pseudo labels, maps of six faces, gradients of each term.

    Adds a line to report.jsonl in the run directory and writes report-STEP.png.  A checkpoint is there every
    train.save_every steps.
    """
    from wsfp_helpers.tooling import progress

    for text in progress.follow(run, images) if follow else [progress.format_report(progress.report(run, images))]:
        typer.echo(text)


@app.command()
def fcam(
    run: Annotated[Path, typer.Option(help="Run directory of wsfp train.")],
    out: Annotated[Path, typer.Option(help="Folder for the maps.")],
    part: Part = "train",
    shard: Shard = "0/1",
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="Of a training under way: its last state.")] = False,
    settings: Settings = None,
) -> None:
    """Extract the activation maps of every picture for the parts on its list (section 3.1)."""
    from wsfp_helpers.stages import read_run, run_fcam, unfinished

    config = _with_settings(read_run(run), settings)
    _say_where(config)
    found = run_fcam(run, out, part, _shard(shard), config, checkpoint)
    _say(f"{len(found)} pictures in {out}{unfinished(out)}")


@app.command()
def pseudo(
    fcams: Annotated[Path, typer.Option(help="Folder of wsfp fcam.")],
    out: Annotated[Path, typer.Option(help="Folder for the index PNGs.")],
    theta: Annotated[
        float | None, typer.Option(min=0, max=1, help="Background threshold of the maps (default: that of the run).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = 1,
) -> None:
    """Turn maps into pseudo labels: index PNGs of 19 classes."""
    from wsfp_helpers.stages import run_pseudo, unfinished

    of_a_checkpoint = unfinished(fcams)
    typer.echo(f"{run_pseudo(fcams, out, theta, workers)}{of_a_checkpoint}")


@app.command()
def regions(
    fcams: Annotated[Path, typer.Option(help="Folder of wsfp fcam.")],
    out: Annotated[Path, typer.Option(help="Folder for the index PNGs.")],
    profile: ProfileName = "embedded",
    boxes: Boxes = "shipped",
    seed: Seed = 0,
    settings: Settings = None,
) -> None:
    """Make better pseudo labels from labels, boxes and maps, by naming clusters of features (ours, not the paper's)."""
    from wsfp_helpers.stages import run_regions

    typer.echo(run_regions(_profile(profile, settings), fcams, out, boxes, seed=seed))


@app.command()
def parser(
    labels: Annotated[Path, typer.Option(help="Folder of wsfp pseudo or wsfp regions.")],
    out: Annotated[Path, typer.Option(help="Run directory; the same command in it goes on.")],
    profile: ProfileName = "embedded",
    seed: Seed = 0,
    settings: Settings = None,
) -> None:
    """Train a face parser on pseudo labels; the same weights again need the same number of threads, as in train."""
    from wsfp_helpers.stages import run_parser

    config = _profile(profile, settings)
    _say_where(config)
    _say(run_parser(config, labels, out, seed))


@app.command()
def parse(
    source: Annotated[Path, typer.Argument(help="A photograph, or a folder of photographs.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps and the sheets.")],
    parser: Annotated[
        str | None,
        typer.Option(help="weak, supervised, or a parser.safetensors of wsfp parser (default: weak and supervised)."),
    ] = None,
    json: Json = None,
) -> None:
    """Parse your own photographs: index PNGs of 19 classes, and sheets on which both parsers stand side by side.

    weak learnt without masks, from lists of parts, words and a detector's boxes; supervised learnt with masks: both of
    the same rendered faces.  Their maps are in OUT/weak and OUT/supervised; with --parser those of one are in OUT.
    Films are refused: take single pictures out of them.
    """
    from wsfp_helpers.common.files import write_json
    from wsfp_helpers.parsing.photographs import parse_photographs

    report = parse_photographs(source, out, parser)
    typer.echo(report)
    if json is not None:
        write_json(json, report.as_dict())
    if report.failed:
        raise typer.Exit(1)


@app.command()
def export(
    out: Annotated[Path, typer.Option(dir_okay=False, help="The file to write, say parser.onnx.")],
    parser: Annotated[str, typer.Option(help="weak, supervised, or a parser.safetensors of wsfp parser.")] = "weak",
    weights: Annotated[str, typer.Option(help="How weights are stored: float16, float32 or int8.")] = "float16",
) -> None:
    """Write a parser as one ONNX file that needs no Python: pictures of any size in, probabilities out.

    It holds trunk, decoder, preprocessing, classes, palette, licences and card, and is checked against Python.
    """
    from wsfp_helpers.parsing.export import export_parser

    agreement = export_parser(parser, out, weights)
    typer.echo(f"{out}, {out.stat().st_size / 1e6:.1f} MB: {agreement}")


@app.command()
def page(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the page.")],
    weights: Annotated[str, typer.Option(help="How weights are stored: float16, float32 or int8.")] = "float16",
) -> None:
    """Write a web page in which both parsers run; no photograph leaves it, and any web server can serve it."""
    from wsfp_helpers.parsing.page import write_page

    agreement = write_page(out, weights)
    typer.echo(f"{agreement}\nto look at it: python {out / 'serve.py'}")


@app.command()
def predict(
    parser: Annotated[str, typer.Option(help="weak, supervised, or a parser.safetensors of wsfp parser.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps; the same command in it goes on.")],
    profile: ProfileName = "embedded",
    part: Part = "test",
    data: Annotated[str | None, typer.Option(help="Another set: lapa/test, helen/test, celebamask/val, ...")] = None,
) -> None:
    """Parse the test set of a profile: an index PNG of 19 classes for each picture, to be scored by wsfp evaluate.

    In sets whose faces are not framed as the training pictures are, such as LaPa, it looks for the face as wsfp parse.
    """
    from wsfp_helpers.parsing.photographs import predict_set
    from wsfp_helpers.profiles import profile as named
    from wsfp_helpers.profiles import source

    config = named(profile)
    _say_where(config)
    faces = config.faces(part) if data is None else source(data).open()
    _say(predict_set(faces.weak, out, parser))


@app.command()
def evaluate(
    pred: Annotated[Path, typer.Option(help="Folder of predicted index PNGs.")],
    gt: Annotated[Path, typer.Option(help="Folder of label maps with the same file names.")],
    labels: Annotated[str, typer.Option(help="Classes of the maps: celebamask (19) or lapa (11).")] = "celebamask",
    pred_labels: Annotated[str | None, typer.Option(help="Classes of the predictions, when they differ.")] = None,
    mode: Annotated[str, typer.Option(help="How 19 classes become 11: geometric or by-name.")] = "geometric",
    ears_to_skin: Annotated[bool, typer.Option(help="Count ears as skin, as LaPa does, in 19 -> 11.")] = False,
    subset: Annotated[
        str | None, typer.Option(help="Score only the pictures of this set, for example celebamask/train-3820.")
    ] = None,
    json: Json = None,
) -> None:
    """Score a folder of predictions: F1 of every class, mean F1, mean IoU, pixel accuracy."""
    from wsfp_helpers.common.files import write_json
    from wsfp_helpers.score.folders import evaluate_folders

    ids = None
    if subset is not None:
        from wsfp_helpers.profiles import source

        ids = source(subset).open().ids
    scores = evaluate_folders(pred, gt, labels, pred_labels, mode, ears_to_skin, ids)
    typer.echo(scores.table())
    if json is not None:
        write_json(json, scores.as_dict())


@app.command()
def ablate(
    table: Annotated[
        str,
        typer.Argument(
            help="table3, table4, fig6, vlm (4.3.4); variants, sums, sweep, tuned, eyes, mended, blocks or start."
        ),
    ],
    profile: ProfileName = "embedded",
    seeds: Seeds = "0,1,2",
    boxes: Boxes = "shipped",
    work: Work = None,
    results: Results = Path("results"),
) -> None:
    """Repeat an ablation of the paper over seeds; writes a results file and its page."""
    from wsfp_helpers.profiles import profile as named
    from wsfp_helpers.tooling.ablate import ablate, write_table

    config, numbers = named(profile), _seeds(seeds)
    path = write_table(table, ablate(table, config, boxes, numbers, work), numbers, config, results)
    typer.echo(_page(path))


@systems.command("list")
def systems_list() -> None:
    """Name the systems of Tables 1 and 2: paper, supervision, and the settings that val chose."""
    from wsfp_helpers.systems.every import SYSTEMS

    for name, system in SYSTEMS.items():
        typer.echo(f"{name:12}{system.supervision:7}{system.paper:34}{system.tried[system.chosen]}")


@systems.command("tune")
def systems_tune(
    names: Names = None,
    profile: ProfileName = "embedded",
    boxes: Boxes = "shipped",
    work: Work = None,
    results: Results = Path("results"),
    settings: Settings = None,
) -> None:
    """Score the settings that each system may choose from on val, with seed 0."""
    from wsfp_helpers.tooling.tables import tune

    typer.echo(_page(tune(_systems(names), _profile(profile, settings), boxes, work, results)))


@systems.command("train")
def systems_train(
    name: Annotated[str, typer.Argument(help="A system (wsfp systems list).")],
    profile: ProfileName = "embedded",
    seed: Seed = 0,
    boxes: Boxes = "shipped",
    work: Work = None,
    settings: Settings = None,
) -> None:
    """Train one system and label its training set; prints the folder of the label maps, for wsfp parser --labels."""
    from wsfp_helpers.common.cache import cache_dir
    from wsfp_helpers.stages import label_faces, run_system

    (known,), config = _systems([name]), _profile(profile, settings)
    system, run = run_system(known, config, work or cache_dir(), boxes, seed=seed)
    typer.echo(label_faces(system, config.faces("train").weak, run))


@systems.command("run")
def systems_run(
    names: Names = None,
    profile: ProfileName = "embedded",
    seeds: Seeds = "0,1,2",
    boxes: Boxes = "shipped",
    work: Work = None,
    results: Results = Path("results"),
    settings: Settings = None,
) -> None:
    """Make Tables 1 and 2: pseudo masks of each system, and parsers trained on them, beside full supervision."""
    from wsfp_helpers.tooling.tables import compare

    typer.echo(_page(compare(_systems(names), _profile(profile, settings), boxes, _seeds(seeds), work, results)))


@systems.command("cost")
def systems_cost(
    names: Names = None, profile: ProfileName = "embedded", boxes: Boxes = "shipped", results: Results = Path("results")
) -> None:
    """Make Table 5: parameters, minutes of training, multiply-adds, pictures a second (on an idle machine)."""
    from wsfp_helpers.profiles import profile as named
    from wsfp_helpers.tooling.cost import table5

    typer.echo(_page(table5(_systems(names), named(profile), boxes, results)))


@systems.command("add")
def systems_add(
    folder: Annotated[Path, typer.Argument(help="Index PNGs of a part of the data, with a card.json.")],
    profile: ProfileName = "embedded",
    work: Work = None,
) -> None:
    """Score label maps that somebody else made; they stand in the tables of wsfp systems run, marked as imported."""
    from wsfp_helpers.profiles import profile as named
    from wsfp_helpers.tooling.tables import add_imported

    typer.echo(add_imported(folder, named(profile), work).table())


def _systems(names: list[str] | None) -> list[str]:
    from wsfp_helpers.systems.every import SYSTEMS, find_system

    return list(dict.fromkeys(find_system(name).title.lower() for name in names)) if names else list(SYSTEMS)


def _page(path: Path) -> str:
    return path.with_suffix(".md").read_text(encoding="utf-8")


if __name__ == "__main__":  # for accelerate launch -m wsfp_helpers.cli
    app()
