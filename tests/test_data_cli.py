"""The command line: what it prints, what it writes, how it ends; statistics and sheets of what is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data_cases import CONFIG, LAYOUT, TOKENIZER, records, session_folder, write_dataset
from tests.small import small_params
from wanstreamer_jax.agent import Agent, save_agent
from wanstreamer_jax.data.__main__ import main
from wanstreamer_jax.data.dataset import Dataset
from wanstreamer_jax.data.folder import read_session
from wanstreamer_jax.data.from_folder import from_folder
from wanstreamer_jax.data.sheet import draw_sheet
from wanstreamer_jax.data.stats import gather, table
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

PRESET = """
import tests.data_cases
config = tests.data_cases.CONFIG
"""


@pytest.fixture
def preset(tmp_path: Path) -> str:
    (tmp_path / "preset.py").write_text(PRESET)
    return str(tmp_path / "preset.py")


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for seed in (0, 2):
        session_folder(tmp_path / "in", seed)
    return tmp_path / "in"


@pytest.mark.parametrize("command", ["validate", "prepare", "stats", "import", "sheet", "world"])
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "DIR" in capsys.readouterr().out


def test_validate_says_all_and_ends_with_2(sessions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(sessions)]) == 0
    assert "2 sessions, 0 with problems, 0 problems" in capsys.readouterr().out
    folder = sessions / "train-00000002"
    (folder / "user.mp4").unlink()
    (folder / "words.jsonl").write_text("{\n")
    assert main(["validate", str(sessions)]) == 2
    said = capsys.readouterr().out.splitlines()
    assert f"{folder}/user.mp4: is missing" in said
    assert any(line.startswith(f"{folder}/words.jsonl, line 1: is no JSON") for line in said)
    assert said[-1] == "2 sessions, 1 with problems, 2 problems"


def test_world_then_prepare_then_stats(tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    world = ["world", "--output", str(tmp_path / "in"), "--sessions", "2", "--seconds", "1.0", "--preset", preset]
    assert main(world) == 0
    first = {p: p.stat().st_mtime_ns for p in (tmp_path / "in").rglob("*.mp4")}
    assert main([*world[:4], "3", *world[5:]]) == 0  # goes on where it was
    assert {p: p.stat().st_mtime_ns for p in first} == first
    prepare = ["prepare", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--preset", preset]
    assert main([*prepare, "--record-seconds", "0.5"]) == 0
    dataset = Dataset(tmp_path / "out")
    assert len(dataset) == 3 * 2
    assert main(prepare) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["stats", str(tmp_path / "out"), "--json", str(tmp_path / "stats.json")]) == 0
    numbers = json.loads((tmp_path / "stats.json").read_text())
    assert (numbers["sessions"], numbers["units"]) == (3, 3 * 7)
    assert "sessions        3" in capsys.readouterr().out


def test_prepare_with_an_agent(sessions: Path, tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_agent(tmp_path / "agent", Agent(CONFIG, small_params(CONFIG), TOKENIZER, trained=False))
    command = ["prepare", "--input", str(sessions), "--agent", str(tmp_path / "agent"), "--output"]
    assert main([*command, str(tmp_path / "out"), "--preset", preset]) == 0
    dataset = Dataset(tmp_path / "out")
    assert dataset.has_latents
    latents = dataset[1].latents
    assert latents is not None
    assert latents.video_mean.shape == (15, 4, 6, 4)
    assert main([*command, str(tmp_path / "other"), "--preset", "tiny"]) == 2
    assert "does not fit the preset tiny: agent_picture is 112x64, not 48x32" in capsys.readouterr().err


def test_sheets_of_a_session_and_of_a_record(sessions: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "set")
    for i, source in enumerate((sessions / "train-00000000", tmp_path / "set")):
        sheet = tmp_path / f"{i}.png"
        assert main(["sheet", str(source), "--output", str(sheet)]) == 0
        assert sheet.read_bytes().startswith(b"\x89PNG")
    assert main(["sheet", str(tmp_path / "set"), "--record", "99", "--output", str(tmp_path / "x.png")]) == 2


def test_a_sheet_of_a_session_with_hardly_anything(tmp_path: Path) -> None:
    record = records()[0]
    bare = record._replace(words=[], streams=record.streams._replace(user_video=False))
    draw_sheet([bare._replace(user_samples=np.zeros_like(record.user_samples))], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_import_ends_with_2_when_something_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "ami", "--input", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "no *.words.xml here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stats", "none"], "none: no session folders here"),
        (["validate", "none"], "none: no session folders here"),
        (["prepare", "--input", "none", "--output", "x", "--preset", "tiny2"], "did you mean 'tiny'?"),
        (["prepare", "--input", "none", "--output", "x", "--agent", "nobody"], "nobody: no such directory"),
        (["sheet", "none", "--output", "x.png"], "none/user.mp4: is missing"),
    ],
)
def test_bad_input_is_one_error(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "x"])
def test_numbers_above_0(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["world", "--output", "x", "--sessions", "1", "--seconds", value])
    assert ended.value.code == 2
    assert "is no number above 0" in capsys.readouterr().err


# ---- Statistics


def spoken(*words: tuple[str, int, int]) -> list[dict[str, object]]:
    return [{"who": who, "start_ms": a, "end_ms": b, "text": "x"} for who, a, b in words]


def test_statistics_of_a_session_that_is_known() -> None:
    record = records()[0]._replace(
        words=spoken(
            ("user", 0, 300), ("user", 500, 800), ("agent", 700, 1200), ("user_typed", 900, 1000), ("agent", 2000, 2300)
        )
    )
    loud = np.zeros_like(record.agent_samples)
    loud.reshape(-1)[round(0.7 * SAMPLE_RATE_HZ) : round(1.2 * SAMPLE_RATE_HZ)] = 2**14
    pause = np.full_like(record.user_samples, 2**14)
    pause.reshape(-1)[round(0.3 * SAMPLE_RATE_HZ) : round(0.5 * SAMPLE_RATE_HZ)] = 0
    stats = gather([record._replace(agent_samples=loud, user_samples=pause)])
    assert stats.sessions == 1
    assert stats.user.loudness_db == pytest.approx(10 * np.log10(0.25), abs=0.01)  # pauses between words do not count
    assert stats.seconds == pytest.approx(2.4)
    assert (stats.user.words, stats.user.turns, stats.user.speech_s) == (2, 1, pytest.approx(0.8))
    assert (stats.agent.words, stats.agent.turns, stats.agent.speech_s) == (2, 2, pytest.approx(0.8))
    assert stats.typed_words == 1
    assert stats.overlap_s == pytest.approx(0.1)
    assert stats.silence_s == pytest.approx(2.4 - 0.8 - 0.8 + 0.1)
    assert stats.agent.loudness_db == pytest.approx(10 * np.log10(0.25 * 5 / 8), abs=0.01)
    assert stats.agent.peak == pytest.approx(0.5, abs=1e-3)


def test_statistics_do_not_depend_on_how_sessions_are_cut(sessions: Path) -> None:
    def of(units: int) -> str:
        folders = sorted(sessions.iterdir())
        made = [r for f in folders for r in from_folder(read_session(f), TOKENIZER, LAYOUT, units).records]
        return table(gather(made))

    assert of(100) == of(4)


def test_silence_has_no_loudness_and_the_numbers_are_json() -> None:
    record = records()[0]
    stats = gather([record._replace(words=[], agent_samples=np.zeros_like(record.agent_samples))])
    assert json.loads(json.dumps(stats.to_json(), allow_nan=False))["agent"]["loudness_db"] is None
    assert "-inf dBFS" in table(stats)


def test_text_of_units_is_counted() -> None:
    record = records()[0]
    stats = gather([record])
    assert stats.tokens == int(record.n_agent_text.sum()) - record.n_units
    assert stats.most_tokens == int(record.n_agent_text.max()) - 1
    assert stats.full_units == int((record.n_agent_text == LAYOUT.max_agent_text).sum())
    assert stats.words_moved == record.words_moved
    assert stats.licences == {"CC0-1.0": 15}
