"""Images of every kind that users have, and files that are none."""

import logging
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from outmask.data.images import MAX_PIXELS, find_images, read_image, read_values
from outmask.errors import OutmaskError

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
BOMB = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
"""A bitmap's header that claims 30000 x 30000 pixels."""


def smooth(height: int = 37, width: int = 53) -> np.ndarray:
    """A picture that JPEG keeps to within a few grey levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def is_one_line(error: pytest.ExceptionInfo[OutmaskError], naming: object) -> bool:
    message = str(error.value)
    return "\n" not in message and str(naming) in message


def test_png_is_read_exactly_from_path_string_and_pil(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    for source in (path, str(path), Image.open(path), PICTURE):
        read = read_image(source)
        np.testing.assert_array_equal(read, PICTURE)
        assert read.dtype == np.uint8
        assert read.flags.writeable
        assert read.flags.c_contiguous


def test_array_is_copied() -> None:
    assert not np.shares_memory(read_image(PICTURE), PICTURE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "RGBa"])
def test_every_8_bit_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(smooth())
    through = {"PA": "P", "RGBa": "RGBA"}.get(mode, "RGB")
    read = read_image(image.convert(through).convert(mode))
    assert read.shape == (37, 53, 3)
    if mode in {"RGBA", "RGBX", "RGBa"}:
        np.testing.assert_array_equal(read, smooth())


def test_grey_file_has_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(PICTURE[..., 0]).save(tmp_path / "grey.png")
    read = read_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(read, np.repeat(PICTURE[..., :1], 3, axis=2))


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    difference = read_image(tmp_path / "cmyk.jpg").astype(int) - smooth()
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_to_8(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"deep{suffix}"), deep)
    read = read_image(tmp_path / f"deep{suffix}")
    np.testing.assert_array_equal(read[0, :, 0], np.round(deep[0] / 257))
    assert (read == read[..., :1]).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_is_scaled_to_8(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"deep{suffix}"), PICTURE[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / f"deep{suffix}"), PICTURE)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    rgba[:10, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "cut.png")
    read = read_image(tmp_path / "cut.png")
    assert (read[:10] == 255).all()
    np.testing.assert_array_equal(read[10:], PICTURE[10:])


def test_transparent_palette_entry_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "p.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), [[[255] * 3, [40, 50, 60]]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(smooth())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    expected = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: np.rot90,
    }[orientation](smooth())
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_tiny_and_thin_images_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "t.png")
    read = read_image(tmp_path / "t.png")
    assert read.shape == (size[1], size[0], 3)
    assert (read == (1, 2, 3)).all()


def test_12000x9000_is_read_without_a_warning(tmp_path: Path) -> None:
    Image.new("1", (12000, 9000), 1).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_image(tmp_path / "large.png")
    assert read.shape == (9000, 12000, 3)
    assert read[::999, ::999].min() == 255


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    """Refused before any pixel is decoded."""
    path = tmp_path / "bomb.bmp"
    path.write_bytes(BOMB)
    with pytest.raises(OutmaskError, match=f"{MAX_PIXELS:,}") as error:
        read_image(path)
    assert is_one_line(error, path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_of_an_animation_the_first_picture_is_used_and_said_so(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    path = tmp_path / f"moving{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with caplog.at_level(logging.WARNING, "outmask"):
        read = read_image(path)
    assert (read == (255, 0, 0)).all()
    assert [record.getMessage() for record in caplog.records] == [f"{path} holds 3 pictures: only the first is used"]


def test_the_suffix_may_lie(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "really_png.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "really_png.jpg"), PICTURE)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_truncated_jpeg_is_refused(tmp_path: Path, options: dict[str, bool], kept: float) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(PICTURE).save(path, quality=95, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(OutmaskError) as error:
        read_image(path)
    assert is_one_line(error, path)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".bmp", ".gif"])
def test_other_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(PICTURE).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OutmaskError) as error:
        read_image(path)
    assert is_one_line(error, path)


def test_truncated_pil_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(PICTURE).save(path)
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(OutmaskError, match="the PIL image"):
        read_image(Image.open(path))


@pytest.mark.parametrize("content", [b"", b"just some text\n", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_files_that_are_no_images_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(OutmaskError) as error:
        read_image(path)
    assert is_one_line(error, path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="no such file") as error:
        read_image(tmp_path / "none.jpg")
    assert is_one_line(error, tmp_path / "none.jpg")
    with pytest.raises(OutmaskError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "array",
    [PICTURE[..., 0], PICTURE.astype(np.float32), PICTURE.transpose(2, 0, 1), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(OutmaskError, match=r"\(H, W, 3\) uint8"):
        read_image(array)


def test_other_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="got int"):
        read_image(3)  # type: ignore[arg-type]
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(OutmaskError, match="floating-point"):
        read_image(tmp_path / "f.tif")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(OutmaskError, match="32-bit"):
        read_image(tmp_path / "i.tif")


@pytest.mark.parametrize(
    "values",
    [
        np.array([[False, True], [True, False]]),
        np.array([[0, 7], [255, 1]], np.uint8),
        np.array([[0, 300], [65535, 1]], np.uint16),
        PICTURE[:2, :2],
    ],
    ids=["1 bit", "8 bits", "16 bits", "colours"],
)
def test_stored_values_are_read_as_they_are(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "ids.png")
    read = read_values(tmp_path / "ids.png", "labels")
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


def test_of_a_palette_the_indices_are_read(tmp_path: Path) -> None:
    ids = np.array([[0, 2, 1]], np.uint8)
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([200, 10, 30, 0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_values(tmp_path / "ids.png", "labels"), ids)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text.png", "is not an image that can be read; expected JPEG, PNG"),
        ("cut.png", "cannot be decoded whole"),
        ("bomb.bmp", f"has more than {MAX_PIXELS:,} pixels"),
        ("missing.png", "no such file"),
        ("folder", "is a folder, expected an image file"),
    ],
)
def test_values_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(PICTURE).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    (tmp_path / "bomb.bmp").write_bytes(BOMB)
    with pytest.raises(OutmaskError, match=f"^can't read the mask: .*{said}") as error:
        read_values(tmp_path / name, "the mask")
    assert is_one_line(error, tmp_path / name)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "a/f10.jpg",
        "a/f2.JPG",
        "a/sub/f1.png",
        "a/notes.txt",
        "a/.hidden.jpg",
        "b/f2.jpg",
        "empty/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def relatives(inputs: list[str | Path]) -> list[str]:
    found = find_images(inputs)
    assert all(path.is_file() for path, _ in found)
    return [relative.as_posix() for _, relative in found]


def test_a_folder_is_searched_through_in_natural_order(tree: Path) -> None:
    assert relatives([tree / "a"]) == ["f2.JPG", "f10.jpg", "sub/f1.png"]


def test_equal_names_of_two_inputs_stay_apart(tree: Path) -> None:
    assert relatives([tree / "a", tree / "b"]) == ["a/f2.JPG", "a/f10.jpg", "a/sub/f1.png", "b/f2.jpg"]
    assert relatives([tree / "b/f2.jpg", tree / "a/f2.JPG"]) == ["b/f2.jpg", "a/f2.JPG"]


def test_files_of_one_folder_are_flat_and_keep_their_order(tree: Path) -> None:
    assert relatives([tree / "a/f10.jpg", tree / "a/f2.JPG"]) == ["f10.jpg", "f2.JPG"]


def test_globs_are_expanded(tree: Path) -> None:
    assert relatives([f"{tree}/*/f2.*"]) == ["a/f2.JPG", "b/f2.jpg"]
    assert relatives([f"{tree}/a/**/f*"]) == ["f2.JPG", "f10.jpg", "sub/f1.png"]
    assert relatives([f"{tree}/[ab]"]) == ["a/f2.JPG", "a/f10.jpg", "a/sub/f1.png", "b/f2.jpg"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tree: Path) -> None:
    (tree / "a/f[2].jpg").touch()
    assert relatives([tree / "a/f[2].jpg"]) == ["f[2].jpg"]


def test_a_file_named_twice_comes_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert relatives(["a", "a/../a/f2.JPG", str(tree / "a")]) == ["f2.JPG", "f10.jpg", "sub/f1.png"]


def test_a_circle_of_links_ends(tree: Path) -> None:
    (tree / "a/sub/again").symlink_to(tree / "a")
    (tree / "a/linked").symlink_to(tree / "b")
    assert relatives([tree / "a"]) == ["f2.JPG", "f10.jpg", "linked/f2.jpg", "sub/f1.png"]


@pytest.mark.parametrize("given", ["none.jpg", "empty", "*.png", "a/*.bmp"])
def test_inputs_that_give_nothing_are_refused_or_reported(tree: Path, given: str) -> None:
    with pytest.raises(OutmaskError) as error:
        find_images([tree / given])
    assert is_one_line(error, tree / given)
    reported: list[str] = []
    found = find_images([tree / given, tree / "b"], on_error=lambda name, _: reported.append(name))
    assert [relative.as_posix() for _, relative in found] == ["f2.jpg"]
    assert reported == [str(tree / given)]
