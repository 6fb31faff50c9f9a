"""Draw `docs/reply_sheet.jpg`: what the bundled agent does while it lives the session of the sample clip.

pip install -e '.[train,figures]'
python docs/reply_sheet.py

The user is the world's; what the agent shows, says and writes is its own, as in `make sample`.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from make_sample import SEED, WORLD

from wanstreamer_jax.agent import load_agent
from wanstreamer_jax.bundled import AGENT
from wanstreamer_jax.data.__main__ import main as data
from wanstreamer_jax.data.world import Session, Who, Word, make_session
from wanstreamer_jax.data.world.folder import write_session
from wanstreamer_jax.evaluation.closed_loop import ClosedLoop
from wanstreamer_jax.evaluation.lived import Lived
from wanstreamer_jax.timeline import UNIT_MS


def main() -> None:
    """Live the session, and draw it."""
    session = make_session(SEED, WORLD)
    with ClosedLoop(load_agent(AGENT), 1, lambda _: None) as loop:
        loop.begin([session], first_seed=0)
        (lived,) = loop.live([session])
    with tempfile.TemporaryDirectory() as folder:
        write_session(with_agent(session, lived), Path(folder) / "sample")
        data(["sheet", f"{folder}/sample", "--output", str(Path(__file__).with_name("reply_sheet.jpg"))])


def with_agent(session: Session, lived: Lived) -> Session:
    """The session with another agent in it."""
    words = [word for word in session.labels.words if word.who is not Who.AGENT]
    words = sorted([*words, *written(lived)], key=lambda word: (word.start_ms, word.who))
    labels = dataclasses.replace(session.labels, words=words)
    return dataclasses.replace(session, agent_frames=lived.frames, agent_samples=lived.samples, labels=labels)


def written(lived: Lived) -> Iterator[Word]:
    """What was written in each unit, as a word as long as the unit."""
    for unit, text in lived.written:
        if text.strip():
            yield Word(Who.AGENT, unit * UNIT_MS, (unit + 1) * UNIT_MS, text.strip())


if __name__ == "__main__":
    main()
