"""undertow itself: the influence of each module apart. What changes with its interface changes here only."""

import numpy as np
from work import Outcome, Work

from undertow.gradients.collect import collect_gradients
from undertow.gradients.layouts import plan_layouts
from undertow.gradients.store import GradientStore
from undertow.influence.compute import compute_influence
from undertow.influence.store import InfluenceWriter, influence_dataset
from undertow.models.modules import tracked_modules


def run(work: Work) -> Outcome:
    """The same work as every peer: inner products on LoRA and head."""
    return _run(work, ("lora", "head"), ("tracin",))


def run_all(work: Work) -> Outcome:
    """What undertow does in the same pass: three estimators, and the word embeddings."""
    return _run(work, ("auto",), ("tracin", "cosine", "datainf"))


def _run(work: Work, track: tuple[str, ...], estimators: tuple[str, ...]) -> Outcome:
    modules = tracked_modules(work.model, track)
    layouts = plan_layouts(work.model, modules, work.samples, pad_id=work.pad_id)
    stores = []
    for encoded in (work.queries, work.samples):
        stores.append(GradientStore(layouts, encoded))
        collect_gradients(work.model, modules, encoded, stores[-1], pad_id=work.pad_id)
    keys = [t.key for t in modules]
    frame = influence_dataset(estimators, keys, np.arange(len(work.queries)), np.arange(len(work.samples)))
    writer = InfluenceWriter(frame)
    compute_influence(stores[0], stores[1], estimators, writer)
    values = writer.finish(frame.drop_vars("covered")).influence.sel(estimator="tracin").values
    # A work without the head asks for LoRA alone; the word embeddings are nobody else's.
    found = {t.path: values[m] for m, t in enumerate(modules) if t.path in work.tracked}
    return Outcome(found, tuple(found))
