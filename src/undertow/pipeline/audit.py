"""The main job: from a model and data to flagged rows, a cleaned set, and the proof."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from datasets import Dataset
from rich.console import Console
from torch import nn

from undertow.baselines.simple import loss_harm
from undertow.data import write_jsonl
from undertow.influence.store import module_keys, open_influence
from undertow.metrics.noise import NoiseDetection, ideal_detection, noise_detection, random_detection
from undertow.models.groups import select_modules
from undertow.pipeline.harm import group_harm, harm_table
from undertow.pipeline.inputs import Inputs, Source, load_inputs
from undertow.pipeline.model import Audited, ModelLike, describe_model, prepare_model
from undertow.pipeline.results import ArmResult, Detection, Results
from undertow.pipeline.retrain import compare_arms, removals
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.settings import AuditSettings, settings_from
from undertow.pipeline.steps import influence_step
from undertow.progress import Bars, Reporter, Silent


@dataclass(frozen=True)
class Audit:
    """What an audit returns.

    Attributes:
        harm: the harm table, one row per training sample (see `undertow.pipeline.harm.harm_table`).
        influence: the influence tensor (estimator, module, query, sample); on disk where there is a run folder.
        cleaned: the rows to keep, in the user's columns and with the user's labels.
        removed: the flagged rows, likewise.
        results: accuracies, noise detection, counts and notes.
        manifest: what ``run.json`` holds.
        folder: the run folder, or None.
    """

    harm: pd.DataFrame
    influence: xr.Dataset
    cleaned: Dataset
    removed: Dataset
    results: Results
    manifest: Mapping[str, Any]
    folder: Path | None

    def report(self, path: str | Path) -> Path:
        """Write the one-page HTML report and return where it is.

        Raises:
            RunFolderError: when ``path`` exists; a report overwrites nothing.
        """
        from undertow.pipeline.page import write_page

        return write_page(self, Path(path))

    def detection_curves(self) -> dict[str, NoiseDetection]:
        """NDR curves of the audit, the loss baseline, random order and the ideal; empty without planted noise."""
        return detection_curves(self.harm)


def audit(
    model: ModelLike,
    train: Source,
    validation: Source,
    *,
    queries: Source | None = None,
    test: Source | None = None,
    tokenizer: Any = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    settings: AuditSettings | None = None,
    progress: bool | Reporter = True,
    **options: Any,
) -> Audit:
    """Find the training samples that harm a model, and hand back a cleaned set.

    Args:
        model: hub id, local folder, folder with a PEFT adapter, ``.gguf`` file, or a model in memory
            (then with its ``tokenizer``).
        train: training data: hub id, file, ``save_to_disk`` folder, Dataset, DataFrame or `Samples`.
        validation: trusted data; a part selects the checkpoint, a part serves as queries.
        queries: trusted data that serves as queries instead.
        test: data that accuracies are compared on.
        tokenizer: tokenizer of a model in memory.
        out: run folder. An interrupted audit goes on where it stopped when it is called again the same way.
        overwrite: replace an existing run folder.
        settings: all options in one object; or give them by name in ``options``.
        progress: True shows bars, False nothing, a `Reporter` whatever it does.
        options: fields of `AuditSettings`, such as ``cut=0.2`` or ``epochs=3``.

    Raises:
        UndertowError: for any input that cannot be used; see `undertow.errors`.
    """
    chosen = settings.model_copy(update={}) if settings is not None and not options else _merged(settings, options)
    show = progress if not isinstance(progress, bool) else (Bars(Console(stderr=True)) if progress else Silent())
    sources = {"train": train, "validation": validation, "queries": queries, "test": test}
    if out is None:
        with tempfile.TemporaryDirectory(prefix="undertow-") as scratch:
            run = RunFolder.open(Path(scratch) / "run", _configuration(model, sources, chosen))
            return _audit(run, model, tokenizer, sources, chosen, show, keep=False)
    run = RunFolder.open(Path(out), _configuration(model, sources, chosen), overwrite=overwrite)
    return _audit(run, model, tokenizer, sources, chosen, show, keep=True)


def _audit(
    run: RunFolder,
    model: ModelLike,
    tokenizer: Any,
    sources: Mapping[str, Any],
    settings: AuditSettings,
    show: Reporter,
    *,
    keep: bool,
) -> Audit:
    described = describe_model(model, settings, show)
    inputs = load_inputs(**sources, settings=settings, model_classes=described.classes)
    run.verify(inputs.fingerprints)
    for note in inputs.notes:
        show.say(note)
    audited = prepare_model(run, described, tokenizer, inputs, settings, show)
    influence = _influence(run, audited, inputs, settings, show, keep=keep)
    harm = harm_table(influence, inputs.train, settings, planted=inputs.planted, reporter=show)
    arms = _arms(run, audited, inputs, harm, settings, show)
    results = _results(audited, inputs, influence, harm, arms, settings)
    keep_rows = ~harm["flagged"].to_numpy()
    table = inputs.train.table
    result = Audit(
        harm=harm,
        influence=influence,
        cleaned=table.select(np.flatnonzero(keep_rows)),
        removed=table.select(np.flatnonzero(~keep_rows)),
        results=results,
        manifest=run.manifest,
        folder=run.path if keep else None,
    )
    _write(run, result)
    return result


def _influence(
    run: RunFolder, audited: Audited, inputs: Inputs, settings: AuditSettings, show: Reporter, *, keep: bool
) -> xr.Dataset:
    path, scratch = run.path / "influence.zarr", run.path / "gradients"
    if run.done("influence"):
        return open_influence(path)
    with run.stage("influence") as outputs:
        influence = influence_step(
            audited.model,
            audited.start.tokenizer,
            inputs.train,
            inputs.queries,
            settings,
            path=path if keep else None,
            scratch=scratch,
            reporter=show,
        )
        outputs["modules"] = [vars(k) for k in module_keys(influence)]
    shutil.rmtree(scratch, ignore_errors=True)
    return influence


def _arms(
    run: RunFolder,
    audited: Audited,
    inputs: Inputs,
    harm: pd.DataFrame,
    settings: AuditSettings,
    show: Reporter,
) -> tuple[ArmResult, ...]:
    if not settings.retrain:
        return ()
    planted = inputs.planted.planted if inputs.planted else None
    arms = removals(harm["flagged"].to_numpy(), planted, seed=settings.seed)
    own: nn.Module | None = audited.model if audited.trained_here else None
    return compare_arms(run, audited.start, inputs, arms, settings, show, audited=own)


def _results(
    audited: Audited,
    inputs: Inputs,
    influence: xr.Dataset,
    harm: pd.DataFrame,
    arms: tuple[ArmResult, ...],
    settings: AuditSettings,
) -> Results:
    curves = detection_curves(harm)
    others = _other_estimators(influence, inputs, settings) if curves else {}
    return Results(
        model=audited.name,
        training_source=inputs.train.source,
        classes=inputs.train.classes,
        training_rows=len(inputs.train),
        selection_rows=len(inputs.selection),
        query_rows=len(inputs.queries),
        modules=influence.sizes["module"],
        parameters=int(influence["size"].sum()),
        query_accuracy=float(influence["query_correct"].mean()),
        flagged=int(harm["flagged"].sum()),
        evaluated_on=inputs.evaluated_on,
        notes=(*inputs.notes, *audited.notes),
        planted=int(harm["planted"].sum()) if "planted" in harm else 0,
        detections=tuple(_detection(name, c) for name, c in {**curves, **others}.items()),
        group_detections=tuple(_detection(name, c) for name, c in _group_curves(harm).items()),
        arms=arms,
    )


def detection_curves(harm: pd.DataFrame) -> dict[str, NoiseDetection]:
    """NDR curves of a harm table that knows its planted rows; empty for any other."""
    if "planted" not in harm:
        return {}
    planted = harm["planted"].to_numpy(bool)
    n, noisy = len(planted), int(planted.sum())
    return {
        "audit": noise_detection(harm["harm"].to_numpy(), planted),
        "loss": noise_detection(loss_harm(harm["loss"].to_numpy()), planted),
        "random": random_detection(n, noisy),
        "ideal": ideal_detection(n, noisy),
    }


def _group_curves(harm: pd.DataFrame) -> dict[str, NoiseDetection]:
    if "planted" not in harm:
        return {}
    planted = harm["planted"].to_numpy(bool)
    groups = [c for c in harm.columns if c.startswith("harm_")]
    return {g.removeprefix("harm_"): noise_detection(harm[g].to_numpy(), planted) for g in groups}


def _other_estimators(influence: xr.Dataset, inputs: Inputs, settings: AuditSettings) -> dict[str, NoiseDetection]:
    if inputs.planted is None or len(settings.estimators) == 1:
        return {}
    keys = module_keys(influence)
    modules = {"": select_modules(keys, settings.layers)}
    return {
        name: noise_detection(group_harm(influence, modules, settings, estimator=name)[""], inputs.planted.planted)
        for name in settings.estimators[1:]
    }


def _detection(name: str, curve: NoiseDetection) -> Detection:
    return Detection(name=name, ndr10=curve.ndr(0.1), ndr20=curve.ndr(0.2), ndr30=curve.ndr(0.3), auc=curve.auc)


def _write(run: RunFolder, result: Audit) -> None:
    """Leave tables, cleaned data, results and report in the run folder; once written they stay as they are."""
    if run.done("outputs"):
        return
    with run.stage("outputs"):
        temporary = run.path / "harm.parquet.tmp"
        result.harm.to_parquet(temporary, index=False)
        temporary.replace(run.path / "harm.parquet")
        write_jsonl(result.cleaned, run.path / "cleaned.jsonl")
        write_jsonl(result.removed, run.path / "removed.jsonl")
        run.manifest["results"] = result.results.model_dump()
        (run.path / "report.html").unlink(missing_ok=True)  # left by an interruption of this very stage
        result.report(run.path / "report.html")


def _merged(settings: AuditSettings | None, options: dict[str, Any]) -> AuditSettings:
    return settings_from({**(settings.model_dump() if settings is not None else {}), **options})


def _configuration(model: ModelLike, sources: Mapping[str, Any], settings: AuditSettings) -> dict[str, Any]:
    def named(source: object) -> object:
        return (
            source
            if source is None
            else str(source)
            if isinstance(source, str | Path)
            else f"in-memory {type(source).__name__}"
        )

    return {
        "model": named(model),
        **{role: named(source) for role, source in sources.items()},
        **settings.model_dump(mode="json"),
    }
