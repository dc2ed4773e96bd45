"""Everything an audit can be told, in one validated object."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from undertow.aggregation.names import AGGREGATION_NAMES, check_aggregation, check_queries, check_weighing, is_reducible
from undertow.baselines.names import check_baselines
from undertow.controls.canaries import canary_count
from undertow.errors import ConfigError, UndertowError
from undertow.influence.names import check_estimators
from undertow.models.groups import check_layers
from undertow.models.trackable import check_track
from undertow.training.config import FinetuneConfig

# Share of the rows that is flagged where there are no controls and nobody says how many.
DEFAULT_CUT = 0.3
# False discovery rates of the two cuts: of the rows to be looked through, and of those to be acted on unseen.
FLAGGED_FDR, REMOVED_FDR = 0.5, 0.2
# What --retrain can try.
REMEDIES = ("drop", "relabel", "weight")
# Settings that say how influences become one harm: who gives one of them has chosen.
CHOOSING = ("layers", "aggregate", "k", "only", "weigh", "correct_only")


class AuditSettings(FinetuneConfig):
    """Options of an audit; fine-tuning hyperparameters are inherited. Immutable."""

    text_column: str | None = Field(None, description="column of the text; detected unless given")
    text_pair_column: str | None = Field(
        None, description="column of the second text; detected unless given, 'none' for a single text"
    )
    label_column: str | None = Field(None, description="column of the label; detected unless given")
    source_column: str | None = Field(
        None,
        description="column that names who or what labelled a row, such as an annotator; detected unless given, 'none' "
        "for none",
    )
    max_length: int = Field(128, ge=4, description="tokens that a longer text is cut to")
    query_share: float = Field(0.5, gt=0, lt=1, description="share of the validation rows that serve as queries")
    holdout_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the validation rows kept apart to compare accuracies; unless given, a third of them "
        "where --retrain needs it and it has 200 rows or more, else none",
    )
    finetune: Literal["auto", "always", "never"] = Field(
        "auto", description="whether to train LoRA first: always, never, or where nothing is trained"
    )
    estimators: tuple[str, ...] = Field(
        ("cosine",),
        description="how influence is estimated; the first one enters the harm, others are stored and compared",
    )
    baselines: tuple[str, ...] = Field(
        (), description="harm without influence to compare with; the loss is always there"
    )
    track: tuple[str, ...] = Field(
        ("auto",),
        description="what gradients are taken of: lora, head, linear, norm, embedding; auto is what fine-tuning "
        "changed, and the word embeddings",
    )
    project: int | None = Field(
        None,
        ge=1,
        description="rows of a seeded random projection on both sides of each linear layer; exact unless given",
    )
    layers: str = Field("all", description="which modules decide")
    aggregate: str = Field("rank", description=f"how influences become one harm: {', '.join(AGGREGATION_NAMES)}")
    k: float = Field(
        0.3,
        description="how many samples vote looks at: a share of all, above 0 and at most 1, or a whole number above 1",
    )
    only: tuple[str, ...] = Field(
        ("all",), description="which queries count: all, correct, same-label or other-label (than the sample's)"
    )
    weigh: str = Field("equal", description="what each query weighs: equal, balanced (over classes) or confidence")
    correct_only: bool = Field(False, description="only queries that the model predicts correctly: --only correct")
    cut: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the rows to flag, between 0 and 1; unless given, what --fdr allows, and 0.3 without "
        "calibration",
    )
    calibrate: bool = Field(
        True,
        description="use control rows: trusted rows that are trained on (anchors) and rows that get a wrong label "
        "(canaries), to say how many labels are wrong and where to cut",
    )
    anchors: float | None = Field(
        None,
        ge=0,
        description="trusted rows that are trained on as known good rows: a share of the validation rows below 1, or "
        "a number; a third of them unless given",
    )
    canaries: float = Field(0.04, description="share of the rows that become canaries, at least 50 of them")
    fdr: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="false discovery rate: share of the flagged rows whose label may be right; unless given, 0.5 of "
        "those to look through and 0.2 of those to remove",
    )
    target_precision: float | None = Field(
        None, gt=0, lt=1, description="share of the flagged rows that is to be wrong: 1 - --fdr"
    )
    plant: float | None = Field(
        None, gt=0, lt=1, description="share of the labels to flip first, to measure how many are found"
    )
    retrain: tuple[str, ...] = Field(
        (),
        description="fine-tune again and compare remedies: drop (leave out removed rows), relabel (give flagged rows "
        "the suggested label where that is likelier right), weight (every row counts by the probability that its label "
        "is right); all of them unless named",
    )
    device: str = Field("auto", description="torch device; auto: CUDA where there is one")
    memory: float | None = Field(
        None,
        gt=0,
        description="GB up to which gradients stay in memory instead of files; half of what is free unless given",
    )
    gradient_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision that gradients are kept in"
    )
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision that the model computes in for the gradients"
    )
    fast: bool = Field(
        False,
        description="take gradients of the deciding --layers alone, and compute in bfloat16 where that is measured to "
        "be faster here",
    )
    gradients: str | None = Field(
        None,
        description="folder that keeps the gradients for later runs, which use them where model and data are the same",
    )
    recorded: str | None = Field(
        None, description="folder of CheckpointRecorder from the training of the model, for tracincp and less"
    )
    keep: Literal["tensor", "groups", "scores"] = Field(
        "tensor",
        description="what stays: the whole influence tensor, means of layer groups, or one score for each module and "
        "row, in memory that does not grow with the queries",
    )
    cancellation: Literal["auto", "all", "none"] = Field(
        "auto",
        description="modules whose cancellation is measured; auto leaves out linear layers held by their factors where "
        "that takes long",
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")

    @field_validator("estimators")
    @classmethod
    def _known_estimators(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_estimators(names)
        return names

    @field_validator("baselines")
    @classmethod
    def _known_baselines(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_baselines(names)
        return names

    @field_validator("track")
    @classmethod
    def _known_parts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_track(names)
        return names

    @field_validator("retrain", mode="before")
    @classmethod
    def _known_remedies(cls, asked: object) -> object:
        if isinstance(asked, bool):
            return REMEDIES if asked else ()
        names = asked.split(",") if isinstance(asked, str) else asked
        if not isinstance(names, Sequence):
            return names
        found = tuple(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))
        unknown = [name for name in found if name not in REMEDIES]
        if unknown:
            raise ConfigError(f"--retrain {','.join(unknown)} is not known. Known remedies are: {', '.join(REMEDIES)}.")
        return found

    @field_validator("layers")
    @classmethod
    def _known_layers(cls, expression: str) -> str:
        check_layers(expression)
        return expression

    @property
    def rates(self) -> tuple[float, float]:
        """False discovery rates of the flagged and of the removed rows."""
        if self.target_precision is not None:
            return 1 - self.target_precision, 1 - self.target_precision
        return (FLAGGED_FDR, REMOVED_FDR) if self.fdr is None else (self.fdr, self.fdr)

    @property
    def chosen(self) -> bool:
        """Whether the user chose how influences become one harm, also where the choice equals the default."""
        given = self.model_fields_set.intersection(CHOOSING)
        return bool(given - {"correct_only"}) or self.correct_only

    @property
    def counted(self) -> tuple[str, ...]:
        """Which queries count, whichever way it was said."""
        return (*(name for name in self.only if name != "all"), "correct") if self.correct_only else self.only

    def model_post_init(self, _: Any) -> None:
        """Checks that need more than one field."""
        check_aggregation(self.aggregate, self.k)
        canary_count(0, self.canaries)
        if self.fdr is not None and self.target_precision is not None:
            raise ConfigError("--fdr and --target-precision say the same in two ways. Give one of them.")
        if self.anchors is not None and self.anchors > 1 and self.anchors != int(self.anchors):
            raise ConfigError(f"--anchors {self.anchors:g} is neither a share below 1 nor a whole number of rows.")
        check_queries(self.only, self.weigh)
        check_weighing(self.aggregate, self.weigh)
        if self.keep != "tensor" and not is_reducible(self.aggregate):
            sums = ", ".join(name for name in AGGREGATION_NAMES if is_reducible(name))
            raise ConfigError(
                f"--keep {self.keep} reduces one module after the other, and --aggregate {self.aggregate} needs the "
                f"values of all modules at once. Use --keep tensor, or one of: {sums}."
            )


def settings_from(options: dict[str, Any]) -> AuditSettings:
    """Validate options by name.

    Raises:
        ConfigError: one paragraph that names every option at fault, what came, and what is accepted.
    """
    try:
        return AuditSettings(**options)
    except UndertowError:
        raise
    except ValidationError as error:
        raise ConfigError(" ".join(_sentence(e) for e in error.errors())) from error


def _sentence(error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else "options"
    if error["type"] == "extra_forbidden":
        known = ", ".join(AuditSettings.model_fields)
        return f"There is no option '{name}'. Known options are: {known}."
    accepted = error["msg"].removeprefix("Input should be ").rstrip(".")
    about = AuditSettings.model_fields[name].description if name in AuditSettings.model_fields else None
    meaning = f" ({about})" if about else ""
    return f"{option_flag(name)} {error['input']} is not accepted. It is to be {accepted}{meaning}."


def option_flag(name: str) -> str:
    """How the command line spells a field of the settings."""
    return "--" + {"estimators": "estimator", "baselines": "baseline"}.get(name, name.replace("_", "-"))
