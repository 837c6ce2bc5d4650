"""Images to arrays: the numbers of the public sample, and those of Hugging Face image processors."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mme.errors import BadRequest, ModelLoadError
from mme.frameworks.base import TensorSpec
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.frameworks.mxnet.model import MXNetImageCodec
from mme.handler.images import ImageLayout, ImageReader
from mme.settings import Settings

COLOUR = TensorSpec("data", (1, 3, 24, 32))
SHARED_IMAGES = Path(__file__).parents[2].parent / "shared" / "images"


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """An image with smooth and sharp parts."""
    dice = np.random.RandomState(seed)
    coarse = dice.randint(0, 255, (5, 7, channels), dtype=np.uint8).squeeze()
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).copy()
    image[: height // 3] = dice.randint(0, 255, image[: height // 3].shape)
    return image


def encoded(image: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def reader(
    folder: Path, spec: TensorSpec = COLOUR, config: dict | None = None, *, mxnet: bool = True, megapixels: int = 50
) -> ImageReader:
    if config is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
    codec = MXNetImageCodec(import_mxnet(Settings())) if mxnet else None
    made = ImageReader.for_model(folder, spec, codec, megapixels)
    assert made is not None
    return made


# ---- as the public sample ----


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("size", [(24, 32), (480, 640), (37, 501), (5, 5), (48, 64)])
def test_an_image_becomes_the_numbers_of_the_public_sample(tmp_path: Path, form: str, size: tuple[int, int]) -> None:
    mx = import_mxnet(Settings())
    body = encoded(pixels(*size), form)
    # what the sample's handler does with a request
    image = mx.image.imresize(mx.image.imdecode(body), 32, 24).transpose((2, 0, 1)).expand_dims(0)
    array = reader(tmp_path).read(body)
    assert array.dtype == np.float32 and array.flags.c_contiguous
    np.testing.assert_array_equal(array, image.asnumpy().astype(np.float32))


@pytest.fixture
def decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], bool]:
    """Whether Pillow decodes a JPEG in the place of MXNet; in any case both give the same numbers."""
    ours, mxnets = reader(tmp_path), reader(tmp_path)
    decoded: list[bool] = []

    def pixels_of_jpeg(opened: Image.Image) -> np.ndarray | None:
        found = ImageReader._pixels_of_jpeg(ours, opened)
        decoded.append(found is not None)
        return found

    monkeypatch.setattr(ours, "_pixels_of_jpeg", pixels_of_jpeg)
    monkeypatch.setattr(mxnets, "_pixels_of_jpeg", lambda _: None)

    def compared(body: bytes) -> bool:
        np.testing.assert_array_equal(ours.read(body), mxnets.read(body))
        return decoded[-1]

    return compared


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"keep_rgb": True}])
@pytest.mark.parametrize("quality", [10, 75, 95])
def test_pillow_decodes_a_usual_jpeg_to_the_pixels_of_mxnet(
    decodes: Callable[[bytes], bool], quality: int, options: dict[str, Any]
) -> None:
    for size in ((480, 640), (37, 501), (1, 1), (9, 7)):
        assert decodes(encoded(pixels(*size), "JPEG", quality=quality, **options))


def test_other_jpegs_are_decoded_by_mxnet(decodes: Callable[[bytes], bool]) -> None:
    assert not decodes(encoded(pixels(48, 64), "JPEG", progressive=True))
    assert not decodes(encoded(pixels(48, 64, 1), "JPEG"))
    wide = encoded(pixels(16, 16), "JPEG", subsampling=1)
    tall = wide.replace(b"\x01\x21\x00", b"\x01\x12\x00", 1)  # 4:4:0: as many blocks, in another order
    assert tall != wide
    assert not decodes(tall)


def test_photographs_become_the_numbers_of_the_public_sample(tmp_path: Path) -> None:
    if not SHARED_IMAGES.is_dir():
        pytest.skip("needs ../shared/images")
    mx = import_mxnet(Settings())
    made = reader(tmp_path, TensorSpec("data", (1, 3, 224, 224)))
    for path in sorted(SHARED_IMAGES.glob("*.jpg")):
        expected = mx.image.imresize(mx.image.imread(str(path)), 224, 224).transpose((2, 0, 1)).asnumpy()
        np.testing.assert_array_equal(made.read(path.read_bytes())[0], expected)


def test_a_grey_model_gets_a_grey_image(tmp_path: Path) -> None:
    grey = TensorSpec("data", (1, 1, 24, 32))
    image = pixels(24, 32, 1)
    np.testing.assert_array_equal(reader(tmp_path, grey).read(encoded(image))[0, 0], image)
    colour = reader(tmp_path, grey).read(encoded(pixels(24, 32)))
    expected = np.asarray(Image.fromarray(pixels(24, 32)).convert("L"), np.float32)
    assert np.abs(colour[0, 0] - expected).max() <= 1  # OpenCV and Pillow round differently


def test_channels_may_come_last(tmp_path: Path) -> None:
    body = encoded(pixels(50, 60))
    first = reader(tmp_path).read(body)
    last = reader(tmp_path, TensorSpec("data", (1, 24, 32, 3))).read(body)
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("form", ["WEBP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("mxnet", [True, False])
def test_other_formats_are_read_too(tmp_path: Path, form: str, mxnet: bool) -> None:
    image = np.full((24, 32, 3), (250, 100, 10), np.uint8)
    array = reader(tmp_path, mxnet=mxnet).read(encoded(image, form))
    np.testing.assert_allclose(array[0].transpose(1, 2, 0), image, atol=8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_pixel_becomes_colour(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        body = encoded(np.full((24, 32), 65535, np.uint16))
    else:
        file = io.BytesIO()
        Image.fromarray(np.full((24, 32, 3), 255, np.uint8)).convert(mode).save(
            file, "JPEG" if mode == "CMYK" else "PNG"
        )
        body = file.getvalue()
    array = reader(tmp_path).read(body)
    assert array.shape == (1, 3, 24, 32)
    assert array.min() >= 250


def test_without_the_frameworks_own_codec_pillow_reads(tmp_path: Path) -> None:
    image = pixels(24, 32)
    np.testing.assert_array_equal(reader(tmp_path, mxnet=False).read(encoded(image))[0].transpose(1, 2, 0), image)


# ---- what is refused ----


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(tmp_path: Path, form: str, share: float) -> None:
    body = encoded(pixels(200, 300), form)
    with pytest.raises(BadRequest, match="not a whole image"):
        reader(tmp_path).read(body[: int(len(body) * share)])


def test_a_truncated_photograph_with_a_whole_thumbnail_is_refused(tmp_path: Path) -> None:
    thumbnail = encoded(pixels(20, 20), "JPEG")
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00" + thumbnail
    body = encoded(pixels(200, 300), "JPEG", exif=exif)
    assert b"\xff\xd9" in body[: len(body) // 2]
    reader(tmp_path).read(body)
    with pytest.raises(BadRequest, match="not a whole image"):
        reader(tmp_path).read(body[: len(body) // 2])


def test_bytes_after_the_end_of_an_image_do_no_harm(tmp_path: Path) -> None:
    body = encoded(pixels(24, 32), "JPEG")
    np.testing.assert_array_equal(reader(tmp_path).read(body + b"\x00" * 100), reader(tmp_path).read(body))


def test_an_image_over_the_limit_is_refused_and_one_at_the_limit_is_not(tmp_path: Path) -> None:
    at_the_limit = encoded(np.zeros((1000, 1000), np.uint8))
    above = encoded(np.zeros((1000, 1001), np.uint8))
    assert reader(tmp_path, megapixels=1).read(at_the_limit).shape == (1, 3, 24, 32)
    with pytest.raises(BadRequest, match="1001x1000 pixels; at most 1 megapixels"):
        reader(tmp_path, megapixels=1).read(above)


# ---- as Hugging Face image processors ----

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]


def test_resize_crop_rescale_and_normalise_in_this_order(tmp_path: Path) -> None:
    config = {
        "do_resize": True,
        "size": {"shortest_edge": 40},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 24, "width": 32},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    image = pixels(61, 100)
    array = reader(tmp_path, config=config).read(encoded(image))
    # by the definitions of transformers: get_resize_output_image_size, center_crop, rescale, normalize
    resized = np.asarray(Image.fromarray(image).resize((int(40 * 100 / 61), 40), Image.Resampling.BICUBIC))
    top, left = (40 - 24) // 2, (65 - 32) // 2
    cropped = resized[top : top + 24, left : left + 32].astype(np.float64)
    expected = (cropped / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(array[0].transpose(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize("resample", [0, 1, 2, 3, 4, 5])
def test_resample_is_pillows_number(tmp_path: Path, resample: int) -> None:
    config = {"size": {"height": 24, "width": 32}, "resample": resample, "do_rescale": False}
    image = pixels(50, 90)
    expected = np.asarray(Image.fromarray(image).resize((32, 24), Image.Resampling(resample)))
    np.testing.assert_array_equal(reader(tmp_path, config=config).read(encoded(image))[0].transpose(1, 2, 0), expected)


@pytest.mark.parametrize(("height", "width"), [(10, 12), (10, 100), (100, 11), (23, 31), (24, 32), (9, 33)])
def test_a_crop_larger_than_the_image_is_padded_with_zeros(tmp_path: Path, height: int, width: int) -> None:
    config = {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 24, "width": 32}, "do_rescale": False}
    image = pixels(height, width) | 1  # no zeros of its own
    array = reader(tmp_path, config=config).read(encoded(image))[0].transpose(1, 2, 0)
    assert array.shape == (24, 32, 3)
    kept_height, kept_width = min(height, 24), min(width, 32)
    assert (array > 0).all(axis=2).sum() == kept_height * kept_width
    if height <= 24 and width <= 32:
        # the odd row or column of padding is above and to the left (center_crop's ceil)
        top, left = -(-(24 - height) // 2), -(-(32 - width) // 2)
        np.testing.assert_array_equal(array[top : top + height, left : left + width], image)


def test_a_whole_number_as_size_means_both_edges_or_the_shortest_if_a_crop_follows(tmp_path: Path) -> None:
    square = TensorSpec("data", (1, 3, 24, 24))
    image = pixels(50, 90)
    both = reader(tmp_path, square, {"size": 24, "do_rescale": False}).read(encoded(image))
    expected = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(both[0].transpose(1, 2, 0), expected)

    crop = {"size": 24, "do_center_crop": True, "crop_size": 24, "do_rescale": False}
    shortest = reader(tmp_path, square, crop).read(encoded(image))
    resized = np.asarray(Image.fromarray(image).resize((43, 24), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(shortest[0].transpose(1, 2, 0), resized[:, 9:33])

    deit = reader(tmp_path, square, {**crop, "size": 30, "image_processor_type": "DeiTImageProcessor"})
    resized = np.asarray(Image.fromarray(image).resize((30, 30), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(deit.read(encoded(image))[0].transpose(1, 2, 0), resized[3:27, 3:27])


def test_what_the_file_leaves_out(tmp_path: Path) -> None:
    """Resized to the model's size, divided by 255, not normalised."""
    image = pixels(24, 32)
    array = reader(tmp_path, config={}).read(encoded(image))
    np.testing.assert_allclose(array[0].transpose(1, 2, 0), image / 255, atol=1e-6)


def test_mean_and_std_alone_mean_that_images_are_normalised(tmp_path: Path) -> None:
    grey = TensorSpec("data", (1, 1, 24, 32))
    image = pixels(24, 32, 1)
    array = reader(tmp_path, grey, {"image_mean": [0.5], "image_std": 0.25}).read(encoded(image))
    np.testing.assert_allclose(array[0, 0], (image / 255 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_are_brought_to_eight(tmp_path: Path, kind: str, channels: int) -> None:
    image = pixels(24, 32, 1)
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint16) * 257).save(file, kind)
    spec = TensorSpec("data", (1, channels, 24, 32))
    array = reader(tmp_path, spec, {"do_rescale": False}).read(file.getvalue())
    for channel in range(channels):
        np.testing.assert_array_equal(array[0, channel], image)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ("[", "not JSON"),
        ("[]", "not a JSON object"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"resample": 9}, "resample is 9"),
        ({"resample": "bilinear"}, "resample is 'bilinear'"),
        ({"size": {"longest_edge": 3}}, "longest_edge"),
        ({"size": -1}, "whole number from 1"),
        ({"size": 30}, "images end as"),
        ({"size": {"shortest_edge": 24}}, "images end as"),
        ({"do_center_crop": True, "crop_size": {"height": 9, "width": 9}}, "model takes 24x32"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 9}}, "crop_size needs height and width"),
        ({"do_normalize": True}, "image_mean is None"),
        ({"image_mean": [0.5], "image_std": [0.5, 0.5, 0.5]}, "image_mean is [0.5], not 3 numbers"),
        ({"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}, "image_std holds a zero"),
        ({"image_mean": [0, 0, "x"], "image_std": [1, 1, 1]}, "not 3 numbers"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"rescale_factor": 10**400}, "rescale_factor"),
        ({"rescale_factor": 1e39}, "rescale_factor"),
        ({"image_mean": 10**400, "image_std": 1}, "image_mean"),
        ({"image_mean": [0, 0, 0], "image_std": [1, -(10**400), 1]}, "image_std"),
        ({"image_mean": [0, 0, True], "image_std": 1}, "image_mean"),
        ({"image_mean": 0, "image_std": 1e-60}, "image_std holds a zero"),
        ({"size": 10**400}, "whole number from 1"),
        ({"resample": 10**400}, "resample"),
    ],
)
def test_a_broken_config_fails_the_load(tmp_path: Path, config: Any, part: str) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ModelLoadError) as caught:
        reader(tmp_path)
    assert str(path) in str(caught.value) and part in str(caught.value)


def test_a_config_for_a_model_that_takes_no_image_fails_the_load(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="is no image"):
        ImageReader.for_model(tmp_path, TensorSpec("data", (1, 4)), None, 50)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 3, 224, 200), ImageLayout(3, 224, 200, channels_first=True)),
        ((1, 1, 28, 28), ImageLayout(1, 28, 28, channels_first=True)),
        ((8, 224, 200, 3), ImageLayout(3, 224, 200, channels_first=False)),
        ((1, 3, 32, 3), ImageLayout(3, 32, 3, channels_first=True)),
        ((1, 64, 56, 56), None),
        ((1, 3, 224), None),
        ((1, 4), None),
    ],
)
def test_the_layout_is_read_from_the_shape(shape: tuple[int, ...], layout: ImageLayout | None) -> None:
    assert ImageLayout.of(TensorSpec("data", shape)) == layout
