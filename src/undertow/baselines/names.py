"""Names of the baselines, what each needs and says, known without loading any of them."""

from collections.abc import Sequence

from undertow.errors import ConfigError

# What a baseline may need to be collected: one forward pass (predictions, hidden), one backward pass
# (gradients), a record kept during fine-tuning (dynamics), or the source of each label (annotators). Labels are always
# there.
NEEDS = ("predictions", "dynamics", "hidden", "gradients", "annotators")

BASELINE_NEEDS: dict[str, tuple[str, ...]] = {
    "loss": ("predictions",),
    "margin": ("predictions",),
    "entropy": ("predictions",),
    "aum": ("dynamics",),
    "forgetting": ("dynamics",),
    "knn": ("hidden",),
    "repsim": ("hidden",),
    "repsim-plain": ("hidden",),
    "outlier": ("gradients",),
    "confident-learning": ("hidden",),
    "dawid-skene": ("annotators",),
    "random": (),
}

BASELINE_SUMMARIES: dict[str, str] = {
    "loss": "loss of the sample under its given label",
    "margin": "highest probability of another class minus that of the given label",
    "entropy": "entropy of the predicted probabilities; ignores the label",
    "aum": "minus the mean over epochs of the given label's logit above the largest other",
    "forgetting": "how often fine-tuning forgot the sample; never learned is worst",
    "knn": "share of the nearest neighbours in hidden states whose label differs",
    "repsim": "similarity of hidden states to queries of other classes minus that to the own class",
    "repsim-plain": "minus the mean similarity of hidden states to all queries; ignores the labels",
    "outlier": "how far outside the query gradients of its class a one-class SVM puts the sample's gradient",
    "confident-learning": "doubt of a held-out classifier on hidden states in the given label (cleanlab)",
    "dawid-skene": "improbability of the label given all labels of its text and how each annotator errs (crowd-kit)",
    "random": "random order, the control that every method has to beat",
}

BASELINE_NAMES = tuple(BASELINE_NEEDS)


def needing_baselines(names: Sequence[str], need: str) -> tuple[str, ...]:
    """Those of some baselines that declare a need."""
    return tuple(n for n in names if need in BASELINE_NEEDS[n])


def check_baselines(names: Sequence[str]) -> None:
    """Refuse unknown or repeated baseline names; none at all is fine.

    Raises:
        ConfigError: lists the known names.
    """
    unknown = [n for n in names if n not in BASELINE_NEEDS]
    if unknown:
        raise ConfigError(
            f"--baseline got {', '.join(map(repr, unknown))}. Known baselines are: {', '.join(BASELINE_NAMES)}."
        )
    if len(set(names)) != len(names):
        raise ConfigError(f"--baseline names one twice: {', '.join(names)}. Give each once.")
