"""Render `wanstreamer_jax/assets/sample.mp4`: the user's side of a held-out session of the synthetic world.

    pip install -e '.[train]'      # for the voice
    python docs/make_sample.py

16 s of 128x64, as the agent sees it: somebody says hello, holds up cards and asks about them.
"""

from wanstreamer_jax.bundled import AGENT
from wanstreamer_jax.data.world import Kind, Split, World, make_session
from wanstreamer_jax.media.writer import write_film
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.training.clips import HELDOUT_SEED

SEED = HELDOUT_SEED + 35
WORLD = World(
    split=Split.HELDOUT,
    mixture={Kind.GREETING: 1.0, Kind.COLOUR: 1.0, Kind.SHAPE: 1.0, Kind.HOW_MANY: 1.0},
    seconds=16.0,
    user_picture=Picture(128, 64),
)


def main() -> None:
    """Write the clip, and say what is asked in it and what would be right to answer."""
    session = make_session(SEED, WORLD)
    path = AGENT.parent / "sample.mp4"
    write_film(path, session.user_frames, session.user_samples)
    for turn in session.labels.turns:
        print(f"{turn.question_start_ms / 1000:5.2f} s  {turn.question}  {turn.expected}")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
