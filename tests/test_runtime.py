"""What a machine is found to be: precision, ways to carry out a step, room for runs."""

import pytest
import torch

from glmc import runtime

CPU = torch.device("cpu")


def test_the_trial_of_bfloat16_ends_in_a_verdict_within_seconds():
    objection = runtime.try_bfloat16()
    assert objection is None or "bfloat16" in objection


@pytest.fixture
def multiplies(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


def test_wrong_values_speak_against_bfloat16(multiplies, monkeypatch):
    honest = runtime._convolve

    def wrong(x, weight, stride):
        found, seconds = honest(x, weight, stride)
        if x.dtype == torch.bfloat16:
            found[1] = found[1] * 1.05
        return found, seconds

    monkeypatch.setattr(runtime, "_convolve", wrong)
    said = []
    assert runtime.pick_precision("auto", CPU, said.append) == "float32"
    (sentence,) = said
    assert sentence.startswith("computing in float32: a convolution of 3 to 16 channels in bfloat16 gives wrong values")


@pytest.mark.parametrize(("slower", "wanted"), [(0.5, "bfloat16"), (1.05, "bfloat16"), (4.0, "float32")])
def test_slowness_speaks_against_bfloat16(multiplies, monkeypatch, slower, wanted):
    honest = runtime._convolve

    def timed(x, weight, stride):
        return honest(x, weight, stride)[0], slower if x.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(runtime, "_convolve", timed)
    said = []
    assert runtime.pick_precision("auto", CPU, said.append) == wanted
    assert said == (
        [] if wanted == "bfloat16" else ["computing in float32: convolutions in bfloat16 take 4.0 times as long here"]
    )


def test_what_the_recipe_says_is_not_tried(monkeypatch):
    monkeypatch.setattr(runtime, "try_bfloat16", lambda: pytest.fail("tried"))
    assert runtime.pick_precision("bfloat16", CPU, pytest.fail) == "bfloat16"


def test_only_long_runs_are_compiled_on_a_cpu(monkeypatch):
    monkeypatch.setattr(runtime, "has_compiler", lambda: True)
    step = 52.9e9  # operations of a step of GLMC with resnet32, batch 64 x 2
    assert runtime.pick_mode(CPU, 1_000 * step) == "eager"
    assert runtime.pick_mode(CPU, 34_000 * step) == "compile"
    assert runtime.pick_mode(torch.device("cuda"), 1.0) == "graph"
    monkeypatch.setattr(runtime, "has_compiler", lambda: False)
    assert runtime.pick_mode(CPU, 34_000 * step) == "eager"


def test_test_images_live_where_they_fit(monkeypatch):
    monkeypatch.setattr(runtime, "free_memory", lambda device: 1000 if device.type == "cuda" else 5000)
    cuda = torch.device("cuda")
    assert runtime.home_of(500, cuda) == cuda
    assert runtime.home_of(501, cuda) == CPU
    assert runtime.room_for_images(cuda) == 1000


def test_runs_side_by_side_are_a_gpu_s_affair(monkeypatch):
    monkeypatch.setattr(runtime, "free_memory", lambda device: 9_000)
    assert runtime.runs_that_fit(CPU, 10) == 1
    assert runtime.runs_that_fit(torch.device("cuda"), 10) == runtime.MOST_TOGETHER
    assert runtime.runs_that_fit(torch.device("cuda"), 2_000) == 2
    assert runtime.runs_that_fit(torch.device("cuda"), 20_000) == 1
