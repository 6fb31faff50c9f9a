"""Laws of a run: whatever ends it, it goes on as if nothing had been; what was saved is whole."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from tests import train_toy as toy
from wanstreamer_jax.agent import load_agent
from wanstreamer_jax.signals import Signals
from wanstreamer_jax.training.config import Gate, MeshShape
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.loop import Run, train
from wanstreamer_jax.training.workdir_lock import WorkdirLock

N_BITS = 2**toy.N_SAMPLES - 1


def lines(workdir: Path) -> list[dict]:
    """Whole lines of a run's metrics; there may be none yet."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def checkpoints(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def state_of(run: Run):
    return jax.tree.map(np.asarray, run.state)


def digest(run: Run) -> str:
    """Of every number of a state."""
    leaves = jax.tree.leaves(state_of(run))
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


def final_digest(workdir: Path, **changes) -> str:
    with Run(toy.job(workdir, **changes)) as run:
        return digest(run)


def go(workdir: Path, until: int, **changes) -> None:
    """Train some steps, save, and leave it there, as if the program had been ended."""
    with Run(toy.job(workdir, **changes)) as run:
        run.go_on(lambda: run.step >= until)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert train(toy.job(workdir))
    return workdir


def test_a_run_leaves_what_it_promises(whole):
    assert [line["step"] for line in lines(whole)] == list(range(1, 13))
    assert checkpoints(whole) == ["step_00000010", "step_00000011", "step_00000012"]
    assert {path.name for path in (whole / "samples").iterdir()} == {"step_00000006", "step_00000012"}
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == 12
    assert summary["passed"]
    assert summary["speed"]["steps_per_s"] > 0
    assert load_agent(whole / "agent").training["toy"]["measures"] == summary["measures"]
    about = json.loads((whole / "checkpoints" / "step_00000012" / "config.json").read_text())
    assert about["agent"]["name"] == toy.CONFIG.name
    assert about["training"]["batch"] == 8


def test_each_sample_is_seen_once_an_epoch(whole):
    seen = [int(line["student/seen"]) for line in lines(whole)]
    for epoch in range(0, 12, 3):
        masks = seen[epoch : epoch + 3]
        assert sum(masks) == N_BITS
        assert masks[0] | masks[1] | masks[2] == N_BITS
    assert seen[:3] != seen[3:6]  # in another order


def test_one_seed_one_run(whole, tmp_path):
    train(toy.job(tmp_path / "again"))
    assert lines(tmp_path / "again") == lines(whole)
    assert final_digest(tmp_path / "again") == final_digest(whole)


def test_a_run_goes_on_where_it_was(whole, tmp_path):
    go(tmp_path / "run", until=5)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4, 5]
    with Run(toy.job(tmp_path / "run")) as run:
        assert run.step == 5
    train(toy.job(tmp_path / "run"))
    assert lines(tmp_path / "run") == lines(whole)
    assert final_digest(tmp_path / "run") == final_digest(whole)


def test_killed_at_any_moment_it_replays_to_the_bit(tmp_path):
    """Saves are in flight most of the time: every step is saved, and a save takes longer than a step."""
    steps, rng = 24, np.random.default_rng(time.time_ns())
    train(toy.job(tmp_path / "whole", steps=steps))
    reference = lines(tmp_path / "whole")
    workdir, n_kills = tmp_path / "run", 0
    while len(lines(workdir)) < steps:
        program = start(workdir, "--steps", str(steps))
        at = len(lines(workdir))
        wait_for(lambda at=at: len(lines(workdir)) > at, program)
        time.sleep(rng.uniform(0, 0.8))
        program.kill()
        program.wait()
        n_kills += 1
        assert lines(workdir) == reference[: len(lines(workdir))]
    train(toy.job(workdir, steps=steps))
    assert n_kills >= 3
    assert lines(workdir) == reference
    assert final_digest(workdir, steps=steps) == final_digest(tmp_path / "whole", steps=steps)


def start(workdir: Path, *fields: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.train_toy", str(workdir), *fields]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE)


def wait_for(happens: Callable[[], bool], program: subprocess.Popen) -> None:
    while not happens() and program.poll() is None:
        time.sleep(0.01)


def test_a_process_that_prepares_samples_may_die(whole, tmp_path):
    """The run stops with a sentence, and goes on from its last checkpoint to the bit."""
    workdir, steps = tmp_path / "run", "100000"
    program = start(workdir, "--steps", steps, "--workers", "1")
    wait_for(lambda: len(lines(workdir)) > 3, program)
    (worker,) = spawned_by(program.pid)
    os.kill(worker, signal.SIGKILL)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1  # the error of `train` as it is
    assert re.search(r"InputError: no more samples can be made: .*exit code -9", errors.decode())
    before = lines(workdir)
    with Run(toy.job(workdir, steps=int(steps), workers=1)) as run:
        assert run.step >= len(before) - 3  # a save is behind, and a line
        run.go_on(lambda: run.step >= len(before))
    assert lines(workdir)[: len(before)] == before


def spawned_by(pid: int) -> list[int]:
    """Processes that a program has started to work for it."""
    children: list[str] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            children += (thread / "children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_program_well(number, tmp_path):
    program = start(tmp_path / "run", "--steps", "100000", "--save_every_s", "1000")
    wait_for(lambda: len(lines(tmp_path / "run")) > 3, program)
    program.send_signal(number)
    assert program.wait(timeout=60) == 0, program.stderr.read().decode()
    n = len(lines(tmp_path / "run"))
    assert checkpoints(tmp_path / "run") == [f"step_{n:08d}"]


def test_handlers_are_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before  # a second one ends the program
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2)])
def test_another_mesh_takes_up_the_same_numbers(mesh, tmp_path):
    go(tmp_path / "run", until=4)
    with Run(toy.job(tmp_path / "run")) as run:
        before = state_of(run)
    with Run(toy.job(tmp_path / "run", mesh=MeshShape(*mesh))) as run:
        assert run.step == 4
        assert jax.tree.all(jax.tree.map(np.array_equal, before, state_of(run)))
        kernel = run.state.trainees["student"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape)[0] == toy.WIDTH // mesh[1]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "unlisted", "no checksums"])
def test_a_damaged_newest_step_is_set_aside(damage, whole, tmp_path, capfd):
    workdir = tmp_path / "run"
    shutil.copytree(whole / "checkpoints", workdir / "checkpoints")
    newest = workdir / "checkpoints" / "step_00000012"
    largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size)
    match damage:
        case "flip":
            content = bytearray(largest.read_bytes())
            content[len(content) // 2] ^= 1
            largest.write_bytes(content)
        case "cut":
            os.truncate(largest, largest.stat().st_size - 1)
        case "remove":
            largest.unlink()
        case "unlisted":
            (newest / "state" / "more").write_text("")
        case "no checksums":
            (newest / "checksums.json").unlink()
    with Run(toy.job(workdir)) as run:
        assert run.step == 11
    assert "WARNING" in capfd.readouterr().err
    assert checkpoints(workdir) == ["step_00000010", "step_00000011", "step_00000012.damaged"]


def test_a_full_disk_stops_the_run_and_spoils_nothing(tmp_path):
    """Files may not grow beyond a size that metrics and the first steps need, but a later checkpoint exceeds."""
    workdir = tmp_path / "run"
    go(workdir, until=3)
    good = checkpoints(workdir)
    largest = max(path.stat().st_size for path in (workdir / "checkpoints").rglob("*") if path.is_file())

    program = start(workdir)
    resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (largest // 2, largest // 2))
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 1  # the error of `train` as it is: this program does not catch it
    assert re.search(
        r"TrainingError: .*checkpoint cannot be written .*; the last good one is step_00000003", errors.decode()
    )
    with Run(toy.job(workdir)) as run:
        assert run.step == 3
    assert checkpoints(workdir) == good


def test_ten_updates_in_a_row_that_are_not_finite_stop_the_run(tmp_path):
    always = dataclasses.replace(toy.TRAINING.optimizer, learning_rate=float("1e38"))
    with pytest.raises(TrainingError, match="10 updates of student in a row were not finite"):
        train(toy.job(tmp_path / "run", steps=40, optimizer=always))
    assert lines(tmp_path / "run")[-1]["student/skipped_in_a_row"] == 10


def test_a_few_updates_that_are_not_finite_do_not(tmp_path):
    assert train(toy.job(tmp_path / "run", weights=toy.ToyWeights(poison=5)))
    assert lines(tmp_path / "run")[-1]["student/skipped"] == 4  # once an epoch
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped"] == {"critic": 0, "student": 4}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 7}, r"training.seed 0 where this one has 7"),
        ({"batch": 4}, r"training.batch 8 where this one has 4"),
        ({"weights": toy.ToyWeights(noise=0.5)}, r"training.weights.noise 0.01 where this one has 0.5"),
    ],
)
def test_a_checkpoint_of_another_run_is_one_sentence(change, words, whole):
    with pytest.raises(TrainingError, match=words):
        train(toy.job(whole, **change))


def test_two_runs_of_one_workdir_are_one_sentence(tmp_path):
    workdir = tmp_path / "run"
    with WorkdirLock(workdir), pytest.raises(TrainingError, match=rf"run: another run is .* \(process {os.getpid()}\)"):
        train(toy.job(workdir))
    assert not (workdir / "metrics.jsonl").exists()
    assert train(toy.job(workdir, steps=1))


def test_a_checkpoint_of_another_stage_is_one_sentence(whole):
    job = toy.job(whole)
    with pytest.raises(TrainingError, match=r"is of another run, with stage toy where this one has else: name another"):
        train(dataclasses.replace(job, stage=dataclasses.replace(toy.stage, name="else")))


def test_gates_are_judged(tmp_path, capfd):
    gates = (Gate("error", at_most=1e9), Gate("error", at_least=1e9))
    assert train(toy.job(tmp_path / "run", steps=1, gates=gates))
    verdicts = json.loads((tmp_path / "run" / "summary.json").read_text())["gates"]
    assert [verdict["passed"] for verdict in verdicts] == [True, False]
    assert "NOT reached: error" in capfd.readouterr().err


def test_a_gate_of_what_is_not_measured_is_not_reached_and_costs_nothing(tmp_path, capfd):
    assert train(toy.job(tmp_path / "run", steps=1, gates=(Gate("speed", at_least=1.0),)))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["passed"] is False
    assert "NOT reached: nothing measures 'speed'; there are error" in capfd.readouterr().err
    assert (tmp_path / "run" / "agent" / "config.json").exists()


def strict(text: str):
    """A value of JSON, which has no NaN."""

    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_not_measured_is_null_and_reaches_no_gate(tmp_path, capfd):
    def measure(*arguments):
        return toy.measure(*arguments) | {"absent": np.float32("nan")}

    gates = (Gate("absent", at_most=1.0), Gate("absent"), Gate("error", at_most=1e9))
    job, workdir = toy.job(tmp_path / "run", gates=gates, weights=toy.ToyWeights(poison=5)), tmp_path / "run"
    assert train(dataclasses.replace(job, stage=dataclasses.replace(toy.stage, measure=measure)))
    summary = strict((workdir / "summary.json").read_text())
    assert summary["measures"]["absent"] is None
    assert [verdict["passed"] for verdict in summary["gates"]] == [False, False, True]
    said = capfd.readouterr().err
    assert "NOT reached: absent has no finite value on the held-out data, should be at most 1.0" in said
    measured = [strict(line) for line in (workdir / "measures.jsonl").read_text().splitlines()]
    assert [(m["step"], m["absent"], m["error"] > 0) for m in measured] == [(6, None, True), (12, None, True)]
    losses = [strict(line)["student/loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert losses.count(None) == 4  # once an epoch
    strict((workdir / "agent" / "manifest.json").read_text())


def test_tensorboard_has_the_numbers_of_the_lines(tmp_path):
    workdir = tmp_path / "run"
    job = dataclasses.replace(toy.job(workdir, weights=toy.ToyWeights(poison=5)), tensorboard=True)
    with Run(job) as run:
        run.go_on(lambda: run.step >= 4)
        run.take_step()  # is not saved
    train(job)
    assert len(scalars_of(workdir)) > 12 * 4
    assert {(v.tag, e.step): v.simple_value for e in events(workdir) for v in e.summary.value} == scalars_of(workdir)
    begun = [e.step for e in events(workdir) if e.session_log.status == SessionLog.START]
    assert begun == [1, 5]  # the fifth step is taken again: what was shown of it is not shown


def scalars_of(workdir: Path) -> dict[tuple[str, int], float]:
    """What `metrics.jsonl` and `measures.jsonl` hold, by name and step."""
    found = {}
    for file, prefix in (("metrics.jsonl", ""), ("measures.jsonl", "heldout/")):
        for line in (workdir / file).read_text().splitlines():
            numbers = json.loads(line)
            step = numbers.pop("step")
            found |= {(prefix + name, step): value for name, value in numbers.items() if value is not None}
    return found


def events(workdir: Path) -> Iterator[Event]:
    """The records of event files: a length, its checksum, so many bytes, theirs."""
    for file in sorted((workdir / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime_ns):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            yield Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4


def test_a_source_smaller_than_a_batch_is_one_sentence(tmp_path):
    with pytest.raises(TrainingError, match="24 samples do not fill a batch of 32"):
        train(toy.job(tmp_path / "run", batch=32))


def test_processes_prepare_the_same_samples(whole, tmp_path):
    go(tmp_path / "run", until=2, workers=2)
    go(tmp_path / "run", until=4, workers=2)
    assert lines(tmp_path / "run") == lines(whole)[:4]
