"""Models by name, by directory and from an address; a server of this process answers over HTTPS."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import shutil
import ssl
import subprocess
import threading
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from coupalign import Predictor
from coupalign.checkpoints.loading import read_checkpoint
from coupalign.commands.convert_weights import main as convert_weights
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, find_file
from coupalign.inference.pretrained import download_model, find_model
from tests.conftest import noise

EXPRESSION = "the red circle"


def test_names_and_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("refshapes").samefile(REPOSITORY / "assets/refshapes/model.safetensors")
    own = tmp_path / "refshapes"
    own.mkdir()
    with pytest.raises(UserError, match="refshapes has no checkpoint"):
        find_model("refshapes")
    (own / "last.ckpt").touch()
    assert find_model("refshapes") == find_model(own).relative_to(tmp_path)
    (own / "step_00000001.ckpt").touch()
    with pytest.raises(UserError, match=r"last\.ckpt, step_00000001\.ckpt"):
        find_model(own)
    (own / "best.safetensors").touch()
    assert find_model(own).name == "best.safetensors"
    with pytest.raises(UserError, match="names refshapes"):
        find_model("refshape")


@pytest.fixture(scope="module")
def directory(checkpoint, tmp_path_factory):
    """A model in safetensors with a vocabulary of its own, in which two words have changed places."""
    made = tmp_path_factory.mktemp("model")
    assert convert_weights(["--checkpoint", str(checkpoint), "--output", str(made / "best.safetensors")]) == 0
    (made / "best.safetensors.report.txt").unlink()
    shutil.copy(checkpoint.with_name("config.yaml"), made)
    words = find_file("assets/bert-base-uncased-vocab.txt").read_text().split("\n")
    red, blue = words.index("red"), words.index("blue")
    words[red], words[blue] = "blue", "red"
    (made / "bert-base-uncased-vocab.txt").write_text("\n".join(words))
    return made


def test_a_directory_is_a_model_with_its_own_vocabulary(directory, checkpoint):
    found = Predictor.from_pretrained(directory).predict(noise(50, 90), EXPRESSION).probability
    expected = Predictor(checkpoint).predict(noise(50, 90), "the blue circle").probability
    np.testing.assert_array_equal(found, expected)


def test_safetensors_back_and_forth(directory, checkpoint, tmp_path):
    arguments = ["--config", str(checkpoint.with_name("config.yaml")), "--output", str(tmp_path / "again.ckpt")]
    assert convert_weights(["--checkpoint", str(directory / "best.safetensors"), *arguments]) == 0
    files = (checkpoint, directory / "best.safetensors", tmp_path / "again.ckpt")
    wanted, *others = ({name: each.asnumpy() for name, each in read_checkpoint(path).items()} for path in files)
    for found in others:
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value)


def test_safetensors_that_are_no_checkpoint(tmp_path):
    save_file({"encoder.layer.0.weight": np.ones(2, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"encoder\.layer\.0\.weight.*--bert"):
        read_checkpoint(tmp_path / "other.safetensors")
    content = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-1])
    with pytest.raises(UserError, match="cut.safetensors is a damaged"):
        read_checkpoint(tmp_path / "cut.safetensors")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        found = self.server.files.get(self.path)
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", len(found or b""))
        self.end_headers()
        self.wfile.write((found or b"")[: self.server.most])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate")
    directory = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", directory / "key", "-out", directory / "crt"]
    subprocess.run(command, check=True, capture_output=True)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.redirects, made.most = {}, {}, None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "crt", directory / "key")
    made.socket = context.wrap_socket(made.socket, server_side=True)
    made.url = f"https://localhost:{made.server_port}"
    monkeypatch.setenv("SSL_CERT_FILE", str(directory / "crt"))
    monkeypatch.setenv("no_proxy", "*")
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def archive(**files: bytes) -> tuple[bytes, str]:
    """A zip archive of `files` in directories, some of them outside, and its SHA-256."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("model/", "")
        for name, content in files.items():
            made.writestr(f"../model/{name}", content)
    return buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest()


def test_a_model_is_downloaded_whole_and_verified(server, tmp_path):
    files = {"best.ckpt": bytes(3_000_000), "config.yaml": b"seed: 1"}
    content, digest = archive(**files)
    server.files["/a.zip"] = content
    server.redirects["/moved.zip"] = "/a.zip"
    for number, path in enumerate(("/a.zip", "/moved.zip")):
        target = download_model(server.url + path, digest.upper(), tmp_path / f"new/{number}")
        assert {file.name: file.read_bytes() for file in target.iterdir()} == files
        assert find_model(target).name == "best.ckpt"
    assert sorted(os.listdir(tmp_path)) == ["new"] and sorted(os.listdir(tmp_path / "new")) == ["0", "1"]


def test_downloads_that_are_refused_leave_nothing(server, tmp_path):
    content, digest = archive(a=b"1")
    server.files |= {"/a.zip": content, "/text.zip": b"text"}
    server.redirects["/plain.zip"] = server.url.replace("https", "http") + "/a.zip"
    with pytest.raises(UserError, match="exists already"):
        download_model(f"{server.url}/a.zip", digest, tmp_path)
    for url, expected, message in (
        (f"{server.url}/a.zip", "0" * 64, f"has the SHA-256 {digest}"),
        (f"{server.url}/none.zip", digest, "404"),
        (f"{server.url}/plain.zip", digest, "not https"),
        (f"{server.url}/text.zip", hashlib.sha256(b"text").hexdigest(), "is not a zip"),
        ("http://localhost/a.zip", digest, "https://"),
        ("file:///etc/passwd", digest, "https://"),
        ("https://localhost:1/a.zip", digest, "cannot be downloaded"),
        ("https://", digest, "cannot be downloaded"),
        ("https://local host/a.zip", digest, "cannot be downloaded"),
    ):
        with pytest.raises(UserError, match=message):
            download_model(url, expected, tmp_path / "a")
    server.most = 10
    with pytest.raises(UserError, match="a.zip"):
        download_model(f"{server.url}/a.zip", digest, tmp_path / "a")
    assert not os.listdir(tmp_path)


def test_a_server_without_a_known_certificate_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match="certificate"):
        download_model(f"{server.url}/a.zip", "0" * 64, tmp_path / "a")
