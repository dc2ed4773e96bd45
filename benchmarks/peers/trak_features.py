"""TRAK's features and scores without its projection and its kernel, which leaves the inner product of the gradients."""

import logging
import tempfile

import functional
import torch
from torch import Tensor, nn
from torch.func import functional_call
from trak import TRAKer
from trak.gradient_computers import FunctionalGradientComputer
from trak.modelout_functions import AbstractModelOutput
from trak.projectors import NoOpProjector
from trak.score_computers import BasicScoreComputer
from work import SUMMED, Outcome, Work

ROWS = 32


class TrackedOnly(FunctionalGradientComputer):
    """As it comes it takes the gradients of all weights and then drops those that are not wanted."""

    def load_model_params(self, model: nn.Module) -> None:
        super().load_model_params(model)
        self.func_weights = {name: p for name, p in self.func_weights.items() if p.requires_grad}


class InnerProducts(BasicScoreComputer):
    """Features are the gradients themselves."""

    def get_xtx(self, grads: Tensor) -> Tensor:
        return grads.new_empty(0)

    def get_x_xtx_inv(self, grads: Tensor, xtx: Tensor) -> Tensor:
        return grads


def run(work: Work) -> Outcome:
    class Loss(AbstractModelOutput):
        def __init__(self) -> None:
            super().__init__()

        @staticmethod
        def get_output(model: nn.Module, weights: dict, buffers: dict, *row: Tensor) -> Tensor:
            inputs = {name: t.unsqueeze(0) for name, t in zip(work.fields, row, strict=True)}
            label = inputs.pop("labels")
            return nn.functional.cross_entropy(functional_call(model, (weights, buffers), (), inputs).logits, label)

        def get_out_to_loss_grad(self, model: nn.Module, weights: dict, buffers: dict, batch: tuple) -> Tensor:
            return torch.ones(len(batch[0]), 1)

    weights, checkpoint = functional.weights(work), work.model.state_dict()
    with tempfile.TemporaryDirectory() as folder, functional.only_tracked(work), functional.plain_attention(work):
        traker = TRAKer(
            work.model,
            Loss(),
            len(work.samples),
            save_dir=folder,
            device="cpu",
            gradient_computer=TrackedOnly,
            projector=NoOpProjector(device="cpu"),
            score_computer=InnerProducts,
            use_half_precision=False,
            grad_wrt=list(weights),
            logging_level=logging.ERROR,
        )
        traker.load_checkpoint(checkpoint, model_id=0)
        for batch in functional.loader(work, work.samples, ROWS):
            traker.featurize(batch, num_samples=len(batch[0]))
        traker.finalize_features()
        traker.start_scoring_checkpoint("queries", checkpoint, model_id=0, num_targets=len(work.queries))
        for batch in functional.loader(work, work.queries, ROWS):
            traker.score(batch, num_samples=len(batch[0]))
        scores = torch.from_numpy(traker.finalize_scores("queries").copy())
    # It divides every gradient by the root of their size.
    scores = scores.T * sum(p.numel() for p in weights.values())
    return Outcome({SUMMED: work.unsorted(scores)}, tuple(work.tracked))
