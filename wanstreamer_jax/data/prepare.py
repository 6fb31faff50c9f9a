"""Session folders to a dataset: read, laid out, encoded if wanted, written; there as a whole or not at all."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.data.dataset import MANIFEST, Counts, DatasetWriter
from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.folder import SESSION, read_session, session_folders
from wanstreamer_jax.data.from_folder import from_folder
from wanstreamer_jax.data.latents import AgentEncoder, encoder_fingerprints
from wanstreamer_jax.data.layout import Layout, encode_persona
from wanstreamer_jax.data.validate import problems_of
from wanstreamer_jax.data.world.session import in_processes
from wanstreamer_jax.files import check_replaceable, pending_directory
from wanstreamer_jax.tokens import Tokenizer


@dataclasses.dataclass(frozen=True)
class Job:
    """What to prepare, and how."""

    source: Path  # a directory of session folders
    output: Path
    layout: Layout
    tokenizer: Tokenizer
    agent: Agent | None = None  # whose VAEs encode the agent's side; none: no latents
    units_per_record: int = 375
    shard_bytes: int = 256 * 2**20
    workers: int = 1  # processes that check sessions
    most_refused: int = 0  # sessions with problems that are left out before it is an error
    overwrite: bool = False


def prepare(job: Job) -> tuple[Counts, list[Problem]]:
    """Write a dataset; returns what is in it, and what was wrong with the sessions that were left out.

    Raises:
        DataError: there are no sessions, or more with problems than may be left out, or there is something at the
            output already. Nothing is left behind.
    """
    folders = session_folders(job.source)
    try:
        check_replaceable(job.output, MANIFEST, overwrite=job.overwrite)
    except ValueError as error:
        raise DataError(Problem(job.output, str(error).removeprefix(f"{job.output}: "))) from error
    encoder = None if job.agent is None else AgentEncoder(job.agent, job.layout)
    encoders = None if job.agent is None else encoder_fingerprints(job.agent.config, job.agent.params)
    refused: list[tuple[Path, Sequence[Problem]]] = []
    with (
        pending_directory(job.output) as fresh,
        DatasetWriter(fresh, job.layout, job.tokenizer, encoders, job.shard_bytes) as writer,
    ):
        for folder, problems in _checked(job, folders):
            if problems:
                refused.append((folder, problems))
                _check_refused(refused, job.most_refused)
                continue
            _add_session(job, folder, encoder, writer)
        if not writer.counts.sessions:
            raise DataError(*(problem for _, problems in refused for problem in problems))
        writer.finish({"refused": [[folder.name, *map(str, problems)] for folder, problems in refused]})
    return writer.counts, [problem for _, problems in refused for problem in problems]


def _checked(job: Job, folders: list[Path]) -> Iterator[tuple[Path, Sequence[Problem]]]:
    """Every session and what is wrong with it, checked ahead by so many processes, with a bar.

    All is checked before a record is made of a session, for a record that has been written is there to stay.
    """
    check = functools.partial(_problems, folders=folders, tokenizer=job.tokenizer, layout=job.layout)
    found = in_processes(check, range(len(folders)), job.workers)
    pairs = zip(folders, found, strict=True)
    yield from tqdm(pairs, total=len(folders), desc="prepare", unit=" sessions")


def _problems(index: int, folders: list[Path], tokenizer: Tokenizer, layout: Layout) -> Sequence[Problem]:
    folder = folders[index]
    if problems := problems_of(folder):
        return problems
    try:
        encode_persona(read_session(folder).persona, tokenizer, layout)
    except ValueError as error:
        return [Problem(folder / SESSION, str(error))]
    return []


def _add_session(job: Job, folder: Path, encoder: AgentEncoder | None, writer: DatasetWriter) -> None:
    prepared = from_folder(read_session(folder), job.tokenizer, job.layout, job.units_per_record)
    for record in prepared.records if encoder is None else encoder.encode(prepared.records):
        writer.add(record)
    writer.counts.sessions += 1
    writer.counts.tokens_left_over += prepared.text.n_left_over


def _check_refused(refused: list[tuple[Path, Sequence[Problem]]], most: int) -> None:
    if len(refused) > most:
        problems = [problem for _, problems in refused for problem in problems]
        last = Problem(refused[-1][0], f"session {len(refused)} with problems; at most {most} may be left out")
        raise DataError(*problems, last)
