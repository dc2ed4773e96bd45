"""The damping that DataInf, exact Gauss-Newton and LiSSA share."""

from undertow.influence.block import GradientBlock


def damping(block: GradientBlock) -> float:
    """lambda = mean_i |g_i|^2 / (10 d); 0 where every sample's gradient is zero.

    Kwon et al. 2024, "DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and Diffusion Models".
    """
    return float(block.sample_squares[: block.rows].mean() / (10 * block.size))
