"""Are trusted rows like the training rows? A two-sample test, and weights that make up for a difference."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

FOLDS = 5
# Principal components of the hidden states that are compared. Half as many give the same weights on the benchmark; with
# twice as many, chance differences of 300 trusted rows cost a tenth of their effective number.
COMPONENTS = 20
# Weight of the components beside length and confidence, whose differences matter most for a harm.
_SCALE = 0.5
# Inverse ridge penalty. Doubled, weights scatter more and fewer trusted rows count.
PENALTY = 0.1
# Largest weight beside the mean, and the inverse of the smallest. Doubled, single trusted rows decide on a cut.
CLIP = 5.0
# Level of the two-sample test.
LEVEL = 0.01


@dataclass(frozen=True)
class Shift:
    """How trusted rows differ from training rows.

    Attributes:
        auroc: of an out-of-fold classifier of training texts against trusted texts; 0.5 where they are alike.
        p_value: of the two-sample test that it makes (Mann-Whitney).
        rows: density ratio at each training row, good training rows to trusted rows.
        trusted: density ratio at each trusted row.
    """

    auroc: float
    p_value: float
    rows: Float[np.ndarray, " row"]
    trusted: Float[np.ndarray, " trusted"]

    @property
    def differs(self) -> bool:
        """Whether the texts differ more than chance explains."""
        return self.p_value < LEVEL


def compare_texts(
    states: Float[np.ndarray, "both state"],
    lengths: Int[np.ndarray, " both"],
    probabilities: Float[np.ndarray, "both class"],
    labels: Int[np.ndarray, " both"],
    right: Float[np.ndarray, " row"],
    *,
    seed: int = 0,
) -> Shift:
    """Test whether trusted texts are like training texts, and estimate the density ratio of good rows to trusted rows.

    A classifier two-sample test (Lopez-Paz and Oquab 2017) on the first principal components of hidden states before
    fine-tuning, text length, and the confidence and entropy of the predictions. The density ratio is that of the same
    kind of classifier with the label beside, where training rows count by the probability that their label is right:
    it also makes up for classes that wrong labels thinned out. All values are out of fold.

    Args:
        states: of the training rows, and behind them of the trusted rows.
        lengths: words or tokens of each text.
        probabilities: out-of-sample class probabilities of each text.
        labels: given or trusted label of each.
        right: probability that the label of each training row is right.
        seed: draws the folds.
    """
    from scipy.stats import mannwhitneyu

    n = len(right)
    source = np.arange(len(labels)) < n
    text = _text_features(states, lengths, probabilities)
    score = _out_of_fold(text, source, np.ones(len(labels)), seed)
    test = mannwhitneyu(score[source], score[~source])
    whole = np.hstack([text, np.eye(probabilities.shape[1])[labels]])
    ratio = np.exp(_out_of_fold(whole, source, np.concatenate([right, np.ones(len(labels) - n)]), seed))
    ratio = np.clip(ratio, 1 / CLIP, CLIP)
    return Shift(float(test.statistic / (n * (len(labels) - n))), float(test.pvalue), ratio[source], ratio[~source])


def effective_number(weights: Float[np.ndarray, " row"]) -> float:
    """Number of equally weighted rows that scatter as much (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def _text_features(
    states: Float[np.ndarray, "both state"],
    lengths: Int[np.ndarray, " both"],
    probabilities: Float[np.ndarray, "both class"],
) -> Float[np.ndarray, "both feature"]:
    from scipy.stats import entropy
    from sklearn.decomposition import PCA

    plain = np.stack([np.log1p(lengths), probabilities.max(axis=1), entropy(probabilities, axis=1)], axis=1)
    count = min(COMPONENTS, *states.shape)
    parts = PCA(count, svd_solver="full").fit_transform(_scaled(states.astype(np.float64)))
    return np.hstack([_scaled(plain), _SCALE * parts / max(parts[:, 0].std(), 1e-9)])


def _scaled(values: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
    result: np.ndarray = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)
    return result


def _out_of_fold(
    features: Float[np.ndarray, "both feature"], source: np.ndarray, weights: Float[np.ndarray, " both"], seed: int
) -> Float[np.ndarray, " both"]:
    """Log density ratio of training to trusted rows, by logistic regression with both sides weighing the same."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    found = np.empty(len(source))
    folds = min(FOLDS, int((~source).sum()))
    for known, mine in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, source):
        balanced = weights[known].copy()
        for side in (False, True):
            held = source[known] == side
            balanced[held] *= len(known) / 2 / max(balanced[held].sum(), 1e-9)
        model = LogisticRegression(C=PENALTY, max_iter=1000)
        model.fit(features[known], source[known], sample_weight=balanced)
        found[mine] = model.decision_function(features[mine])
    return found
