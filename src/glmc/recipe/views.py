"""The operations of a recipe's views, each with its keys, their ranges, defaults and meanings. No torch in here."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from glmc.recipe.base import Section, rule
from glmc.recipe.document import shown


class Crop(Section):
    """A window of the image's own size at a random place, over a black border."""

    crop: int = Field(ge=0, description="border in pixels")


class Frame(Section):
    """A window of the image's own size at a random place, over a border; a number alone is that of a black one."""

    border: int = Field(ge=0, description="its width in pixels")
    padding: Literal["black", "reflect"] = Field(
        "black", description="what it holds: nothing, or the image mirrored at its outermost pixels"
    )


class FramedCrop(Section):
    """See `Frame`."""

    crop: Frame


def _whole_pixels(side: float) -> float:
    """Pixels as a whole number; a part of data.size as it is."""
    if side > 1 and side % 1:
        raise rule("", f"must be a whole number of pixels, or a part of data.size up to 1, not {shown(side)}")
    return int(side) if side > 1 else side


Side = Annotated[float, Field(gt=0), AfterValidator(_whole_pixels)]


class CenterCrop(Section):
    """The middle of the image."""

    center_crop: Side = Field(description="side in pixels; up to 1: as a part of data.size")


class Region(Section):
    """A random part of the image, resized."""

    size: Side = Field(1.0, description="side of the result in pixels; up to 1: as a part of data.size")
    scale: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.08, 1.0], description="smallest and largest part of the image's area, in (0, 1]"
    )

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise rule("scale", "must be two numbers, the smaller first, e.g. [0.08, 1.0]")
        return self


class ResizedCrop(Section):
    """See `Region`."""

    resized_crop: Region


class Jitter(Section):
    """Random brightness, contrast and saturation in a random order, then a random hue."""

    brightness: float = Field(ge=0, description="largest change: the factor is drawn from [max(0, 1 - b), 1 + b]")
    contrast: float = Field(ge=0, description="likewise")
    saturation: float = Field(ge=0, description="likewise")
    hue: float = Field(0.0, ge=0, le=0.5, description="largest turn on the colour circle, in [0, 0.5] of a full one")
    p: float = Field(1.0, ge=0, le=1, description="probability that an image is changed")


class ColorJitter(Section):
    """See `Jitter`."""

    color_jitter: Jitter


class Grayscale(Section):
    """Grey instead of colour."""

    grayscale: float = Field(ge=0, le=1, description="probability that an image is changed")


class Softness(Section):
    """A Gaussian blur of random width."""

    sigma: list[Annotated[float, Field(gt=0, le=100)]] = Field(
        [0.1, 2.0], description="smallest and largest standard deviation in pixels, above 0"
    )
    p: float = Field(1.0, ge=0, le=1, description="probability that an image is changed")

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if len(self.sigma) != 2 or self.sigma[0] > self.sigma[1]:
            raise rule("sigma", "must be two numbers, the smaller first, e.g. [0.1, 2.0]")
        return self


class Blur(Section):
    """See `Softness`."""

    blur: Softness


class Cutout(Section):
    """A black square with its middle anywhere in the image, clipped at the border. DeVries & Taylor 2017."""

    cutout: Side = Field(description="side in pixels; up to 1: as a part of data.size")


Level = Annotated[int, Field(ge=0, le=255)]


class Learnt(Section):
    """One of 25 learnt pairs of operations for each image. Cubuk et al., CVPR 2019."""

    policy: Literal["cifar10", "imagenet"] = Field(description="the images that the pairs were learnt on")
    fill: Level = Field(128, description="level in [0, 255] where pixels have moved away; 128: grey")


class AutoAugment(Section):
    """See `Learnt`."""

    autoaugment: Learnt


class Drawn(Section):
    """Operations for each image, drawn from 14 with equal probability. Cubuk et al., NeurIPS 2020."""

    n: int = Field(2, ge=1, le=8, description="operations an image")
    m: int = Field(9, ge=0, le=30, description="their strength, in [0, 30]")
    p: float = Field(1.0, ge=0, le=1, description="probability that an image is changed")
    growing: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        description="two lengths of a run, or of a later stage, in epochs, between which p grows from 0 to its value; "
        "null: always p",
    )
    fill: Level = Field(128, description="level in [0, 255] where pixels have moved away; 128: grey")

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.growing is not None and (len(self.growing) != 2 or self.growing[0] >= self.growing[1]):
            raise rule("growing", "must be two numbers, the smaller first, e.g. [15, 40]")
        return self


class RandAugment(Section):
    """See `Drawn`."""

    randaugment: Drawn


OPERATIONS: dict[str, type[Section]] = {
    "crop": FramedCrop,
    "resized_crop": ResizedCrop,
    "center_crop": CenterCrop,
    "color_jitter": ColorJitter,
    "grayscale": Grayscale,
    "blur": Blur,
    "cutout": Cutout,
    "autoaugment": AutoAugment,
    "randaugment": RandAugment,
}
FORMS = (
    "flip, {crop: border}, {crop: {border, padding}}, {resized_crop: {size, scale}}, {center_crop: side}, "
    "{color_jitter: {brightness, contrast, saturation, hue, p}}, {grayscale: p}, {blur: {sigma, p}}, "
    "{cutout: side}, {autoaugment: {policy, fill}} or {randaugment: {n, m, p, growing, fill}}"
)


def _operation(op: Any) -> Any:
    """One operation of a view, checked, complete with its defaults: "flip" or {name: value}."""
    if op == "flip":
        return op
    name = next(iter(op)) if isinstance(op, dict) and len(op) == 1 else None
    if name not in OPERATIONS:
        raise rule("", f"must be {FORMS}, not {shown(op)}")
    form = Crop if name == "crop" and not isinstance(op[name], dict) else OPERATIONS[name]  # a number: its border
    return form.model_validate(op).model_dump()


def _complete(views: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Views for training and for testing, none of them with the same operation twice."""
    for name in ("train", "test"):
        if name not in views:
            raise rule("", f"must hold {name}, a list of operations, e.g. {name}: []")
    for name, operations in views.items():
        used = [op if isinstance(op, str) else next(iter(op)) for op in operations]
        for op, times in Counter(used).items():
            if times > 1:
                raise rule(name, f"holds {op} {times} times: once is enough")
        if name == "test" and set(used) - {"center_crop"}:
            raise rule(name, "may hold center_crop only: the other operations are random, and tests must not be")
    return views


def in_pixels(views: Mapping[str, list[Any]], size: int) -> dict[str, list[Any]]:
    """Views whose crops have their sides in pixels, for images of `size` x `size`.

    >>> in_pixels({"train": [{"resized_crop": {"size": 1.0}}, "flip"], "test": [{"center_crop": 0.875}]}, 64)
    {'train': [{'resized_crop': {'size': 64}}, 'flip'], 'test': [{'center_crop': 56}]}
    """

    def pixels(side: float) -> float:
        return max(2, round(side * size)) if side <= 1 else side  # 1 would be a part again

    def settled(op: Any) -> Any:
        for name in ("center_crop", "cutout"):
            if name in op:
                return {name: pixels(op[name])}
        if "resized_crop" in op:
            return {"resized_crop": {**op["resized_crop"], "size": pixels(op["resized_crop"]["size"])}}
        return op

    return {name: [settled(op) for op in operations] for name, operations in views.items()}


Views = Annotated[dict[str, list[Annotated[Any, AfterValidator(_operation)]]], AfterValidator(_complete)]
