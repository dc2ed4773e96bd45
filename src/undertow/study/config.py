"""What a study is made of, in one validated object."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from undertow.aggregation.names import AGGREGATIONS, check_aggregation, check_queries
from undertow.baselines.names import check_baselines
from undertow.errors import UndertowError
from undertow.influence.names import check_estimators
from undertow.models.groups import check_layers
from undertow.pipeline.settings import settings_from
from undertow.study.faults import joint_faults
from undertow.training.config import FinetuneConfig

# The tasks that are known by name, prepared as in the study of Vitel & Chhabra, section "Experimental setup".
GLUE = ("qnli", "mrpc", "sst2", "qqp", "cola", "mnli", "rte", "stsb")
NoiseKind = Literal["uniform", "pairs", "transition", "doubt", "words", "duplicates", "column"]
# Options of an audit that a study may set for all its cells.
COMPUTE = (
    *("device", "memory", "track", "project", "gradient_dtype", "compute_dtype", "cancellation"),
    "trust_remote_code",
)
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _short(model: Any) -> str:
    return str(model).rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


def _check_training(given: dict[str, Any]) -> None:
    known = {*FinetuneConfig.model_fields, "max_length"} - {"seed"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"training does not take {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    FinetuneConfig(**{name: value for name, value in given.items() if name != "max_length"})


def _told(check: Any, *given: Any) -> None:
    """Run a check of another room, whose complaint becomes one of this object."""
    try:
        check(*given)
    except UndertowError as error:
        raise ValueError(str(error)) from error


class Task(BaseModel):
    """One task: a GLUE name, or files of any classification data."""

    model_config = _STRICT

    name: str = Field(min_length=1, description="a GLUE task, or any name for files of your own")
    train: Path | None = Field(None, description="training file, for a task of your own")
    validation: Path | None = Field(None, description="validation file, for a task of your own")
    test: Path | None = Field(None, description="rows to measure accuracy on; split off unless given")
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    true_label_column: str | None = Field(None, description="column of the true labels, for noise of kind column")
    training: dict[str, Any] = Field({}, description="training options of this task, instead of the study's")

    @field_validator("training")
    @classmethod
    def _training(cls, given: dict[str, Any]) -> dict[str, Any]:
        _check_training(given)
        return given

    @model_validator(mode="after")
    def _has_data(self) -> "Task":
        if self.train is None and self.validation is None and self.name in GLUE:
            return self
        if self.train is None or self.validation is None:
            raise ValueError(
                f"the task '{self.name}' is none of {', '.join(GLUE)}, so it needs both train: and validation: files"
            )
        return self


class Noise(BaseModel):
    """One kind of planted noise at one rate."""

    model_config = _STRICT

    kind: NoiseKind = "uniform"
    rate: float = Field(0.2, ge=0, lt=1, description="share of the training rows that become noisy; 0 for none")
    transition: tuple[tuple[float, ...], ...] | None = Field(
        None, description="for transition: probability that the class of a row becomes the class of a column"
    )

    @model_validator(mode="after")
    def _goes_together(self) -> "Noise":
        if (self.kind == "transition") != (self.transition is not None):
            raise ValueError("transition: is given with kind: transition, and only with it")
        if self.kind == "column" and self.rate != type(self).model_fields["rate"].default:
            raise ValueError("noise of kind column has the rate that the data has, so rate: is left out")
        return self

    @property
    def label(self) -> str:
        """A name for people; the rate of noise that is in the data is not known from the study."""
        return self.kind if self.kind == "column" else f"{self.kind} {self.rate:g}"


class Aggregation(BaseModel):
    """One aggregation; vote with each of its k."""

    model_config = _STRICT

    name: str
    k: tuple[float, ...] = (0.3,)

    @model_validator(mode="after")
    def _known(self) -> "Aggregation":
        for k in self.k:
            _told(check_aggregation, self.name, k)
        return self

    @property
    def choices(self) -> tuple[float | None, ...]:
        """Each k where the aggregation takes one, else None."""
        return self.k if "k" in AGGREGATIONS[self.name].needs else (None,)


class Retraining(BaseModel):
    """Which harm scores are acted on: rows removed, and the model trained again. Empty lists are all of the study."""

    model_config = _STRICT

    estimators: tuple[str, ...] = ()
    baselines: tuple[str, ...] = Field((), description="none unless named, or 'all'")
    layers: tuple[str, ...] = ()
    aggregations: tuple[str, ...] = ()
    only: tuple[str, ...] = ("all",)
    seeds: tuple[int, ...] = ()


class Study(BaseModel):
    """A grid: every model on every task with every noise and seed; in each cell, every choice of harm."""

    model_config = _STRICT

    name: str = Field("study", min_length=1)
    data: str = Field("hub", description="'hub', or a folder with one folder a GLUE task")
    models: dict[str, str] = Field(min_length=1, description="short name: hub id, folder or .gguf file")
    tasks: tuple[Task, ...] = Field(min_length=1)
    noise: tuple[Noise, ...] = (Noise(kind="uniform", rate=0.2),)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    samples: int = Field(4500, ge=16, description="training rows at most, stratified")
    validation: int = Field(1000, ge=8, description="validation rows at most; half selects, half are queries")
    test: int = Field(1000, ge=8, description="rows that accuracy is measured on, at most")
    accuracy_on: Literal["apart", "selection"] = Field(
        "apart", description="rows that selected nothing; or, as in the paper, the half that selects the checkpoint"
    )
    estimators: tuple[str, ...] = Field(("tracin", "cosine", "datainf"), min_length=1)
    baselines: tuple[str, ...] = ()
    layers: tuple[str, ...] = Field(("all", "att1", "att2", "att3", "att4", "head"), min_length=1)
    aggregations: tuple[Aggregation, ...] = Field(
        (Aggregation(name="mean"), Aggregation(name="rank"), Aggregation(name="vote")), min_length=1
    )
    only: tuple[str, ...] = Field(("all",), min_length=1, description="which queries count; each is a choice")
    cuts: tuple[float, ...] = Field((0.3,), min_length=1)
    retrain: bool | Retraining = False
    training: dict[str, Any] = Field({}, description="options of the fine-tuning, and max_length")
    compute: dict[str, Any] = Field({}, description="how gradients are computed: options of undertow audit")
    slurm: dict[str, Any] = Field({}, description="resources of a job, as submitit takes them")

    @field_validator("models", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {_short(m): m for m in given} if isinstance(given, list) else given

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, given: Any) -> Any:
        return [{"name": t} if isinstance(t, str) else t for t in given] if isinstance(given, list) else given

    @field_validator("aggregations", mode="before")
    @classmethod
    def _aggregations(cls, given: Any) -> Any:
        return [{"name": a} if isinstance(a, str) else a for a in given] if isinstance(given, list) else given

    @field_validator("estimators")
    @classmethod
    def _estimators(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        _told(check_estimators, names)
        return names

    @field_validator("baselines")
    @classmethod
    def _baselines(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        _told(check_baselines, names)
        return names

    @field_validator("layers")
    @classmethod
    def _layers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _told(check_layers, name)
        return names

    @field_validator("only")
    @classmethod
    def _only(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _told(check_queries, (name,), "equal")
        return names

    @field_validator("cuts")
    @classmethod
    def _cuts(cls, cuts: tuple[float, ...]) -> tuple[float, ...]:
        outside = [c for c in cuts if not 0 < c < 1]
        if outside:
            raise ValueError(f"{outside[0]:g} is no share of the rows between 0 and 1")
        return cuts

    @field_validator("training")
    @classmethod
    def _training(cls, given: dict[str, Any]) -> dict[str, Any]:
        _check_training(given)
        return given

    @field_validator("compute")
    @classmethod
    def _compute(cls, given: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(given) - set(COMPUTE))
        if unknown:
            raise ValueError(f"compute does not take {', '.join(unknown)}; it takes {', '.join(COMPUTE)}")
        _told(settings_from, given)
        return given

    @model_validator(mode="after")
    def _goes_together(self, info: Any) -> "Study":
        if not (info.context or {}).get("apart"):  # who reads a file asks for these faults itself, to give their lines
            faults = [text for _, text in joint_faults(self)]
            if faults:
                raise ValueError("; ".join(faults))
        return self
