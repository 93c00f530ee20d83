"""The processes of ``accelerate launch``, and a fresh accelerator for each training."""

import atexit
import os
from datetime import timedelta
from functools import cache

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.machine import no_gpu


def processes() -> PartialState:
    """The processes that share the work, of which each has its own GPU; one alone where nothing was launched.

    One that has done its share may wait for the others for days, not for the minutes that torch would grant.

    Raises:
        InputError: Variables of the environment tell of a launch that there was not.
    """
    # accelerate takes launched processes without a GPU for one each unless it is told that they are to use the CPU.
    launched = "LOCAL_RANK" in os.environ
    try:
        state = PartialState(cpu=launched and not torch.cuda.is_available(), timeout=timedelta(days=7))
    except ValueError as error:
        raise InputError(
            f"the environment tells of several processes, but not where they meet ({str(error).splitlines()[0]}): "
            f"start with accelerate launch, or unset WORLD_SIZE, RANK and LOCAL_RANK"
        ) from error
    if launched:
        _leave_at_the_end()
    return state


@cache
def _leave_at_the_end() -> None:
    # A process that ends as a member may abort while Python takes its tensors away (pytorch/pytorch#179291).
    atexit.register(leave)


def leave() -> None:
    """Leave the processes of :func:`processes`; waits for what is being exchanged with them."""
    PartialState().destroy_process_group()


def own_share(count: int) -> slice:
    """The places of this process among ``count`` items of a batch; shares differ by one item at most."""
    state = processes()
    return slice(*(count * (state.process_index + more) // state.num_processes for more in (0, 1)))


def new_accelerator(precision: str, accumulate: int = 1) -> Accelerator:
    """An ``Accelerator`` at accelerate's ``precision`` that accumulates ``accumulate`` micro-batches a step.

    accelerate keeps both for the whole process: a later ``Accelerator`` takes over the first one's precision, or
    raises when it asks for another, and an accumulation that an exception ended goes on in it.

    Raises:
        InputError: The machine does not have this precision.
    """
    # Up to accelerate 1.15 there is no public way to forget them; processes and device (PartialState) stay.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    processes()
    try:
        return Accelerator(mixed_precision=precision, gradient_accumulation_steps=accumulate)
    except ValueError as error:  # half precision without a GPU that has it
        raise InputError(
            f"this machine has no mixed precision {precision} ({no_gpu() or error}): take another, say --set "
            f"train.precision=no, of a parser --set parser.precision=no"
        ) from error
