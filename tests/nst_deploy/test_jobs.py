from pathlib import Path

import pytest

from nst_deploy.errors import (
    NoPicturesError,
    OutputCollisionError,
    OutputExistsError,
    OutputIsInputError,
    OutputIsOneFileError,
    OutputPatternError,
    UnknownFormatError,
)
from nst_deploy.jobs import find_pictures, pending, plan_jobs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small album in it."""
    for name in (
        "album/b.jpg",
        "album/a.PNG",
        "album/notes.txt",
        "album/.hidden.jpg",
        "album/.thumbs/a.jpg",
        "album/clip.mpg",
        "album/sub/deep/c.webp",
        "one.jpg",
        "odd[1].jpg",
        "scan.psd",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*arguments: str, out: str | None = None) -> list[str]:
    return [source.path.as_posix() for source in find_pictures(arguments, out)]


def targets(*arguments: str, out: str | None = None, style: str = "wave", resume: bool = False) -> list[str]:
    jobs = plan_jobs(find_pictures(arguments, out), out, style, resume=resume)
    return [job.target.as_posix() for job in jobs]


# --- what goes in ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_files_are_taken_as_given() -> None:
    assert found("one.jpg", "missing.jpg", "album/notes.txt") == ["one.jpg", "missing.jpg", "album/notes.txt"]


@pytest.mark.usefixtures("folder")
def test_folders_yield_pictures_at_any_depth_in_order() -> None:
    assert found("album") == ["album/a.PNG", "album/b.jpg", "album/sub/deep/c.webp"]


@pytest.mark.usefixtures("folder")
def test_quoted_globs() -> None:
    assert found("album/*") == ["album/a.PNG", "album/b.jpg"]
    assert found("album/**/*.webp") == ["album/sub/deep/c.webp"]
    assert found("a*/?.jpg") == ["album/b.jpg"]
    assert found("odd[1].jpg") == ["odd[1].jpg"]  # a file of that name comes first


@pytest.mark.usefixtures("folder")
def test_each_picture_once() -> None:
    assert found("one.jpg", "./one.jpg", "album/b.jpg", "album", "album/../one.jpg") == [
        "one.jpg",
        "album/b.jpg",
        "album/a.PNG",
        "album/sub/deep/c.webp",
    ]


def test_folders_and_globs_without_pictures(folder: Path) -> None:
    (folder / "empty").mkdir()
    for argument in ("empty", "*.gif", "no/*", "album/*.txt"):
        with pytest.raises(NoPicturesError) as caught:
            found(argument)
        assert argument in str(caught.value)


def test_outputs_inside_the_input_folder_are_passed_over(folder: Path) -> None:
    (folder / "album/styled").mkdir()
    (folder / "album/styled/b.other.jpg").touch()
    assert (
        found("album", out="album/styled/")
        == found("album", out="album/styled")
        == [*found("album")[:2], "album/sub/deep/c.webp"]
    )
    assert "album/styled/b.other.jpg" in found("album")


# --- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_the_default_is_beside_us_with_the_styles_name() -> None:
    assert targets("one.jpg") == ["one.wave.jpg"]
    assert targets("album") == ["a.wave.PNG", "b.wave.jpg", "sub/deep/c.wave.webp"]


@pytest.mark.parametrize("name", ["scan.psd", "moving.gif", "no_suffix", "grey.pgm"])
def test_what_cannot_be_written_in_full_color_becomes_png(name: str) -> None:
    assert targets(name) == [f"{Path(name).stem}.wave.png"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("out", ["out", "out/", "album/../out"])
def test_a_folder(out: str) -> None:
    jobs = plan_jobs(find_pictures(["album"], out), out, "wave")
    assert [job.target for job in jobs] == [
        Path(out) / name for name in ("a.wave.PNG", "b.wave.jpg", "sub/deep/c.wave.webp")
    ]


def test_an_existing_folder_whatever_its_name(folder: Path) -> None:
    (folder / "out.jpg").mkdir()
    assert targets("one.jpg", out="out.jpg") == ["out.jpg/one.wave.jpg"]


@pytest.mark.usefixtures("folder")
def test_a_file_for_one_picture() -> None:
    assert targets("one.jpg", out="x/y.webp") == ["x/y.webp"]
    with pytest.raises(OutputIsOneFileError, match="3 pictures"):
        targets("album", out="x.jpg")


@pytest.mark.usefixtures("folder")
def test_patterns() -> None:
    assert targets("one.jpg", out="{style}/{stem}.{ext}") == ["wave/one.jpg"]
    assert targets("album", out="o/{stem}-{style}.webp") == ["o/a-wave.webp", "o/b-wave.webp", "o/sub/deep/c-wave.webp"]
    assert targets("album/**/*.webp", out="{stem}.png") == ["sub/deep/c.png"]
    assert targets("one.jpg", out="{style}/") == ["wave/one.wave.jpg"]


@pytest.mark.parametrize(
    "out", ["{name}.jpg", "{}.jpg", "{stem.__class__}.jpg", "{stem.jpg", "{0}.jpg", "{stem!r}.jpg"]
)
def test_patterns_with_unknown_fields(out: str) -> None:
    with pytest.raises(OutputPatternError, match=r"\{stem\} \{style\} \{ext\}"):
        targets("one.jpg", out=out)


def test_a_file_name_with_braces_is_not_a_pattern() -> None:
    assert targets("{stem}{x}.jpg") == ["{stem}{x}.wave.jpg"]


def test_a_styles_name_stays_a_name() -> None:
    assert targets("one.jpg", style="../../a b") == ["one..._.._a_b.jpg"]


@pytest.mark.parametrize("out", ["x.docx", "x.1", "{stem}.heic"])
def test_a_suffix_that_cannot_be_written(out: str) -> None:
    with pytest.raises(UnknownFormatError, match=r"a folder ends with /"):
        targets("one.jpg", out=out)


@pytest.mark.usefixtures("folder")
def test_two_pictures_never_share_an_output() -> None:
    with pytest.raises(OutputCollisionError) as caught:
        targets("one.jpg", "x/one.png", out="{stem}.webp")
    for path in ("one.jpg", "x/one.png", "one.webp"):
        assert path in str(caught.value)
    with pytest.raises(OutputCollisionError):
        targets("one.jpg", "x/one.jpg")


def test_no_picture_is_written_onto_itself_or_another(folder: Path) -> None:
    (folder / "b.jpg").touch()
    with pytest.raises(OutputIsInputError, match="onto itself"):
        targets("one.jpg", out="one.jpg")
    with pytest.raises(OutputIsInputError):
        targets("one.jpg", out=str(folder / "album/../one.jpg"))
    with pytest.raises(OutputIsInputError, match="another input"):
        targets("one.jpg", "one.wave.jpg")
    (folder / "link.jpg").symlink_to("one.jpg")
    with pytest.raises(OutputIsInputError):
        targets("one.jpg", out="link.jpg")


def test_results_of_an_earlier_run_are_not_styled_again(folder: Path) -> None:
    (folder / "one.wave.jpg").touch()
    assert targets("*.jpg") == ["odd[1].wave.jpg", "one.wave.jpg"]
    assert targets("one.jpg", "one.wave.jpg", resume=True) == ["one.wave.jpg"]


# --- what is there already -------------------------------------------------------------------------------------------


def test_existing_outputs(folder: Path) -> None:
    (folder / "b.wave.jpg").touch()
    jobs = plan_jobs(find_pictures(["album"]), None, "wave")
    with pytest.raises(OutputExistsError, match=r"b\.wave\.jpg exists already\. .*--overwrite.*--skip-existing"):
        pending(jobs, overwrite=False, skip_existing=False)
    assert pending(jobs, overwrite=True, skip_existing=False) == jobs
    assert [job.target.name for job in pending(jobs, overwrite=False, skip_existing=True)] == [
        "a.wave.PNG",
        "c.wave.webp",
    ]
    (folder / "a.wave.PNG").touch()
    with pytest.raises(OutputExistsError, match="as do 1 more of 3"):
        pending(jobs, overwrite=False, skip_existing=False)
