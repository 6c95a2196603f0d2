"""What the JSON files of a run may hold: whatever is read back is held against this first. Needs no torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from typing_extensions import TypedDict

from glmc.errors import UserError
from glmc.runs.files import text_of, value_of

AGAIN = "train again into an empty folder"

Shape = TypeVar("Shape")
Count = Annotated[int, Field(ge=0, lt=2**63)]


def _known(facts: Any) -> Any:
    """Without what is null: a value that is not finite counts as absent."""
    return {name: value for name, value in facts.items() if value is not None} if isinstance(facts, dict) else facts


Picture = Annotated[str, Field(pattern=r"^[^/]+\.(png|jpg)$")]
Known = BeforeValidator(_known)
Scores = Annotated[dict[str, int | float], Known]
"""Metric -> value, see `glmc.metrics`; where an epoch was chosen, also its number, "epoch"."""


def _like(kind: Any) -> GetPydanticSchema:
    """That a dict is looked at as if it were of this kind."""
    return GetPydanticSchema(lambda _source, handler: handler.generate_schema(kind))


_ROW = {"class": str, "train": Count, "test": Count, "recall": NotRequired[float], "precision": NotRequired[float]}
Row = Annotated[dict[str, Any], _like(TypedDict("Row", _ROW)), Known]
"""One class, as `metrics.per_class` tells of it."""


class Lap(TypedDict):
    """What an epoch has taken, in seconds."""

    train: float
    eval: float


class Whole(Lap):
    """What a run has taken."""

    startup: float


Clock = Annotated[dict[str, float], _like(Whole)]


class Record(TypedDict):
    """An epoch: a line of metrics.jsonl."""

    epoch: Count
    step: Count
    lr: NotRequired[float]
    terms: Scores
    seconds: Lap
    test: NotRequired[Scores]
    val: NotRequired[Scores]


class Stand(BaseModel):
    """Where a run stands, see `train.engine.State`."""

    epoch: Count
    step: Count
    steps: Count
    sums: dict[str, float]
    seconds: Clock
    modes: dict[str, Count]
    records: list[Record]


class About(BaseModel):
    """What a checkpoint of a run says beside its tensors."""

    recipe: str
    name: str
    classes: list[str] = Field(min_length=1)
    counts: list[Count]
    data: dict[str, str]
    run: str | None
    state: Stand
    repair: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self.counts) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes and {len(self.counts)} counts")
        return self


class Environment(BaseModel):
    """The circumstances of a run, and the mark by which its checkpoints know it."""

    model_config = ConfigDict(extra="allow")

    run: str | None = None
    command: str | list[str] | None = None
    resumed: list[dict[str, Any]] = []


Share = Annotated[float, Field(ge=0, le=1)]


class HeldOut(BaseModel):
    """Of each held-out image its class, and the probabilities of that and of the most probable one."""

    labels: list[Count] = Field(min_length=1)
    true: list[Share]
    first: list[Share]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not len(self.labels) == len(self.true) == len(self.first):
            raise ValueError(f"{len(self.labels)} labels, {len(self.true)} and {len(self.first)} probabilities")
        return self


Group = Literal["all", "many", "medium", "few"]


class Answers(TypedDict):
    """The share of the images that is answered, and of these the share that is wrong."""

    answered: Share
    wrong: Share


class Answered(Answers):
    """What a threshold for *unknown* does on test images."""

    asked: Annotated[str, Field(pattern=r"^(error|coverage)=0\.\d+$")]
    images: Count  # that are answered
    promised: NotRequired[Share]  # at most so many of the answers are wrong; not in files of older versions
    alike: Answers  # with classes weighted to the frequencies of the held-out images


class Covered(TypedDict):
    """Test images, the share of them whose set holds the true class, and the mean number of classes in a set."""

    images: Annotated[int, Field(gt=0)]
    covered: Share
    size: float


class SetsOf(TypedDict):
    """What sets do, for all images and for each group."""

    asked: Share
    groups: dict[Group, Covered]


class Measured(BaseModel):
    """What thresholds and sets chosen on held-out images do on the test images, as `inference.abstain` measures it."""

    images: Count
    curves: dict[Group, Annotated[list[tuple[Share, Share]], Field(min_length=1)]]  # answered, wrong
    unknown: list[Answered]
    sets: list[SetsOf]


class Fitted(BaseModel):
    """What the predictions of a run are calibrated with: calibration.json."""

    step: Count
    images: Count
    source: str
    temperature: float = Field(gt=0, allow_inf_nan=False)
    prior: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    helps: bool = True
    held_out: HeldOut | None = None
    test: Measured | None = None


class Pace(TypedDict):
    """How fast a system of a bench is, in seconds, and its fewest epochs."""

    fewest: Count
    epoch: float
    tests: float
    build: float
    step: str


class Facts(BaseModel):
    """What a bench has planned, spent and found: bench.json."""

    model_config = ConfigDict(extra="allow")

    plan: dict[str, Any]
    spent: float
    paces: dict[str, Pace]
    left_out: dict[str, str]
    epochs: dict[str, Count]
    taken: float
    expected: float
    share: float = 0.0


class _Pair(TypedDict):
    true: str
    predicted: str
    test: list[Picture]
    train: list[Picture]


_OF_CLASS = TypedDict("_OF_CLASS", {"class": str, "train": list[Picture]})


class Examples(BaseModel):
    """Pictures of mistakes and of rare classes, as `report.evidence` chooses them: examples.json."""

    pairs: list[_Pair]
    tail: list[_OF_CLASS]
    files: dict[str, str] = {}


def shaped(kind: type[Shape], value: Any, what: str | Path, remedy: str = AGAIN) -> Shape:
    """A value as the kind that pydantic is to see in it.

    Args:
        kind: of what is returned.
        value: from JSON.
        what: the file, for the error.
        remedy: what to do about it.

    Raises:
        UserError: it is of another kind; names the first place.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{what} is damaged ({where}{': ' if where else ''}{first['msg']}); {remedy}") from None


def read_json(kind: type[Shape], run: Path, name: str, remedy: str = AGAIN) -> Shape:
    """What a JSON file of a folder holds; errors as for `shaped`, and if it cannot be read."""
    return shaped(kind, value_of(run / name, text_of(run, name), remedy), run / name, remedy)


def record_of(what: str, line: str) -> Any:
    """A line of metrics.jsonl; `what` names it."""
    return shaped(Record, value_of(what, line, AGAIN), what)
