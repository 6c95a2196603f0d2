"""A trained method as a file that other programs read: an ONNX or torch.export graph, or weights under plain names.

The graphs begin at the stored square of an image, uint8 [N, side, side, ch], and hold centre crop, normalisation and
softmax, so that nobody has to repeat these constants. Decoding and the antialiased resize before them stay outside: no
operator of ONNX gives Pillow's pixels. Each writer is beside the reader that its file is checked with.
"""

import copy
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glmc.batches.geometry import center_crop
from glmc.batches.pixels import normalise
from glmc.errors import UserError
from glmc.methods.base import Method
from glmc.models import SMALL_IMAGE, build_backbone
from glmc.models.adapters import AdaptFormer, merge
from glmc.models.heads import Head

ONNX_LIMIT = 2**31  # bytes that one file of this format may have
FILES = {"onnx": "model.onnx", "torch-export": "model.pt2", "safetensors": "model.safetensors"}
FILES["timm"] = FILES["safetensors"]

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # uint8 [N, side, side, ch] -> logits float32 [N, C]


class Deployed(nn.Module):
    """Stored squares in, logits and probabilities out: crop, normalisation, network and softmax.

    Args:
        method: on the CPU; copied.
        side: of the centre crop in pixels.
        mean, std: per channel, in fractions of the full range.
        temperature: > 0, divides the logits before the softmax; see `glmc.inference.temperature`.
        offsets: [C], added to them then: logarithms of class frequencies asked for over those assumed.

    Shape:
        images         uint8 [N, H, W, ch]  H = W >= side
        logits         float32 [N, C]
        probabilities  float32 [N, C]       rows sum to 1
    """

    def __init__(
        self,
        method: Method,
        side: int,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float,
        offsets: Sequence[float],
    ) -> None:
        super().__init__()
        self.method, self.side = copy.deepcopy(method), side
        for module in self.method.modules():
            if isinstance(module, Head):
                module.__class__ = nn.Linear  # type: ignore[assignment]  # the same in float32, without the words on autocast in the graph
        self.scale: Tensor
        self.shift: Tensor
        self.temperature: Tensor
        self.offsets: Tensor
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in std]))  # [ch]
        self.register_buffer("shift", torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]))  # [ch]
        self.register_buffer("temperature", torch.tensor(float(temperature)))  # []
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float32))  # [C]
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.contiguous_format)

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [N, H, W, ch] -> float32 [N, ch, side, side]: what the network sees."""
        return normalise(center_crop(images, self.side), self.scale, self.shift)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        logits = self.method.predict(self.pixels(images)).float()
        return logits, (logits / self.temperature + self.offsets).softmax(1)


def logits_of(model: nn.Module) -> Logits:
    """The logits of a `Deployed`, or of a program that was made of it, from array to array."""

    @torch.no_grad()
    def compute(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: Tensor = model(torch.from_numpy(images))[0]
        return logits.numpy()

    return compute


def answering_parameters(model: Deployed, image: Tensor) -> int:
    """How many parameters the logits of an image (uint8 [1, H, W, ch]) depend on; the others only serve training."""
    trial = copy.deepcopy(model).requires_grad_(True)
    parameters = list(trial.parameters())
    found = torch.autograd.grad(trial(image)[0].sum(), parameters, allow_unused=True)
    return sum(p.numel() for p, gradient in zip(parameters, found, strict=True) if gradient is not None)


# ------------------------------------------------------------------------------------------------------------ graphs


def program_of(model: Deployed, image: Tensor) -> torch.export.ExportedProgram:
    """The graph of the model for any number of images like this one (uint8 [1, H, W, ch]).

    Raises:
        UserError: the network decides something by the values it sees, and so has no graph.
    """
    batch = {"images": {0: torch.export.Dim("batch")}}
    try:
        with torch.no_grad(), calm():
            program = torch.export.export(model, (image.expand(2, -1, -1, -1).contiguous(),), dynamic_shapes=batch)
    except Exception as error:  # many kinds, all of them meaning that this network has no graph
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"this network cannot be turned into a graph for any number of images ({lines[0]}); "
            f"export it with --format safetensors"
        ) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def write_torch_export(file: Path, model: Deployed, image: Tensor) -> Logits:
    """Write the graph as torch.export does, without what only training needs; returns what computes its logits.

    Raises:
        UserError: the network has no graph.
    """
    program = program_of(model, image)
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    signature = program.graph_signature
    lean = copy.deepcopy(model)
    for name, target in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items():
        if name not in read:
            owner, _, leaf = target.rpartition(".")
            setattr(lean.get_submodule(owner), leaf, None)
    with calm():
        torch.export.save(program_of(lean, image), file)
        return logits_of(torch.export.load(file).module())


def write_onnx(file: Path, model: Deployed, image: Tensor, about: Mapping[str, Any]) -> Logits:
    """Write the graph as ONNX, everything in one file; returns what computes its logits with onnxruntime.

    Args:
        file: to write.
        model: to export.
        image: uint8 [1, H, W, ch], any.
        about: what the file says of itself (metadata_props); values that are no texts become JSON.

    Raises:
        UserError: a package is missing, the network has no graph, or is too large for this format.
    """
    need_onnx()
    import onnx
    import onnxruntime

    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > 0.95 * ONNX_LIMIT:
        raise UserError(f"{size / 2**30:.1f} GiB of weights do not fit into one ONNX file (2 GiB); export torch-export")
    program = program_of(model, image)
    with calm():
        exported = torch.onnx.export(
            program, (), input_names=["images"], output_names=["logits", "probabilities"], verbose=False
        )
    assert exported is not None
    proto = exported.model_proto
    tidy(proto)
    onnx.helper.set_model_props(
        proto, {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    )
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


def tidy(proto: Any) -> None:
    """Name the free dimension "batch", and take out the exporter's notes, which hold paths of this machine."""
    graph = proto.graph
    free = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for part in (graph.input, graph.output, graph.value_info, graph.node, graph.initializer, (graph,)):
        for item in part:
            del item.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == free:
                dim.dim_param = "batch"
    for node in graph.node:
        node.doc_string = ""


def need_onnx() -> None:
    """Raise a `UserError` where packages of this format are missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f'--format onnx needs {" and ".join(missing)}: pip install "glmc[onnx]"')


@contextmanager
def calm() -> Iterator[None]:
    """Without the exporters' warnings, which speak to their developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ----------------------------------------------------------------------------------------------------------- weights


def write_weights(file: Path, model: Deployed, name: str, channels: int, about: Mapping[str, Any]) -> Logits:
    """Write backbone and classifier as safetensors; returns what computes the logits of a network with these.

    Args:
        file: to write.
        model: to export.
        name: of the backbone. One of timm's gets timm's own key names, classifier included; one of ours the names of
            its layers, and `fc.weight` and `fc.bias`.
        channels: of the images.
        about: goes into the header as JSON.

    Raises:
        UserError: the logits do not come from one linear layer, or timm's classifier is another kind of layer.
    """
    from safetensors.torch import load, save

    network, prefix = plain_network(model, name, channels)
    state = network.state_dict()
    tensors = {key.removeprefix(prefix): tensor.contiguous() for key, tensor in state.items()}
    file.write_bytes(save(tensors, metadata={"format": "pt", "glmc": json.dumps(about)}))
    for tensor in state.values():
        tensor.zero_()  # so that its logits come from the file
    network.load_state_dict({key if key in state else prefix + key: t for key, t in load(file.read_bytes()).items()})
    return after_pixels(model, network)


def write_timm(
    folder: Path, model: Deployed, name: str, channels: int, stored: int, about: Mapping[str, Any]
) -> Logits:
    """Write weights and config.json as timm reads them; returns the logits of `timm.create_model("local-dir:...")`.

    Args:
        folder: to write into.
        model, name, channels, about: as for `write_weights`.
        stored: side of the stored squares in pixels.

    Raises:
        UserError: the backbone is not timm's, or as for `write_weights`.
    """
    import timm

    if name in SMALL_IMAGE:
        raise UserError(
            f"{name} is a small-image network of glmc, which timm does not know; export onnx or safetensors"
        )
    write_weights(folder / FILES["timm"], model, name, channels, about)
    architecture = name.partition(".")[0]
    theirs = timm.get_pretrained_cfg(architecture)
    assert theirs is not None, "every architecture of timm has settings"
    classes = list(about["classes"])
    config = {
        "architecture": architecture,
        "num_classes": len(classes),
        "num_features": model.method.backbone.out_dim,
        "label_names": classes,
        "model_args": {"in_chans": channels},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [channels, model.side, model.side],
            "fixed_input_size": theirs.fixed_input_size,
            "interpolation": "bilinear",
            "crop_pct": model.side / stored,
            "crop_mode": "center",
            "mean": about["preprocessing"]["mean"],
            "std": about["preprocessing"]["std"],
            "num_classes": len(classes),
            "first_conv": theirs.first_conv,
            "classifier": theirs.classifier,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return after_pixels(model, timm.create_model(f"local-dir:{folder}", pretrained=True))


def after_pixels(model: Deployed, network: nn.Module) -> Logits:
    """The logits, from stored squares, of a network that wants normalised pixels."""
    network.eval()

    @torch.no_grad()
    def compute(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: Tensor = network(model.pixels(torch.from_numpy(images)))
        return logits.numpy()

    return compute


def plain_network(model: Deployed, name: str, channels: int) -> tuple[nn.Module, str]:
    """Backbone and classifier without the method around them, and what to leave out of the names of its tensors."""
    head = model.method.head()
    if head is None or model.method.backbone.experts > 1:
        raise UserError(
            f"{type(model.method).__name__} does not predict with one linear classifier on one network: only the "
            f"formats onnx and torch-export are possible"
        )
    merged = copy.deepcopy(model.method.backbone.net)
    merge(merged)
    weights = merged.state_dict()
    if any(isinstance(module, AdaptFormer) for module in merged.modules()):
        raise UserError(
            "model.adapter.name=adaptformer adds layers that the plain network has not: only the formats onnx and "
            "torch-export are possible, and learnt.safetensors beside them holds what was trained"
        )
    if name in SMALL_IMAGE:
        net = build_backbone(name, channels=channels).net
        net.load_state_dict(weights)
        return nn.Sequential(OrderedDict(net=net, fc=head)), "net."
    return timm_network(name.partition(".")[0], weights, head, channels), ""


def timm_network(architecture: str, weights: Mapping[str, Tensor], head: nn.Linear, channels: int) -> nn.Module:
    """timm's own network with these weights, and the head in the place of timm's classifier."""
    import timm

    network: Any = timm.create_model(architecture, in_chans=channels, num_classes=head.out_features)
    own = network.get_classifier()
    place = next((name for name, module in network.named_modules() if module is own), None)
    try:
        network.load_state_dict({**weights, **{f"{place}.{key}": value for key, value in head.state_dict().items()}})
    except RuntimeError as error:
        raise UserError(
            f"{architecture}: its classifier in timm is not one linear layer on the same features; "
            f"export it with --format onnx"
        ) from error
    return network
