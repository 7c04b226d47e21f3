"""Photographs, crops and the loader."""

import contextlib
import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nst_train.data import UNREADABLE, CropLoader, CropPlan, PictureStore, decode, find_pictures, load_style
from nst_train.errors import ContentEmptyError, ContentNotFoundError, StyleUnreadableError

PLAN = CropPlan(seed=5, batch=6, crop=16, max_scale=1.5, flip=True)


def store_of(folder: Path, budget: int = 1 << 30) -> PictureStore:
    return PictureStore(find_pictures([folder]), short_side=1000, budget=budget)


def coordinates(height: int, width: int) -> torch.Tensor:
    """A picture whose red is its row and whose green is its column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)


def test_finds_pictures_in_sub_folders_and_nothing_else(pictures: Path) -> None:
    (pictures / "content" / "notes.txt").write_text("no picture")
    found = find_pictures([pictures / "content"])
    assert sorted(path.name for path in found) == [f"photo_{number}.png" for number in range(7)]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContentNotFoundError, match="nowhere"):
        find_pictures([tmp_path, tmp_path / "nowhere"])


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContentEmptyError, match="no picture file"):
        find_pictures([tmp_path])


def test_unreadable_files_are_skipped_and_named(pictures: Path) -> None:
    content = pictures / "content"
    (content / "text.jpg").write_text("not a picture")
    whole = (content / "photo_5.png").read_bytes()
    (content / "photo_5.png").write_bytes(whole[: len(whole) // 2])  # its header is fine
    store = store_of(content)
    assert [path.name for path in store.skipped] == ["text.jpg"]
    shapes = [tuple(store[number].shape) for number in range(len(store))]
    assert sorted(path.name for path in store.skipped) == ["photo_5.png", "text.jpg"]
    damaged = [path.name for path in store.paths].index("photo_5.png")
    assert shapes[damaged] == shapes[(damaged + 1) % len(shapes)]  # the next one stands in


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_nothing_readable_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ContentEmptyError, match="none of 1 picture files is readable"):
        store_of(tmp_path)


def test_all_damaged_behind_their_headers_is_an_error(pictures: Path) -> None:
    for path in find_pictures([pictures / "content"]):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ContentEmptyError):
        store_of(pictures / "content")[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_damaged_files_never_raise_anything_unforeseen(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **({} if kind == "GIF" else {"exif": exif}))
    chance = random.Random(1)
    for _ in range(80):
        damaged = bytearray(buffer.getvalue())
        for _ in range(chance.choice((1, 5, 20))):
            damaged[chance.randrange(min(len(damaged), 200))] = chance.randrange(256)
        (tmp_path / "x").write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(UNREADABLE):
                assert decode(tmp_path / "x", 16).dtype == torch.uint8


def test_decodes_upright_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    pixels = np.zeros((10, 20), dtype=np.uint8)
    pixels[0, :] = 200  # the top row is the right column once upright
    Image.fromarray(pixels).save(tmp_path / "grey.png", exif=exif)
    picture = decode(tmp_path / "grey.png")
    assert picture.shape == (3, 20, 10)
    assert (picture[:, :, -1] == 200).all()
    assert (picture[:, :, :-1] == 0).all()


@pytest.mark.parametrize(("size", "expected"), [((300, 100), (150, 50)), ((40, 90), (40, 90)), ((50, 800), (50, 800))])
def test_shrinks_to_the_shorter_side(size: tuple[int, int], expected: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "a.jpg", quality=95)
    picture = decode(tmp_path / "a.jpg", short_side=50)
    assert picture.shape[1:] == expected[::-1]
    assert (picture.float().mean((1, 2)) - torch.tensor([10.0, 200.0, 30.0])).abs().max() < 3


def test_the_cache_keeps_to_its_budget(pictures: Path) -> None:
    largest = max(store_of(pictures / "content")[number].nbytes for number in range(7))
    store = store_of(pictures / "content", budget=2 * largest)
    first = [store[number] for number in range(7)]
    again = [store[number] for number in range(7)]
    kept = {number for number in range(7) if first[number].data_ptr() == again[number].data_ptr()}
    assert 2 <= len(kept) < 7
    assert sum(first[number].nbytes for number in kept) <= 2 * largest
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


# --- crops -----------------------------------------------------------------------------------------------------------


def test_a_crop_without_scaling_is_a_piece_of_the_picture() -> None:
    picture = coordinates(60, 40)
    plan = CropPlan(seed=0, batch=1, crop=16)
    corners = set()
    for step in range(600):
        crop = plan.cut(picture, step, 0)
        top, left = int(crop[0, 0, 0]), int(crop[1, 0, 0])
        assert torch.equal(crop, picture[:, top : top + 16, left : left + 16])
        corners.add((top, left))
    assert {top for top, _ in corners} >= {0, 44}  # the edges are reached
    assert {left for _, left in corners} >= {0, 24}
    assert len(corners) > 150


def test_scales_lie_between_one_and_the_largest() -> None:
    plan = CropPlan(seed=0, batch=1, crop=16, max_scale=1.5)
    picture = coordinates(120, 120)
    extents = []
    for step in range(200):
        crop = plan.cut(picture, step, 0).float()
        assert crop.shape == (3, 16, 16)
        extents.append(float(crop[0, -1, 8] - crop[0, 0, 8]) * 16 / 15)  # rows of the photograph in the crop
    assert min(extents) == pytest.approx(16, abs=1.2)
    assert max(extents) == pytest.approx(24, abs=1.2)
    assert 19 < sum(extents) / len(extents) < 21


def test_half_of_the_crops_are_mirrored() -> None:
    plan = CropPlan(seed=0, batch=1, crop=16, flip=True)
    picture = coordinates(60, 60)
    crops = [plan.cut(picture, step, 0) for step in range(300)]
    mirrored = [bool(crop[1, 0, 0] > crop[1, 0, -1]) for crop in crops]
    assert 120 < sum(mirrored) < 180
    assert all(crop[0, 0, 0] < crop[0, -1, 0] for crop in crops)  # never upside down


def test_a_small_photograph_is_enlarged() -> None:
    crop = CropPlan(seed=0, batch=1, crop=64, max_scale=1.5).cut(coordinates(20, 90), 0, 0)
    assert crop.shape == (3, 64, 64)
    assert int(crop[0].max()) - int(crop[0].min()) >= 18  # all of its 20 rows are there


def test_every_photograph_once_per_epoch_and_in_a_new_order() -> None:
    plan = CropPlan(seed=1, batch=4, crop=16)
    drawn = [plan.picture(step, index, 10) for step in range(10) for index in range(4)]
    epochs = [drawn[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize(("first", "workers", "budget"), [(0, 0, 0), (0, 2, 1 << 30), (3, 2, 1 << 30), (3, 3, 0)])
def test_crops_depend_on_the_step_alone(first: int, workers: int, budget: int, pictures: Path) -> None:
    expected = CropLoader(store_of(pictures / "content"), PLAN)
    loader = CropLoader(store_of(pictures / "content", budget), PLAN, workers=workers)
    batches = list(loader.batches(first, 9))
    assert len(batches) == 9 - first
    for step, batch in enumerate(batches, start=first):
        assert batch.dtype == torch.uint8
        assert torch.equal(batch, expected.batch(step))
    assert not torch.equal(batches[0], batches[1])


def test_ranks_share_a_batch_without_overlap(pictures: Path) -> None:
    store = store_of(pictures / "content")
    whole = CropLoader(store, PLAN).batch(4)
    shares = [CropLoader(store, PLAN, rank=rank, world=3).batch(4) for rank in range(3)]
    assert torch.equal(torch.cat(shares), whole)


def test_another_seed_gives_other_crops(pictures: Path) -> None:
    store = store_of(pictures / "content")
    other = CropPlan(seed=6, batch=6, crop=16, max_scale=1.5, flip=True)
    assert not torch.equal(CropLoader(store, PLAN).batch(0), CropLoader(store, other).batch(0))


# --- style -----------------------------------------------------------------------------------------------------------


def test_the_style_comes_at_each_size(pictures: Path) -> None:
    small, large = load_style(pictures / "style.png", (30, 90))  # the file is 60 px wide and 45 px high
    assert small.shape == (1, 3, 22, 30)
    assert large.shape == (1, 3, 68, 90)
    assert small.dtype == torch.float32
    assert small.max() > 100


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_an_unreadable_style_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "style.jpg").write_bytes(content)
    with pytest.raises(StyleUnreadableError, match=r"style\.jpg"):
        load_style(tmp_path / "style.jpg", (64,))
