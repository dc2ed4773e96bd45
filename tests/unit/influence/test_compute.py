"""From gradients to influence blocks: chunks, what each estimator needs, and what is not finite."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from undertow.errors import ConfigError, TrainingError
from undertow.gradients.matrices import DenseGradients
from undertow.influence.block import GradientBlock
from undertow.influence.compute import Checkpoint, compute_influence, covers, tracincp
from undertow.influence.estimators import ESTIMATORS
from undertow.influence.moments import Moments
from undertow.influence.names import ESTIMATOR_NAMES, ESTIMATOR_NEEDS

from .stores import KEYS, HeldStore, both_stores, dense

N_QUERIES, N_SAMPLES = 3, 5
WORDS = ("tracin-we", "tracin-we-k", "tracin-we-k-pair")


class Collected:
    """Takes blocks as they come."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int, slice]] = []
        self.completed: list[int] = []
        self.values: dict[tuple[int, int], np.ndarray] = {}

    def write(self, estimator: int, module: int, queries: slice, block: np.ndarray) -> None:
        assert module not in self.completed
        self.blocks.append((estimator, module, queries))
        whole = self.values.setdefault((estimator, module), np.full((N_QUERIES, N_SAMPLES), np.nan))
        assert np.isnan(whole[queries]).all()
        whole[queries] = block

    def complete(self, module: int) -> None:
        self.completed.append(module)


def computed(names: Sequence[str], stores: tuple[HeldStore, HeldStore] | None = None, **options: object) -> Collected:
    sink = Collected()
    compute_influence(*(stores or both_stores()), names, sink, **options)
    return sink


def moments_of(*modules: int) -> dict[str, Moments]:
    generator = torch.Generator().manual_seed(9)
    sizes = {KEYS[m].name: KEYS[m].size for m in modules}
    return {
        name: Moments(torch.randn(d, generator=generator), torch.rand(d, generator=generator), 4)
        for name, d in sizes.items()
    }


def test_every_estimator_that_asks_for_gradients_alone():
    moments = moments_of(1, 3)
    found = computed(list(ESTIMATORS), moments=moments)
    queries, samples = both_stores()
    assert found.completed == [0, 1, 2, 3]
    for e, name in enumerate(ESTIMATORS):
        for m, key in enumerate(KEYS):
            assert ((e, m) in found.values) == covers(name, key, moments)
            if (e, m) in found.values:
                block = GradientBlock(queries[m], samples[m], moments.get(key.name))
                np.testing.assert_array_equal(found.values[e, m], ESTIMATORS[name](block).numpy())


def test_inner_products_are_those_of_the_dense_gradients():
    found, (queries, samples) = computed(["tracin"]), both_stores()
    for m in range(len(KEYS)):
        np.testing.assert_allclose(found.values[0, m], dense(queries, m) @ dense(samples, m).T, rtol=0, atol=1e-5)


def test_what_each_estimator_covers():
    lora, head = KEYS[1], KEYS[3]
    for name in ESTIMATOR_NAMES:
        if name in WORDS:
            assert [covers(name, key) for key in KEYS] == [True, False, False, False]
        elif name == "less":
            assert [covers(name, key) for key in KEYS] == [False] * 4
            assert [covers(name, key, [lora.name, head.name]) for key in KEYS] == [False, True, False, True]
        else:
            assert all(covers(name, key) for key in KEYS)


def trail() -> list[Checkpoint]:
    return [Checkpoint(*both_stores(seed), rate) for seed, rate in ((1, 0.5), (2, 0.125))]


@pytest.mark.parametrize("block", [1, 9, 10, 11])
def test_chunks_of_queries_are_the_whole(block: int):
    everything = [n for n in ESTIMATOR_NAMES if n != "ekfac"] + ["ekfac"]
    given = {"ekfac": {1: torch.randn(N_QUERIES, N_SAMPLES)}}
    options = {"moments": moments_of(1, 3), "checkpoints": trail(), "given": given}
    whole, parts = computed(everything, **options), computed(everything, block=block, **options)
    most = max(1, block // N_SAMPLES)
    assert {queries.stop - queries.start for _, _, queries in whole.blocks} == {N_QUERIES}
    assert max(queries.stop - queries.start for _, _, queries in parts.blocks) == most
    assert parts.values.keys() == whole.values.keys()
    for place, values in whole.values.items():
        np.testing.assert_allclose(parts.values[place], values, rtol=0, atol=1e-6 * (1 + np.abs(values).max()))


def test_tracincp_adds_up_checkpoints():
    found = computed(["tracincp", "tracin"], checkpoints=trail())
    at_each = [computed(["tracin"], both_stores(seed)) for seed in (1, 2)]
    for m in range(len(KEYS)):
        expected = 0.5 * at_each[0].values[0, m] + 0.125 * at_each[1].values[0, m]
        np.testing.assert_allclose(found.values[0, m], expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found.values[1, m], computed(["tracin"]).values[0, m])  # of the final model


def test_tracincp_leaves_its_blocks_alone():
    blocks = [GradientBlock(torch.randn(2, 4), torch.randn(3, 4)) for _ in range(2)]
    before = [b.inner.clone() for b in blocks]
    total = tracincp([(blocks[0], 2.0), (blocks[1], 3.0)])
    torch.testing.assert_close(total, 2 * before[0] + 3 * before[1])
    assert all(torch.equal(b.inner, then) for b, then in zip(blocks, before, strict=True))
    torch.testing.assert_close(tracincp([(blocks[0], 1.0)]), before[0])


def test_influence_that_is_given():
    given = {m: torch.randn(N_QUERIES, N_SAMPLES) for m in (1, 3)}
    found = computed(["tracin", "ekfac"], given={"ekfac": given})
    assert {m for e, m in found.values if e == 1} == {1, 3}
    for m, values in given.items():
        np.testing.assert_array_equal(found.values[1, m], values.numpy())
    assert {m for e, m in found.values if e == 0} == {0, 1, 2, 3}


def test_some_modules_alone():
    steps: list[int] = []
    found = computed(["tracin", "tracin-we"], modules=[3, 1], advance=steps.append)
    assert found.completed == [3, 1]
    assert set(found.values) == {(0, 3), (0, 1)}
    assert steps == [1, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tracin", "nonsense"], r"--estimator got 'nonsense'\. Known"),
        ([], "--estimator got nothing"),
        (["tracincp"], r"tracincp adds up several checkpoints, and there are none\. .*--finetune always"),
        (["tracin", "ekfac"], r"ekfac takes gradients of its own.*none was\. Compute it first"),
        (["less"], r"less is defined on none of the 4 modules: it needs optimiser\. "),
    ],
)
def test_needs_that_are_not_met(names: list[str], message: str):
    sink = Collected()
    with pytest.raises(ConfigError, match=message):
        compute_influence(*both_stores(), names, sink)
    assert not sink.blocks  # said before anything is computed


@pytest.mark.parametrize("name", WORDS)
def test_word_embeddings_must_be_among_the_modules(name: str):
    queries, samples = both_stores()
    heads = [HeldStore([store[3]], KEYS[3:]) for store in (queries, samples)]
    with pytest.raises(ConfigError, match=rf"{name} is defined on none of the 1 modules: it needs embedding\."):
        compute_influence(*heads, [name], Collected())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("name", "side"),
    # Self-influence asks nothing of the queries.
    [(n, s) for n in ESTIMATORS if not ESTIMATOR_NEEDS[n] for s in (0, 1) if (n, s) != ("self-influence", 0)],
)
def test_what_is_not_finite_is_refused_by_name(name: str, side: int, value: float):
    stores = both_stores()
    stores[side][1].values[1, 2] = value
    message = rf"^{name} on encoder\.layer\.0\.query\.lora_A yielded NaN or infinity.*lower --learning-rate"
    with pytest.raises(TrainingError, match=message):
        computed([name], stores)


@pytest.mark.parametrize("module", [0, 2])
def test_what_is_not_finite_in_other_forms(module: int):
    stores = both_stores()
    held = stores[1][module]
    (held.values if module == 0 else held.inputs)[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=rf"^tracin on {KEYS[module].name} yielded"):
        computed(["tracin"], stores)


def test_what_is_not_finite_among_the_given():
    given = torch.zeros(N_QUERIES, N_SAMPLES)
    given[1, 1] = float("nan")
    with pytest.raises(TrainingError, match=r"^ekfac on classifier yielded"):
        computed(["ekfac"], given={"ekfac": {3: given}})


@pytest.mark.parametrize("signs", [(1.0, 1.0), (1.0, -1.0)])
def test_values_whose_sum_overflows_are_finite(signs: tuple[float, float]):
    # Every product is 2e38 or its negative: their sum leaves float32, none of them does.
    queries = HeldStore([DenseGradients(torch.full((3, 5), 2e19))], KEYS[3:])
    rows = torch.tensor([signs[i % 2] for i in range(5)])[:, None] * torch.full((5, 5), 2e18)
    samples = HeldStore([DenseGradients(rows)], KEYS[3:])
    sink = Collected()
    compute_influence(queries, samples, ["tracin"], sink)
    assert np.isfinite(sink.values[0, 0]).all()
    np.testing.assert_allclose(sink.values[0, 0][0], rows[:, 0].numpy().astype(float) * 1e20, rtol=1e-5)
