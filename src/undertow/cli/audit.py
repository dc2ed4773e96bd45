"""``undertow audit``: find harmful training samples and hand back a cleaned set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from undertow.baselines.names import BASELINE_NAMES
from undertow.influence.names import ESTIMATOR_NAMES
from undertow.pipeline.settings import AuditSettings, option_flag, settings_from

_FIELDS = AuditSettings.model_fields


def _option(field: str, metavar: str | None = None, extra: str = "") -> Any:
    """The option of a settings field: its flag, description and default."""
    info = _FIELDS[field]
    default = ",".join(info.default) if isinstance(info.default, tuple) else info.default
    default = f"{default:g}" if isinstance(default, float) else default
    shown = "" if default is None or isinstance(default, bool) else f" [default: {default}]"
    described = f"{info.description}{extra}"
    text = f"{described[0].upper()}{described[1:]}.{shown}"
    return typer.Option(option_flag(field), help=text, show_default=False, metavar=metavar)


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
    text_column: Annotated[str | None, _option("text_column", "NAME")] = None,
    text_pair_column: Annotated[str | None, _option("text_pair_column", "NAME")] = None,
    label_column: Annotated[str | None, _option("label_column", "NAME")] = None,
    source_column: Annotated[str | None, _option("source_column", "NAME")] = None,
    max_length: Annotated[int | None, _option("max_length", "TOKENS")] = None,
    query_share: Annotated[float | None, _option("query_share", "SHARE")] = None,
    holdout_share: Annotated[float | None, _option("holdout_share", "SHARE")] = None,
    plant: Annotated[float | None, _option("plant", "SHARE")] = None,
    finetune: Annotated[str | None, _option("finetune", "WHEN", " (auto)")] = None,
    estimator: Annotated[
        list[str] | None,
        _option("estimators", "NAME", ": " + ", ".join(ESTIMATOR_NAMES) + "; repeat or join by commas"),
    ] = None,
    baseline: Annotated[
        list[str] | None, _option("baselines", "NAME", ": " + ", ".join(BASELINE_NAMES) + "; repeat or join by commas")
    ] = None,
    layers: Annotated[
        str | None,
        _option(
            "layers",
            "GROUP",
            ": all, attention, mlp, norm, embedding, early, middle, late, att1 to att4, head, 0-7, a module's name, "
            "re:PATTERN; several by commas",
        ),
    ] = None,
    aggregate: Annotated[str | None, _option("aggregate", "HOW")] = None,
    k: Annotated[float | None, _option("k", "NUMBER")] = None,
    only: Annotated[list[str] | None, _option("only", "WHICH", "; join by commas")] = None,
    weigh: Annotated[str | None, _option("weigh", "HOW")] = None,
    correct_only: Annotated[bool, _option("correct_only")] = False,
    cut: Annotated[float | None, _option("cut", "SHARE")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help=_FIELDS["calibrate"].description, show_default=True)
    ] = True,
    canaries: Annotated[float | None, _option("canaries", "SHARE")] = None,
    target_precision: Annotated[float | None, _option("target_precision", "SHARE")] = None,
    fdr: Annotated[float | None, _option("fdr", "RATE")] = None,
    anchors: Annotated[float | None, _option("anchors", "ROWS")] = None,
    retrain: Annotated[str | None, _option("retrain", "REMEDIES")] = None,
    learning_rate: Annotated[float | None, _option("learning_rate", "RATE")] = None,
    epochs: Annotated[int | None, _option("epochs", "N")] = None,
    batch_size: Annotated[int | None, _option("batch_size", "ROWS")] = None,
    warmup: Annotated[float | None, _option("warmup", "SHARE")] = None,
    rank: Annotated[int | None, _option("rank", "N")] = None,
    alpha: Annotated[float | None, _option("alpha", "NUMBER")] = None,
    dropout: Annotated[float | None, _option("dropout", "SHARE")] = None,
    target_modules: Annotated[list[str] | None, _option("target_modules", "NAME", "; repeat or join by commas")] = None,
    accumulate: Annotated[int | None, _option("accumulate", "N")] = None,
    mixed_precision: Annotated[str | None, _option("mixed_precision", "NAME", ": no, bf16 or fp16")] = None,
    report_to: Annotated[list[str] | None, _option("report_to", "NAME", "; repeat or join by commas")] = None,
    seed: Annotated[int | None, _option("seed", "N")] = None,
    device: Annotated[str | None, _option("device", "NAME")] = None,
    memory: Annotated[float | None, _option("memory", "GB")] = None,
    track: Annotated[list[str] | None, _option("track", "PART", "; repeat or join by commas")] = None,
    project: Annotated[int | None, _option("project", "ROWS")] = None,
    gradient_dtype: Annotated[str | None, _option("gradient_dtype", "NAME")] = None,
    compute_dtype: Annotated[str | None, _option("compute_dtype", "NAME")] = None,
    fast: Annotated[bool, _option("fast")] = False,
    gradients: Annotated[str | None, _option("gradients", "FOLDER")] = None,
    recorded: Annotated[str | None, _option("recorded", "FOLDER")] = None,
    keep: Annotated[str | None, _option("keep", "WHAT", ": tensor, groups or scores")] = None,
    cancellation: Annotated[str | None, _option("cancellation", "WHICH", ": auto, all or none")] = None,
    trust_remote_code: Annotated[bool, _option("trust_remote_code")] = False,
) -> None:
    """Find the training samples that harm a model, and hand back a cleaned set.

    Reads a model, a training set and a trusted validation set. Fine-tunes LoRA first where the model has
    neither an adapter nor a trained head. Leaves in RUN: harm.parquet, cleaned.jsonl, removed.jsonl,
    report.html, influence.zarr, cancellation.parquet, the adapter, and run.json.
    """
    settings = told_settings(locals())

    from undertow.cli.summary import audit_and_print

    audit_and_print(
        model, train, validation, queries=queries, test=test, out=out, overwrite=overwrite, settings=settings
    )


def told_settings(told: Mapping[str, Any]) -> AuditSettings:
    """The settings that options of the command line ask for; what was not given keeps its default."""
    fields = {name: value for name, value in told.items() if name in _FIELDS}
    fields |= {"estimators": told["estimator"], "baselines": told["baseline"]}
    lists = {
        name: _joined(fields[name])
        for name in ("estimators", "baselines", "target_modules", "report_to", "track", "only")
    }
    return settings_from({name: value for name, value in {**fields, **lists}.items() if value is not None})


def _joined(values: list[str] | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for v in values for part in v.split(",") if part.strip()) if values else None
