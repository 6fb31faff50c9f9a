"""Figures of held-out sessions: the world's own agent has all of them, and whatever is broken on purpose shows."""

import dataclasses
import functools

import numpy as np
import pytest

from wanstreamer_jax.data.world import Composition, Identity, Kind, Session, Split, World, make_session
from wanstreamer_jax.data.world.lexicon import AGENT_VOICE, COLOURS
from wanstreamer_jax.data.world.speech import speak
from wanstreamer_jax.evaluation import baselines
from wanstreamer_jax.evaluation.chances import BAD, Share
from wanstreamer_jax.evaluation.drift import by_minute, drifts
from wanstreamer_jax.evaluation.figures import FIGURES, Aim, measure, reaches
from wanstreamer_jax.evaluation.lips import MOST_LAG, at_zero, offset_ms, sync_curve
from wanstreamer_jax.evaluation.lived import Lived, Written
from wanstreamer_jax.evaluation.looks import brightness, identity
from wanstreamer_jax.evaluation.score import Score, failed, score
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

PER_MS = SAMPLE_RATE_HZ // 1000
SEEDS = range(2**31 + 5, 2**31 + 11)
KINDS = (Kind.STOP, Kind.BACK_CHANNEL, Kind.BACKGROUND, Kind.COMMENT, Kind.TYPED, Kind.COLOUR)


@functools.cache
def sessions() -> list[Session]:
    """One of each kind that needs one, the compositions in turn."""
    pairs = zip(SEEDS, KINDS, strict=True)
    return [made(seed, kind, list(Composition)[i % 2]) for i, (seed, kind) in enumerate(pairs)]


@functools.cache
def made(seed: int, kind: Kind, composition: Composition = Composition.CLOSE_UP) -> Session:
    return make_session(seed, World(Split.HELDOUT, {kind: 1.0}, seconds=16.0, composition=composition))


@functools.cache
def scores(name: str) -> list[Score]:
    return [score(session, baselines.BASELINES[name](session)) for session in sessions()]


def taken(share: Share, found: Score) -> list[bool]:
    return [chance.taken for chance in found.chances if chance.share is share]


def changed(session: Session, **changes) -> Score:
    """The score of the world's own agent with something changed."""
    return score(session, dataclasses.replace(baselines.world(session), **changes))


def moved(samples: np.ndarray, ms: int) -> np.ndarray:
    """Later, or earlier; what leaves the session is lost."""
    out = np.zeros_like(samples)
    n = abs(ms) * PER_MS
    if ms > 0:
        out[n:] = samples[:-n]
    else:
        out[:-n] = samples[n:]
    return out


# ---- The world's own agent, and those that know nothing


def test_the_worlds_own_agent_reaches_every_aim() -> None:
    found = measure(scores("world"))
    missed = [f.name for f in FIGURES if reaches(f.aim, found[f.name].value, found[f.name].value) is False]
    assert missed == []
    for share in Share:
        assert found[share].n > 0
        assert found[share].value == (0 if share in BAD else 1)


def test_silence_answers_nothing_and_disturbs_nobody() -> None:
    found = measure(scores("silent"))
    for share in (Share.ANSWER_TYPED, Share.HEARD, Share.IN_TIME, Share.COMMENTED, Share.SPEAKING):
        assert found[share].value == 0
    for share in BAD:
        assert found[share].value == 0
    assert found[Share.STOPPED].value is found["latency"].value is found["sync_correlation"].value is None
    assert (found["nods_listening"].value, found["identity"].value) == (0, 1)


def test_a_copy_speaks_into_every_question() -> None:
    found = measure(scores("copying"))
    assert found[Share.FALSE_START].value == 1
    assert found[Share.COMMENTED].value == 0
    assert found["identity"].value < 0.7
    assert abs(found["sync_correlation"].value) < 0.3


def test_a_rule_answers_in_time_and_wrongly() -> None:
    found = measure(scores("rule"))
    assert found[Share.IN_TIME].value > 0.8
    assert 350 <= found["latency"].value <= 450
    assert found[Share.TYPED_IN_TIME].value == found[Share.COMMENTED].value == 0
    assert found["sync_correlation"].value == 0


def test_a_session_that_could_not_be_run_is_a_failure_in_every_figure() -> None:
    world, found = measure(scores("world")), measure([failed(s) for s in scores("world")])
    verdicts = {f.name: reaches(f.aim, found[f.name].value, world[f.name].value) for f in FIGURES if f.aim != Aim()}
    assert len(verdicts) > 10
    assert set(verdicts.values()) == {False}


# ---- Broken on purpose: when


def test_an_answer_that_comes_later_is_later_by_so_much() -> None:
    session = made(2**31 + 21, Kind.REPEAT)
    before = score(session, baselines.world(session))
    after = changed(session, samples=moved(session.agent_samples, 600))
    assert len(before.spoken_latencies_ms) > 3
    late = np.array(after.spoken_latencies_ms) - before.spoken_latencies_ms[: len(after.spoken_latencies_ms)]
    assert np.abs(late - 600).max() <= 10
    too_late = changed(session, samples=moved(session.agent_samples, 1300))
    assert not any(taken(Share.IN_TIME, too_late))


def test_an_answer_before_the_question_ends_is_a_false_start() -> None:
    session = made(2**31 + 21, Kind.REPEAT)
    early = changed(session, samples=moved(session.agent_samples, -700))
    assert np.mean(taken(Share.FALSE_START, early)) > 0.9
    assert not any(taken(Share.FALSE_START, score(session, baselines.world(session))))


def test_what_is_said_when_nothing_was_asked_is_unasked() -> None:
    session = made(2**31 + 21, Kind.SILENCE)
    assert not any(taken(Share.UNASKED, score(session, baselines.world(session))))
    samples = session.agent_samples.copy()
    said = speak("Hello!", AGENT_VOICE).samples
    samples[1000 * PER_MS : 1000 * PER_MS + len(said)] = said
    assert taken(Share.UNASKED, changed(session, samples=samples)) == [True]


def test_a_comment_that_is_late_is_none() -> None:
    session = made(2**31 + 8, Kind.COMMENT, Composition.MID_SHOT)
    assert all(taken(Share.COMMENTED, score(session, baselines.world(session))))
    late = changed(session, samples=moved(session.agent_samples, 1300))
    assert not any(taken(Share.COMMENTED, late))


# ---- Broken on purpose: the floor


def test_who_counts_on_after_stop_has_not_stopped() -> None:
    session = made(2**31 + 5, Kind.STOP)
    samples = session.agent_samples.copy()
    turn = session.labels.turns[0]
    on = speak("six, seven, eight, nine, ten", AGENT_VOICE).samples
    samples[turn.reply_end_ms * PER_MS :][: len(on)] = on[: len(samples) - turn.reply_end_ms * PER_MS]
    assert taken(Share.STOPPED, score(session, baselines.world(session)))[0]
    assert not taken(Share.STOPPED, changed(session, samples=samples))[0]


@pytest.mark.parametrize("i", [1, 2])  # back-channels, background
def test_who_falls_silent_when_others_hum_has_not_held(i: int) -> None:
    session = sessions()[i]
    others = session.labels.background_ms if i == 2 else session.labels.user_ms
    turn = session.labels.turns[0]
    first_ms = next(start for start, _ in others if turn.reply_start_ms < start < turn.reply_end_ms)
    samples = session.agent_samples.copy()
    samples[(first_ms + 300) * PER_MS : turn.reply_end_ms * PER_MS] = 0
    assert all(taken(Share.HELD, scores("world")[i]))
    assert not taken(Share.HELD, changed(session, samples=samples))[0]


# ---- Broken on purpose: what


def test_another_colour_or_every_colour_is_wrong_in_writing() -> None:
    session = made(2**31 + 10, Kind.COLOUR, Composition.MID_SHOT)
    shares = (Share.ANSWER_SEEN, Share.ANSWER_UNSEEN)

    def right(text_of) -> list[bool]:
        units = [turn.reply_start_ms // 160 for turn in session.labels.turns]
        written = tuple(Written(unit, text_of(t)) for unit, t in zip(units, session.labels.turns, strict=True))
        found = changed(session, written=written)
        return [x for share in shares for x in taken(share, found)]

    assert all(right(lambda turn: f" It is {turn.keyword.upper()}."))
    assert not any(right(lambda turn: f" It is {COLOURS[(COLOURS.index(turn.keyword) + 1) % 7]}."))
    assert not any(right(lambda turn: " ".join(COLOURS)))


def test_what_is_written_in_pieces_is_read_as_words() -> None:
    session = made(2**31 + 10, Kind.COLOUR, Composition.MID_SHOT)
    turn = session.labels.turns[0]
    unit = turn.reply_start_ms // 160
    pieces = tuple(Written(unit + i, text) for i, text in enumerate((" It is ", turn.keyword[:2], turn.keyword[2:])))
    found = changed(session, written=pieces)
    assert (taken(Share.ANSWER_SEEN, found) + taken(Share.ANSWER_UNSEEN, found)).count(True) == 1


def test_the_sound_of_another_answer_is_not_heard_as_the_right_one() -> None:
    session = made(2**31 + 21, Kind.REPEAT)
    samples = np.zeros_like(session.agent_samples)
    for turn in session.labels.turns:
        other = speak("Penguin." if turn.keyword != "penguin" else "Zebra.", AGENT_VOICE).samples
        samples[turn.reply_start_ms * PER_MS :][: len(other)] = other
    assert all(taken(Share.HEARD, score(session, baselines.world(session))))
    assert not any(taken(Share.HEARD, changed(session, samples=samples)))


# ---- Broken on purpose: how it looks


@pytest.mark.parametrize("composition", list(Composition))
@pytest.mark.parametrize("lag", [-4, 3])
def test_a_picture_that_lags_is_measured(composition: Composition, lag: int) -> None:
    session = made(2**31 + 22, Kind.COUNT, composition)
    lived = baselines.world(session)
    in_step, shifted = (
        sync_curve(dataclasses.replace(lived, frames=np.roll(lived.frames, n, axis=0)), composition) for n in (0, lag)
    )
    assert in_step is not None and shifted is not None
    assert abs(offset_ms(in_step)) < 40
    assert abs(offset_ms(shifted) - offset_ms(in_step) - 40 * lag) < 12
    assert at_zero(in_step) > 0.7 > at_zero(shifted)


def test_a_mouth_that_moves_by_chance_goes_with_nothing() -> None:
    session = made(2**31 + 22, Kind.COUNT)
    frames = np.random.default_rng(0).permutation(session.agent_frames)
    curve = sync_curve(dataclasses.replace(baselines.world(session), frames=frames), Composition.CLOSE_UP)
    assert curve is not None and len(curve) == 2 * MOST_LAG + 1
    assert np.abs(curve).max() < 0.2
    assert offset_ms(curve) is None


def test_an_agent_that_holds_still_does_not_nod() -> None:
    session = made(2**31 + 21, Kind.REPEAT)
    nods = score(session, baselines.world(session)).nods
    still = changed(session, frames=baselines.silent(session).frames).nods
    assert nods.listening > 2 and still.listening == still.idle == 0
    assert (still.listening_ms, still.idle_ms) == (nods.listening_ms, nods.idle_ms)


@pytest.mark.parametrize("composition", list(Composition))
def test_somebody_else_is_less_alike_and_noise_not_at_all(composition: Composition) -> None:
    session = made(2**31 + 22, Kind.COUNT, composition)
    own = identity(session.agent_frames, session.portrait, composition)
    assert own > 0.93
    world = World(seconds=1.6, composition=composition)
    others = [dataclasses.replace(world, identity=Identity.from_seed(seed)) for seed in range(4)]
    alike = [identity(make_session(1, w).agent_frames, session.portrait, composition) for w in others]
    assert max(alike) < own - 0.03
    noise = np.random.default_rng(0).integers(0, 256, session.agent_frames.shape, dtype=np.uint8)
    assert abs(identity(noise, session.portrait, composition)) < 0.2


def test_drift_is_what_became_of_the_last_minute() -> None:
    session = made(2**31 + 21, Kind.REPEAT)
    first = score(session, baselines.world(session))
    darker = (session.agent_frames * 0.5).astype(np.uint8)
    faded = Lived(darker, moved(session.agent_samples, 1300) * np.float32(0.5), ())
    last = score(session, faded)
    found = drifts(by_minute([[first, first, last]]))
    assert abs(found["brightness_change"].value + 0.5) < 0.01
    assert abs(found["loudness_change"].value + 6) < 0.5
    assert found["answer_rate_change"].value == -1
    assert abs(found["identity_change"].value) < 0.01  # of darker pictures of the same face
    assert brightness(darker) < brightness(session.agent_frames)
    unchanged = drifts(by_minute([[first, last, first]]))
    assert all(x.value == 0 for x in unchanged.values())
