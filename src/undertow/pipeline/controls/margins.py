"""Margins during training of all rows that are audited, from those of the rows that were trained on."""

from pathlib import Path

import numpy as np

from undertow.pipeline.controls.planned import Planned


def audited_margins(source: Path, target: Path, planned: Planned) -> Path:
    """Write the margins of the user's rows, the canaries and the anchors, in this order.

    The training saw the user's rows, with wrong labels at the canaries, and behind them the anchors. A canary's own row
    was not trained on its label. Its margin under that label is taken to be the negative of the one under the wrong
    label: so it is with two classes, and with more where the two labels are the likeliest.

    Args:
        source: margins of the trained rows, [epochs, rows + anchors].
        target: file to write.
        planned: the controls.
    """
    margins: np.ndarray = np.load(source)
    n, positions = len(planned.train), planned.canaries.positions
    rows, anchors, canaries = margins[:, :n].copy(), margins[:, n:], margins[:, positions]
    rows[:, positions] = -canaries
    target.parent.mkdir(parents=True, exist_ok=True)
    np.save(target, np.concatenate([rows, canaries, anchors], axis=1))
    return target
