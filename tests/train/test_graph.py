"""Modes of execution: the same numbers in each, and what is left when one does not work."""

import copy
import json

import pytest
import torch
from test_engine import parts
from torch import nn

from glmc.methods.glmc import GLMC
from glmc.methods.supervised import Supervised
from glmc.train.engine import Inputs, state_of, training_step
from glmc.train.execution import Fallback, Graphed, RecordingFailed, copied, leaves, restore

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def inputs_of(method, loader, epoch=0):
    tables = loader.epoch(epoch)
    for number, part in enumerate(loader.parts(tables)):
        draws = {"lam": torch.tensor(0.1 + 0.2 * number), "centre": torch.tensor([0.3, 0.6])}
        rest = (torch.tensor(0.4), torch.zeros(0, dtype=torch.uint8))
        draws = {name: table.to(loader.device) for name, table in draws.items()}
        yield Inputs(part, draws, *(tensor.to(loader.device) for tensor in rest))


def losses_of(mode, method, loader, optimizer, step=None):
    step = step or Fallback(
        mode,
        {
            "graph": lambda: Graphed(
                training_step(method, loader, optimizer, precision="float32"),
                lambda: state_of(method, optimizer, None),
            ),
            "compile": lambda: training_step(method, loader, optimizer, precision="float32", compiled=True),
            "eager": lambda: training_step(method, loader, optimizer, precision="float32"),
        },
        pytest.fail,
    )
    method.train()
    found = []
    for epoch in range(2):
        for inputs in inputs_of(method, loader, epoch):
            found.append({name: term.item() for name, term in step(inputs).items()})
    return found, step


def test_leaves_and_copies_of_nested_inputs():
    method, loader, _ = parts(GLMC)
    inputs = next(inputs_of(method, loader))
    twin = copied(inputs)
    assert type(twin) is Inputs
    assert list(twin.parts) == ["instance", "rebalanced"]
    for ours, theirs in zip(leaves(inputs), leaves(twin), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr() or not ours.numel()


def test_what_a_warm_up_did_is_undone_and_what_it_created_is_zero():
    method, loader, optimizer = parts(GLMC)
    step = training_step(method, loader, optimizer, precision="float32")
    before = [(tensor, tensor.clone()) for tensor in state_of(method, optimizer, None)]
    step(next(inputs_of(method, loader)))
    now = state_of(method, optimizer, None)
    assert len(now) > len(before)  # momentum has come
    restore(before, now)
    for tensor, value in before:
        assert torch.equal(tensor, value)
    assert all(not slot["momentum_buffer"].any() for slot in optimizer.state.values())


@pytest.mark.parametrize("kind", [Supervised, GLMC])
def test_zero_momentum_and_none_are_the_same_beginning(kind):
    """A graph is recorded with momentum buffers in place, where a plain run begins without any."""
    plain, _ = losses_of("eager", *parts(kind))
    method, loader, optimizer = parts(kind)
    step = training_step(method, loader, optimizer, precision="float32")
    before = [(tensor, tensor.clone()) for tensor in state_of(method, optimizer, None)]
    step(next(inputs_of(method, loader)))
    restore(before, state_of(method, optimizer, None))
    assert losses_of("eager", method, loader, optimizer, step=step)[0] == plain


def test_compiled_steps_are_the_same_to_within_rounding():
    stem = {"depth": 2, "width": 16}  # without blocks: each would take ten seconds to compile
    eager, _ = losses_of("eager", *parts(GLMC, **stem))
    compiled, step = losses_of("compile", *parts(GLMC, **stem))
    assert step.mode == "compile"
    for ours, theirs in zip(compiled, eager, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_a_mode_that_fails_at_its_first_call_is_left_and_said():
    said = []

    def fails(_):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    function = Fallback("graph", {"graph": lambda: fails, "compile": lambda: fails, "eager": lambda: sum}, said.append)
    assert function([1, 2]) == 3
    assert function.mode == "eager"
    assert said == [
        "train.step=graph does not work here (operation not permitted): going on with compile",
        "train.step=compile does not work here (operation not permitted): going on with eager",
    ]


def test_a_graph_without_a_gpu_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    from glmc import recipe, report
    from glmc.train import run

    monkeypatch.setattr(report, "write", lambda run: None)
    wanted = recipe.load("digits_lt/ce", ["train.step=graph", "train.max_steps=2", "train.device=cpu", "expect=null"])
    out = run.train(wanted, tmp_path / "run", command="", since=0.0)
    assert capsys.readouterr().out.count("train.step=graph needs a CUDA device, and this is cpu") == 1
    result = json.loads((out / "result.json").read_text())
    assert result["step"] == {"asked": "graph", "eager": 2}


def test_a_mode_that_has_worked_is_not_left_in_silence():
    calls = []

    def fails_later(_):
        calls.append(None)
        if len(calls) > 1:
            raise RuntimeError("out of memory")

    function = Fallback("compile", {"compile": lambda: fails_later, "eager": lambda: sum}, pytest.fail)
    function([])
    with pytest.raises(RuntimeError, match="out of memory"):
        function([])


def test_a_recording_that_fails_for_a_later_shape_is_left_too():
    """The last batch of an epoch has a graph of its own; the state is as before, so that the run goes on."""
    said = []

    def recorded(values):
        if len(values) < 2:
            raise RecordingFailed("operation not permitted when stream is capturing")
        return sum(values)

    makers = {"graph": lambda: recorded, "compile": lambda: sum, "eager": lambda: sum}
    function = Fallback("graph", makers, said.append)
    assert [function([1, 2]), function([3]), function([1, 2])] == [3, 3, 3]
    assert function.mode == "compile"
    assert said == [
        "train.step=graph does not work here (operation not permitted when stream is capturing): going on with compile"
    ]


def test_after_a_failed_recording_nothing_more_is_recorded(monkeypatch):
    monkeypatch.setattr(Graphed, "refused", True)
    with pytest.raises(RecordingFailed, match="an earlier recording has failed"):
        Graphed(sum)((torch.zeros(2),))


def whole_recipe(mode, tmp_path, sharpness):
    """A short run of everything that a step can hold, with a last batch; its weights."""
    from glmc import recipe
    from glmc.runs import checkpoint
    from glmc.train import run

    values = [
        "model.name=resnet32", "data.batch_size=64", "data.n_max=60", "data.imbalance=10", "train.precision=bfloat16",
        "train.ema=0.9", f"optim.sharpness={sharpness}", "optim.clip=1", "train.epochs=2", "eval.every=2",
        "expect=null", f"train.step={mode}", "train.device=cuda",
    ]  # fmt: skip
    out = run.train(recipe.load("digits_lt/glmc", values), tmp_path / mode, command="", quiet=True, since=0.0)
    assert json.loads((out / "result.json").read_text())["step"].keys() == {"asked", mode}
    point = checkpoint.latest(out / "checkpoints")
    return point.tensors("weights") | {f"average.{k}": v for k, v in point.tensors("average").items()}


@needs_gpu
@pytest.mark.parametrize("sharpness", ["{rho: 0.05}", "{rho: 0.005, direction: random}"])
def test_a_recorded_run_is_the_eager_run_bit_by_bit(tmp_path, monkeypatch, sharpness):
    """ResNet-32 in bfloat16, batches of 64 and a last one, SAM or GNM, clipping, a moving average; same cuDNN."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    eager, graph = (whole_recipe(mode, tmp_path, sharpness) for mode in ("eager", "graph"))
    assert all(torch.equal(value, graph[name]) for name, value in eager.items())


@needs_gpu
def test_dropout_is_the_same_in_a_graph():
    """Warm-ups draw, too; the first recorded step must see the numbers that an eager one does."""
    layer = nn.Dropout(0.5).cuda()
    graphed = Graphed(lambda inputs: layer(inputs[0]))
    x = torch.ones(1000, device="cuda")
    for seed in range(3):
        torch.manual_seed(seed)
        wanted = layer(x)
        torch.manual_seed(seed)
        assert torch.equal(graphed((x,)), wanted)


@needs_gpu
@pytest.mark.parametrize("kind", [Supervised, GLMC])
def test_a_graph_is_the_eager_step_bit_by_bit(kind):
    def on_gpu():
        method, loader, optimizer = parts(kind, device=torch.device("cuda"))
        return method, loader, optimizer

    method, loader, optimizer = on_gpu()
    eager, _ = losses_of("eager", method, loader, optimizer)
    twin = copy.deepcopy(method)
    method, loader, optimizer = on_gpu()
    replayed, step = losses_of("graph", method, loader, optimizer)
    assert step.mode == "graph"
    assert replayed == eager
    for ours, theirs in zip(method.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@needs_gpu
def test_a_recorded_function_follows_its_state_and_inputs():
    layer = nn.Linear(3, 2).cuda()
    graphed = Graphed(lambda inputs: layer(inputs[0]))
    with torch.no_grad():
        for size in (4, 7, 4):
            x = torch.randn(size, 3, device="cuda")
            assert torch.equal(graphed((x,)), layer(x))
            layer.weight.mul_(2)
            assert torch.equal(graphed((x,)), layer(x))
    assert graphed.replays == 6
