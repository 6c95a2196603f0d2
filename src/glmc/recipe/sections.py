"""The sections of a recipe: every key with its type, its range, its default and its meaning. No torch in here."""

import difflib
import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_serializer, model_validator

from glmc.recipe.base import Harmless, Section, rule
from glmc.recipe.document import shown

MAX_PIXELS = 120_000_000  # of an image file; cameras of medium format make 102 million


class Published(Section):
    """What the method's authors report for this recipe."""

    top1: float = Field(ge=0, le=100, description="top-1 accuracy in percent")
    network: str = Field(min_length=1, description="the network behind the figure, by its name here")
    source: str = Field(min_length=1, description="where the figure stands, with its date")


class Expect(Section):
    """What this recipe gave here: copied from a record under benchmarks/records, never typed."""

    top1: float = Field(ge=0, le=100, description="mean top-1 accuracy of the last epoch, in percent")
    sd: float = Field(ge=0, description="sample standard deviation over the seeds, in percentage points")
    seeds: int = Field(ge=1, description="number of seeds")
    record: str = Field(min_length=1, description="the record, under benchmarks/records")


class Columns(Section):
    """The headings of a table of images."""

    path: str | None = Field(None, min_length=1, description="column of the files; null: path, image or filename")
    label: str | None = Field(None, min_length=1, description="column of the classes; null: label, class or target")


class Data(Section):
    """Which images, how long a tail they get, and how many make a batch."""

    name: str = Field(min_length=1, description="data set: of `glmc list datasets`")
    root: Harmless[str] = Field(
        "data", min_length=1, description="folder of the images; a leading ~ is the home folder"
    )
    download: Harmless[bool] = Field(True, description="whether a missing public data set may be fetched")
    imbalance: float | None = Field(
        None, ge=1, description="training images of the largest class / of the smallest; null: the images as they are"
    )
    profile: Literal["exponential", "step"] = Field(
        "exponential", description="class sizes fall geometrically, or the second half of the classes is small"
    )
    n_max: int | None = Field(None, ge=1, description="images of the largest class; null: all it has")
    class_order: Literal["given"] | Annotated[int, Field(ge=0, lt=2**32)] = Field(
        "given", description="classes from large to small: in label order, or shuffled by this seed"
    )
    split: Literal["cao", "du"] = Field(
        "cao", description="which images stay: as Cao et al. 2019 draw them, or as Du et al. 2023 do"
    )
    split_seed: int | None = Field(
        None, ge=0, lt=2**32, description="seed of that draw, in [0, 2**32); null: the authors', cao 0 and du 3407"
    )
    train_list: str | None = Field(None, min_length=1, description="file of training images and labels, or null")
    test_list: str | None = Field(None, min_length=1, description="file of test images and labels, or null")
    val_list: str | None = Field(None, min_length=1, description="file of validation images and labels, or null")
    columns: Columns | None = Field(
        None, description="headings of the lists, {path: ..., label: ...}, where they are not the usual ones"
    )
    test_fraction: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="part of each class held out for testing, in [0, 1), where no test set is given; 0: no test at all",
    )
    folds: int | None = Field(
        None, ge=2, description="cross-validation: data without a test set in so many parts, each held out in turn"
    )
    fold: int | None = Field(None, ge=0, description="which of these parts is held out, from 0 on; glmc train --folds")
    groups: str | None = Field(
        None,
        min_length=1,
        description="images that are held out together (of a patient, an animal, a site): regular expression, whose "
        "first group in the paths tells; parent-folder: below the class folder, or of a list; column:NAME of the "
        "training list",
    )
    val_fraction: float = Field(
        0.0, ge=0, lt=1, description="part of each training class held out for validation, in [0, 1)"
    )
    size: int | None = Field(
        None, ge=1, description="side in pixels that images are brought to, and crops follow; null: the one they have"
    )
    channels: Literal[1, 3] | None = Field(None, description="1 grey, 3 colour; null: as the images are")
    mean: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, description="subtracted, one per channel, in [0, 1]; null: the data set's own"
    )
    std: list[Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None, description="divided by, one per channel, in (0, 1]; null: the data set's own"
    )
    area: Literal["square", "whole"] = Field(
        "square", description="where resized_crop cuts training images: in the square of data.size, or the whole image"
    )
    resize: Literal["square", "short_side"] = Field(
        "square",
        description="how a picture becomes a square of data.size: its middle is cut out and resized, or the whole is "
        "resized by its short side and the middle cut out then (published GLMC code, for testing)",
    )
    bits: int | None = Field(
        None,
        ge=8,
        le=16,
        description="bits that grey pictures of 16 use, e.g. 12; null: those of the training images",
    )
    max_pixels: Harmless[int] = Field(
        MAX_PIXELS,
        ge=1,
        description="pixels of an image file, at most: larger ones are unreadable, and a decoding thread needs some 12 "
        "bytes for each",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="unreadable images: refused, or all files are read once before training and those left out"
    )
    exif: bool = Field(True, description="whether pictures are turned upright as their EXIF orientation says")
    loader: Harmless[Literal["auto", "resident", "streaming"]] = Field(
        "auto", description="training images: decoded once into memory, or by workers in each epoch; auto: what fits"
    )
    workers: Harmless[int | None] = Field(
        None, ge=1, description="processes that decode while streaming; null: one a core, at most 16"
    )
    batch_size: int = Field(64, ge=1, description="training images a step and stream")
    cache: Harmless[bool] = Field(True, description="whether decoded images are kept on disk")

    @field_validator("channels", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if isinstance(value, bool | float):  # Python finds True and 1.0 equal to 1
            raise rule("", f"must be 1 (grey), 3 (colour) or null (as the images are), not {shown(value)}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.imbalance is None and self.n_max is not None:
            raise rule("n_max", "has no effect without data.imbalance: give both, or set n_max to null")
        if (self.folds is None) != (self.fold is None) or (self.fold or 0) >= (self.folds or 1):
            raise rule("fold", "must be given with data.folds, and lie below it: glmc train --folds 5 sets both")
        if self.groups is not None and not self.groups.startswith("column:"):
            try:
                re.compile(self.groups)
            except re.error as error:
                raise rule("groups", f"is no regular expression ({error})") from error
            near = difflib.get_close_matches(self.groups.lower(), ["parent-folder"], cutoff=0.8)
            if near and self.groups not in near:
                raise rule("groups", f"is {self.groups!r}: did you mean parent-folder?")
        if (self.mean is None) != (self.std is None):
            raise rule("mean" if self.std is None else "std", "stands alone: give data.mean and data.std, or neither")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in ({1, 3} if self.channels is None else {self.channels}):
                raise rule(key, f"must have one value per channel ({self.channels or '1 or 3'}), not {len(values)}")
        if self.area == "whole" and self.loader == "resident":
            raise rule("area", "is whole, which data.loader=resident does not keep: set data.loader to auto")
        return self


class Adapter(Section):
    """Few weights trained in a frozen transformer. Shi et al., ICML 2024 (LIFT)."""

    name: Literal["adaptformer", "lora", "bitfit"] = Field(
        "adaptformer",
        description="a bottleneck beside the MLP of each block; low-rank changes of its queries and values; or its "
        "biases alone",
    )
    width: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="of a bottleneck, or the rank; null: a power of two that gives all of them about as many weights "
        "as a classifier, at least 4",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.name == "bitfit" and self.width is not None:
            raise rule("width", "has no effect with bitfit: set it to null")
        return self


class Model(Section):
    """The network between images and features."""

    name: str = Field(min_length=1, description="backbone: of `glmc list backbones`, or any of timm's")
    pretrained: bool | str = Field(
        False, description="true: timm's weights for this name; or a file of weights; false: random initial weights"
    )
    freeze: bool = Field(
        False, description="whether the backbone, adapters included, keeps its weights and only the heads learn"
    )
    adapter: Adapter | None = Field(
        None, description="few weights that learn in a backbone that is frozen else, {name, width}; null: none"
    )
    cached: bool = Field(
        False,
        description="whether the features of a frozen backbone are computed once, without augmentation, and kept on "
        "disk, so that a classifier takes seconds",
    )
    statistics: Literal["frozen", "drifting"] = Field(
        "frozen", description="BatchNorm's running averages of a frozen backbone: kept, or following the batches"
    )
    batch_norm: Literal["split", "two_pass", "joint"] = Field(
        "split", description="statistics for each view in one pass, in one pass a view, or over all views together"
    )
    batch_norm_over: Literal["batch", "rank"] = Field(
        "batch",
        description="what the statistics are taken over where several processes train: the whole batch, as in a single "
        "process, or the images of each process, which is faster and another training",
    )
    heads: Literal["he_zero", "he_uniform", "uniform", "class_means", "class_names"] = Field(
        "he_zero",
        description="initial weights and biases of linear heads: He-normal and 0; He-normal and uniform (published "
        "GLMC's ResNet-32); both uniform (PyTorch's default, and published GLMC's other networks). class_means: cosine "
        "heads begin as the mean features of up to 100 training images a class, for pretrained networks; class_names: "
        'as the features of "a photo of a NAME.", by open_clip',
    )
    text: str | None = Field(
        None,
        min_length=1,
        description="text encoder of model.heads=class_names: a folder of open_clip's, or its name on the hub; null: "
        "the one beside the weights of the timm model",
    )
    experts: int = Field(1, ge=1, description="copies of the network from a stage on, for methods that train several")
    experts_from: str | None = Field(
        None,
        min_length=1,
        description='first stage that each expert has for itself, e.g. "layer3"; last: its last block; null: none',
    )

    zero_residual: bool | None = Field(
        None,
        description="whether the residual branches of a timm network begin as zero, which lets it begin shallow; "
        "null: as timm has it, true for its ResNets",
    )

    @field_validator("pretrained")
    @classmethod
    def _not_a_yes(cls, value: bool | str) -> bool | str:
        if isinstance(value, str) and value.lower() in {"", "yes", "no", "on", "off"}:
            raise rule("", f"must be true, false or a file of weights, not {shown(value)}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.experts > 1) != (self.experts_from is not None):
            raise rule("experts_from", "names a stage if and only if model.experts is above 1")
        if self.cached and not (self.freeze and self.statistics == "frozen" and self.experts == 1):
            raise rule("cached", "is true, which needs model.freeze=true, model.statistics=frozen and model.experts=1")
        if self.heads in ("class_means", "class_names") and self.experts > 1:
            raise rule("heads", f"is {self.heads}, which is for a single network: set model.experts to 1")
        if self.text is not None and self.heads != "class_names":
            raise rule("text", "is for model.heads=class_names: set it to null")
        if self.statistics == "drifting" and not self.freeze:
            raise rule("statistics", "is drifting, which is for a frozen backbone: set model.freeze to true")
        return self


class Choice(Section):
    """A name and the settings of the class behind it; in the document they stand side by side."""

    name: str = Field(
        min_length=1, description='of `glmc list methods`, losses or mixtures, or a class as "package.module:Class"'
    )
    params: dict[str, Any] = Field({}, description="what the constructor takes, complete with defaults")

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}


class Sharpness(Section):
    """Where gradients are taken. Foret et al., ICLR 2021; adaptive: Kwon et al., ICML 2021; Li et al., NeurIPS 2024."""

    rho: float = Field(
        0.05,
        gt=0,
        description="length of the step uphill, above 0; at random the largest change of a weight, e.g. 0.005",
    )
    adaptive: bool = Field(False, description="whether the step uphill is measured relative to each weight")
    direction: Literal["uphill", "random"] = Field(
        "uphill", description="along the gradient, or by noise of deviation rho / 3 (GNM), which needs no second pass"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.adaptive and self.direction == "random":
            raise rule("adaptive", "is for a step uphill: set it to false, or direction to uphill")
        return self


class Optim(Section):
    """The optimiser."""

    name: Literal["sgd", "adamw", "muon"] = Field(
        "sgd",
        description="stochastic gradient descent; AdamW; or Muon, which orthogonalises the updates of the backbone's "
        "matrices and kernels and leaves the rest to AdamW, at the same learning rate",
    )
    lr: float = Field(gt=0, description="peak learning rate, above 0")
    backbone_lr: float | None = Field(None, gt=0, description="peak learning rate of the backbone; null: as the heads'")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and muon, in [0, 1)")
    nesterov: bool = Field(False, description="whether sgd's momentum looks ahead")
    weight_decay: float = Field(
        ge=0, description="of every weight; added to the gradient by sgd, decoupled by adamw and muon"
    )
    clip: float | None = Field(None, gt=0, description="largest norm of the whole gradient; null: not clipped")
    sharpness: Sharpness | None = Field(
        None,
        description="the gradient is taken beside the weights, {rho, adaptive, direction}: uphill (SAM, costs a second "
        "pass) or at random (GNM). null: none",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.nesterov and self.name != "sgd":
            raise rule("nesterov", f"is for optim.name=sgd only, and this is {self.name}: set it to false")
        if self.nesterov and self.momentum == 0:
            raise rule("nesterov", "needs optim.momentum above 0: raise it, or set nesterov to false")
        return self


class Progressive(Section):
    """Progressive resizing: smaller images at the beginning of a run. Tan & Le, ICML 2021 (EfficientNetV2)."""

    side: float = Field(gt=0, lt=1, description="of the images, as a part of their full side, in (0, 1)")
    until: float = Field(gt=0, le=1, description="part of the epochs whose images are smaller, in (0, 1]")


class Train(Section):
    """How long, at which pace, and where."""

    epochs: int = Field(ge=1, le=10**6, description="passes over the training images")
    schedule: Literal["cosine", "cosine_to_zero", "step", "constant", "paco", "paco_late"] = Field(
        "cosine",
        description="learning rate over the run: down to 0; down at milestones; level; up in 10 epochs and down to 0 "
        "(Cui et al. 2021); the same an epoch late after one at the peak (published GLMC code)",
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="part of the epochs with a climbing learning rate, in [0, 1)")
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [], description="where a step schedule steps, ascending fractions of the epochs, in (0, 1)"
    )
    decay: float = Field(0.1, gt=0, lt=1, description="factor of the learning rate at each milestone, in (0, 1)")
    seed: int = Field(0, ge=0, lt=2**32, description="of everything random in the run, in [0, 2**32)")
    device: Harmless[Literal["auto", "cpu", "cuda", "mps"]] = Field(
        "auto", description="where to compute; auto: the fastest"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the products; auto: bfloat16 where the hardware is made for it"
    )
    step: Literal["auto", "graph_compile", "graph", "compile", "eager"] = Field(
        "auto",
        description="how a step is carried out: replayed as a CUDA graph, compiled, both, or as it is written; auto: a "
        "graph on CUDA, on a CPU compiled if the run is long. What does not work is left for the next, which is said",
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="processor threads; null: PyTorch's choice. Small networks are faster with 1"
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="what a running mean of the weights keeps each step, in (0, 1); null: no mean"
    )
    progressive: Progressive | None = Field(
        None, description="smaller images in the first epochs, {side, until}, which take less time; null: none"
    )
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps; null: after the epochs")
    track: Harmless[list[Literal["tensorboard", "wandb", "mlflow"]]] = Field(
        [], description="what shows the run while it trains, beside metrics.jsonl"
    )
    save_minutes: Harmless[float] = Field(
        10.0,
        gt=0,
        description="longest time between checkpoints in minutes; an epoch ends in one, too, unless writing it takes "
        "more than 5 % of the time since the last one",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.schedule == "step" and not self.milestones:
            raise rule("schedule", "is step, which needs train.milestones, e.g. [0.8, 0.9]")
        if self.schedule != "step" and self.milestones:
            raise rule("milestones", f"has no effect with train.schedule={self.schedule}: set it to [], or use step")
        if self.schedule.startswith("paco") and self.warmup:
            raise rule("warmup", f"has no effect with train.schedule={self.schedule}, which has its own: set it to 0")
        if any(late <= early for early, late in zip(self.milestones, self.milestones[1:], strict=False)):
            raise rule("milestones", f"must ascend, not {shown(self.milestones)}")
        return self


class Eval(Section):
    """When and how to measure."""

    every: int = Field(1, ge=1, description="epochs between evaluations; the last epoch is always evaluated")
    batch_size: int = Field(500, ge=1, description="test images a step")
    few: Literal["<20", "<=20"] = Field("<20", description="training images of a few-shot class")
    flip_tta: bool = Field(True, description="whether metrics averaged over mirrored images are reported, too")
    crops: Literal[1, 5] = Field(
        1, description="5: metrics of the mean logits of five crops, in the corners and the middle, are reported, too"
    )
    select: Literal["last", "val"] = Field(
        "last", description="which epoch is reported: the last, or the best on the validation images"
    )
    stop_after: int | None = Field(
        None,
        ge=1,
        description="evaluations without a better top-1 on the validation images that end the run; null: none do",
    )


class SettledData(Data):
    """`data` once the images have been seen: nothing left open."""

    size: int
    channels: Literal[1, 3]
    mean: list[Annotated[float, Field(ge=0, le=1)]]
    std: list[Annotated[float, Field(gt=0, le=1)]]


class SettledTrain(Train):
    """`train` once the machine is known."""

    precision: Literal["float32", "bfloat16"]
