"""Backbones by name: the small-image networks here, everything else from timm."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from glmc import ranks
from glmc.errors import UserError
from glmc.models.adapters import adapt, blocks, usual_width
from glmc.models.batch_norm import split_by_view
from glmc.models.casting import carried_out, weights_of
from glmc.models.cifar_resnet import CifarResNet
from glmc.models.experts import Copies, multiply
from glmc.models.pretrained import load_pretrained, told
from glmc.models.small_stem import SmallStemResNet
from glmc.models.weights import obstacle

SMALL_IMAGE = (
    *(f"resnet{depth}{width}" for depth in (20, 32, 44, 56) for width in ("", "_w64")),
    *(f"resnet{depth}_small" for depth in (18, 34, 50)),
)


class Backbone(nn.Module):
    """An encoder: images in, feature vectors out.

    Args:
        net: float [B, ch, H, W] -> float [B, out_dim].
        out_dim: length of a feature vector.
        batch_norm: what happens to BatchNorm when several views come at once; see `models.batch_norm`.
        experts: how often the network holds its later stages; see `models.experts`.
        batch_norm_over: of several processes, whose images BatchNorm's statistics are of.
        adapted: the parameters that may learn when it is frozen; see `models.adapters`.
        adapter_width: of its bottlenecks, or their rank; 0: it has none.
    """

    def __init__(
        self,
        net: nn.Module,
        out_dim: int,
        batch_norm: Literal["split", "two_pass", "joint"],
        experts: int = 1,
        batch_norm_over: Literal["batch", "rank"] = "batch",
        adapted: Sequence[nn.Parameter] = (),
        adapter_width: int = 0,
    ) -> None:
        super().__init__()
        self.experts, self.frozen = experts, False
        self.adapted, self.adapter_width = tuple(adapted), adapter_width
        self.net, self.out_dim, self.batch_norm = net, out_dim, batch_norm
        # Tuples: `net` already owns the modules.
        self.norms = tuple(split_by_view(net))
        for norm in self.norms:
            norm.over = batch_norm_over  # type: ignore[assignment]
        self.weights = weights_of(net)
        self.copies = tuple(module for module in net.modules() if isinstance(module, Copies))
        own = {id(norm) for copies in self.copies for norm in copies.modules()}
        self.of_one = tuple(id(norm) in own for norm in self.norms)  # whether a norm belongs to a single expert

    def forward(self, images: Tensor, groups: int = 1, apart: bool = False) -> Tensor:
        """Images of one or more views -> features.

        Args:
            images: float [groups * B, ch, H, W], `groups` views one after the other; or their features, which are
                handed on.
            groups: how many views these are. In a step that is spread over ranks, B are the images here, and features
                are those of the whole batch; see `glmc.ranks`.
            apart: whether each expert sees a view of its own, of as many views as experts.

        Returns:
            float [groups * B, out_dim]; if there are several experts [experts, groups * B, out_dim], and if they see
            views of their own [experts, B, out_dim].

        Raises:
            ValueError: views of their own in two passes, in which no expert would see the other's.
        """
        if apart and (self.batch_norm == "two_pass" or groups != self.experts):
            raise ValueError("views of their own need as many views as experts, and model.batch_norm=split or joint")
        if self.batch_norm == "two_pass" and groups > 1:
            return torch.cat([self.encode(view) for view in images.chunk(groups)], dim=-2)
        for norm, of_one in zip(self.norms, self.of_one, strict=True):
            seen = 1 if apart and of_one else groups  # views that come to this layer
            norm.groups = 1 if self.batch_norm == "joint" else seen  # type: ignore[assignment]
            norm.views = seen // norm.groups  # type: ignore[assignment, operator]
        for copies in self.copies:
            copies.apart = apart
        return self.encode(images, 1 if apart else groups)

    def freeze(self, adapters: bool) -> None:
        """Let nothing learn, or nothing but its adapters."""
        self.frozen = True
        self.requires_grad_(False)
        for parameter in self.adapted if adapters else ():
            parameter.requires_grad_(True)

    @property
    def running(self) -> list[Tensor]:
        """Running averages of BatchNorm that differ from rank to rank after a step."""
        apart = [norm for norm in self.norms if norm.over == "rank"]
        return [mean for norm in apart for mean in norm.buffers(recurse=False) if mean.is_floating_point()]

    def encode(self, images: Tensor, views: int = 1) -> Tensor:
        """Features of the whole batch: float [experts, views * B, out_dim], or [views * B, out_dim] of one expert."""
        if images.ndim == 2:  # features that have been computed before
            return ranks.gathered(images, views)
        features = carried_out(self.net, self.weights, images)
        if self.experts > 1:
            features = features.unflatten(0, (self.experts, -1))
        return ranks.gathered(features, views)


def build_backbone(
    name: str,
    *,
    channels: int = 3,
    pretrained: bool | str = False,
    batch_norm: Literal["split", "two_pass", "joint"] = "split",
    experts: int = 1,
    experts_from: str | None = None,
    zero_residual: bool | None = None,
    batch_norm_over: Literal["batch", "rank"] = "batch",
    adapter: Mapping[str, Any] | None = None,
    classes: int = 0,
) -> Backbone:
    """A backbone without classifier.

    Args:
        name: one of `SMALL_IMAGE`, or any name of timm's.
        channels: of the images, 1 or 3.
        pretrained: weights from timm's hub (true), or from a file (safetensors, or a torch file of tensors only).
        batch_norm, batch_norm_over: see `Backbone`.
        experts, experts_from: how often the network is held from that stage on; see `models.experts`.
        zero_residual: whether residual branches begin as zero: the scale of their last BatchNorm; None: as timm has it.
        adapter: what learns in it when it is frozen: {name, width} of a recipe's `model.adapter`.
        classes: their number, which the usual width of adapters follows.

    Raises:
        UserError: unknown name or stage, weights that cannot be had or do not fit, branches that cannot be set, no
            place for an adapter.
    """
    if name in SMALL_IMAGE and pretrained is True:
        raise UserError(f"model.pretrained: there are no published weights for {name}; give a file or a timm model")
    if name in SMALL_IMAGE and zero_residual:
        raise UserError(f"model.zero_residual: the residual branches of {name} never begin as zero; set it to null")

    def network() -> tuple[nn.Module, int]:
        if name in SMALL_IMAGE:
            net, out_dim = _small_image_backbone(name, channels)
        else:
            net, out_dim = _timm_backbone(name, channels, pretrained is True, zero_residual)
        if isinstance(pretrained, str):
            load_pretrained(net, pretrained)
        return net, out_dim

    net, out_dim = network()
    if experts_from is not None:
        multiply([net, *(network()[0] for _ in range(experts - 1))], experts_from)
    adapted: list[nn.Parameter] = []
    width = 0
    if adapter is not None:
        width = adapter["width"] or usual_width(classes, max(1, len(blocks(net))))
        adapted = adapt(net, name, adapter["name"], width)
        width = 0 if adapter["name"] == "bitfit" else width
    return Backbone(net, out_dim, batch_norm, experts, batch_norm_over, adapted, width)


def pretrained_input(name: str, weights: bool | str) -> dict[str, Any]:
    """Mean, std (fractions of the full range) and side in pixels that weights expect, as far as that is known.

    Args:
        name: of the backbone.
        weights: value of `model.pretrained`; a file that says nothing of itself counts as timm's weights of that name.

    Raises:
        UserError: there is no such file, or it says that it is another network's.
    """
    if weights is False:
        return {}
    found = told(weights) if isinstance(weights, str) else None
    if found is not None:
        if found.network != name:
            raise UserError(
                f"model.pretrained={weights}: these are weights of {found.network}, and model.name is {name}; set "
                f"model.name={found.network}, or give another file"
            )
        return {"mean": found.mean, "std": found.std, "size": found.size}
    import timm  # takes seconds

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        return {}
    return {"mean": config.mean, "std": config.std, "size": config.input_size[-1]}


def _small_image_backbone(name: str, channels: int) -> tuple[nn.Module, int]:
    depth, kind = re.fullmatch(r"resnet(\d+)(_w64|_small)?", name).groups()  # type: ignore[union-attr]
    net: CifarResNet | SmallStemResNet
    if kind == "_small":
        net = SmallStemResNet(int(depth), channels)  # type: ignore[arg-type]
    else:
        net = CifarResNet(int(depth), 64 if kind else 16, channels)
    return net, net.out_dim


def _timm_backbone(name: str, channels: int, pretrained: bool, zero_residual: bool | None) -> tuple[nn.Module, int]:
    import timm

    if not timm.is_model(name):
        from difflib import get_close_matches

        base = name.split(".")[0]
        near = get_close_matches(base, [*SMALL_IMAGE, *timm.list_models()], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"model.name={name}: no such backbone{hint} `glmc list backbones` names them all")
    reason = obstacle(name) if pretrained else None
    if reason is not None:
        raise UserError(
            f"model.pretrained: the weights of {name} cannot be had ({reason}); give a file, model.pretrained=FILE, or "
            f"train from scratch with model.pretrained=false"
        )
    try:
        net = timm.create_model(
            name, pretrained=pretrained, num_classes=0, in_chans=channels, zero_init_last=zero_residual
        )  # timm leaves out what is None
    except TypeError as error:
        if "zero_init_last" not in str(error):
            raise
        raise UserError(f"model.zero_residual: timm does not let it be set for {name}; set it to null") from error
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        raise UserError(
            f"model.pretrained: the weights of {name} could not be fetched; without a network "
            f"give a file, model.pretrained=FILE, or train from scratch with model.pretrained=false"
        ) from error
    return net, int(getattr(net, "head_hidden_size", None) or net.num_features)  # type: ignore[arg-type]
