"""From a layout to session folders, one after the other; those that are there are kept."""

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.importers.ami import AMI
from wanstreamer_jax.data.importers.interaction import Format, write_interaction
from wanstreamer_jax.data.importers.moshi import MOSHI
from wanstreamer_jax.data.importers.seamless import SEAMLESS
from wanstreamer_jax.data.validate import problems_of

FORMATS: dict[str, Format] = {"moshi": MOSHI, "ami": AMI, "seamless": SEAMLESS}


class Imported(NamedTuple):
    """What became of a source."""

    n_written: int
    n_kept: int  # that were there
    n_shortened: int  # words, by a few milliseconds, to the beginning of the next
    problems: list[Problem]  # of recordings that were left out, and of folders that were written


def import_sessions(name: str, source: Path, output: Path, licence: str | None) -> Imported:
    """Write a session folder for each recording of `source`.

    Raises:
        DataError: there are no recordings, or nobody says under which licence they are.
    """
    layout = FORMATS[name]
    licence = licence or layout.licence
    if licence is None:
        raise DataError(Problem(source, "under which licence are these recordings? Say it with --licence"))
    n_written = n_kept = n_shortened = 0
    problems: list[Problem] = []
    for item in tqdm(layout.find(source), desc=f"import {name}", unit=" sessions"):
        folder = output / item.name
        if folder.exists():
            n_kept += 1
            continue
        try:
            n_shortened += write_interaction(layout.read(item), folder, licence, f"{name}: {item.name}")
        except DataError as error:
            problems += error.problems
            continue
        n_written += 1
        problems += problems_of(folder, decode=False)
    return Imported(n_written, n_kept, n_shortened, problems)
