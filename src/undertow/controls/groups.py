"""The share of wrong labels within groups of rows, such as sources or annotators."""

import numpy as np
from jaxtyping import Float

_SHARES = np.linspace(0.0005, 0.9995, 1000)
# Half the 95% quantile of chi-squared with one degree of freedom.
_DROP = 1.9207


def group_share(wrong: Float[np.ndarray, " row"], overall: float) -> tuple[float, float, float]:
    """The most likely share of wrong labels in a group, and the 95% interval of its likelihood.

    The probability of a row to be wrong holds the share of all rows; taken out of it, the evidence of the row alone is
    left, from which the group's own share follows. The evidence is taken as given: its own error is not in the
    interval.

    Args:
        wrong: probability of each row of the group to be wrong.
        overall: mean of the same over all rows.
    """
    if not 0 < overall < 1 or not len(wrong):
        return 0.0, 0.0, 0.0 if len(wrong) else 1.0
    some = np.clip(wrong, 1e-9, 1 - 1e-9)
    bad, good = some / overall, (1 - some) / (1 - overall)
    shares = _SHARES[:, None]
    likelihood = np.concatenate(
        [np.log(part * bad + (1 - part) * good).sum(axis=1) for part in np.array_split(shares, 20)]
    )
    held = np.flatnonzero(likelihood >= likelihood.max() - _DROP)
    return float(_SHARES[likelihood.argmax()]), float(_SHARES[held[0]]), float(_SHARES[held[-1]])
