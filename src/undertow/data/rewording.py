"""Changes the words of texts, for planted noise. Words are what white space separates; one space joins them again."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int


def changeable(texts: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Whether ``corrupt`` can change a text: it has two words, or one that can become another row's, shape [n]."""
    split = [text.split() for text in texts]
    several = len({word for words in split for word in words}) > 1
    return np.array([len(words) > 1 or (len(words) == 1 and several) for words in split], dtype=bool)


def corrupt(texts: Sequence[str], rows: Int[np.ndarray, " m"], share: float, rng: np.random.Generator) -> list[str]:
    """All texts, those of ``rows`` with ``share`` of their words, at least one, dropped, swapped or replaced.

    A third of these words each; which third begins is drawn, as a short text has one or two of them. A text that
    cannot change (``changeable``) stays.
    """
    split = [text.split() for text in texts]
    pool = [word for words in split for word in words]
    starts = np.cumsum([0, *(len(words) for words in split)])
    changed = list(texts)
    able = changeable(texts)
    for row in rows:
        if able[row]:
            own = range(int(starts[row]), int(starts[row + 1]))
            changed[row] = " ".join(_corrupted(split[row], pool, own, share, rng))
    return changed


def near_copy(text: str, rng: np.random.Generator) -> str:
    """The text with one word dropped or two neighbours swapped; the same where it has fewer than two words."""
    words = text.split()
    if len(words) < 2:
        return text
    at = int(rng.integers(len(words) - 1))
    if rng.random() < 0.5 and words[at] != words[at + 1]:
        words[at], words[at + 1] = words[at + 1], words[at]
    else:
        del words[int(rng.integers(len(words)))]
    return " ".join(words)


def _corrupted(words: list[str], pool: list[str], own: range, share: float, rng: np.random.Generator) -> list[str]:
    """Other words than ``words``, at least one. ``own`` are the positions of ``words`` in ``pool``."""
    if len(words) == 1:
        return [_another(words[0], pool, own, rng)]
    count = max(1, round(share * len(words)))
    chosen = rng.permutation(len(words))[:count]
    first = int(rng.integers(3))
    dropped, swapped, replaced = (chosen[(first + third) % 3 :: 3] for third in range(3))
    changed = list(words)
    for at in replaced:
        changed[at] = _another(words[at], pool, own, rng)
    for at in swapped:
        neighbour = at + 1 if at + 1 < len(words) else at - 1
        changed[at], changed[neighbour] = changed[neighbour], changed[at]
    # Of two words or more, at most every third and one more is dropped: one is always left.
    gone = set(dropped.tolist())
    kept = [word for at, word in enumerate(changed) if at not in gone]
    if kept == words:
        # Swaps can undo one another; a dropped word always shows.
        del kept[int(rng.integers(len(kept)))]
    return kept


def _another(word: str, pool: list[str], own: range, rng: np.random.Generator) -> str:
    """The first word of another row that differs from ``word``, from a drawn place on; ``word`` where there is none."""
    start = int(rng.integers(len(pool)))
    places = ((start + step) % len(pool) for step in range(len(pool)))
    return next((pool[at] for at in places if at not in own and pool[at] != word), word)
