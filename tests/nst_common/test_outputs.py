import os
from pathlib import Path

import pytest

from nst_common.outputs import OutputExistsError, OutputIsInputError, OutputIsNoFileError, refuse_losses


def test_what_exists_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in "abc")
    refuse_losses([one, two], overwrite=False)
    two.touch()
    with pytest.raises(
        OutputExistsError, match=r"b exists already\. Replace it with --overwrite, or choose another name$"
    ) as caught:
        refuse_losses([one, two], overwrite=False)
    assert caught.value.exit_code == 2
    three.symlink_to("nowhere")
    with pytest.raises(OutputExistsError, match=r"b exists already, as do 1 more\."):
        refuse_losses([one, two, three], overwrite=False)
    refuse_losses([one, two, three], overwrite=True)


def test_no_input_is_ever_written_onto(tmp_path: Path) -> None:
    picture, link = tmp_path / "a.png", tmp_path / "link.png"
    picture.touch()
    link.symlink_to(picture)
    refuse_losses([tmp_path / "b.png"], inputs=[picture, None], overwrite=True)
    for output in (picture, link):
        with pytest.raises(OutputIsInputError, match=r"would be written onto itself\. Choose another name"):
            refuse_losses([output], inputs=[None, picture], overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_or_a_pipe_is_no_place_for_a_file(tmp_path: Path, overwrite: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path, "a folder"), (tmp_path / "pipe", "a device or a pipe")):
        with pytest.raises(OutputIsNoFileError, match=f"is {what}, expected the name of a file"):
            refuse_losses([tmp_path / "a.png", path], overwrite=overwrite)
