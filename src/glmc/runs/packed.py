"""Tensors in host memory, laid out as the .safetensors file that they become: one copy, and no other before the disk.

The format: the length of a header as eight bytes, the header (JSON: type, shape and place of each tensor), the tensors.
"""

import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
SUMMED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Packed:
    """Memory for the tensors of a file, pinned if they come from a GPU, to be filled as often as one likes.

    Args:
        tensors: name -> tensor, of any strides; names, types and shapes count here, values do not.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.device = next((t.device for t in tensors.values() if t.device.type != "cpu"), torch.device("cpu"))
        self._likes = _likes(tensors)
        # Types of many bytes first, so that every tensor begins at a multiple of its own.
        order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, str(tensors[name].dtype), name))
        self._places: dict[str, tuple[int, int]] = {}
        self._floats: dict[torch.dtype, tuple[int, int]] = {}  # where the values of each of these types lie
        end = 0
        for name in order:
            start, end = end, end + tensors[name].nbytes
            self._places[name] = start, end
            if tensors[name].dtype in SUMMED:
                self._floats[tensors[name].dtype] = self._floats.get(tensors[name].dtype, (start, end))[0], end
        header = json.dumps(
            {
                name: {"dtype": KINDS[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": place}
                for name, place in self._places.items()
            }
        ).encode()
        header += b" " * (-len(header) % 8)
        head = struct.pack("<Q", len(header)) + header
        self._file = torch.empty(len(head) + end, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        self._file[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._data = self._file[len(head) :]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Packed":
        """Filled with these tensors; waits for their device."""
        packed = cls(tensors)
        for finite in packed.fill(tensors):
            finite.item()
        return packed

    @property
    def content(self) -> memoryview:
        """The bytes of the file."""
        return self._file.numpy().data

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these tensors have the names, types and shapes that it was made for."""
        return self._likes == _likes(tensors)

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """Copy tensors that fit into it, without waiting for the device.

        Returns:
            bool [] on the device, one for each type of floats: whether their sum is finite. It is not if one of them
            is not, or, hardly ever, if it is too large for the type. Who has read them has waited for the copy, too.
        """
        away = self.device.type != "cpu"
        data = torch.empty_like(self._data, device=self.device, pin_memory=False) if away else self._data
        for name, (start, end) in self._places.items():
            tensor = tensors[name]
            data[start:end].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        if away:
            self._data.copy_(data, non_blocking=True)
        return [data[start:end].view(dtype).sum().isfinite() for dtype, (start, end) in self._floats.items()]


def _likes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
