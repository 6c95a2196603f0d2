"""Files of tensors, as the library of the format reads them."""

import math

import pytest
import torch
from safetensors.torch import load

from glmc.runs.packed import KINDS, SUMMED, Packed


def of_every_kind():
    """Odd numbers of bytes, in an order that does not help."""
    bits = torch.arange(24, dtype=torch.uint8)
    tensors = {str(dtype): bits.view(dtype) for dtype in reversed(KINDS) if dtype != torch.bool}
    return {"one byte": bits[:1], "yes": torch.tensor([True, False, True]), **tensors, "Grüße": torch.tensor(2.5)}


def test_every_type_is_read_by_the_library():
    tensors = of_every_kind()
    packed = Packed(tensors)
    packed.fill(tensors)
    back = load(bytes(packed.content))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(back[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def test_it_may_be_filled_again():
    first = {"a": torch.randn(3, 4), "b": torch.tensor(1)}
    then = {"a": torch.randn(4, 3).T, "b": torch.tensor(2)}
    packed = Packed(first)
    packed.fill(first)
    assert packed.fits(then)
    packed.fill(then)
    back = load(bytes(packed.content))
    assert all(torch.equal(back[name], then[name]) for name in then)
    for other in ({"a": first["a"]}, {**first, "a": torch.zeros(4, 4)}, {**first, "b": torch.tensor(1.0)}):
        assert not packed.fits(other)


def test_nothing_is_a_file_too():
    packed = Packed({})
    assert packed.fill({}) == []
    assert load(bytes(packed.content)) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", SUMMED)
def test_a_value_that_is_not_finite_is_told(dtype, value):
    tensors = {f"{kind} {size}": torch.ones(size, dtype=kind) for kind in SUMMED for size in (0, 1, 500)}
    packed = Packed(tensors)
    assert all(packed.fill(tensors))
    tensors[f"{dtype} 500"][300] = value
    assert [flag.item() for flag in packed.fill(tensors)].count(False) == 1
