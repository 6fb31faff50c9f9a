"""What a server answers to whom: health, figures, the page, tokens, names, origins; and its command line."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from aiohttp.test_utils import TestServer

import serve
from tests.server_cases import connected, heard_from, of_type, served
from wanstreamer_jax.serving.access import Access, is_loopback
from wanstreamer_jax.serving.metrics import Metrics
from wanstreamer_jax.serving.server import make_app
from wanstreamer_jax.serving.service import Rules, Service

TOKEN = "0123456789abcdef-TOKEN"
ROOT = Path(__file__).parents[1]
PRESET = str(ROOT / "tests" / "small_preset.py")


def answers(*requests, **options):
    """Status, headers and text of each request: (method, path, headers)."""

    async def run():
        found = []
        async with served(**options) as server, ClientSession() as client:
            for method, path, headers in requests:
                async with client.request(method, server.url(path), headers=headers) as response:
                    found.append((response.status, response.headers, await response.text()))
        return found

    return asyncio.run(run())


def statuses(*requests, **options):
    return [status for status, _, _ in answers(*requests, **options)]


def get(path, **headers):
    return "GET", path, {name.replace("_", "-"): value for name, value in headers.items()}


def test_health_readiness_configuration_and_figures():
    health, ready, config, metrics = answers(*map(get, ("/healthz", "/readyz", "/v1/config", "/metrics")))
    assert (health[0], health[2]) == (200, "ok\n")
    assert json.loads(ready[2]) == {"ready": True, "slots": 1, "free": 1}
    facts = json.loads(config[2])
    assert (facts["picture"], facts["user_picture"]) == ([48, 32], [32, 32])
    assert (facts["video_fps"], facts["sample_rate_hz"], facts["unit_ms"]) == (25, 24_000, 160)
    assert "wanstreamer_compiles_after_warmup 0.0" in metrics[2]
    assert "wanstreamer_slots 1.0" in metrics[2]


def test_a_server_that_loads_says_what_it_does():
    async def run():
        service = Service(Rules(), Metrics())
        async with TestServer(make_app(service, Access("127.0.0.1"))) as server, ClientSession() as client:
            service.tell("compiling")
            async with (
                client.get(server.make_url("/readyz")) as ready,
                client.get(server.make_url("/v1/ws"), headers=UPGRADE) as refused,
            ):
                return ready.status, await ready.json(), refused.status, refused.headers["Retry-After"]

    status, facts, refused, retry = asyncio.run(run())
    assert (status, facts["ready"], facts["doing"]) == (503, False, "compiling")
    assert (refused, retry) == (503, "5")


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def test_figures_count_what_happened():
    async def run():
        async with served() as server:
            async with connected(server, {}) as ws:
                await ws.send_str("{")
                await heard_from(ws, lambda m: m["type"] == "unit" and m["unit"] == 3)
            await server.until_free()
            return server.service.metrics.page().decode()

    text = asyncio.run(run())
    assert 'wanstreamer_sessions_total{transport="websocket"} 1.0' in text
    assert 'wanstreamer_sessions_ended_total{reason="gone"} 1.0' in text
    assert 'wanstreamer_wrong_messages_total{name="bad_json"} 1.0' in text
    assert float(re.search(r"\nwanstreamer_units_total (\S+)", text)[1]) >= 4


def test_the_page_is_all_there_and_nothing_else():
    paths = ["/", "/page/main.js", "/page/style.css", "/page/icon.svg", "/page/playback-worklet.js"]
    for status, headers, text in answers(*map(get, paths)):
        assert status == 200
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(r"(?:src|href)=\"https?://|url\(['\"]?https?://|from \"https?://", text)


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/%2e%2e/server.py",
        "/page/..%2fserver.py",
        "/page/%2fetc%2fpasswd",
        "//etc/passwd",
        "/page/main.js%00.html",
        "/page/__init__.py",
        "/page/",
        "/v1/sessions/../config",
        "/server.py",
    ],
)
def test_there_is_no_other_file(path):
    async def run():
        async with served() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return answer

    answer = asyncio.run(run())
    assert answer.split()[1] in (b"404", b"400", b"405")
    assert b"root:" not in answer
    assert b"import" not in answer


def test_every_page_module_imports_only_what_is_there():
    folder = ROOT / "wanstreamer_jax" / "serving" / "page"
    for module in folder.glob("*.js"):
        for name in re.findall(r"from \"\./([\w.-]+)\"", module.read_text()):
            assert (folder / name).is_file(), f"{module.name} imports {name}"


BAD_HOSTS = ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[::1"]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_a_name_that_is_not_the_servers_is_refused(host):
    assert statuses(get("/readyz", Host=host)) == [403]


def test_its_own_names_and_those_it_was_given_are_not():
    access = Access("127.0.0.1", names=("talk.example",))
    hosts = ["localhost:1", "127.0.0.1", "[::1]:9", "talk.example", "TALK.example:443"]
    assert statuses(*[get("/readyz", Host=host) for host in hosts], access=access) == [200] * len(hosts)


def test_another_pages_scripts_are_refused():
    origins = ["http://evil.example", "null", "http://localhost:9", "file://"]
    requests = [get("/v1/ws", Origin=origin, Host="localhost:1", **UPGRADE) for origin in origins]
    requests.append(("DELETE", "/v1/sessions/x", {"Origin": "http://evil.example", "Host": "localhost:1"}))
    assert statuses(*requests) == [403] * len(requests)
    assert statuses(get("/readyz", Origin="http://localhost:1", Host="localhost:1")) == [200]


def test_a_token_guards_all_but_the_page_and_health():
    access = Access("127.0.0.1", TOKEN)
    guarded = ["/v1/config", "/metrics", "/v1/ws"]
    bad = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer "}]
    requests = [("GET", path, headers) for path in guarded for headers in bad]
    requests += [("GET", "/v1/ws", {**UPGRADE, "Sec-WebSocket-Protocol": "wan-streamer.v1, token.wrong"})]
    assert statuses(*requests, access=access) == [401] * len(requests)
    good = [("GET", path, {"Authorization": f"Bearer {TOKEN}"}) for path in guarded[:2]]
    assert statuses(*good, *map(get, ("/", "/healthz", "/readyz")), access=access) == [200] * 5


def test_a_page_shows_its_token_as_a_subprotocol():
    async def run():
        async with served(access=Access("127.0.0.1", TOKEN)) as server, ClientSession() as client:
            async with client.ws_connect(server.url("/v1/ws"), protocols=["wan-streamer.v1", f"token.{TOKEN}"]) as ws:
                protocol = ws.protocol
                await heard_from(ws, of_type("hello"))
            with pytest.raises(WSServerHandshakeError, match="401"):
                await client.ws_connect(server.url("/v1/ws"), protocols=["wan-streamer.v1"])
            return protocol

    assert asyncio.run(run()) == "wan-streamer.v1"


def test_a_token_is_in_no_log_and_no_repr(caplog):
    caplog.set_level("DEBUG")
    statuses(get("/v1/config", Authorization=f"Bearer {TOKEN}"), access=Access("127.0.0.1", TOKEN))
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(Access("127.0.0.1", TOKEN))


def test_logs_have_neither_text_nor_whole_ids(caplog):
    caplog.set_level("INFO")

    async def run():
        async with served() as server:
            async with connected(server, {"persona": "secret"}) as ws:
                await ws.send_str(json.dumps({"type": "text", "text": "password"}))
                hello = (await heard_from(ws, of_type("hello")))[-1]
                await heard_from(ws, of_type("text"))
            await server.until_free()
            return hello["session"]

    session = asyncio.run(run())
    said = " ".join(f"{record.getMessage()} {getattr(record, 'facts', '')}" for record in caplog.records)
    assert "session_began" in said
    assert session[:8] in said
    assert not any(word in said for word in (session, "secret", "password"))


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_which_addresses_are_this_machines_own(host, local):
    assert is_loopback(host) == local
    if not local:
        with pytest.raises(ValueError, match="--token-file"):
            Access(host)


BAD_OPTIONS = {
    "open to all without a token": (["--host", "0.0.0.0"], "--token-file"),
    "a weak token": (["--host", "0.0.0.0", "--token-file", "weak"], "16 to 256"),
    "no token file": (["--token-file", "nowhere"], "nowhere"),
    "half of TLS": (["--tls-cert", "weak"], "go together"),
    "no certificate": (["--tls-cert", "weak", "--tls-key", "weak"], "weak"),
    "no slots": (["--sessions", "0"], "at least 1"),
    "no time": (["--time-limit", "0"], "more than 0"),
    "no folder": (["--recordings", "nowhere"], "make it first"),
    "no licence": (["--licence", " "], "licence"),
    "output without input": (["--output", "reply.mp4"], "--input"),
    "an agent that is not there": (["--agent", "nowhere"], "nowhere"),
    "a world that is not there": (["--world", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("name", list(BAD_OPTIONS))
def test_wrong_options_are_one_sentence(monkeypatch, tmp_path, capsys, name):
    options, said = BAD_OPTIONS[name]
    (tmp_path / "weak").write_text("short")
    monkeypatch.chdir(tmp_path)
    preset = [] if "--agent" in options else ["--preset", PRESET]
    monkeypatch.setattr(sys, "argv", ["serve.py", "--port", "0", *preset, *options])
    assert serve.main() == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("serve.py: ")
    assert said in message


def test_ctrl_c_drains_and_exits_with_0(tmp_path):
    """The whole program: it loads, is ready, is talked to, keeps what was said, and ends."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".pytest_cache" / "jax")
    options = ["--preset", PRESET, "--placement", "unified", "--sessions", "1", "--port", "0"]
    command = [sys.executable, "serve.py", *options, "--recordings", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        port = int(re.search(r":(\d+)/", process.stderr.readline())[1])
        lines = iter(process.stderr.readline, "")
        assert any('"ready"' in line for line in lines)
        goodbye = asyncio.run(_until_goodbye(port, lambda: process.send_signal(signal.SIGINT)))
        rest = process.stderr.read()
        assert process.wait(15) == 0, rest
    assert goodbye["name"] == "server_stops"
    assert '"recorded"' in rest
    session, replay = sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("."))
    assert replay == f"{session}.json"


async def _until_goodbye(port, stop):
    class Address:
        def url(self, path):
            return f"http://127.0.0.1:{port}{path}"

    async with connected(Address(), {"record": True}) as ws:
        await heard_from(ws, lambda m: m["type"] == "unit" and m["unit"] == 2, within_s=60)
        stop()
        return (await heard_from(ws, of_type("goodbye"), within_s=10))[-1]
