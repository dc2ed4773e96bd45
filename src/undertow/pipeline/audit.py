"""The main job: from a model and data to flagged rows, a cleaned set, and the proof."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from rich.console import Console
from torch import nn

from undertow.data import Planted, Samples
from undertow.errors import ConfigError
from undertow.influence.store import module_keys, open_influence, user_rows
from undertow.pipeline.controls.margins import audited_margins
from undertow.pipeline.controls.planned import (
    PROBES,
    Planned,
    check_plannable,
    plan_controls,
    planned_controls,
    taught,
)
from undertow.pipeline.controls.probes import Probed
from undertow.pipeline.controls.stage import Controlled, control_stage
from undertow.pipeline.gradients import Places
from undertow.pipeline.harm_table import harm_table, with_truth
from undertow.pipeline.influence import influence_step
from undertow.pipeline.inputs import Inputs, Source, load_inputs
from undertow.pipeline.kept import check_gradients_folder
from undertow.pipeline.model import (
    DYNAMICS,
    Candidate,
    ModelLike,
    describe_model,
    load_candidate,
    train_candidate,
)
from undertow.pipeline.outcome import (
    Audit,
    audit_of,
    finished_audit,
    results_of,
    write_findings,
    write_outputs,
)
from undertow.pipeline.ranks import Ranks, current_ranks
from undertow.pipeline.results import ArmResult
from undertow.pipeline.retrain import arms_of, compare_arms
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.settings import AuditSettings, settings_from
from undertow.pipeline.steps import check_device, check_libraries
from undertow.progress import Bars, Reporter, Silent, Stopwatch


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
    ranks = current_ranks()
    if out is None and ranks.count > 1:
        raise ConfigError(f"{ranks.count} processes share one audit through its run folder. Pass out= beside them.")
    ranks.wait()  # all meet before a training that may take longer than a launcher waits for its processes
    if out is not None and not ranks.first:
        return _assist(ranks, Path(out), model, tokenizer, sources, chosen)
    check_device(chosen)
    check_libraries(chosen)
    if out is None:
        with tempfile.TemporaryDirectory(prefix="undertow-") as scratch:
            run = RunFolder.open(Path(scratch) / "run", _configuration(model, sources, chosen))
            return _audit(run, model, tokenizer, sources, chosen, show, keep=False)
    run = RunFolder.open(Path(out), _configuration(model, sources, chosen), overwrite=overwrite)
    found = _audit(run, model, tokenizer, sources, chosen, show, keep=True, ranks=ranks)
    ranks.wait()
    return found


def _assist(
    ranks: Ranks, path: Path, model: ModelLike, tokenizer: Any, sources: Mapping[str, Any], settings: AuditSettings
) -> Audit:
    """What every process but the first does: its share of the influence stage, and then read what came out."""
    ranks.wait()  # until the model is trained: whatever cannot be used, the first process says so, once
    described = describe_model(model, settings, Silent())
    inputs = load_inputs(**sources, settings=settings, model_classes=described.classes)
    run = RunFolder.read(path)
    if not run.done("influence"):
        candidate = load_candidate(described, tokenizer, inputs.train.classes, settings)
        planned = None
        if not check_plannable(inputs, settings):
            probed = Probed.load(path / PROBES)
            planned = planned_controls(probed, inputs, settings, trained_here=candidate.trained_here)
        trained = train_candidate(run, candidate, taught(inputs, planned), Silent())
        _influence_step(run, candidate, trained, inputs, planned, Silent(), keep=True, ranks=ranks)
    ranks.wait()  # until all is written
    return finished_audit(RunFolder.read(path), inputs)


def _audit(
    run: RunFolder,
    model: ModelLike,
    tokenizer: Any,
    sources: Mapping[str, Any],
    settings: AuditSettings,
    show: Reporter,
    *,
    keep: bool,
    ranks: Ranks | None = None,
) -> Audit:
    me = ranks or Ranks()
    described = describe_model(model, settings, show)
    inputs = load_inputs(**sources, settings=settings, model_classes=described.classes)
    for line in (*inputs.detected, *inputs.notes):
        show.say(line)
    if run.done("outputs"):
        run.verify(inputs.fingerprints)
        show.say(f"The run in {run.path} is finished; nothing is computed again.")
        me.wait()
        return finished_audit(run, inputs)
    if settings.gradients:
        check_gradients_folder(Path(settings.gradients), run.path)
    candidate = load_candidate(described, tokenizer, inputs.train.classes, settings)
    if run.manifest["stages"]:
        show.say(f"Going on with the run in {run.path}; done before: {', '.join(run.manifest['stages'])}.")
    with run.begin({**inputs.fingerprints, "model": candidate.fingerprint}):
        return _stages(run, candidate, inputs, show, me, keep=keep)


def _stages(run: RunFolder, candidate: Candidate, inputs: Inputs, show: Reporter, ranks: Ranks, *, keep: bool) -> Audit:
    settings = candidate.settings
    why, planned = check_plannable(inputs, settings), None
    if not why:
        planned = plan_controls(run, candidate.start, inputs, settings, show, trained_here=candidate.trained_here)
    trained = train_candidate(run, candidate, taught(inputs, planned), show)
    everything = _influence(run, candidate, trained, inputs, planned, show, ranks, keep=keep)
    controlled = None if planned is None else _controlled(run, candidate, everything, planned, show)
    influence = user_rows(everything)
    harm = harm_table(influence, inputs.train, settings, controlled=controlled, reporter=show)
    harm = with_truth(harm, inputs.planted, inputs.train.classes)
    if settings.retrain and keep:
        early = results_of(candidate, inputs, influence, harm, (), controlled or why)
        write_findings(run, audit_of(run, inputs, harm, influence, early, folder=run.path), controlled)
        show.say(f"{early.verdict} Now models are trained again; the report so far: {run.path / 'report.html'}")
    arms, skipped = _arms(run, candidate, None if planned else trained, inputs, harm, show)
    results = results_of(candidate, inputs, influence, harm, arms, controlled or why, notes=skipped)
    result = audit_of(run, inputs, harm, influence, results, folder=run.path if keep else None)
    run.manifest["results"] = results.model_dump(mode="json")
    if keep:
        write_outputs(run, result, controlled)
    return result


def _controlled(
    run: RunFolder, candidate: Candidate, influence: xr.Dataset, planned: Planned, show: Reporter
) -> Controlled:
    with run.stage("controls") as outputs:
        found = control_stage(influence, planned, candidate.settings, show)
        outputs.update(canaries=found.result.canaries, anchors=found.result.anchors)
    return found


def _influence(
    run: RunFolder,
    candidate: Candidate,
    model: nn.Module,
    inputs: Inputs,
    planned: Planned | None,
    show: Reporter,
    ranks: Ranks,
    *,
    keep: bool,
) -> xr.Dataset:
    ranks.wait()  # the others start here, when the model is there
    if run.done("influence"):
        return open_influence(run.path / "influence.zarr")
    with run.stage("influence") as outputs:
        watch = Stopwatch()
        influence = _influence_step(run, candidate, model, inputs, planned, show, keep=keep, ranks=ranks, spent=watch)
        outputs["seconds"] = {name: round(seconds, 3) for name, seconds in watch.seconds.items()}
        outputs["modules"] = [vars(k) for k in module_keys(influence)]
        outputs["processes"] = ranks.count
    for name in ("gradients", "scratch"):
        shutil.rmtree(run.path / name, ignore_errors=True)
    return influence


def _influence_step(
    run: RunFolder,
    candidate: Candidate,
    model: nn.Module,
    inputs: Inputs,
    planned: Planned | None,
    show: Reporter,
    *,
    keep: bool,
    ranks: Ranks,
    spent: Stopwatch | None = None,
) -> xr.Dataset:
    settings = candidate.settings
    kept = Path(settings.gradients) if settings.gradients else None
    recorded = run.path / "recorded" if candidate.trained_here else None
    places = Places(
        tensor=run.path / "influence.zarr" if keep else None,
        # In a run they are files from the start: what an interruption leaves is not computed again.
        gradients=kept or (run.path / "gradients" if keep else None),
        scratch=run.path / "scratch",
        recorded=Path(settings.recorded) if settings.recorded else recorded,
        dynamics=_dynamics(run, planned, ranks) if candidate.trained_here else None,
    )
    return influence_step(
        model,
        candidate.start.tokenizer,
        inputs.train if planned is None else planned.audited,
        inputs.queries,
        settings,
        canaries=None if planned is None else planned.canaries.positions,
        control=None if planned is None else planned.control,
        places=places,
        ranks=ranks,
        reporter=show,
        spent=spent,
    )


def _dynamics(run: RunFolder, planned: Planned | None, ranks: Ranks) -> Path:
    """Margins during training of all that is audited."""
    if planned is None:
        return run.path / DYNAMICS
    own = run.path / "scratch" / f"dynamics-{ranks.index}.npy"
    return audited_margins(run.path / DYNAMICS, own, planned)


def _arms(
    run: RunFolder, candidate: Candidate, model: nn.Module | None, inputs: Inputs, harm: pd.DataFrame, show: Reporter
) -> tuple[tuple[ArmResult, ...], tuple[str, ...]]:
    """Retraining, and why some training sets are left out.

    ``model`` is the audited one where it was trained on just the user's rows and labels.
    """
    settings = candidate.settings
    if not settings.retrain:
        return (), ()
    arms, notes = arms_of(harm, inputs, settings)
    own = model if candidate.trained_here else None
    return compare_arms(run, candidate.start, inputs, arms, settings, show, audited=own), notes


def _merged(settings: AuditSettings | None, options: dict[str, Any]) -> AuditSettings:
    return settings_from({**(settings.model_dump(exclude_unset=True) if settings is not None else {}), **options})


def _configuration(model: ModelLike, sources: Mapping[str, Any], settings: AuditSettings) -> dict[str, Any]:
    def named(source: object) -> str | None:
        if source is None or isinstance(source, str | Path):
            return None if source is None else str(source)
        if isinstance(source, Planted):
            source = source.samples
        if isinstance(source, Samples):
            return f"in-memory {source.source}"
        return f"in-memory {type(source).__name__}"

    return {
        "model": named(model),
        **{role: named(source) for role, source in sources.items()},
        **settings.model_dump(mode="json"),
    }
