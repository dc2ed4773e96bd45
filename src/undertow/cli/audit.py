"""``undertow audit``: find harmful training samples and hand back a cleaned set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from undertow.pipeline.settings import AuditSettings, settings_from

_FIELDS = AuditSettings.model_fields
_DATA, _METHOD, _TRAIN = "Data", "Method", "Fine-tuning"


def _option(flag: str, field: str, panel: str, extra: str = "") -> Any:
    info = _FIELDS[field]
    default = info.default
    if isinstance(default, tuple):
        default = ",".join(default)
    shown = "" if default is None or isinstance(default, bool) else f" [default: {default}]"
    return typer.Option(flag, help=f"{info.description}{extra}{shown}", rich_help_panel=panel, show_default=False)


def audit_command(
    model: Annotated[
        str,
        typer.Option(help="Hub id, local folder, folder with a PEFT adapter, or .gguf file.", metavar="MODEL"),
    ],
    train: Annotated[
        str,
        typer.Option(
            help="Training data: hub id (glue:sst2:train), CSV, TSV, JSONL, Parquet, saved folder.",
            metavar="SRC",
        ),
    ],
    validation: Annotated[str, typer.Option(help="Trusted data, in any of the same forms.", metavar="SRC")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on in it.", metavar="RUN")],
    queries: Annotated[str | None, typer.Option(help="Trusted data for the queries alone.", metavar="SRC")] = None,
    test: Annotated[str | None, typer.Option(help="Data that accuracies are compared on.", metavar="SRC")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")] = False,
    text_column: Annotated[str | None, _option("--text-column", "text_column", _DATA)] = None,
    text_pair_column: Annotated[str | None, _option("--text-pair-column", "text_pair_column", _DATA)] = None,
    label_column: Annotated[str | None, _option("--label-column", "label_column", _DATA)] = None,
    max_length: Annotated[int | None, _option("--max-length", "max_length", _DATA)] = None,
    query_share: Annotated[float | None, _option("--query-share", "query_share", _DATA)] = None,
    holdout_share: Annotated[float | None, _option("--holdout-share", "holdout_share", _DATA)] = None,
    plant: Annotated[float | None, _option("--plant", "plant", _DATA)] = None,
    estimator: Annotated[
        list[str] | None,
        _option("--estimator", "estimators", _METHOD, "; tracin, cosine, datainf; repeat or join by commas"),
    ] = None,
    layers: Annotated[
        str | None,
        _option(
            "--layers",
            "layers",
            _METHOD,
            ": all, attention, early, middle, late, att1..att4, head, 0-7, or several by commas",
        ),
    ] = None,
    aggregate: Annotated[str | None, _option("--aggregate", "aggregate", _METHOD)] = None,
    k: Annotated[float | None, _option("--k", "k", _METHOD)] = None,
    correct_only: Annotated[bool, _option("--correct-only", "correct_only", _METHOD)] = False,
    cut: Annotated[float | None, _option("--cut", "cut", _METHOD)] = None,
    retrain: Annotated[bool, _option("--retrain", "retrain", _METHOD)] = False,
    finetune: Annotated[str | None, _option("--finetune", "finetune", _TRAIN, ": auto, always or never")] = None,
    learning_rate: Annotated[float | None, _option("--learning-rate", "learning_rate", _TRAIN)] = None,
    epochs: Annotated[int | None, _option("--epochs", "epochs", _TRAIN)] = None,
    batch_size: Annotated[int | None, _option("--batch-size", "batch_size", _TRAIN)] = None,
    warmup: Annotated[float | None, _option("--warmup", "warmup", _TRAIN)] = None,
    rank: Annotated[int | None, _option("--rank", "rank", _TRAIN)] = None,
    alpha: Annotated[float | None, _option("--alpha", "alpha", _TRAIN)] = None,
    dropout: Annotated[float | None, _option("--dropout", "dropout", _TRAIN)] = None,
    target_modules: Annotated[
        list[str] | None, _option("--target-modules", "target_modules", _TRAIN, "; repeat or join by commas")
    ] = None,
    seed: Annotated[int | None, _option("--seed", "seed", _TRAIN)] = None,
    device: Annotated[str | None, _option("--device", "device", _TRAIN)] = None,
    memory: Annotated[float | None, _option("--memory", "memory", _METHOD)] = None,
    trust_remote_code: Annotated[bool, _option("--trust-remote-code", "trust_remote_code", _TRAIN)] = False,
) -> None:
    """Find the training samples that harm a model, and hand back a cleaned set.

    Reads a model, a training set and a trusted validation set. Fine-tunes LoRA first where the model has
    neither an adapter nor a trained head. Leaves in RUN: harm.parquet, cleaned.jsonl, removed.jsonl,
    report.html, influence.zarr, the adapter, and run.json.
    """
    told = {name: value for name, value in locals().items() if name in _FIELDS and value is not None}
    told["estimators"] = _joined(estimator)
    told["target_modules"] = _joined(target_modules)
    settings = settings_from({name: value for name, value in told.items() if value is not None})

    from undertow.cli.summary import audit_and_print

    audit_and_print(
        model, train, validation, queries=queries, test=test, out=out, overwrite=overwrite, settings=settings
    )


def _joined(values: list[str] | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for v in values for part in v.split(",") if part.strip()) if values else None
