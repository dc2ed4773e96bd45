"""Everything an audit can be told, in one validated object."""

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from undertow.aggregation.additive import check_aggregation
from undertow.errors import ConfigError, UndertowError
from undertow.influence.names import check_estimators
from undertow.models.groups import check_layers
from undertow.training.config import FinetuneConfig


class AuditSettings(FinetuneConfig):
    """Options of an audit; fine-tuning hyperparameters are inherited. Immutable."""

    text_column: str | None = Field(None, description="column of the text; None: detected")
    text_pair_column: str | None = Field(None, description="column of the second text; 'none': there is none")
    label_column: str | None = Field(None, description="column of the label; None: detected")
    max_length: int = Field(128, ge=4, description="tokens a text is cut to")
    query_share: float = Field(0.5, gt=0, lt=1, description="share of the validation rows that serve as queries")
    holdout_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the validation rows kept apart to compare accuracies; None: a "
        "third with --retrain where that is at least 200 rows, else none",
    )
    finetune: Literal["auto", "always", "never"] = Field("auto", description="whether to train LoRA first")
    estimators: tuple[str, ...] = Field(("cosine",), description="the first one decides, others are stored beside")
    layers: str = Field("all", description="layer group")
    aggregate: str = Field("rank", description="mean, rank or vote")
    k: float = Field(0.3, description="share of the samples that vote looks at")
    correct_only: bool = Field(False, description="only queries that the model predicts correctly")
    cut: float = Field(0.3, gt=0, lt=1, description="share of the rows to flag")
    plant: float | None = Field(None, gt=0, lt=1, description="share of labels to flip first")
    retrain: bool = Field(False, description="fine-tune again without the flagged rows and compare")
    device: str = Field("auto", description="torch device; auto: CUDA where there is one")
    memory: float | None = Field(None, gt=0, description="GB of gradients kept in memory; None: half of what is free")
    trust_remote_code: bool = Field(False, description="run code that comes with a model")

    @field_validator("estimators")
    @classmethod
    def _known_estimators(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_estimators(names)
        return names

    @field_validator("layers")
    @classmethod
    def _known_layers(cls, expression: str) -> str:
        check_layers(expression)
        return expression

    def model_post_init(self, _: Any) -> None:
        """Checks that need more than one field."""
        check_aggregation(self.aggregate, self.k)


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
    flag = {"estimators": "estimator", "target_modules": "target-modules"}.get(name, name.replace("_", "-"))
    accepted = error["msg"].removeprefix("Input should be ").rstrip(".")
    return f"--{flag} {error['input']} is outside its range. Accepted: {accepted}."
