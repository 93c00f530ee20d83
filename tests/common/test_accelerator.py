"""Trainings of one process do not hand their precision or a broken accumulation on to the next."""

from dataclasses import replace

import pytest
import torch
from fixtures import CONFIG, run_in_processes, same, tiny_faces, tiny_vit
from torch import nn

from wsfp_helpers.common.accelerator import new_accelerator
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.method.train import train
from wsfp_helpers.parsing.fit import FitConfig, fit

BASELINE = replace(CONFIG, tcd=None)


def fitted():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 19, 3, padding=1)
    inputs, target = torch.randn(2, 3, 16, 16), torch.randint(0, 19, (2, 16, 16))
    losses = fit(network, lambda step: ((inputs,), target), FitConfig(steps=3, batch=2, lr=0.1))
    return network, losses


def test_one_process_trains_at_two_precisions():
    before = train(tiny_vit(), tiny_faces(), BASELINE)
    half = train(tiny_vit(), tiny_faces(), replace(BASELINE, precision="bf16"))
    after = train(tiny_vit(), tiny_faces(), BASELINE)
    assert same(before, after)
    assert not same(before, half)


def test_a_parser_is_trained_in_float32_after_a_training_in_bfloat16():
    network, losses = fitted()
    train(tiny_vit(), tiny_faces(), replace(BASELINE, precision="bf16", epochs=1))
    again, same_losses = fitted()
    assert same(network, again)
    assert losses == same_losses


def test_a_training_that_broke_off_between_micro_batches_does_not_stop_the_next():
    network, _ = fitted()
    accelerator = new_accelerator("no", accumulate=2)
    with pytest.raises(ZeroDivisionError), accelerator.accumulate(nn.Linear(1, 1)):
        assert not accelerator.sync_gradients
        raise ZeroDivisionError
    assert same(fitted()[0], network)


def test_a_precision_that_a_machine_lacks_is_a_sentence(monkeypatch):
    def refuse(**settings):  # as some releases of accelerate do on a CPU, and all on a GPU that lacks it
        raise ValueError(f"{settings['mixed_precision']} mixed precision requires a GPU")

    monkeypatch.setattr("wsfp_helpers.common.accelerator.Accelerator", refuse)
    with pytest.raises(InputError, match=r"has no mixed precision fp16 \(.*\): take another, say --set"):
        train(tiny_vit(), tiny_faces(), replace(BASELINE, precision="fp16"))


LEAVES = """
import torch
from accelerate.utils import gather_object
destroy = torch.distributed.destroy_process_group

def told(*arguments):
    destroy(*arguments)
    print("left, a member:", torch.distributed.is_initialized())

torch.distributed.destroy_process_group = told
assert gather_object([processes().process_index]) == [0, 1] and torch.distributed.is_initialized()
"""


@pytest.mark.promise("two at once", "the end of a process under accelerate", "nothing, exit code 0", "the usual")
def test_a_process_leaves_the_others_before_its_end(tmp_path):
    done = run_in_processes(LEAVES, 2, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("left, a member: False") == 2
