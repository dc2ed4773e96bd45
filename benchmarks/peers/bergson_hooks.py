"""bergson: its collector and scorer, with the classification loss in place of its causal one."""

import tempfile

import numpy as np
import torch
from bergson import CollectorComputer, GradientProcessor, IndexConfig, InMemoryCollector, Scorer
from bergson.score.score_writer import InMemorySequenceScoreWriter
from datasets import Dataset
from torch import Tensor, nn
from work import SUMMED, TOKEN_BUDGET, Outcome, Work, losses

from undertow.data import Encoded, token_budget_batches

# Its collector sees the model inside the PEFT wrapper.
_PREFIX = "base_model."


def run(work: Work) -> Outcome:
    # Its hooks want inputs [row, token, feature], which the head of an encoder does not get, and cannot be taken off
    # the copy of a head that PEFT trains.
    paths = [p for p in work.tracked if p not in work.head]
    with tempfile.TemporaryDirectory() as folder:
        config = IndexConfig(run_path=f"{folder}/run")
        config.partial_run_path.mkdir()
        queries = _collect(work, work.queries, paths, config, None)
        names = [p.removeprefix(_PREFIX) for p in paths]
        writer = InMemorySequenceScoreWriter(len(work.samples), len(work.queries))
        scorer = Scorer(queries.gradients, names, writer, torch.device("cpu"), torch.float32)
        _collect(work, work.samples, paths, config, scorer)
    return Outcome({SUMMED: writer.scores.T.numpy()}, tuple(paths))


def _collect(
    work: Work, encoded: Encoded, paths: list[str], config: IndexConfig, scorer: Scorer | None
) -> InMemoryCollector:
    data = Dataset.from_dict({"input_ids": encoded.input_ids, "row": np.arange(len(encoded))})
    collector = InMemoryCollector(
        model=work.model.base_model,
        data=data,
        cfg=config,
        processor=GradientProcessor(include_bias=True),
        target_modules={p.removeprefix(_PREFIX) for p in paths},
        scorer=scorer,
    )
    batches = [b.tolist() for b in token_budget_batches(encoded.lengths, TOKEN_BUDGET)]
    computer = CollectorComputer(work.model, data, collector=collector, batches=batches, cfg=config)

    def forward_backward(model: nn.Module, _x: Tensor, _y: Tensor, batch: dict) -> Tensor:
        found = losses(model, work.batch(encoded, batch["row"]))
        found.sum().backward()
        model.zero_grad()
        return found

    computer.forward_backward = forward_backward
    computer.run_with_collector_hooks()
    return collector
