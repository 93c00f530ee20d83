"""A fresh accelerator for each training, whatever the same process trained before."""

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState


def new_accelerator(precision: str, accumulate: int = 1) -> Accelerator:
    """An ``Accelerator`` at accelerate's ``precision`` that accumulates ``accumulate`` micro-batches a step.

    accelerate keeps both for the whole process: a later ``Accelerator`` takes over the first one's precision, or
    raises when it asks for another, and an accumulation that an exception ended goes on in it.
    """
    # Up to accelerate 1.15 there is no public way to forget them; processes and device (PartialState) stay.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(mixed_precision=precision, gradient_accumulation_steps=accumulate)
