import numpy as np
import pandas as pd
import pytest

from undertow.errors import RunFolderError
from undertow.study.frames import Frames, family, read_frames, scores_of

from .small_study import GROUPS, study, tables


def write(folder, **changed):
    for name, frame in {**tables(retrained=True), **changed}.items():
        if frame is not None:
            frame.to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def test_reads_what_was_written(tmp_path):
    read = read_frames(write(tmp_path))
    assert read.cut == 0.3
    assert read.models == ["small"]
    assert len(read.results) == len(tables(retrained=True)["results"])
    assert list(read.influence["how"].unique()) == ["mean", "vote k=0.3"]


def test_layers_may_be_missing_and_so_may_cancellation(tmp_path):
    layers = tables(retrained=True)["layers"].drop(columns="cancellation")
    read = read_frames(write(tmp_path, layers=layers, agreement=None))
    assert read.agreement.empty
    assert read.layers["cancellation"].isna().all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"results": None}, "holds no results.parquet"),
        ({"costs": None}, "holds no costs.parquet"),
        ({"results": pd.DataFrame({"model": ["a"]})}, "has no column task, noise"),
        ({"results": tables(retrained=True)["results"].head(0)}, "has no rows"),
        ({"results": tables(retrained=True)["results"].assign(ndr30="high")}, "else than numbers: could not convert"),
    ],
)
def test_half_a_study_is_refused(tmp_path, changed, said):
    with pytest.raises(RunFolderError, match=said):
        read_frames(write(tmp_path, **changed))


def test_a_torn_file_is_refused(tmp_path):
    write(tmp_path)
    whole = (tmp_path / "results.parquet").read_bytes()
    (tmp_path / "results.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_frames(tmp_path)
    with pytest.raises(RunFolderError, match="is no folder"):
        read_frames(tmp_path / "none")


def test_accuracy_comes_before_noise_found_as_an_outcome():
    assert [name for _, name in study(retrained=True).outcomes("small")] == ["accuracy", "ndr30"]
    ((rows, outcome),) = study(retrained=False).outcomes("small")
    assert (outcome, len(rows)) == ("ndr30", 4 * 3 * 2)
    assert study(retrained=False).cut is None


def test_the_cut_is_the_one_retrained_most_then_the_nearest_to_the_papers():
    frames = tables(retrained=True)
    influence = frames["results"][frames["results"]["kind"] == "influence"]
    other = influence.assign(cut=0.1, accuracy=0.0)
    both = Frames.of(**{**frames, "results": pd.concat([frames["results"], other])})
    assert both.cut == 0.3
    assert len(both.retrained) == len(influence)
    assert len(both.influence) == len(influence)
    more = pd.concat([frames["results"].drop(influence.index[:1]), other])
    assert Frames.of(**{**frames, "results": more}).cut == 0.1


def test_scores_lose_the_block_or_configuration_that_lacks_most():
    rows = study().influence
    rows = rows[rows["how"] == "mean"]
    whole = scores_of(rows, "accuracy", "layers")
    assert (whole.blocks_left, whole.configurations_left) == (0, 0)
    assert list(whole.scores.columns) == list(GROUPS)
    lost = rows[~((rows["seed"] == 3) & (rows["layers"] == "head"))]
    found = scores_of(lost, "accuracy", "layers")  # 1 of 3 cells of the block, 1 of 4 of the configuration
    assert (found.blocks_left, found.configurations_left) == (1, 0)
    lost = rows[~((rows["seed"] >= 1) & (rows["layers"] == "head"))]
    found = scores_of(lost, "accuracy", "layers")  # 3 of 4 of the configuration
    assert (found.blocks_left, found.configurations_left) == (0, 1)


def test_estimators_of_words_stand_among_the_groups_of_their_family():
    rows = pd.DataFrame({"estimator": ["tracin", "tracin-we", "tracin-we-k"], "layers": ["att1", "embedding", "x"]})
    found = family(rows)
    assert list(found["family"]) == ["tracin"] * 3
    assert list(found["group"]) == ["att1", "tracin-we", "tracin-we-k x"]


def test_how_names_say_k_and_the_queries():
    frames = tables(retrained=False)
    results = (
        frames["results"]
        .head(3)
        .assign(aggregation=["mean", "vote", "rank"], k=[np.nan, 0.2, np.nan], only=["correct", "all", ""])
    )
    assert list(Frames.of(**{**frames, "results": results}).results["how"]) == ["mean, correct", "vote k=0.2", "rank"]
