"""Checkpoints from a Hub: a small server with the Hub's own interface stands for it, on this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import public
from wanstreamer_jax.convert.families import FAMILIES
from wanstreamer_jax.convert.part import read_part

ROOT = Path(__file__).parents[1]
COMMIT, LATER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Serves the files of a directory as repository `someone/model`, branch main, at one commit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.asked.append(self.path)
        api, file = "/api/models/someone/model", f"/someone/model/resolve/{COMMIT}/"
        paths = [path for path in self.server.root.rglob("*") if path.is_file()]
        names = {str(path.relative_to(self.server.root)): path.stat().st_size for path in paths}
        asked = self.path.split("?")[0]
        if asked in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            main = [path for path in self.server.asked if path.startswith(api) and COMMIT not in path]
            moved = COMMIT not in asked and len(main) > 1  # somebody has pushed since
            about = {
                "id": "someone/model",
                "sha": LATER if moved else COMMIT,
                "siblings": [{"rfilename": name} for name in names],
            }
            return self.send(json.dumps(about).encode(), {"Content-Type": "application/json"}, body)
        if asked == f"{api}/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in names.items()]
            return self.send(json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
        path = self.server.root / self.path.removeprefix(file)
        if self.path.startswith(file) and path.is_file():
            content = path.read_bytes()
            tag = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            return self.send(content, tag, body)
        return self.send_error(404)

    def send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path):
    root = tmp_path / "hub"
    public.siglip2(root / "tower", whole=False)
    (root / "tower" / "pytorch_model.bin").write_bytes(b"\x80\x02 a pickle that nobody asked for")
    (root / "README.md").write_text("about this model")
    (root / "model.safetensors").write_bytes(b"another model, at the top")
    with Hub(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def convert(hub, tmp_path, *options, address=None):
    address = address or f"http://127.0.0.1:{hub.server_port}"
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "wanstreamer_jax.convert", "siglip2", *options, "--output", tmp_path / "part"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_weights_of_one_commit_and_nothing_else(hub, tmp_path):
    done = convert(hub, tmp_path, "--repo", "someone/model", "--revision", "main", "--folder", "tower")
    assert done.returncode == 0, done.stderr
    source = read_part(tmp_path / "part", FAMILIES["siglip2"]).source
    assert (source.origin, source.revision) == ("someone/model/tower", COMMIT)
    resolved = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert resolved == {"config.json", "model.safetensors"}
    assert not any("model.safetensors" in path and "tower" not in path for path in hub.asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--repo", "someone/else"), "someone/else at main: cannot be fetched"),
        (("--repo", "someone/model", "--revision", "v9"), "someone/model at v9: cannot be fetched"),
        (("--repo", "someone/model", "--folder", "vae"), "someone/model at main: no safetensors files in vae"),
        (("--repo", "not a repository"), "cannot be fetched"),
    ],
)
def test_what_a_hub_does_not_have(hub, tmp_path, options, message):
    done = convert(hub, tmp_path, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "part").exists()


def test_a_hub_that_cannot_be_reached(hub, tmp_path):
    done = convert(hub, tmp_path, "--repo", "someone/model", address="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "cannot be fetched" in done.stderr
