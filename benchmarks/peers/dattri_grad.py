"""dattri: TracIn at one checkpoint with weight 1 (its Grad-Dot), and its block-wise influence without a Hessian."""

import tempfile

import functional
from dattri.algorithm.block_projected_if import BlockProjectedIFAttributor
from dattri.algorithm.tracin import TracInAttributor
from dattri.task import AttributionTask
from torch import Tensor, nn
from work import SUMMED, Outcome, Work

# For every batch of samples it computes the gradients of all queries again, so few large ones are best.
LARGE, ROWS = 256, 32


def tracin(work: Work) -> Outcome:
    """Whole gradients, batches of samples as large as memory comfortably holds."""
    return _tracin(work, LARGE, projected=False)


def tracin_default(work: Work) -> Outcome:
    """As it comes: gradients projected to 512 dimensions."""
    return _tracin(work, ROWS, projected=True)


def _tracin(work: Work, rows: int, *, projected: bool) -> Outcome:
    def loss(parameters: dict[str, Tensor], row: tuple[Tensor, ...]) -> Tensor:
        return functional.row_loss(work, parameters, row)

    with functional.only_tracked(work), functional.plain_attention(work):
        task = AttributionTask(loss_func=loss, model=work.model, checkpoints=work.model.state_dict())
        method = TracInAttributor(task, weight_list=[1.0], normalized_grad=False)
        if not projected:
            method.projector_kwargs = None
        scores = method.attribute(
            functional.loader(work, work.samples, rows), functional.loader(work, work.queries, ROWS)
        )
    return Outcome({SUMMED: work.unsorted(scores.T)}, tuple(work.tracked))


def blocks(work: Work) -> Outcome:
    """Gradients from its hooks, without projection."""

    def loss(model: nn.Module, batch: dict[str, Tensor], _: str) -> Tensor:
        return model(**batch).loss

    whole = {"device": "cpu", "proj_dim": -1, "proj_max_batch_size": 64, "proj_type": "identity"}
    samples = work.loader(work.samples, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        method = BlockProjectedIFAttributor(
            AttributionTask(loss_func=loss, model=work.model, checkpoints=work.model.state_dict()),
            layer_names=list(work.tracked),
            hessian="Identity",
            sparsifier_kwargs=whole,
            projector_kwargs=whole,
            offload="none",
            cache_dir=folder,
        )
        method.cache(samples)
        scores = method.attribute(samples, work.loader(work.queries, ROWS))
    return Outcome({SUMMED: work.unsorted(scores.T)}, tuple(work.tracked))
