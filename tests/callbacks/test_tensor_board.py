"""What TensorBoard reads of a fit; with the package where it is installed."""

import sys
from pathlib import Path
from typing import Any

import pytest

from clvq_lens.callbacks import TensorBoard
from clvq_lens.errors import MissingDependencyError, PathError
from clvq_lens.training.callback import FitEnd
from tests.callbacks.short_fits import DATA, FIT, a_record, a_start, killed_fit, new_lens


@pytest.fixture
def tensorboard() -> None:
    pytest.importorskip("tensorboard", reason="needs: pip install tensorboard")


def read(folder: Path) -> Any:
    """What TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def steps(folder: Path, tag: str = "1-2/fvu") -> list[int]:
    return [event.step for event in read(folder).Scalars(tag)]


@pytest.mark.usefixtures("tensorboard")
def test_every_field_of_a_record_is_a_curve_over_steps(tmp_path: Path):
    history = new_lens().fit(DATA, callbacks=[TensorBoard(tmp_path / "a" / "b")], **FIT)
    frame = history.frame().set_index("step").dropna(axis=1)
    shown = read(tmp_path / "a" / "b")
    assert set(shown.Tags()["scalars"]) == {f"1-2/{column}" for column in frame.columns}
    for column in frame.columns:
        events = shown.Scalars(f"1-2/{column}")
        assert [event.step for event in events] == frame.index.tolist()
        assert [event.value for event in events] == pytest.approx(frame[column].tolist())


@pytest.mark.usefixtures("tensorboard")
def test_options_and_end_are_texts(tmp_path: Path):
    board = TensorBoard(tmp_path)
    board.on_begin(a_start())
    board.on_end(FitEnd(stop="early", best_step=4))
    texts = {}
    for tag in ("1-2/fit", "1-2/end"):
        event = read(tmp_path).Tensors(f"{tag}/text_summary")[0]
        texts[tag] = event.tensor_proto.string_val[0].decode()
    assert '"n_codes": 12' in texts["1-2/fit"]
    assert all(line.startswith("    ") for line in texts["1-2/fit"].splitlines())
    assert texts["1-2/end"] == "early; weights of step 4"


@pytest.mark.usefixtures("tensorboard")
def test_records_beyond_the_checkpoint_are_replaced(tmp_path: Path):
    before, after = TensorBoard(tmp_path), TensorBoard(tmp_path)
    before.on_begin(a_start())
    for step in (2, 4, 6):
        before.on_record(a_record(step))
    after.on_begin(a_start(resumed_from=3))
    for step in (4, 6, 8):
        after.on_record(a_record(step))
    for board in (before, after):
        board.on_end(FitEnd(stop="finished", best_step=2))
    assert steps(tmp_path) == [2, 4, 6, 8]


@pytest.mark.usefixtures("tensorboard")
@pytest.mark.parametrize("after_steps", [2, 9, 20])
def test_a_resumed_fit_shows_no_record_twice(tmp_path: Path, after_steps: int):
    folder, checkpoints = tmp_path / "board", tmp_path / "checkpoints"
    killed_fit(new_lens(), checkpoints, after_steps, [TensorBoard(folder)])
    options: dict[str, Any] = {"checkpoint": checkpoints, "resume": True, **FIT}
    history = new_lens().fit(DATA, callbacks=[TensorBoard(folder)], **options)
    assert steps(folder) == [record.step for record in history.records]


@pytest.mark.usefixtures("tensorboard")
def test_a_folder_that_cannot_be_written_is_refused_before_the_fit(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PathError, match="exists and is not a folder"):
        TensorBoard(tmp_path / "file")


def test_without_the_package_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tensorboard>=2\.15'"):
        TensorBoard(tmp_path / "board")
    assert not (tmp_path / "board").exists()
