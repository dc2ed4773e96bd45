import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from undertow.data.noise import (
    NOISE_KINDS,
    conflicting_duplicates,
    corrupt_words,
    noise_from_column,
    plant,
    plant_by_class,
    plant_by_doubt,
)
from undertow.errors import ConfigError, DataError

from .builders import make_samples

LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=40).filter(lambda labels: len(set(labels)) > 1)
KINDS = ("uniform", "pairs", "transition", "doubt", "words", "duplicates")
BY_RATE = KINDS[1:]


def beliefs(samples, seed=0):
    """Probabilities of a made-up model, few distinct ones, so that ties occur."""
    raw = np.random.default_rng(seed).integers(1, 4, size=(len(samples), len(samples.classes))).astype(float)
    return raw / raw.sum(axis=1, keepdims=True)


def planted_by(kind, samples, rate, seed):
    extra = {"transition": {"transition": np.ones((len(samples.classes),) * 2)}}
    extra["doubt"] = {"probabilities": beliefs(samples)}
    return plant(samples, kind, rate, seed=seed, **extra.get(kind, {}))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(labels=LABELS, rate=st.floats(0.05, 0.95), seed=st.integers(0, 9))
def test_every_kind_honours_rate_seed_and_classes(kind, labels, rate, seed):
    samples = make_samples(labels)
    size = round(rate * len(labels))
    assume(0 < size < len(labels))
    planted = planted_by(kind, samples, rate, seed)
    clean = ~planted.planted
    assert planted.planted.sum() == size
    assert len(planted.samples) == len(samples)
    assert set(planted.samples.labels.tolist()) <= set(range(len(samples.classes)))
    assert np.array_equal(planted.samples.rows, samples.rows)
    assert np.array_equal(planted.samples.labels[clean], samples.labels[clean])
    assert np.array_equal(planted.original_labels[clean], samples.labels[clean])
    assert np.array_equal(np.array(planted.samples.texts)[clean], np.array(samples.texts)[clean])
    differs = planted.samples.labels != planted.original_labels
    assert np.array_equal(differs, np.zeros_like(differs) if kind == "words" else planted.planted)
    if kind != "duplicates":
        assert np.array_equal(planted.original_labels, labels)
    again = planted_by(kind, samples, rate, seed)
    assert np.array_equal(again.samples.labels, planted.samples.labels)
    assert np.array_equal(again.planted, planted.planted)
    assert again.samples.texts == planted.samples.texts
    assert samples.labels.tolist() == labels


@pytest.mark.parametrize("kind", ["pairs", "transition", "words", "duplicates"])
def test_seeds_draw_other_rows(kind):
    samples = make_samples([0, 1] * 50)
    first, second = (planted_by(kind, samples, 0.2, seed).planted for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, float("nan")])
@pytest.mark.parametrize("kind", BY_RATE)
def test_rate_out_of_range(kind, rate):
    with pytest.raises(ConfigError, match="rate of noise is"):
        planted_by(kind, make_samples([0, 1]), rate, 0)


@pytest.mark.parametrize("kind", BY_RATE)
def test_rate_that_affects_no_row(kind):
    with pytest.raises(ConfigError, match="affects none of the 4 rows"):
        planted_by(kind, make_samples([0, 1, 0, 1]), 0.1, 0)


@pytest.mark.parametrize("kind", ["pairs", "transition", "doubt", "duplicates"])
def test_one_class(kind):
    with pytest.raises(DataError, match="at least two"):
        planted_by(kind, make_samples([1, 1, 1]), 0.5, 0)


# By class


def test_pairs_go_to_the_next_class_that_has_rows():
    samples = make_samples([0] * 10 + [2] * 10 + [3] * 20)
    planted = plant_by_class(samples, 0.3, seed=0)
    for before, after, count in ((0, 2, 3), (2, 3, 3), (3, 0, 6)):
        flipped = planted.planted & (samples.labels == before)
        assert planted.samples.labels[flipped].tolist() == [after] * count


def test_largest_remainders_fill_up():
    samples = make_samples([0] * 3 + [1] * 3 + [2] * 5)  # 0.3 of them: 0.9, 0.9 and 1.5, three in all
    planted = plant_by_class(samples, 0.3, seed=0)
    assert np.bincount(samples.labels[planted.planted]).tolist() == [1, 1, 1]


def test_transition_draws_by_its_rows_and_ignores_the_diagonal():
    samples = make_samples([0] * 2000 + [1] * 20 + [2] * 20)
    matrix = np.array([[9.0, 3.0, 1.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.0]])
    planted = plant_by_class(samples, 0.5, seed=1, transition=matrix)
    drawn = np.bincount(planted.samples.labels[planted.planted & (samples.labels == 0)], minlength=3)
    assert drawn[0] == 0
    assert abs(drawn[1] / 1000 - 0.75) < 0.05
    assert set(planted.samples.labels[planted.planted & (samples.labels == 1)].tolist()) == {2}
    assert matrix[0, 0] == 9


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 3)), r"shape \(3, 3\); accepted is \(2, 2\)"),
        (np.array([[0.0, -1.0], [1.0, 0.0]]), "negative or not finite"),
        (np.array([[0, np.nan], [1, 0]]), "negative or not finite"),
        (np.array([[1.0, 0.0], [1.0, 0.0]]), "gives 'c0' no other class"),
    ],
)
def test_bad_transition(matrix, message):
    with pytest.raises(ConfigError, match=message):
        plant_by_class(make_samples([0, 1, 0, 1]), 0.5, seed=0, transition=matrix)


# By doubt


def test_the_least_sure_rows_get_the_most_probable_other_class():
    samples = make_samples([0, 0, 1, 2])
    chances = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3], [0.7, 0.2, 0.1]])
    planted = plant_by_doubt(samples, 0.5, chances, seed=0)
    assert planted.planted.tolist() == [False, True, False, True]
    assert planted.samples.labels.tolist() == [0, 2, 1, 0]


def test_sure_labels_are_flipped_to_another_class_too():
    planted = plant_by_doubt(make_samples([0, 1]), 0.5, np.eye(2), seed=0)
    assert (planted.samples.labels != [0, 1]).sum() == 1


def test_half_precision_is_accepted():
    chances = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.9, 0.05, 0.05]], dtype=np.float16)
    assert plant_by_doubt(make_samples([0, 1, 0], classes=("a", "b", "c")), 0.4, chances, seed=0).planted[0]


def test_ties_of_doubt_are_broken_by_the_seed():
    samples = make_samples([0, 1] * 30)
    first, second = (plant_by_doubt(samples, 0.2, np.full((60, 2), 0.5), seed=seed).planted for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert first[30:].any()


@pytest.mark.parametrize(
    ("chances", "message"),
    [
        (np.full((3, 2), 0.5), r"shape \(3, 2\); accepted is \(2, 2\)"),
        (np.array([[0.5, 0.5], [2.0, -1.0]]), "in row 1 "),
        (np.array([[0.5, np.nan], [0.5, 0.5]]), "in row 0 "),
        (np.array([[3.0, 0.5], [0.5, 0.5]]), "softmax"),
    ],
)
def test_bad_probabilities(chances, message):
    with pytest.raises(DataError, match=message):
        plant_by_doubt(make_samples([0, 1]), 0.5, chances, seed=0)


# Words

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=7).map(" ".join), min_size=4, max_size=12)


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.floats(0.01, 1.0), st.integers(0, 99))
def test_corrupted_texts_change_and_are_never_empty(texts, share, seed):
    several = len({word for text in texts for word in text.split()}) > 1
    able = [len(text.split()) > 1 or (several and bool(text)) for text in texts]
    samples = make_samples([i % 2 for i in range(len(texts))], texts)
    if sum(able) < round(0.5 * len(texts)):
        with pytest.raises(DataError, match=f"and {sum(able)} of its {len(texts)} can change"):
            corrupt_words(samples, 0.5, seed=seed, share=share)
        return
    planted = corrupt_words(samples, 0.5, seed=seed, share=share)
    for row, (before, after) in enumerate(zip(texts, planted.samples.texts, strict=True)):
        assert (before != after) == planted.planted[row]
        assert after.strip() or not before
        assert set(after.split()) <= {word for text in texts for word in text.split()}


def test_second_texts_are_corrupted_by_second_texts():
    pairs = ["one two three four five six"] * 9 + [""]
    planted = corrupt_words(make_samples([0, 1] * 5, pairs=pairs), 0.9, seed=0).samples
    changed = [after for before, after in zip(pairs, planted.text_pairs, strict=True) if before != after]
    assert len(changed) >= 8
    assert set(" ".join(changed).split()) <= set(pairs[0].split())


def test_share_decides_how_many_words():
    texts = [" ".join(f"w{row}x{i}" for i in range(90)) for row in range(4)]
    planted = corrupt_words(make_samples([0, 1] * 2, texts), 0.5, seed=0, share=0.1)
    for row in np.flatnonzero(planted.planted):
        words = planted.samples.texts[row].split()
        assert len(words) == 87  # nine are chosen, three of them dropped
        assert sum(not word.startswith(f"w{row}x") for word in words) in (
            2,
            3,
        )  # a replaced one may be swapped, not lost


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_share_of_words_out_of_range(share):
    with pytest.raises(ConfigError, match="share of words"):
        corrupt_words(make_samples([0, 1]), 0.5, seed=0, share=share)


# Duplicates


@settings(max_examples=30, deadline=None)
@given(LABELS.filter(lambda labels: len(labels) > 3), st.floats(0.2, 0.8), st.integers(0, 9))
def test_near_copies_of_untouched_rows_conflict(labels, rate, seed):
    samples = make_samples(labels)
    planted = conflicting_duplicates(samples, rate, seed=seed)
    untouched = np.flatnonzero(~planted.planted)
    for row in np.flatnonzero(planted.planted):
        words = planted.samples.texts[row].split()
        likeness = [sorted(set(samples.texts[source].split()) - set(words)) for source in untouched]
        copied = [source for source, lost in zip(untouched, likeness, strict=True) if len(lost) <= 1]
        assert planted.original_labels[row] in samples.labels[copied]
        assert planted.samples.texts[row] not in samples.texts
    assert planted.samples.table.features == samples.table.features
    assert planted.samples.table.column_names == samples.table.column_names
    assert planted.samples.table["kind"][:] == planted.original_labels.tolist()


def test_one_word_is_copied_as_it_is_and_the_second_text_is_edited():
    samples = make_samples([0, 1], ["tea", "soup"], ["a hot drink", "a hot meal"])
    planted = conflicting_duplicates(samples, 0.5, seed=0)
    row, source = (0, 1) if planted.planted[0] else (1, 0)
    assert planted.samples.texts[row] == samples.texts[source]
    assert planted.samples.text_pairs[row] != samples.text_pairs[source]
    assert planted.samples.text_pairs[source] == samples.text_pairs[source]
    alone = conflicting_duplicates(make_samples([0, 1], ["tea", "soup"]), 0.5, seed=0)
    assert len(set(alone.samples.texts)) == 1


def test_untouched_rows_are_copied_evenly():
    samples = make_samples([0, 1] * 10, [f"w{i}" for i in range(20)])
    copies = conflicting_duplicates(samples, 0.5, seed=0).samples.texts
    assert sorted(copies.count(text) for text in set(copies)) == [2] * 10


def test_no_row_left_to_copy():
    with pytest.raises(ConfigError, match="leaves none to copy"):
        conflicting_duplicates(make_samples([0, 1]), 0.9, seed=0)


# A column of true labels


@pytest.mark.parametrize("true", [["c0", "c2", "c1"], [0, 2, 1], ["c0", 2, "c1"]])
def test_true_labels_by_name_or_position(true):
    samples = make_samples([0, 1, 2])
    planted = noise_from_column(samples, true)
    assert planted.planted.tolist() == [False, True, True]
    assert planted.original_labels.tolist() == [0, 2, 1]
    assert planted.samples is samples


def test_integers_are_names_where_classes_are_integers():
    planted = noise_from_column(make_samples([0, 1, 0], classes=("1", "2")), [1, 2, 2])
    assert planted.original_labels.tolist() == [0, 1, 1]
    with pytest.raises(DataError, match="'0'"):
        noise_from_column(make_samples([0, 1], classes=("1", "2")), [0, 1])


@pytest.mark.parametrize("true", [["c0", "cat"], [0, 2], [0, -1]])
def test_unknown_true_labels(true):
    with pytest.raises(DataError, match=r"\(1 rows\) are not among the classes 'c0', 'c1'"):
        noise_from_column(make_samples([0, 1]), true)


def test_wrong_number_of_true_labels():
    with pytest.raises(DataError, match="3 true labels came for the 2 rows"):
        noise_from_column(make_samples([0, 1]), [0, 1, 1])


# All kinds by name


def test_every_kind_is_dispatched():
    samples = make_samples([0, 1] * 10)
    assert (*KINDS, "column") == tuple(NOISE_KINDS)
    true = [1, *samples.labels.tolist()[1:]]
    assert plant(samples, "column", None, seed=0, true_labels=true).planted.sum() == 1
    asked = plant(samples, "transition", 0.5, seed=4, transition=np.ones((2, 2)))
    assert np.array_equal(asked.planted, plant_by_class(samples, 0.5, seed=4, transition=np.ones((2, 2))).planted)


@pytest.mark.parametrize(
    ("kind", "rate", "extra", "message"),
    [
        ("gaussian", 0.5, {}, "'gaussian' is not known. Accepted are 'uniform', 'pairs'"),
        ("uniform", None, {}, "takes 'rate' and came with none of them"),
        ("transition", 0.5, {}, "takes 'rate', 'transition' and came with 'rate'"),
        ("doubt", 0.5, {"transition": np.ones((2, 2))}, "takes 'probabilities', 'rate' and came with"),
        ("pairs", 0.5, {"transition": np.ones((2, 2))}, "came with 'rate', 'transition'"),
        ("words", 0.5, {"true_labels": [0, 1]}, "came with 'rate', 'true_labels'"),
        ("column", 0.5, {"true_labels": [0, 1]}, "takes 'true_labels' and came with 'rate'"),
    ],
)
def test_arguments_that_do_not_fit_the_kind(kind, rate, extra, message):
    with pytest.raises(ConfigError, match=message):
        plant(make_samples([0, 1]), kind, rate, seed=0, **extra)
