"""Images as a model's input: from the bytes of a file to (1, channels, height, width), or (1, height, width, channels).

Two ways. Without ``preprocessor_config.json`` an image is resized to the model's height and width and fed as raw
0–255 values, as the public multi-model sample of SageMaker does; where the framework has its own reader of images
(``ImageCodec``), that one does it, so that published numbers stay true. With the file, Pillow does what the image
processors of Hugging Face do (transformers, image_transforms.py), in their order: convert, resize, crop, rescale,
normalise.

An image of few pixels may ask for much memory: a resize by the shortest edge makes a thin one huge, and Pillow's resize
holds an image of the new width and the old height in between. So each step is checked against the limit of megapixels
before it takes memory, and no request takes more than 24 bytes for each pixel of that limit (animated WebP; others
take less).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin, WebPImagePlugin

from mme.errors import BadRequest, ModelLoadError, RequestTooLarge
from mme.frameworks.base import FREE, ImageCodec, TensorSpec, means_no_memory

CONFIG_FILE = "preprocessor_config.json"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# What the framework's own reader decodes; Pillow alone knows the others, or takes less memory for them (TIFF's tiles).
_CODEC_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP")
_USUAL_SAMPLINGS = (0, 1, 2)  # 4:4:4, 4:2:2 and 4:2:0, as Pillow numbers them
_THIN = 16  # pixels; a row of more is hardly larger for its pointer
_LARGEST_NUMBER = float(np.finfo(np.float32).max)
# image processors of transformers that take a whole number as the size of both edges though they crop afterwards
_SQUARE_SIZES = ("deit", "beit", "efficientnet", "vit", "vivit")

# Only these are tried: fewer decoders see what strangers send, and none starts a program (EPS would).
_FORMATS = [
    "JPEG",
    "PNG",
    WebPImagePlugin.WebPImageFile.format,
    "GIF",
    "BMP",
    TiffImagePlugin.TiffImageFile.format,
    "PPM",
]
Image.preinit()  # here, so that no first request pays for it: the other five are registered by this
# a limit of our own stands in for Pillow's, which only warns up to twice of it
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class ImageLayout:
    """Where the axes of an image are in a model's input."""

    channels: int
    height: int
    width: int
    channels_first: bool

    @classmethod
    def of(cls, spec: TensorSpec, height: int = FREE, width: int = FREE) -> ImageLayout | None:
        """The layout that the input's shape says, or None where it is no image: NCHW unless only NHWC makes sense.

        ``height`` and ``width`` are taken where the input leaves them free.
        """
        if len(spec.shape) != 4 or spec.holds_text:
            return None
        _, first, second, third = spec.shape
        if first in _MODES:
            found = cls(first, second, third, channels_first=True)
        elif third in _MODES:
            found = cls(third, first, second, channels_first=False)
        else:
            return None
        found = replace(
            found,
            height=height if found.height == FREE else found.height,
            width=width if found.width == FREE else found.width,
        )
        return None if FREE in (found.height, found.width) else found


@dataclass(frozen=True)
class ProcessorConfig:
    """What ``preprocessor_config.json`` asks for; the names are those of the Hugging Face image processors."""

    do_resize: bool
    size: dict[str, int]  # shortest_edge, or height and width
    resample: Image.Resampling
    do_center_crop: bool
    crop_size: tuple[int, int]  # height, width
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]

    @classmethod
    def read(cls, path: Path, layout: ImageLayout) -> ProcessorConfig:
        """Reads and checks the file against what the model takes. Raises ``ModelLoadError``."""

        def wrong(what: str) -> ModelLoadError:
            return ModelLoadError(f"{path}: {what}. docs/models.md lists the fields and their values.")

        try:
            given = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise wrong(f"it is not JSON ({error})") from None
        if not isinstance(given, dict):
            raise wrong("it is not a JSON object")

        def flag(name: str, default: bool) -> bool:
            value = given.get(name, default)
            if not isinstance(value, bool):
                raise wrong(f"{name} is {value!r}, not true or false")
            return value

        def numbers(name: str) -> tuple[float, ...]:
            value = given.get(name)
            if _is_number(value):
                value = [value] * layout.channels
            if not isinstance(value, list) or len(value) != layout.channels or not all(map(_is_number, value)):
                raise wrong(f"{name} is {value!r}, not {layout.channels} numbers, one per channel of the model")
            return tuple(map(float, value))

        do_crop = flag("do_center_crop", False)
        do_normalize = flag("do_normalize", "image_mean" in given or "image_std" in given)
        resample = given.get("resample", Image.Resampling.BILINEAR.value)
        if resample not in [each.value for each in Image.Resampling] or isinstance(resample, bool):
            raise wrong(f"resample is {resample!r}, not one of Pillow's filters 0 to 5")
        factor = given.get("rescale_factor", 1 / 255)
        if not _is_number(factor):
            raise wrong(f"rescale_factor is {factor!r}, not a number")
        kind = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "").lower()
        square = not do_crop or kind.startswith(_SQUARE_SIZES)
        do_resize = flag("do_resize", True)
        whole = {"height": layout.height, "width": layout.width}
        size = _size(given.get("size", whole), "size", square, wrong) if do_resize else {}
        crop = _size(given.get("crop_size", whole), "crop_size", True, wrong) if do_crop else whole
        if "shortest_edge" in crop:
            raise wrong("crop_size needs height and width")
        mean = numbers("image_mean") if do_normalize else ()
        std = numbers("image_std") if do_normalize else ()
        if not all(map(np.float32, std)):
            raise wrong("image_std holds a zero")
        result = crop if do_crop else size
        if result and result != whole:
            raise wrong(
                f"images end as {json.dumps(result)}, but the model takes {layout.height}x{layout.width} "
                "(height x width). Set crop_size (with do_center_crop) or size to that"
            )
        return cls(
            do_resize,
            size,
            Image.Resampling(resample),
            do_crop,
            (crop["height"], crop["width"]),
            flag("do_rescale", True),
            float(factor),
            do_normalize,
            mean,
            std,
        )


def _size_of_free_axes(path: Path) -> tuple[int, int]:
    """Height and width that the file brings images to, ``FREE`` each where it does not say; it is checked later."""
    try:
        given = json.loads(path.read_bytes())
        size = given["crop_size"] if given.get("do_center_crop") is True else given["size"]
        size = _size(size, "size", True, ModelLoadError)
        return size["height"], size["width"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, ModelLoadError):
        return FREE, FREE


def _is_number(value: Any) -> bool:
    """Is this a number of JSON that float32 can hold?"""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


def _size(value: Any, name: str, square: bool, wrong: Callable[[str], ModelLoadError]) -> dict[str, int]:
    """A size as Hugging Face writes it (``get_size_dict``): a number, [height, width], or an object."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    elif isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if not isinstance(value, dict) or set(value) not in ({"shortest_edge"}, {"height", "width"}):
        raise wrong(f"{name} is {value!r}, not a number, {{shortest_edge}} or {{height, width}}")
    if not all(isinstance(edge, int) and not isinstance(edge, bool) and 1 <= edge <= 16384 for edge in value.values()):
        raise wrong(f"{name} is {value!r}; an edge is a whole number from 1 to 16384")
    return value


class ImageReader:
    """Makes a model's input from the bytes of an image file.

    ``is_warm``: some reader has been warmed up in this process, or in the one that it was forked from.
    """

    is_warm: ClassVar[bool] = False

    def __init__(
        self, layout: ImageLayout, *, max_megapixels: int, codec: ImageCodec | None, config: ProcessorConfig | None
    ) -> None:
        self._layout = layout
        self._max_pixels = max_megapixels * 1_000_000
        self._codec = codec
        self._config = config

    @classmethod
    def for_model(
        cls, model_dir: Path, spec: TensorSpec, codec: ImageCodec | None, max_megapixels: int
    ) -> ImageReader | None:
        """The reader for a model with this only input; None where the input is no image. Raises ``ModelLoadError``."""
        path = model_dir / CONFIG_FILE
        layout = ImageLayout.of(spec, *_size_of_free_axes(path))
        if layout is None and spec.is_free and path.exists() and ImageLayout.of(spec, 1, 1) is not None:
            raise ModelLoadError(
                f"{path} does not say how large an image of the model's input {spec} is to be. Set size, or crop_size "
                "with do_center_crop, to {height, width}."
            )
        if layout is None:
            if path.exists():
                raise ModelLoadError(
                    f"{path} is there, but the model's input {spec} is no image (N, channels, height, width). "
                    "Remove the file or mend the shapes."
                )
            return None
        config = ProcessorConfig.read(path, layout) if path.exists() else None
        return cls(layout, max_megapixels=max_megapixels, codec=codec, config=config)

    @property
    def sample_size(self) -> int:
        """The numbers of one sample."""
        return self._layout.channels * self._layout.height * self._layout.width

    def read(self, body: bytes | bytearray) -> np.ndarray:
        """Decodes one image to one sample: (1, channels, height, width), float32, in the model's layout.

        Raises ``BadRequest`` for bytes that are no whole image and for too many pixels; the size is taken from the head
        of the file, before memory is allocated for the pixels.
        """
        opened = self._open(body)
        image = self._raw(body, opened) if self._config is None else self._processed(opened, self._config)
        if self._layout.channels_first:
            image = image.transpose(2, 0, 1)
        return np.ascontiguousarray(image, dtype=np.float32)[np.newaxis]

    def warm_up(self) -> np.ndarray:
        """One pass over a small image of each usual format: what libraries do at their first use is done."""
        resized = self._config is None or self._config.do_resize
        size = (8, 8) if resized else (self._layout.width, self._layout.height)
        samples = []
        for kind in ("PNG", "JPEG"):
            samples.append(self.read(_black_image(kind, size)))
        ImageReader.is_warm = True
        return samples[0]

    def _open(self, body: bytes | bytearray) -> Image.Image:
        """Reads the head of the file."""
        with self._decoding():
            opened = Image.open(io.BytesIO(body), formats=_FORMATS)
        width, height = opened.size
        if max(_pixels(width, height), _pixels_of_piece(opened)) > self._max_pixels:
            raise RequestTooLarge(
                f"The image has {width}x{height} pixels; at most {self._most()} are decoded "
                "(MME_MAX_IMAGE_MEGAPIXELS). Send a smaller one."
            )
        if not _ends_properly(opened, body):
            with self._decoding():  # Pillow is strict about what is missing; OpenCV paints it grey
                opened.load()
        return opened

    def _raw(self, body: bytes | bytearray, opened: Image.Image) -> np.ndarray:
        """The image at the model's size, 0–255, as the sample has it: (height, width, channels) uint8."""
        layout = self._layout
        if self._codec is not None and opened.format in _CODEC_FORMATS:
            pixels = self._pixels_of_jpeg(opened)
            if pixels is not None:
                return self._codec.resize(pixels, layout.height, layout.width)
            image = self._codec.read(body, layout.channels, layout.height, layout.width)
            if image is not None:
                return image
        decoded = self._decoded(opened)
        if self._codec is not None:
            return self._codec.resize(_array(decoded), layout.height, layout.width)
        return _array(self._resized(decoded, (layout.width, layout.height), Image.Resampling.BILINEAR))

    def _pixels_of_jpeg(self, opened: Image.Image) -> np.ndarray | None:
        """A usual JPEG, decoded: (height, width, 3) uint8, RGB; None for all else, which is the framework's to read.

        Both decoders are libjpeg-turbo, but MXNet's (2.0.2, without vector instructions) takes half as long again. They
        give the same pixels but for rare samplings of the colours and for progressive files that lack scans, where
        later versions paint more smoothly.
        """
        if opened.format != "JPEG" or opened.mode != "RGB" or self._layout.channels != 3:
            return None
        if JpegImagePlugin.get_sampling(opened) not in _USUAL_SAMPLINGS or "progressive" in opened.info:
            return None
        try:
            return _array(opened)
        except Exception as error:
            if means_no_memory(error):
                raise
            return None

    def _processed(self, opened: Image.Image, config: ProcessorConfig) -> np.ndarray:
        """The image as a Hugging Face image processor makes it: (height, width, channels) float32."""
        decoded = self._decoded(opened)
        if config.do_resize:
            decoded = self._resized(decoded, _target(decoded.size, config.size), config.resample)
        # no array of the whole image: it may be much larger than the crop
        image = _center_crop(decoded, *config.crop_size) if config.do_center_crop else _array(decoded)
        layout = self._layout
        if image.shape[:2] != (layout.height, layout.width):
            raise BadRequest(
                f"The image has {image.shape[1]}x{image.shape[0]} pixels and the model's {CONFIG_FILE} does not resize "
                f"it; send {layout.width}x{layout.height}."
            )
        image = image.astype(np.float32)
        if config.do_rescale:
            image *= np.float32(config.rescale_factor)
        if config.do_normalize:
            image -= np.asarray(config.image_mean, np.float32)
            image /= np.asarray(config.image_std, np.float32)
        return image

    def _resized(self, image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
        """Pillow's resize to (width, height). Raises ``RequestTooLarge`` where that would take too much memory."""
        if _pixels_for_resize(image.size, size, resample) > self._max_pixels:
            raise RequestTooLarge(
                f"The image of {image.width}x{image.height} pixels is too thin or too long: to bring it to "
                f"{size[0]}x{size[1]} takes more memory than {self._most()} (MME_MAX_IMAGE_MEGAPIXELS). Crop it."
            )
        return image.resize(size, resample)

    def _most(self) -> str:
        return f"{self._max_pixels // 1_000_000} megapixels"

    def _decoded(self, opened: Image.Image) -> Image.Image:
        """The whole image in the mode of the model's channels, 8 bits for each."""
        with self._decoding():
            sixteen_bits = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
            if sixteen_bits:  # Pillow cuts off what is above 255
                opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
            return opened.convert(_MODES[self._layout.channels])

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Whatever a decoder raises at broken bytes is the request's fault; a lack of memory is not."""
        try:
            yield
        except Exception as error:
            if means_no_memory(error):
                raise
            layout = self._layout
            raise BadRequest(
                f"The body is not a whole image that can be decoded (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM). The model "
                f"takes one image of {layout.channels} channel{'s' if layout.channels > 1 else ''}, of any size: it is "
                f"brought to {layout.width}x{layout.height}."
            ) from None


def _ends_properly(opened: Image.Image, body: bytes | bytearray) -> bool:
    """Is the end marker of a JPEG or PNG there? A quick look that spares whole files a second decoder."""
    if opened.format in ("JPEG", "MPO"):
        # Pillow has read up to the first scan; a thumbnail in the head has an end marker of its own
        position = getattr(opened, "fp").tell()  # noqa: B009 (Pillow does not declare it)
        return body.rfind(b"\xff\xd9", position) >= 0  # from the end, where it is in a whole file
    return opened.format != "PNG" or body.rfind(b"IEND") >= 0


@lru_cache(maxsize=8)
def _black_image(kind: str, size: tuple[int, int]) -> bytes:
    """An image file; the template has made the usual ones, so that no load encodes one."""
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


def _array(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def _target(size: tuple[int, int], wanted: dict[str, int]) -> tuple[int, int]:
    """Width and height after the resize (``get_resize_output_image_size``); Pillow's sizes are (width, height)."""
    if "height" in wanted:
        return wanted["width"], wanted["height"]
    width, height = size
    edge = wanted["shortest_edge"]
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def _pixels(width: int, height: int) -> int:
    """Pixels that an image is counted as: Pillow keeps a pointer for each row, which takes as much as two."""
    return width * height if width > _THIN else (width + 2) * height


def _pixels_of_piece(opened: Image.Image) -> int:
    """Pixels of one tile of a TIFF file, which a decoder holds whole, however small the image is; 0 for other files."""
    tags = getattr(opened, "tag_v2", {}) if opened.format == "TIFF" else {}
    try:
        return int(tags.get(TiffImagePlugin.TILEWIDTH, 0)) * int(tags.get(TiffImagePlugin.TILELENGTH, 0))
    except (TypeError, ValueError):
        return 0


# half the width of each filter in pixels of the target (Resample.c)
_SUPPORT = {
    Image.Resampling.NEAREST: 0.0,
    Image.Resampling.BOX: 0.5,
    Image.Resampling.BILINEAR: 1.0,
    Image.Resampling.HAMMING: 1.0,
    Image.Resampling.BICUBIC: 2.0,
    Image.Resampling.LANCZOS: 3.0,
}


def _pixels_for_resize(size: tuple[int, int], target: tuple[int, int], resample: Image.Resampling) -> int:
    """Memory of the largest thing that Pillow allocates for a resize, in pixels of 4 bytes; sizes (width, height).

    The target; the image between the two passes, which has the new width and the old height; and the weights of the
    filter, numbers of 8 bytes, for each edge (ImagingResampleInner, precompute_coeffs).
    """
    width, height = target
    weights = 0.0
    for before, after in zip(size, target, strict=True):
        per_pixel = math.ceil(_SUPPORT[resample] * max(before / after, 1)) * 2 + 1
        weights = max(weights, 2.0 * per_pixel * after)
    return max(_pixels(width, height), _pixels(width, size[1]), math.ceil(weights))


def _center_crop(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Cuts (``height``, ``width``) out of the middle; where the image is smaller, zeros are around it.

    The odd row or column of a crop goes below and to the right, that of a border above and to the left (center_crop).
    """
    left, columns, before = _middle(image.width, width)
    top, rows, above = _middle(image.height, height)
    middle = _array(image.crop((left, top, left + columns, top + rows)))
    if (rows, columns) == (height, width):
        return middle
    bordered = np.zeros((height, width, middle.shape[2]), middle.dtype)
    bordered[above : above + rows, before : before + columns] = middle
    return bordered


def _middle(size: int, wanted: int) -> tuple[int, int, int]:
    """Along one axis: where the part that stays begins in the image, its length, and where it begins in the result."""
    if size >= wanted:
        return (size - wanted) // 2, wanted, 0
    return 0, size, -(-(wanted - size) // 2)
