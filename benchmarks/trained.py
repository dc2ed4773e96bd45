"""A model trained on data with planted noise, and the harm it gives with one option or another."""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from common import bundled_minilm, glue
from overhead import plain_pass
from undertow.aggregation.in_memory import aggregate
from undertow.data import Encoded, encode, plant_noise
from undertow.gradients.collect import collect_gradients
from undertow.gradients.layouts import plan_layouts
from undertow.gradients.store import GradientStore
from undertow.influence.compute import compute_influence
from undertow.influence.store import InfluenceWriter, influence_dataset
from undertow.models.groups import select_modules
from undertow.models.loading import load_model
from undertow.models.modules import TrackedModule, tracked_modules
from undertow.models.sources import resolve_model
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import fine_tune_step, start_from
from undertow.progress import Bars


@dataclass(frozen=True)
class Bench:
    """A trained model with its samples and queries; ``planted`` says which labels are flipped."""

    model: nn.Module
    samples: Encoded
    queries: Encoded
    planted: np.ndarray
    pad_id: int

    def first(self, samples: int) -> "Bench":
        """The same with fewer samples."""
        return replace(self, samples=self.samples.select(np.arange(samples)), planted=self.planted[:samples])

    def plain(self) -> float:
        """Seconds of a forward and backward pass over everything, in float32."""
        start = time.perf_counter()
        for side in (self.queries, self.samples):
            plain_pass(self.model, side, self.pad_id)
        return time.perf_counter() - start

    def modules(self, track: tuple[str, ...], layers: str | None) -> tuple[TrackedModule, ...]:
        """The tracked modules, of these a layer group."""
        tracked = tracked_modules(self.model, track)
        return tuple(tracked[m] for m in select_modules([t.key for t in tracked], layers)) if layers else tracked

    def stores(
        self,
        track: tuple[str, ...] = ("auto",),
        layers: str | None = None,
        *,
        model: nn.Module | None = None,
        autocast: torch.dtype | None = None,
        dtype: torch.dtype = torch.float32,
        project: int | None = None,
    ) -> list[GradientStore]:
        """Gradients of the queries and of the samples; ``model`` is what passes them, where it is not the own one."""
        modules, found = self.modules(track, layers), []
        passed = self.model if model is None else model
        layouts = plan_layouts(self.model, modules, self.samples, pad_id=self.pad_id, project=project)
        for side in (self.queries, self.samples):
            found.append(GradientStore(layouts, side, dtype=dtype))
            collect_gradients(passed, modules, side, found[-1], pad_id=self.pad_id, autocast=autocast)
        return found

    def harms(
        self, stores: list[GradientStore], estimators: tuple[str, ...], layers: str = "all"
    ) -> dict[str, np.ndarray]:
        """Harm of each sample by estimator: Rank over the modules of a layer group."""
        chosen = select_modules(stores[0].keys, layers)
        counts = np.arange(len(self.queries)), np.arange(len(self.samples))
        frame = influence_dataset(estimators, stores[0].keys, *counts)
        writer = InfluenceWriter(frame)
        compute_influence(*stores, estimators, writer, modules=chosen)
        values = writer.finish(frame.drop_vars("covered"))["influence"].values
        return {name: -aggregate(values[e, chosen], "rank") for e, name in enumerate(estimators)}


def trained(options: argparse.Namespace) -> Bench:
    """MiniLM with LoRA, trained on SST-2 with 20% of the labels flipped; from ``options.keep`` where it was kept."""
    train, validation = glue(options.data, "sst2")
    order = np.random.default_rng(0).permutation(len(train))
    planted = plant_noise(train.select(np.sort(order[: options.samples])), 0.2, seed=0)
    half = np.random.default_rng(0).permutation(len(validation))
    queries, selection = (validation.select(np.sort(p)) for p in (half[: options.queries], half[options.queries :]))
    source, settings = resolve_model(str(bundled_minilm())), AuditSettings(epochs=options.epochs)
    loaded = load_model(source, train.classes)
    start = start_from(lambda: load_model(source, train.classes).model, loaded.tokenizer, settings)
    kept = options.keep and options.keep / f"minilm-{options.samples}-{options.queries}-{options.epochs}.pt"
    if kept and kept.is_file():
        model = start.make().eval()
        model.load_state_dict(torch.load(kept), strict=False)
    else:
        with tempfile.TemporaryDirectory() as folder:
            shown = Bars(Console(stderr=True))
            tuned = fine_tune_step(start, planted.samples, selection, settings, folder=Path(folder), reporter=shown)
        model = tuned.model
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save({name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, kept)
    both = [encode(side, loaded.tokenizer, 128) for side in (planted.samples, queries)]
    return Bench(model, both[0], both[1], planted.planted, loaded.tokenizer.pad_token_id)
