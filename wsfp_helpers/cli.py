"""The command line ``wsfp``: every command is one call that a notebook could make.

Modules are imported inside the commands, so ``wsfp --help`` answers at once.  Bad input is one sentence on stderr and
exit code 2.
"""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from wsfp_helpers.storage import InputError


class _Group(TyperGroup):
    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(f"wsfp: {error}", err=True)
            raise typer.Exit(2) from None


OPTIONS = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(help="Weakly supervised face parsing, step by step.", cls=_Group, **OPTIONS)
data = typer.Typer(help="Fetch and check data sets.", **OPTIONS)
app.add_typer(data, name="data")

Out = Annotated[Path, typer.Option("--out", help="Folder for what is written.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]


@app.command()
def doctor(
    json: Annotated[Path | None, typer.Option(help="Also write the report to this JSON file.")] = None,
) -> None:
    """Say what this machine has, which data and weights are found, and what to do about each gap."""
    from wsfp_helpers.doctor import as_dict, examine, report
    from wsfp_helpers.storage import write_json

    findings = examine()
    typer.echo(report(findings))
    if json is not None:
        write_json(json, as_dict(findings))
    if not as_dict(findings)["ok"]:
        raise typer.Exit(1)


@data.command("get")
def data_get(name: Annotated[str, typer.Argument(help="frl-london")]) -> None:
    """Download a data set to the cache, every file checked against its SHA-256."""
    from wsfp_helpers.data.frl import fetch_frl_london

    if name != "frl-london":
        raise InputError(f"unknown data set {name!r}: expected frl-london (the others have to be asked for)")
    typer.echo(fetch_frl_london())


@app.command()
def evaluate(
    pred: Annotated[Path, typer.Option(help="Folder of predicted index PNGs.")],
    gt: Annotated[Path, typer.Option(help="Folder of label maps with the same file names.")],
    labels: Annotated[str, typer.Option(help="Classes of the maps: celebamask (19) or lapa (11).")] = "celebamask",
    pred_labels: Annotated[str | None, typer.Option(help="Classes of the predictions, when they differ.")] = None,
    mode: Annotated[str, typer.Option(help="How 19 classes become 11: geometric or by-name.")] = "geometric",
    ears_to_skin: Annotated[bool, typer.Option(help="Count ears as skin, as LaPa does, in 19 -> 11.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the scores to this JSON file.")] = None,
) -> None:
    """Score a folder of predictions: F1 of every class, mean F1, mean IoU, pixel accuracy."""
    from wsfp_helpers.evaluate import evaluate_folders
    from wsfp_helpers.storage import write_json

    scores = evaluate_folders(pred, gt, labels, pred_labels, mode, ears_to_skin)
    typer.echo(scores.table())
    if json is not None:
        write_json(json, scores.as_dict())
