"""EK-FAC against kronfluence called directly, against its definition, and against TracIn."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from kronfluence.utils.state import State
from torch import Tensor, nn

from undertow.data.tokenize import Encoded, pad_batch
from undertow.errors import ConfigError, ModelError, TrainingError
from undertow.influence.ekfac import STRATEGIES, covers, ekfac_influence, ekfac_rows
from undertow.models.keys import ModuleKey
from undertow.models.modules import TrackedModule, tracked_modules
from unit.tiny_models import PAD, adapted_classifier, chosen_rows, random_rows

CLASSES = 3
# kronfluence computes in float32; errors are measured against the largest influence of the module.
FLOAT32 = 1e-4


class Case(NamedTuple):
    model: nn.Module
    modules: tuple[TrackedModule, ...]
    queries: Encoded
    samples: Encoded

    def influence(self, scratch: Path, **options: object) -> list[Tensor]:
        found = ekfac_influence(*self, pad_id=PAD, scratch=scratch, **options)
        assert list(found) == list(range(len(self.modules)))
        shape = (len(self.queries), len(self.samples))
        assert all(i.dtype == torch.float32 and i.shape == shape for i in found.values())
        return list(found.values())


def build(family: str) -> Case:
    model = adapted_classifier(family, classes=CLASSES).float()
    types = family == "bert"
    queries = random_rows((5, 9, 3, 7), classes=CLASSES, token_types=types, seed=1)
    samples = random_rows((6, 2, 9, 4, 4, 8, 3, 12, 5, 7, 6), classes=CLASSES, token_types=types, seed=2)
    return Case(model, tuple(filter(covers, tracked_modules(model))), queries, samples)


@pytest.fixture(scope="module", params=["bert", "llama"])
def case(request: pytest.FixtureRequest) -> Case:
    return build(request.param)


@pytest.fixture(scope="module")
def bert() -> Case:
    return build("bert")


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = FLOAT32) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 0
        assert (one.double() - other.double()).abs().max() <= tolerance * other.abs().max()


def row(encoded: Encoded, position: int) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in pad_batch(encoded, np.array([position]), PAD).items()}


def drawn_label(logits: Tensor, number: float) -> int:
    total = 0.0
    for label, share in enumerate(logits.double().softmax(-1).tolist()):
        total += share
        if number < total:
            return label
    return len(logits) - 1


def numbers(samples: Encoded) -> np.ndarray:
    return np.random.default_rng(0).random(len(samples))


# The definition, row by row in float64.


class Seen(NamedTuple):
    """What one row sends through a layer: inputs x [t, in], with ones for a bias, and gradients [t, out]."""

    x: Tensor
    delta: Tensor

    @property
    def gradient(self) -> Tensor:
        return self.delta.T @ self.x


def seen(case: Case, encoded: Encoded, draws: np.ndarray | None = None) -> list[list[Seen]]:
    """For each module and each row; labels are those given, or drawn with one number a row."""
    found: list[list[Seen]] = [[] for _ in case.modules]
    for position in range(len(encoded)):
        kept: dict[int, tuple[Tensor, Tensor]] = {}

        def keep(m: int, kept: dict[int, tuple[Tensor, Tensor]] = kept) -> Callable[..., None]:
            return lambda _, inputs, output: kept.update({m: (inputs[0], output)})

        handles = [t.module.register_forward_hook(keep(m)) for m, t in enumerate(case.modules)]
        logits = case.model(**row(encoded, position)).logits[0]
        for handle in handles:
            handle.remove()
        label = int(encoded.labels[position]) if draws is None else drawn_label(logits.detach(), draws[position])
        deltas = torch.autograd.grad(-logits.log_softmax(-1)[label], [kept[m][1] for m in range(len(case.modules))])
        for m, tracked in enumerate(case.modules):
            x = kept[m][0].detach().flatten(0, -2)
            if tracked.module.bias is not None:
                x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
            found[m].append(Seen(x, deltas[m].flatten(0, -2)))
    return found


def by_definition(case: Case, strategy: str, damping: float | None) -> list[Tensor]:
    """v^T (F + damping)^-1 g for every module."""
    queries, samples = seen(case, case.queries), seen(case, case.samples)
    fit = seen(case, case.samples, numbers(case.samples))
    found = []
    for m in range(len(case.modules)):
        tokens = sum(len(s.x) for s in fit[m])
        on_x, q_x = torch.linalg.eigh(sum(s.x.T @ s.x for s in fit[m]) / tokens)
        on_delta, q_delta = torch.linalg.eigh(sum(s.delta.T @ s.delta for s in fit[m]) / tokens)
        if strategy == "diagonal":
            q_x, q_delta = torch.eye(len(q_x), dtype=q_x.dtype), torch.eye(len(q_delta), dtype=q_x.dtype)
        rotated = [q_delta.T @ s.gradient @ q_x for s in fit[m]]
        values = on_delta[:, None] * on_x if strategy == "kfac" else sum(r**2 for r in rotated) / len(rotated)
        added = 0.1 * values.mean() if damping is None else damping
        towards = [q_delta @ ((q_delta.T @ s.gradient @ q_x) / (values + added)) @ q_x.T for s in queries[m]]
        found.append(torch.stack([torch.stack([(v * s.gradient).sum() for s in samples[m]]) for v in towards]))
    return found


def in_float64(family: str) -> Case:
    case = build(family)
    model = case.model.double()
    return case._replace(model=model, modules=tuple(filter(covers, tracked_modules(model))))


@pytest.mark.parametrize("damping", [None, 1e-2])
@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_equals_its_definition(family: str, strategy: str, damping: float | None, tmp_path: Path):
    exact = in_float64(family)
    found = exact.influence(tmp_path, strategy=strategy, damping=damping)
    close(found, by_definition(exact, strategy, damping))


# kronfluence itself, in plain batches of four rows.


class Plain(Task):
    def __init__(self, names: list[str]) -> None:
        self.names = names

    def compute_train_loss(self, batch, model, sample=False):
        inputs = dict(batch)
        labels, draws = inputs.pop("labels"), inputs.pop("draws")
        logits = model(**inputs).logits
        if sample:
            labels = torch.tensor([drawn_label(*pair) for pair in zip(logits.detach(), draws.tolist(), strict=True)])
        return nn.functional.cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return self.names

    def get_attention_mask(self, batch):
        return batch["attention_mask"]


class Rows:
    """A dataset of one row an item, and the function that makes batches of them."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, position: int) -> tuple[Encoded, int]:
        return self.encoded, position

    @staticmethod
    def collate(items: list[tuple[Encoded, int]]) -> dict[str, Tensor]:
        encoded, positions = items[0][0], np.array([position for _, position in items])
        arrays = pad_batch(encoded, positions, PAD)
        arrays |= {"labels": encoded.labels[positions], "draws": numbers(encoded)[positions]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.filterwarnings("ignore::FutureWarning:kronfluence")
@pytest.mark.parametrize("strategy", ["ekfac", "identity"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_equals_kronfluence_called_directly(family: str, strategy: str, tmp_path: Path, monkeypatch):
    case = build(family)
    found = case.influence(tmp_path / "ours", strategy=strategy)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # a dozen times would take longer than all the rest
    paths = {id(module): path for path, module in case.model.named_modules()}
    task = Plain([paths[id(t.module)] for t in case.modules])
    analyzer = Analyzer(
        "a", prepare_model(case.model, task), task, cpu=True, disable_tqdm=True, output_dir=str(tmp_path)
    )
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=Rows.collate))
    factors = FactorArguments(strategy=strategy)
    analyzer.fit_all_factors("f", Rows(case.samples), per_device_batch_size=4, factor_args=factors)
    analyzer.compute_pairwise_scores(
        scores_name="s",
        factors_name="f",
        query_dataset=Rows(case.queries),
        train_dataset=Rows(case.samples),
        per_device_query_batch_size=3,
        per_device_train_batch_size=4,
        score_args=ScoreArguments(damping_factor=None, compute_per_module_scores=True),
    )
    direct = analyzer.load_pairwise_scores("s")
    close(found, [direct[name] for name in task.names])


# Sign, scale and what must not matter.


def test_identity_is_tracin(case: Case, tmp_path: Path):
    def gradients(encoded: Encoded) -> list[Tensor]:
        """[n, d] of each module, by autograd on one row at a time."""
        parameters = [[p.requires_grad_(True) for p in t.module.parameters()] for t in case.modules]
        rows = []
        for position in range(len(encoded)):
            logits = case.model(**row(encoded, position)).logits
            loss = nn.functional.cross_entropy(logits, torch.tensor([encoded.labels[position]]))
            flat = iter(torch.autograd.grad(loss, [p for ps in parameters for p in ps]))
            rows.append([torch.cat([next(flat).flatten() for _ in ps]) for ps in parameters])
        return [torch.stack(module) for module in zip(*rows, strict=True)]

    expected = [v @ g.T for v, g in zip(gradients(case.queries), gradients(case.samples), strict=True)]
    close(case.influence(tmp_path, strategy="identity"), expected, 1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sample_helps_itself(case: Case, strategy: str, tmp_path: Path):
    same = case._replace(queries=case.samples)
    for influence in same.influence(tmp_path, strategy=strategy):
        assert (influence.diagonal() > 0).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_and_blocks_change_nothing(case: Case, strategy: str, tmp_path: Path):
    expected = case.influence(tmp_path, strategy=strategy)
    for options in ({"token_budget": 1}, {"token_budget": 18}, {"token_budget": 18, "query_bytes": 1}):
        close(case.influence(tmp_path, strategy=strategy, **options), expected)


def test_order_of_rows_and_modules_is_that_asked_for(bert: Case, tmp_path: Path):
    expected = bert.influence(tmp_path, strategy="identity")
    rows, columns = [2, 0, 3], [7, 1, 10, 0]
    turned = Case(
        bert.model, bert.modules[::-1], chosen_rows(bert.queries, rows), chosen_rows(bert.samples, columns)
    ).influence(tmp_path, strategy="identity")
    close(turned[::-1], [e[rows][:, columns] for e in expected], 1e-5)


def test_the_seed_decides_and_no_random_number_is_used_up(bert: Case, tmp_path: Path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = bert.influence(tmp_path, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert all(map(torch.equal, first, bert.influence(tmp_path, seed=3)))
    assert not all(map(torch.equal, first, bert.influence(tmp_path, seed=4)))


def test_the_model_comes_back_as_it_was(tmp_path: Path):
    case = build("bert")
    model = case.model.train()
    chosen = case.modules[0].module
    chosen.weight.requires_grad_(False)
    case.modules[1].module.eval()
    gradient = case.modules[-1].module.weight.grad = torch.ones_like(case.modules[-1].module.weight)

    def state() -> list[object]:
        modules = [(n, id(m), m.training, len(m._forward_hooks)) for n, m in model.named_modules()]
        weights = [(n, id(p), p.data_ptr(), p.requires_grad, id(p.grad)) for n, p in model.named_parameters()]
        return [modules, weights, [(n, id(b), b.requires_grad) for n, b in model.named_buffers()]]

    before, weights = state(), {k: v.clone() for k, v in model.state_dict().items()}
    case.influence(tmp_path)
    assert state() == before
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert case.modules[-1].module.weight.grad is gradient
    assert (gradient == 1).all()


def test_silent_tidy_and_counted(bert: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch):
    elsewhere, scratch = tmp_path / "elsewhere", tmp_path / "new" / "scratch"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for options in ({}, {"strategy": "identity"}, {"strategy": "kfac", "token_budget": 10, "query_bytes": 1}):
        steps: list[int] = []
        bert.influence(scratch, advance=steps.append, **options)
        assert sum(steps) == ekfac_rows(bert.modules, bert.queries, bert.samples, **options)
    assert list(scratch.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == [elsewhere, tmp_path / "new"]
    assert list(elsewhere.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# What cannot be computed.


def test_without_curvature_there_is_no_influence(tmp_path: Path):
    case = build("bert")
    with torch.no_grad():
        for tracked in case.modules:
            if tracked.key.side == "lora_B":
                tracked.module.weight.zero_()
    for strategy in STRATEGIES:
        for tracked, influence in zip(case.modules, case.influence(tmp_path, strategy=strategy), strict=True):
            assert influence.any() == (tracked.key.side != "lora_A")


def test_missing_library_is_named_with_its_install_line(bert: Case, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kronfluence", None)
    with pytest.raises(ConfigError, match=r"pip install 'undertow\[ekfac\]'"):
        bert.influence(tmp_path)


def test_modules_other_than_linear_are_refused(bert: Case, tmp_path: Path):
    class Sparse(nn.Linear):
        pass

    key = ModuleKey("some.layer", 0, "query", "weight", "attention", 6)
    for module, name in ((nn.Embedding(2, 3), "Embedding"), (Sparse(2, 3), "Sparse")):
        wrong = TrackedModule(key, module)
        assert not covers(wrong)
        with pytest.raises(ModelError, match=rf"some\.layer \({name}\); it covers linear layers"):
            bert._replace(modules=(*bert.modules, wrong)).influence(tmp_path)
    with pytest.raises(ModelError, match="no module"):
        bert._replace(modules=()).influence(tmp_path)


def test_modules_of_another_model_are_refused(bert: Case, tmp_path: Path):
    with pytest.raises(ModelError, match="not part of the PeftModelForSequenceClassification"):
        bert._replace(modules=build("bert").modules).influence(tmp_path)


class Odd(nn.Module):
    """A classifier with a layer that runs as often as it is told."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.embedding, self.layer, self.head = nn.Embedding(50, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        x = self.embedding(input_ids)
        for _ in range(self.times):
            x = self.layer(x).tanh()
        return SimpleNamespace(logits=self.head((x * attention_mask[..., None]).sum(1)))


@pytest.mark.parametrize("times", [0, 1, 2])
def test_layers_that_do_not_run_once_are_refused(times: int, tmp_path: Path):
    model = Odd(times)
    keys = [ModuleKey(name, None, name, "weight", "other", 20) for name in ("layer", "head")]
    modules = tuple(TrackedModule(key, model.get_submodule(key.name)) for key in keys)
    rows = random_rows((3, 5, 2), classes=CLASSES)
    case = Case(model, modules, rows, rows)
    if times == 1:
        assert all((i.diagonal() > 0).all() for i in case.influence(tmp_path))
        return
    with pytest.raises(ModelError, match=rf"these do not: layer \({times} times\)\."):
        case.influence(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "ekfca"}, "'ekfca'. Known strategies are: ekfac, kfac, diagonal, identity"),
        ({"damping": -1.0}, "The damping is -1.0. Give 0 or more"),
        ({"damping": float("nan")}, "The damping is nan"),
    ],
)
def test_bad_settings_are_refused(bert: Case, options: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        bert.influence(tmp_path, **options)


def test_one_of_several_processes_is_refused(bert: Case, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(State, "use_distributed", property(lambda self: True))
    with pytest.raises(ConfigError, match="it runs in one"):
        bert.influence(tmp_path)


def test_a_diverged_model_is_named(tmp_path: Path):
    case = build("bert")
    with torch.no_grad():
        case.modules[-1].module.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="is not finite"):
        case.influence(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_influence_that_is_not_finite_names_the_modules(tmp_path: Path):
    case = build("bert")
    with torch.no_grad():
        # One input of lora_B is always 0: so are its gradients, and 0 is divided by 0.
        case.modules[0].module.weight[0] = 0
    with pytest.raises(TrainingError, match=r"diagonal yielded NaN or infinity on \S+lora_B: .*a larger damping"):
        case.influence(tmp_path, strategy="diagonal", damping=0.0)
    assert all(i.any() for i in case.influence(tmp_path, strategy="diagonal"))
