"""Modes of execution of a function of tensors: as it is written, compiled, as a CUDA graph, or both.

    eager          operation by operation, from Python
    compile        fused by torch.compile; takes a minute to build, and wins it back on a long run
    graph          recorded once as a CUDA graph and replayed with a single call a step: nothing is left for Python to
                   do, which is most of the time of a small network on a large GPU
    graph_compile  the compiled function, recorded

A graph repeats the very kernels it recorded, on the very same memory. What changes from step to step must therefore lie
in tensors: the inputs, which are copied into the recorded ones, and the state (weights, momentum, running averages,
learning rate), which is changed in place. `engine.training_step` is written for that.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Mode = Literal["graph_compile", "graph", "compile", "eager"]
MODES: tuple[Mode, ...] = (
    "graph_compile",
    "graph",
    "compile",
    "eager",
)  # in the order in which they are fallen back to
Makers = Mapping[Mode, Callable[[], Callable[[Any], Any]]]  # what makes a function that is carried out in that mode
WARM_UP = 3  # runs before a recording: libraries choose kernels and allocate workspaces in their first ones


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    else:
        for item in value:
            yield from leaves(item)


def copied(value: Any) -> Any:
    """Nested tuples and mappings with every tensor copied to memory of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    items = [copied(item) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def by_dtype(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Places of the tensors of each dtype: a `_foreach` call takes one kernel only if all of its tensors agree."""
    places: dict[torch.dtype, list[int]] = {}
    for place, tensor in enumerate(tensors):
        places.setdefault(tensor.dtype, []).append(place)
    return list(places.values())


class RecordingFailed(RuntimeError):
    """A function could not be recorded; its state is as it was before."""


class Graphed:
    """A function that is recorded as a CUDA graph when it first meets inputs of some shapes, and replayed ever after.

    Another shape, such as that of an epoch's last batch, is another graph in the same memory pool. Warm-ups, recording
    and replays happen in the caller's stream, since libraries keep a workspace for each stream and a graph remembers
    its address; only a caller in the default stream, where nothing can be recorded, is given another for the recording.

    Args:
        function: of nested tuples and mappings of CUDA tensors; returns the like. Nothing in it may wait for the host.
        state: all the tensors that the function changes in place, as they are now: what a warm-up did to them is
            undone, and those that a warm-up has created (momentum) become zero.
    """

    refused = False  # once a recording has failed, the library's state is not to be trusted with another

    def __init__(self, function: Callable[[Any], Any], state: Callable[[], list[Tensor]] = list) -> None:
        self.function, self.state = function, state
        self.replays = 0
        self._recorded: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, inputs: Any) -> Any:
        """The function's results; they live until the next call with inputs of the same shapes.

        Raises:
            RecordingFailed: it could not be recorded for inputs of these shapes; nothing has been changed.
        """
        new = list(leaves(inputs))
        shapes = tuple(tensor.shape for tensor in new)
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(inputs)
        graph, held, results = self._recorded[shapes]
        for places in by_dtype(held):
            torch._foreach_copy_([held[place] for place in places], [new[place] for place in places])
        graph.replay()
        self.replays += 1
        return results

    def _record(self, inputs: Any) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        if Graphed.refused:
            raise RecordingFailed("an earlier recording has failed")
        held = copied(inputs)
        before = [(tensor, tensor.clone()) for tensor in self.state()]
        calling = torch.cuda.current_stream()
        stream = torch.cuda.Stream() if calling == torch.cuda.default_stream() else calling
        pool = next((recorded[0].pool() for recorded in self._recorded.values()), None)
        graph, recording = torch.cuda.CUDAGraph(), False
        try:
            stream.wait_stream(calling)
            with torch.cuda.stream(stream), torch.random.fork_rng(devices=[stream.device]):
                for _ in range(WARM_UP):
                    self.function(held)
            recording = True
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                results = self.function(held)
        except Exception as error:
            Graphed.refused = Graphed.refused or recording
            torch.cuda.set_stream(calling)  # a recording that fails while it ends leaves its own behind
            raise RecordingFailed((str(error).strip().splitlines() or [type(error).__name__])[0]) from error
        finally:
            with contextlib.suppress(RuntimeError):  # of a failed recording, told again by whatever waits first
                torch.cuda.synchronize()
            restore(before, self.state())
        calling.wait_stream(stream)
        return graph, list(leaves(held)), results


@torch.no_grad()
def restore(before: list[tuple[Tensor, Tensor]], now: list[Tensor]) -> None:
    """Give tensors their former values back, and zeros to those that were not there before."""
    known = {id(tensor) for tensor, _ in before}
    for tensor, value in before:
        tensor.copy_(value)
    for tensor in now:
        if id(tensor) not in known:
            tensor.zero_()


class Fallback:
    """A function carried out in the fastest mode that works: one that fails is left for the next.

    A failure counts at the first call; later only a recording that fails does, for inputs of another shape: whatever
    else goes wrong then, such as too little memory, would go wrong in every mode.

    Args:
        mode: the first to be tried.
        makers: make the function for each mode; all compute the same, to within rounding.
        say: told in a sentence why a mode was left.
        what: the sentence's subject.
    """

    def __init__(self, mode: Mode, makers: Makers, say: Callable[[str], None], what: str = "train.step") -> None:
        self.mode, self.say, self.what = mode, say, what
        self._makers, self._function, self._works = makers, makers[mode](), False

    def __call__(self, inputs: Any) -> Any:
        """The function's results."""
        try:
            results = self._function(inputs)
        except Exception as error:
            if self.mode == "eager" or (self._works and not isinstance(error, RecordingFailed)):
                raise
            lower = MODES[MODES.index(self.mode) + 1]
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.say(f"{self.what}={self.mode} does not work here ({reason}): going on with {lower}")
            self.mode, self._function, self._works = lower, self._makers[lower](), False
            return self(inputs)
        self._works = True
        return results
