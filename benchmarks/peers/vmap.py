"""torch.func: one ``vmap`` of ``grad`` a batch, and one matrix product a module."""

from collections import defaultdict
from functools import partial

import functional
import torch
from torch import Tensor
from torch.func import grad, vmap
from work import Outcome, Work

ROWS = 32


def run(work: Work) -> Outcome:
    parameters = functional.weights(work)
    gradients = vmap(grad(partial(functional.row_loss, work)), in_dims=(None, 0))

    def of(batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Gradients [row, size] by module."""
        parts = defaultdict(list)
        for name, g in gradients(parameters, batch).items():
            parts[name.rpartition(".")[0]].append(g.detach().flatten(1))
        return {path: torch.cat(p, dim=1) for path, p in parts.items()}

    with functional.plain_attention(work):
        collected = [of(batch) for batch in functional.loader(work, work.queries, ROWS)]
        queries = {path: torch.cat([c[path] for c in collected]) for path in work.tracked}
        columns = defaultdict(list)
        for batch in functional.loader(work, work.samples, ROWS):
            for path, g in of(batch).items():
                columns[path].append(queries[path] @ g.T)
    influence = {path: work.unsorted(torch.cat(c, dim=1)) for path, c in columns.items()}
    return Outcome(influence, tuple(influence))
