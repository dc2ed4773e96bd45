"""LESS: how well a query's gradient fits the step that Adam would take on a sample."""

import torch
from jaxtyping import Float
from torch import Tensor

from undertow.errors import ConfigError
from undertow.gradients.matrices import slices
from undertow.influence.block import GradientBlock
from undertow.influence.moments import Moments

# Numbers of samples' gradients that are turned into steps at once.
_NUMBERS = 32_000_000


def less(block: GradientBlock) -> Float[Tensor, "q n"]:
    """cos(v, Gamma(g)) with Gamma(g) = m^ / (sqrt(u^) + epsilon), the direction of Adam's next step on g alone.

    m = beta1 m0 + (1 - beta1) g, u = beta2 u0 + (1 - beta2) g^2 from the optimiser's moments m0 and u0 after t
    steps, m^ = m / (1 - beta1^(t+1)), u^ = u / (1 - beta2^(t+1)). Xia et al. 2024, "LESS: Selecting Influential
    Data for Targeted Instruction Tuning", section 3, one checkpoint of their sum and without its projection.
    A zero query or step gives 0.

    Raises:
        ConfigError: for a module whose optimiser state is not known.
    """
    if block.moments is None:
        raise ConfigError(
            "less needs the state of the Adam optimiser, and there is none for this module. It is kept when undertow "
            "fine-tunes itself (--finetune always), or by the CheckpointRecorder callback in a training of your own."
        )
    queries = _directions(block.queries.rows(slice(0, block.queries.samples)))
    parts = []
    for rows in slices(block.count, block.size, _NUMBERS):
        steps = adam_step(block.samples.rows(rows), block.moments)
        parts.append(queries @ _directions(steps).T)
    return torch.cat(parts, dim=1)


def adam_step(gradients: Float[Tensor, "b d"], moments: Moments) -> Float[Tensor, "b d"]:
    """Direction of Adam's next step on each gradient alone."""
    first, second = moments.betas
    t = moments.step + 1
    m = (first * moments.first.to(gradients) + (1 - first) * gradients) / (1 - first**t)
    u = (second * moments.second.to(gradients) + (1 - second) * gradients.square()) / (1 - second**t)
    return m / (u.sqrt() + moments.epsilon)


def _directions(rows: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    directions: Tensor = rows / norms.where(norms > 0, 1)
    return directions
