"""captum: TracInCP at one checkpoint with learning rate 1, with its hooks for whole batches."""

from captum.influence import TracInCP, TracInCPFast
from torch import Tensor, nn
from work import SUMMED, Outcome, Work


class Logits(nn.Module):
    """The model as captum calls it: inputs by position, logits back."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.inner = work.model
        self.names = work.fields[:-1]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.inner(**dict(zip(self.names, inputs, strict=True))).logits


def _no_checkpoint(*_: object) -> float:
    """The weights are in place; the learning rate is 1."""
    return 1.0


def tracincp(work: Work) -> Outcome:
    method = TracInCP(
        Logits(work),
        work.loader(work.samples, labels_apart=True),
        checkpoints=["as it is"],
        checkpoints_load_func=_no_checkpoint,
        layers=[f"inner.{path}" for path in work.tracked],
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        sample_wise_grads_per_batch=True,
    )
    base = work.model.get_base_model()
    base.enable_input_require_grads()  # its hooks want a gradient at every module's input, the first one's too
    try:
        scores = method.influence(work.loader(work.queries, labels_apart=True))
    finally:
        base.disable_input_require_grads()
    return Outcome({SUMMED: work.unsorted(scores)}, tuple(work.tracked))


def fast(work: Work) -> Outcome:
    (head,) = work.head
    method = TracInCPFast(
        Logits(work),
        f"inner.{head}",
        work.loader(work.samples, labels_apart=True),
        checkpoints=["as it is"],
        checkpoints_load_func=_no_checkpoint,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
    )
    # It takes one batch of queries, and passes all samples again for each.
    (queries,) = work.loader(work.queries, len(work.queries), labels_apart=True)
    scores = method.influence(queries)
    return Outcome({head: work.unsorted(scores)}, (head,))
