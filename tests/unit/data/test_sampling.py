import pandas as pd
import pytest

from undertow.data import load_samples
from undertow.data.sampling import ROW, draw_sample, sampled_rows
from undertow.errors import ConfigError

PAIRS = pd.DataFrame(
    {
        "sentence1": ["the same"] * 40,
        "sentence2": [f"answer {i}" for i in range(40)],
        "label": ["yes", "no"] * 20,
    }
)


def labelled(train, rows=10, shift=0):
    sample = draw_sample(train, rows, seed=0).to_pandas()
    sample["label"] = "yes"
    sample[ROW] = (sample[ROW] + shift) % len(train)
    return sample


def test_a_sample_has_no_labels_and_is_found_again():
    train = load_samples(PAIRS)
    sample = draw_sample(train, 10, seed=0)
    assert set(sample["label"]) == {None}
    assert len(set(sample[ROW])) == 10
    found = sampled_rows(train, load_samples(labelled(train), classes=train.classes))
    assert found.tolist() == list(sample[ROW])


def test_a_row_of_another_second_text_is_not_the_training_row():
    train = load_samples(PAIRS)
    assert sampled_rows(train, load_samples(labelled(train, shift=1), classes=train.classes)) is None


@pytest.mark.parametrize("rows", [0, 41])
def test_samples_out_of_range_are_refused(rows):
    with pytest.raises(ConfigError, match=f"--rows {rows} is not accepted"):
        draw_sample(load_samples(PAIRS), rows, seed=0)
