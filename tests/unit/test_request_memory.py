"""No request takes more memory than the limit of megapixels stands for, however little it says: 400, never 507."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.harness import models
from tests.harness.programs import run_with_mxnet

MEGAPIXELS = 4
# what the limit stands for, and what the interpreter and the network of the test take on their own
MOST_BYTES = MEGAPIXELS * 1_000_000 * 24 + (8 << 20)

# Loads a model, answers an ordinary image, then each request under a limit that begins at what the process has by then.
UNDER_THE_LIMIT = """
import json, os, resource, sys
from pathlib import Path
import model_handler
from tests.harness import requests as golden

folder, listing, usual, most_bytes = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
context = golden.context_for(folder)
model_handler.handle(None, context)

def ask(path, content_type):
    request = ({"Content-Type": content_type}, path.read_bytes())
    ((status, _, body),) = golden.call(model_handler.handle, context, request)
    return [status, body.decode()[:300]]

assert ask(usual, "image/png")[0] == 200
for path, content_type in json.loads(listing.read_text()):
    data_bytes = int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes + most_bytes, resource.RLIM_INFINITY))
    print(json.dumps(ask(Path(path), content_type)))
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def under_the_limit(folder: Path, config: dict | None, requests: list[tuple[bytes, str]]) -> list[tuple[int, str]]:
    """Status and body of each (body, Content-Type), asked of a model for images of 3 × 64 × 64."""
    model = models.tiny_classifier(folder / "model", input_shape=(1, 3, 64, 64), labels=False)
    if config is not None:
        (model / "preprocessor_config.json").write_text(json.dumps(config))
    listing, usual = folder / "requests.json", folder / "usual.png"
    usual.write_bytes(encoded(64, 64))
    paths = []
    for number, (body, content_type) in enumerate(requests):
        path = folder / f"{number}.body"
        path.write_bytes(body)
        paths.append((str(path), content_type))
    listing.write_text(json.dumps(paths))
    said = run_with_mxnet(UNDER_THE_LIMIT, model, listing, usual, MOST_BYTES, MME_MAX_IMAGE_MEGAPIXELS=str(MEGAPIXELS))
    return [tuple(json.loads(line)) for line in said.splitlines()]


def encoded(width: int, height: int, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), "grey").save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (
            {"size": {"shortest_edge": 72}, "do_center_crop": True, "crop_size": 64},
            # 2 × 8,000 becomes 72 × 288,000
            [(16, 8000, 200), (2, 8000, 400), (1, 60_000, 400), (60_000, 1, 400), (1, 1_300_000, 400)],
        ),
        (
            {"size": {"height": 64, "width": 64}},
            # 64 × 1,300,000 between the two passes; the weights of the filter
            [(1, 1_300_000, 400), (4_000_000, 1, 400), (2000, 2000, 200)],
        ),
        (
            {"do_resize": False, "do_center_crop": True, "crop_size": 64},
            # a row takes more than its pixel
            [(1, 1_300_000, 200), (1, 1_400_000, 400), (4_000_000, 1, 200)],
        ),
        (None, [(1, 1_300_000, 200), (4_000_000, 1, 200), (2000, 2000, 200), (2000, 2001, 400)]),
    ],
    ids=["cropped", "square", "not-resized", "unprepared"],
)
def test_a_thin_image_takes_no_more_memory_than_the_megapixel_limit(
    tmp_path: Path, config: dict | None, sizes: list[tuple[int, int, int]]
) -> None:
    answers = under_the_limit(tmp_path, config, [(encoded(width, height), "image/png") for width, height, _ in sizes])
    assert [status for status, _ in answers] == [status for _, _, status in sizes], answers
    assert all("MME_MAX_IMAGE_MEGAPIXELS" in said for status, said in answers if status == 400)


def tiled_tiff(tile_width: int, tile_height: int) -> bytes:
    """A TIFF of 16 × 16 grey pixels, of which one tile, packed by LZW, claims to be much larger."""
    data = bytes(64)
    entries = [
        (256, 16), (257, 16), (258, 8), (259, 5), (262, 1), (277, 1),
        (322, tile_width), (323, tile_height), (324, 8), (325, len(data)),
    ]  # fmt: skip
    head = b"II*\x00" + struct.pack("<I", 8 + len(data))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return head + data + struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)


def npy_of_shape(shape: str) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"
    return npy_with_head(head.encode()) + bytes(64)


def npy_with_head(head: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


def test_a_request_that_claims_much_takes_no_more_memory_than_the_limit(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (1900, 2000), (shade, 0, 0)) for shade in range(0, 40, 10)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames}
    image, npy, text = "application/x-image", "application/x-npy", "application/json"
    requests = {
        "many frames, GIF": (encoded(1900, 2000, "GIF", **animated), image, 200),
        "many frames, WebP": (encoded(1900, 2000, "WEBP", **animated), image, 200),
        "many frames, PNG": (encoded(1900, 2000, "PNG", **animated), image, 200),
        "many pages": (encoded(1900, 2000, "TIFF", compression="tiff_lzw", **animated), image, 200),
        "a tile larger than the image": (tiled_tiff(16384, 16384), image, 400),
        "many scans": (encoded(1900, 2000, "JPEG", progressive=True), image, 200),
        "four channels": (encoded(1900, 2000, "JPEG", mode="CMYK"), image, 200),
        "NPY of many samples": (npy_of_shape("(1000000, 3, 64, 64)"), npy, 400),
        "NPY of none": (npy_of_shape("(0, 1000000000000)"), npy, 400),
        "NPY of many dimensions": (npy_of_shape("(" + "999999999999999999, " * 400 + ")"), npy, 400),
        "NPY of fewer than none": (npy_of_shape("(-1, 3, 64, 64)"), npy, 400),
        "NPY, nested signs": (npy_with_head(b"-" * 9000 + b"1\n"), npy, 400),
        "NPY, nested signs in it": (npy_with_head(b"{'descr': " + b"-" * 9000 + b"1}\n"), npy, 400),
        "NPY, open brackets": (npy_with_head(b"[" * 9000 + b"\n"), npy, 400),
        "NPY, brackets": (npy_with_head(b"(" * 150 + b")" * 150 + b"\n"), npy, 400),
        "JSON, nested lists": (b"[" * 1_000_000 + b"]" * 1_000_000, text, 400),
        "JSON, nested objects": (b'{"a":' * 1_000_000, text, 400),
    }
    answers = under_the_limit(tmp_path, None, [(body, content_type) for body, content_type, _ in requests.values()])
    for (name, (_, _, status)), answer in zip(requests.items(), answers, strict=True):
        assert answer[0] == status, (name, answer)
