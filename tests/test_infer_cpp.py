"""The C++ of ascend310_infer/ compared with the code of training, with sanitizers. Skipped without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from coupalign.data.images import load_image
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from coupalign.overlay import overlay
from tests.picture_files import write_picture_files
from tests.test_tokenizer import VOCABULARY, _sentences

PROJECT = REPOSITORY / "ascend310_infer"
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-ffp-contract=off"]
FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
ROOT = Path(os.environ.get("OpenCV_ROOT", "/")) / "usr"
OPENCV = ROOT / "include/opencv4"
# Those of the system are found by themselves.
LIBRARIES = sorted({path.parent for path in (ROOT / "lib").rglob("*.so*")}) if "OpenCV_ROOT" in os.environ else []

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="no g++")]  # sanitizers are slow
needs_opencv = pytest.mark.skipif(
    not (OPENCV / "opencv2/imgcodecs.hpp").exists(),
    reason="no OpenCV for C++ (libopencv-dev, or OpenCV_ROOT): images are not compared",
)


@pytest.fixture(scope="module")
def environment():
    paths = [*map(str, LIBRARIES), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(paths).strip(":")}


def _compile(target: Path, sources: list[str], environment: dict[str, str], *more: str) -> Path:
    files = [str(PROJECT / "src" / name) for name in sources]
    command = ["g++", *FLAGS, f"-I{PROJECT}/inc", *files, *more, "-o", str(target)]
    subprocess.run(command, check=True, env=environment)
    return target


@pytest.fixture(scope="module")
def tokenize(tmp_path_factory, environment):
    """A function: expressions -> lines that the program prints."""
    program = _compile(
        tmp_path_factory.mktemp("cpp") / "tokenize",
        ["files.cc", "unicode.cc", "wordpiece.cc", "tokenize.cc"],
        environment,
    )

    def run(expressions: list[bytes], vocabulary: Path = VOCABULARY) -> list[str]:
        given = b"".join(b"%d\n%b" % (len(each), each) for each in expressions)
        done = subprocess.run([str(program), str(vocabulary), "12"], input=given, capture_output=True)
        return (done.stdout if done.returncode == 0 else done.stderr).decode().splitlines()

    return run


def _expected(expressions: list[str]) -> list[tuple[str, int]]:
    """The line of ids and the number of warnings of each expression, by training's tokenizer."""
    tokenizer = Tokenizer(VOCABULARY, 12)
    lines = []
    for expression in expressions:
        try:
            ids, warnings = tokenizer.encode(expression)[0], tokenizer.warnings(expression)
            lines.append((" ".join(map(str, ids)), len(warnings)))
        except UserError as error:
            lines.append((f"error: {error}", 0))
    return lines


def _split(lines: list[str]) -> list[tuple[str, int]]:
    return [(line.split(" | ")[0], line.count(" | ")) for line in lines]


def test_tokens_and_warnings_of_five_thousand_sentences(tokenize):
    sentences = _sentences(5000)
    assert _split(tokenize([each.encode() for each in sentences])) == _expected(sentences)


def test_unknown_words_are_reported_as_in_training(tokenize):
    vocabulary = REPOSITORY / "assets/refshapes-vocab.txt"
    for expression in ("the mug on a tub", "the red circle", "狗", "big red circle " * 8, "mug mug"):
        (line,) = tokenize([expression.encode()], vocabulary)
        assert tuple(line.split(" | ")[1:]) == Tokenizer(vocabulary, 12).warnings(expression)


def test_tokens_of_characters_from_all_of_unicode(tokenize):
    random = np.random.default_rng(0)
    anywhere = random.integers(0x3100, 0xD800, 3000), random.integers(0x10000, 0x110000, 9000)
    numbers = np.r_[1:0x3100, 0xF900:0x10000, anywhere[0], anywhere[1]]
    texts = [f"man{chr(c)}dog {chr(c)}s" for c in numbers.tolist()]
    assert _split(tokenize([each.encode() for each in texts])) == _expected(texts)


@pytest.mark.parametrize(
    "expression", [b"\xff", b"caf\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x80"]
)
def test_text_that_is_not_utf8_is_refused(tokenize, expression):
    assert tokenize([expression]) == ["error: the expression is not text in UTF-8"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no vocabulary"),
        (b"[PAD]\n[UNK]\n[CLS]\n", "lacks [SEP]"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"[UNK]\n[PAD]\n[CLS]\n[SEP]\n", "does not start with [PAD]"),
        (b"", "lacks [PAD]"),
    ],
)
def test_invalid_vocabularies_are_refused(tokenize, tmp_path, content, message):
    if content is not None:
        (tmp_path / "vocab.txt").write_bytes(content)
    (line,) = tokenize([b"dog"], tmp_path / "vocab.txt")
    assert line.startswith("error: ") and message in line


@pytest.fixture(scope="module")
def prepare(tmp_path_factory, environment):
    """A function: image file, mask, side -> the finished process and its output directory."""
    directory = tmp_path_factory.mktemp("cpp")
    libraries = [f"-L{each}" for each in LIBRARIES] + [f"-Wl,-rpath-link,{each}" for each in LIBRARIES]
    libraries += ["-lopencv_imgcodecs", "-lopencv_imgproc", "-lopencv_core"]
    sources = ["files.cc", "image_file.cc", "picture.cc", "prepare.cc"]
    program = _compile(directory / "prepare", sources, environment, "-isystem", str(OPENCV), *libraries)

    def run(image: Path, mask: np.ndarray, size: int = 64):
        cv2.imwrite(str(directory / "mask.png"), mask.astype(np.uint8) * 255)
        # The libraries of OpenCV leak.
        options = {**environment, "ASAN_OPTIONS": "detect_leaks=0"}
        return subprocess.run(
            [str(program), str(image), str(size), str(directory / "mask.png"), str(directory)],
            capture_output=True,
            text=True,
            env=options,
        ), directory

    return run


def _picture_of(prepare, path: Path) -> tuple[np.ndarray | None, str]:
    """The pixels that the program decodes, from its overlay of an empty mask; None and the error line if it refuses."""
    size = load_image(path).shape[:2]
    done, output = prepare(path, np.zeros(size, bool))
    return (None if done.returncode else cv2.imread(str(output / "overlay.png"))[..., ::-1]), done.stderr


@needs_opencv
def test_images_of_all_formats_and_orientations_are_those_of_training(prepare, tmp_path):
    for path in write_picture_files(tmp_path):
        found, error = _picture_of(prepare, path)
        if path.name.startswith("LA-") and path.suffix == ".tif":
            assert found is None and "pixel type" in error
        else:
            np.testing.assert_array_equal(found, load_image(path), err_msg=path.name)


@needs_opencv
@pytest.mark.parametrize("seed", range(6))
def test_images_are_prepared_and_drawn_as_in_training(prepare, tmp_path, seed):
    random = np.random.default_rng(seed)
    height, width, size = random.integers(1, (700, 900, 640)).tolist()
    rgb = cv2.GaussianBlur(random.integers(0, 256, (height, width, 3), np.uint8), (3, 3), 0)
    kind, options = (("PNG", {}), ("JPEG", {"quality": 80, "progressive": seed % 3 == 0, "subsampling": seed % 3}))[
        seed % 2
    ]
    Image.fromarray(rgb).save(tmp_path / "picture", kind, **options)
    rgb = load_image(tmp_path / "picture")
    mask = random.random(rgb.shape[:2]) > 0.3
    done, output = prepare(tmp_path / "picture", mask, size)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(np.fromfile(output / "normalised.bin", np.float32), prepare_image(rgb, size).ravel())
    np.testing.assert_array_equal(cv2.imread(str(output / "overlay.png"))[..., ::-1], overlay(rgb, mask))


@needs_opencv
def test_jpegs_with_bytes_behind_their_end_or_without_an_end_marker(prepare, tmp_path):
    """Phones append videos, which may contain the markers of a JPEG; some programs omit the end marker."""
    rgb = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), (5, 5), 0)
    jpeg = cv2.imencode(".jpg", rgb)[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    for content in (jpeg, jpeg + b"ftypmp42\xff\xda" + bytes(range(256)), jpeg[:-2]):
        (tmp_path / "a.jpg").write_bytes(content)
        found, _ = _picture_of(prepare, tmp_path / "a.jpg")
        np.testing.assert_array_equal(found, expected)


@needs_opencv
def test_invalid_images_are_refused(prepare, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    jpeg, png = (cv2.imencode(kind, pixels)[1].tobytes() for kind in (".jpg", ".png"))
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(pixels).save(tmp_path / "a.gif")
    for name, content, message in (
        ("empty.jpg", b"", "not an image"),
        ("text.jpg", b"no image" * 9, "not an image"),
        ("cut.jpg", jpeg[:-200], "ends early"),
        ("cut.png", png[:900], "ends early"),
        ("none.jpg", None, "no image"),
        ("cmyk.jpg", (tmp_path / "cmyk.jpg").read_bytes(), "CMYK"),
        ("a.gif", (tmp_path / "a.gif").read_bytes(), "known format"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        done, _ = prepare(tmp_path / name, np.ones((40, 50), bool))
        *of_libjpeg, line = done.stderr.splitlines()
        assert done.returncode == 2 and line.startswith("error: ") and message in line and name in line
        assert all("JPEG" in each for each in of_libjpeg)
