"""Few trained weights in a frozen transformer: bottlenecks beside its MLPs, low-rank changes of its queries and values.

An adapter is a child of each block, tied to it by hooks, so that the network's own weights keep their names, and files
of weights fit as they are. At the beginning it adds nothing: the network answers as it was pretrained.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmc.errors import UserError

NARROWEST = 4  # of a bottleneck: the rule for its width was made for a thousand classes
PARTS = ("attn", "norm2", "mlp", "drop_path2")  # of a transformer block, as timm names them


def adapt(net: nn.Module, name: str, kind: Literal["adaptformer", "lora", "bitfit"], width: int) -> list[nn.Parameter]:
    """Add an adapter to every transformer block of a network of timm's.

    Args:
        net: changed in place; its own parameters stay as they are, and the caller freezes them.
        name: what the user calls it.
        kind: "adaptformer": see `AdaptFormer`; "lora": see `LoRA`; "bitfit": the biases that the blocks have already
            (Ben Zaken et al., ACL 2022).
        width: of a bottleneck, or the rank; see `usual_width`.

    Returns:
        The parameters to train.

    Raises:
        UserError: there is no transformer block in it, or not one that this adapter can be tied to.
    """
    found = blocks(net)
    if not found:
        raise UserError(
            f"model.adapter: {name} has no transformer blocks to adapt; train a classifier on it with "
            "model.adapter=null and model.freeze=true, or all of it with optim.backbone_lr a tenth of optim.lr"
        )
    if kind == "bitfit":
        biases = [p for block in found for key, p in block.named_parameters() if key.rpartition(".")[2] == "bias"]
        if not biases:
            raise UserError(f"model.adapter: the blocks of {name} have no biases; take model.adapter.name=adaptformer")
        return biases
    for block in found:
        if kind == "adaptformer":
            block.adapter = AdaptFormer(block, width)
        elif not LoRA.suits(block.attn):
            raise UserError(
                f"model.adapter: {name} does not compute queries and values in one linear layer, which lora changes; "
                "take model.adapter.name=adaptformer"
            )
        else:
            block.attn.lora = LoRA(block.attn.qkv, width)
    added = (module for module in net.modules() if isinstance(module, AdaptFormer | LoRA))
    return [parameter for module in added for parameter in module.parameters()]


def blocks(net: nn.Module) -> list[Any]:
    """Its transformer blocks: attention, then an MLP on tokens [B, N, D], beside a residual connection."""
    found: list[Any] = [module for module in net.modules() if all(hasattr(module, part) for part in PARTS)]
    return [block for block in found if not any(isinstance(each, nn.Conv2d) for each in block.mlp.modules())]


def usual_width(classes: int, layers: int) -> int:
    """The largest power of two up to C / 2L, so that adapters have about as many weights as a classifier; at least 4.

    Shi et al., ICML 2024, arXiv:2309.10019.

    >>> usual_width(1000, 12), usual_width(8142, 12), usual_width(10, 12)
    (32, 256, 4)
    """
    return max(NARROWEST, 2 ** math.floor(math.log2(max(classes / (2 * layers), 1))))


class AdaptFormer(nn.Module):
    """A bottleneck parallel to the MLP of a block: x + MLP(x) + s * up(ReLU(down(norm(x)))), the scale s learnt.

    Float [B, tokens, D] -> the same. Chen et al., NeurIPS 2022, arXiv:2205.13535, with the norm and the learnt scale of
    Shi et al., ICML 2024. `up` begins as zero.

    Args:
        block: that it is tied to, with its input taken before the norm.
        width: of the bottleneck.
    """

    def __init__(self, block: Any, width: int) -> None:
        super().__init__()
        features = block.norm2.weight.numel()
        self.norm = nn.LayerNorm(features)
        self.down = nn.Linear(features, width)
        self.up = nn.Linear(width, features)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)
        self._taken: Tensor | None = None
        block.register_forward_pre_hook(self.begin)
        for first in (block.norm2, block.mlp):  # whichever comes first: some networks have the norm after the MLP
            first.register_forward_pre_hook(self.take)
        block.drop_path2.register_forward_hook(self.add)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        added: Tensor = self.scale * self.up(F.relu(self.down(self.norm(x))))
        return added

    def begin(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A hook: nothing is left of a pass that has failed halfway."""
        self._taken = None

    def take(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A hook: what comes into the branch of the MLP."""
        if self._taken is None:
            self._taken = inputs[0]

    def add(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A hook: what goes out of it, and what the adapter makes of what has come in."""
        taken, self._taken = self._taken, None
        assert taken is not None, "a block calls its norm before its end"
        return output + self(taken)


class LoRA(nn.Module):
    """What a fused projection to queries, keys and values lacks: low-rank terms for queries and values.

    Float [B, tokens, D] -> float [B, tokens, 3 D]. Hu et al., ICLR 2022, arXiv:2106.09685; with alpha = rank.

    Args:
        qkv: the layer it is tied to.
        rank: of each of the two terms.
    """

    def __init__(self, qkv: nn.Linear, rank: int) -> None:
        super().__init__()
        inputs, outputs = qkv.in_features, qkv.out_features // 3
        self.down = nn.Linear(inputs, 2 * rank, bias=False)
        self.up_q = nn.Linear(rank, outputs, bias=False)
        self.up_v = nn.Linear(rank, outputs, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up_q.weight)
        nn.init.zeros_(self.up_v.weight)
        self.tie = qkv.register_forward_hook(self.add)

    @staticmethod
    def suits(attention: Any) -> bool:
        """Whether this attention calls one linear layer for queries, keys and values."""
        qkv = getattr(attention, "qkv", None)
        if not isinstance(qkv, nn.Linear) or getattr(attention, "q_bias", None) is not None:
            return False
        return qkv.out_features == 3 * qkv.in_features

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        low_q, low_v = self.down(x).chunk(2, dim=-1)  # [B, tokens, rank] each
        query, value = self.up_q(low_q), self.up_v(low_v)
        return torch.cat([query, torch.zeros_like(query), value], dim=-1)

    def add(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A hook: the projection with its low-rank terms."""
        return output + self(inputs[0])

    def change(self) -> Tensor:
        """Float [3 D, D]: what the projection's weight would have to be increased by."""
        down_q, down_v = self.down.weight.chunk(2)
        query, value = self.up_q.weight @ down_q, self.up_v.weight @ down_v
        return torch.cat([query, torch.zeros_like(query), value])


@torch.no_grad()
def merge(net: nn.Module) -> None:
    """Turn low-rank terms into weights, in place: the same answers, and names and shapes of a plain network.

    Bottlenecks stay: their ReLU is nobody's weight.
    """
    for _, attention in list(with_lora(net)):
        attention.qkv.weight += attention.lora.change()
        attention.lora.tie.remove()
        del attention.lora


def with_lora(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attention modules with low-rank terms, and their names."""
    return ((name, module) for name, module in net.named_modules() if isinstance(getattr(module, "lora", None), LoRA))
