"""kronfluence: its pairwise scores with the strategy ``identity``, module by module."""

import tempfile

from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from work import ByLength, Outcome, Work, losses

ROWS = 32


def default(work: Work) -> Outcome:
    """As it comes: after every batch of queries all samples are passed again."""
    return _scores(work, ROWS, 1)


def good(work: Work) -> Outcome:
    """The gradients of all queries are held, and the samples passed once."""
    return _scores(work, ROWS, -(-len(work.queries) // ROWS))


def _scores(work: Work, rows: int, held: int) -> Outcome:
    class Classification(Task):
        def compute_train_loss(self, batch: dict[str, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
            return losses(model, batch).sum()

        def compute_measurement(self, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
            return losses(model, batch).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return list(work.tracked)

    task = Classification()
    queries, samples = ByLength(work.queries), ByLength(work.samples)
    # Both sets go through one collating function, so a position has to say which set it is of.
    queries.order = [(work.queries, p) for p in queries.order]
    samples.order = [(work.samples, p) for p in samples.order]

    def collate(rows: list) -> dict[str, Tensor]:
        return work.batch(rows[0][0], [p for _, p in rows])

    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "peers", prepare_model(work.model, task), task, cpu=True, output_dir=folder, disable_tqdm=True
        )
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collate))
        analyzer.fit_all_factors("identity", samples, factor_args=FactorArguments(strategy="identity"))
        analyzer.compute_pairwise_scores(
            "scores",
            "identity",
            queries,
            samples,
            per_device_query_batch_size=rows,
            per_device_train_batch_size=rows,
            score_args=ScoreArguments(compute_per_module_scores=True, query_gradient_accumulation_steps=held),
        )
        scores = analyzer.load_pairwise_scores("scores")
    influence = {path: work.unsorted(scores[path]) for path in work.tracked}
    return Outcome(influence, tuple(influence))
