"""What fine-tuning itself says: margins of its samples, epoch by epoch, and logits of the selection split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from undertow.errors import RunFolderError, TrainingError

# Lies in each checkpoint folder, so that a resumed training goes on with the record as it was there.
FILE = "dynamics.npy"


@dataclass(frozen=True)
class Dynamics:
    """The training dynamics of n samples over all epochs.

    Attributes:
        margin: logit of the given label minus the largest other logit, shape [epochs, n], in the order of
            the training data. Each is from the batch that trained on the sample: in train mode (with
            dropout), before the step.
    """

    margin: Float[np.ndarray, "epochs n"]

    @property
    def correct(self) -> Bool[np.ndarray, "epochs n"]:
        """Whether the given label had the largest logit, no other being as large."""
        correct: np.ndarray = self.margin > 0
        return correct


def label_margin(logits: Float[Tensor, "b classes"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """z_y - max_{c != y} z_c of each row (Pleiss et al. 2020)."""
    given = labels[:, None]
    return logits.gather(1, given)[:, 0] - logits.scatter(1, given, -torch.inf).amax(1)


class DynamicsRecorder:
    """Keeps the margins of each batch that passes in training, without a forward pass of its own."""

    def __init__(self, epochs: int, samples: int) -> None:
        self.margin = np.full((epochs, samples), np.nan, dtype=np.float32)

    def add(self, epoch: int, positions: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note the margins of the samples at ``positions``, as the logits of a training batch give them."""
        margins = label_margin(logits.detach().float(), labels)
        self.margin[epoch, positions.cpu().numpy()] = margins.cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write the record into a checkpoint folder."""
        np.save(folder / FILE, self.margin, allow_pickle=False)

    def restore(self, folder: Path) -> None:
        """Take the record up as it was when a checkpoint was written.

        Raises:
            RunFolderError: the checkpoint is of a training of other epochs or samples.
        """
        found = np.load(folder / FILE, allow_pickle=False)
        if found.shape != self.margin.shape:
            before, now = (f"{epochs} epochs of {n} samples" for epochs, n in (found.shape, self.margin.shape))
            raise RunFolderError(
                f"The checkpoint {folder} is of a training of {before}, and this one is of {now}. Give another "
                "folder for checkpoints, or delete this one."
            )
        self.margin[:] = found

    def finished(self) -> Dynamics:
        """The record of the whole training.

        Raises:
            TrainingError: some sample was not seen in some epoch.
        """
        missing = np.isnan(self.margin)
        if missing.any():
            raise TrainingError(
                f"{int(missing.any(axis=0).sum())} of {missing.shape[1]} samples passed some epoch unrecorded. "
                "Training dynamics are recorded in one process: start this training without a launcher of several."
            )
        return Dynamics(self.margin)
