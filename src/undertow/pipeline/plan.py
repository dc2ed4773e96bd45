"""What an audit would take, before anything runs: parameters, storage, memory, and time from a short probe."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from undertow.controls.canaries import canary_count
from undertow.data import Encoded, encode, joined_samples
from undertow.gradients.collect import TOKEN_BUDGET, collect_gradients
from undertow.gradients.layouts import Layout, plan_layouts
from undertow.gradients.store import GradientStore, stored_bytes
from undertow.influence.compute import BLOCK
from undertow.influence.names import needing
from undertow.influence.products import cheaper
from undertow.models.kernels import times_transposed
from undertow.pipeline.baselines import check_room
from undertow.pipeline.controls.planned import check_plannable
from undertow.pipeline.gradients import memory_budget
from undertow.pipeline.influence import modules_of
from undertow.pipeline.inputs import Inputs, Source, load_inputs
from undertow.pipeline.model import Candidate, ModelLike, describe_model, load_candidate
from undertow.pipeline.precision import compute_dtype, kept_dtype
from undertow.pipeline.retrain import arm_names
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import check_device, check_libraries, device_of
from undertow.progress import Reporter, Silent

# Seconds that the model is tried for.
PROBE = 10.0
# Seconds that the scores of all layer groups take for each influence of the tensor, on two cores.
_SCORES = 6e-8
# Part of the time of a forward and backward pass that the forward pass takes.
_FORWARD = 1 / 3


@dataclass(frozen=True)
class PlannedModules:
    """Modules that are held and multiplied alike.

    Attributes:
        kind: attention, mlp, norm, embedding, head or other.
        side: lora_A, lora_B or weight.
        form: dense, factored, sparse or projected.
        products: how inner products are computed.
        modules: how many modules.
        parameters: their parameters in total.
        bytes: what their gradients take, of samples and queries.
    """

    kind: str
    side: str
    form: str
    products: str
    modules: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What an audit would take.

    Attributes:
        model: what the user calls the model.
        samples: training rows.
        canaries: how many of them are given a wrong label; 0 where the audit is not calibrated.
        anchors: trusted rows that are trained on.
        selection: trusted rows that choose the checkpoint.
        queries: trusted rows.
        modules: the tracked modules, those alike in one line.
        gradient_bytes: the gradient cache.
        tensor_bytes: what is kept of the influence (--keep).
        memory_bytes: estimated memory above the loaded model, without what the system pages in and out.
        rate: samples a second through forward and backward, from the probe.
        training_seconds: estimated fine-tuning, 0 where none is needed; with --retrain, of all models.
        gradient_seconds: estimated gradients of samples and queries.
        product_seconds: estimated products of all estimators.
        calibration_seconds: estimated probes before fine-tuning, and scores of all layer groups.
        notes: what a user should know.
    """

    model: str
    samples: int
    canaries: int
    anchors: int
    selection: int
    queries: int
    modules: tuple[PlannedModules, ...]
    gradient_bytes: int
    tensor_bytes: int
    memory_bytes: int
    rate: float
    training_seconds: float
    gradient_seconds: float
    product_seconds: float
    calibration_seconds: float
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Parameters tracked."""
        return sum(m.parameters for m in self.modules)

    @property
    def seconds(self) -> float:
        """Estimated time of the whole audit."""
        return self.training_seconds + self.gradient_seconds + self.product_seconds + self.calibration_seconds


def plan(
    model: ModelLike,
    train: Source,
    validation: Source,
    *,
    queries: Source | None = None,
    test: Source | None = None,
    tokenizer: Any = None,
    settings: AuditSettings,
    probe: float | None = None,
    reporter: Reporter | None = None,
) -> Plan:
    """Load model and data as `audit` would, try the model for ``probe`` seconds, and say what an audit would take.

    Nothing is trained and nothing is written.

    Raises:
        UndertowError: for any input that `audit` would refuse.
    """
    show = reporter or Silent()
    check_device(settings)
    check_libraries(settings)
    described = describe_model(model, settings, show)
    sources = {"train": train, "validation": validation, "queries": queries, "test": test}
    inputs = load_inputs(**sources, settings=settings, model_classes=described.classes)
    candidate = load_candidate(described, tokenizer, inputs.train.classes, settings)
    network = candidate.model if candidate.model is not None else candidate.start.make()
    return _plan(network.to(device_of(settings)), candidate, inputs, PROBE if probe is None else probe, show)


def _plan(model: nn.Module, candidate: Candidate, inputs: Inputs, probe: float, show: Reporter) -> Plan:
    settings, tokenizer = candidate.settings, candidate.start.tokenizer
    why = check_plannable(inputs, settings)
    controlled = not why and candidate.trained_here
    canaries = canary_count(len(inputs.train), settings.canaries) if controlled else 0
    anchors = len(inputs.anchors) if controlled and inputs.anchors is not None else 0
    samples = _audited(inputs, canaries, anchors, tokenizer, settings)
    queries = encode(inputs.queries, tokenizer, settings.max_length)
    modules = modules_of(model, settings)
    layouts = plan_layouts(
        model, modules, samples, pad_id=tokenizer.pad_token_id, project=settings.project, seed=settings.seed
    )
    check_room(settings.baselines, layouts, max(len(samples), len(queries)), memory_budget(settings))
    show.say(f"Trying the model for {probe:.0f} seconds …")
    rate = _probe(model, layouts, samples, tokenizer.pad_token_id, probe, settings)
    tokens = np.array([samples.lengths.sum(), queries.lengths.sum()], dtype=float)
    per_sample = rate / float(samples.lengths.mean())  # rate is tokens a second
    gradients = stored_bytes(layouts, samples, kept_dtype(settings)) + stored_bytes(
        layouts, queries, kept_dtype(settings)
    )
    checkpoints = settings.epochs if needing(settings.estimators, "checkpoints") else 0
    tensor = _kept_bytes(len(settings.estimators), len(modules), len(queries), len(samples), settings)
    return Plan(
        model=candidate.name,
        samples=len(inputs.train),
        canaries=canaries,
        anchors=anchors,
        selection=len(inputs.selection),
        queries=len(queries),
        modules=_alike(layouts, samples, queries, settings),
        gradient_bytes=gradients,
        tensor_bytes=tensor,
        memory_bytes=_memory(layouts, samples, queries, settings),
        rate=per_sample,
        training_seconds=_training(candidate, inputs, controlled=controlled) / per_sample,
        gradient_seconds=(1 + checkpoints) * float(tokens.sum()) / rate,
        product_seconds=_product_seconds(layouts, samples, queries, settings),
        calibration_seconds=_calibration(len(modules), samples, queries, len(inputs.selection), rate, settings)
        if not why
        else 0.0,
        notes=(*([why] if why else []), *_notes(settings, gradients)),
    )


def _audited(inputs: Inputs, canaries: int, anchors: int, tokenizer: Any, settings: AuditSettings) -> Encoded:
    """All rows that the influence stage would look at; which rows become canaries is not known before the probes."""
    parts = [inputs.train, inputs.train.select(np.arange(canaries))]
    if anchors and inputs.anchors is not None:
        parts.append(inputs.anchors)
    return encode(joined_samples(*parts) if len(parts[1]) or anchors else inputs.train, tokenizer, settings.max_length)


def _calibration(
    modules: int, samples: Encoded, queries: Encoded, selection: int, rate: float, settings: AuditSettings
) -> float:
    """Seconds of the scores of all layer groups, and of the forward pass before fine-tuning that probes look at."""
    scores = _SCORES * len(settings.estimators) * modules * len(queries) * len(samples)
    tokens = samples.lengths.sum() + queries.lengths.sum() + selection * queries.lengths.mean()
    return float(scores + _FORWARD * tokens / rate)


def _probe(
    model: nn.Module, layouts: Sequence[Layout], samples: Encoded, pad_id: int, seconds: float, settings: AuditSettings
) -> float:
    """Tokens a second through forward, backward and storing, on samples drawn at random."""
    modules = modules_of(model, settings)
    order = np.random.default_rng(settings.seed).permutation(len(samples))
    rows = max(1, TOKEN_BUDGET // max(1, int(samples.lengths.mean())))
    precision = compute_dtype(settings, device_of(settings))
    done, spent, start = 0, 0.0, 0
    while spent < seconds and start < len(order):
        # The first batch warms up and is not counted.
        some = samples.select(order[start : start + rows])
        store = GradientStore(layouts, some, dtype=kept_dtype(settings))
        begun = time.perf_counter()
        collect_gradients(model, modules, some, store, pad_id=pad_id, autocast=precision)
        if start or len(order) <= rows:
            spent += time.perf_counter() - begun
            done += int(some.lengths.sum())
        start += rows
    return done / spent


def _training(candidate: Candidate, inputs: Inputs, *, controlled: bool) -> float:
    """Samples that pass through the model in training: forward and backward, and half of that to select."""
    settings = candidate.settings
    once = settings.epochs * (len(inputs.train) + len(inputs.selection) / 2)
    arms = len(arm_names(settings, inputs.planted is not None)) if settings.retrain else 0
    if arms and candidate.trained_here and not controlled:
        arms -= 1  # as given is the audited model
    return (int(candidate.trained_here) + arms) * once


def _alike(
    layouts: Sequence[Layout], samples: Encoded, queries: Encoded, settings: AuditSettings
) -> tuple[PlannedModules, ...]:
    groups: dict[tuple[str, str, str, str], list[Layout]] = {}
    for layout in layouts:
        form = "projected" if layout.project else layout.form
        key = (layout.key.kind, layout.key.side, form, _way(layout, samples, queries))
        groups.setdefault(key, []).append(layout)
    return tuple(
        PlannedModules(
            *key,
            modules=len(members),
            parameters=sum(m.key.size for m in members),
            bytes=sum(stored_bytes(members, side, kept_dtype(settings)) for side in (samples, queries)),
        )
        for key, members in groups.items()
    )


def _way(layout: Layout, samples: Encoded, queries: Encoded) -> str:
    if layout.form == "sparse":
        return "shared tokens"
    if layout.form == "dense":
        return "one matrix product"
    return {"factors": "pairs of tokens", "blocks": "blocks of parameters"}[_cost(layout, samples, queries)[0]]


def _cost(layout: Layout, samples: Encoded, queries: Encoded) -> tuple[str, float]:
    """How the inner products of a module are computed, and multiplications for it."""
    q, n = len(queries), len(samples)
    if layout.form == "dense":
        return "dense", float(q) * n * layout.size
    if layout.form == "sparse":
        counts = Counter(t for ids in samples.input_ids for t in set(ids))
        pairs = sum(counts[t] for ids in queries.input_ids for t in set(ids))
        return "sparse", float(pairs) * layout.outputs
    units = [layout.runs * (len(side) if layout.pooled else int(side.lengths.sum())) for side in (queries, samples)]
    return cheaper((units[0], units[1]), (q, n), layout.inputs, layout.outputs)


def _product_seconds(layouts: Sequence[Layout], samples: Encoded, queries: Encoded, settings: AuditSettings) -> float:
    """Multiplications of all estimators over the speed of one matrix product of that kind."""
    a, b = torch.randn(256, 1024), torch.randn(2048, 1024)
    times_transposed(a, b)
    start = time.perf_counter()
    for _ in range(4):
        times_transposed(a, b)
    speed = 4 * a.shape[0] * a.shape[1] * b.shape[0] / (time.perf_counter() - start)
    inner = sum(_cost(layout, samples, queries)[1] for layout in layouts)
    # Inner products once for all; DataInf two products more, LiSSA two for each of its steps.
    extra = {"datainf": 2, "datainf0": 2, "lissa": 20, "less": 1, "tracincp": settings.epochs}
    factor = 1 + sum(extra.get(name, 0) for name in settings.estimators)
    cells = float(len(queries)) * len(samples) * len(layouts) * len(settings.estimators)
    return factor * inner / speed + cells * 2e-9


def _kept_bytes(estimators: int, modules: int, queries: int, samples: int, settings: AuditSettings) -> int:
    if settings.keep == "tensor":
        return 4 * estimators * modules * queries * samples
    scores = 8 * estimators * modules * samples
    return scores + (4 * estimators * 7 * queries * samples if settings.keep == "groups" else 0)


def _memory(layouts: Sequence[Layout], samples: Encoded, queries: Encoded, settings: AuditSettings) -> int:
    """The largest module's gradients and its influence blocks; the rest stays in files."""
    largest = max(stored_bytes([layout], samples, torch.float32) for layout in layouts)
    block = 4 * min(len(queries) * len(samples), BLOCK)
    return largest + block * (2 + len(settings.estimators))


def _notes(settings: AuditSettings, gradients: int) -> tuple[str, ...]:
    notes = []
    if gradients > memory_budget(settings):
        notes.append(
            "The gradients do not fit into memory; they stay in files and are paged in. Fewer --track, --project 16 or "
            "--gradient-dtype bfloat16 make them smaller."
        )
    if needing(settings.estimators, "model"):
        notes.append("EK-FAC passes over the data about three times more; its time is not in the estimate.")
    return tuple(notes)
