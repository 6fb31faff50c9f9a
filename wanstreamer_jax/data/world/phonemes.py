"""What is being said, sound by sound: the phoneme of every 20 ms.

samples   |   s   |     t     |     A@     |            "star"
slots     s s s s t t t t t t A@ A@ A@ A@ A@ -  -  -    - is nobody
"""

import numpy as np
from jaxtyping import Int32

from wanstreamer_jax.data.world.speech import Span
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

SLOT_MS = 20
SLOT = SLOT_MS * SAMPLE_RATE_HZ // 1000  # samples

NOBODY, OTHER = "-", "?"
_VOWELS = "0 3 3: @ @L A: A@ E I O O@ U V a aI aU aa e@ eI i i: i@3 o@ oU u:"
_CONSONANTS = "; D N S T b d dZ f g h j k l m n p r s t tS v w z"
PHONEMES = (NOBODY, OTHER, *_VOWELS.split(), *_CONSONANTS.split())  # espeak-ng's, of English
_INDEX = {name: i for i, name in enumerate(PHONEMES)}
_STRESS, _VARIANTS = "',%=|", "#-245"  # marks around a name, and ends of names of much the same sound


def phoneme_track(phonemes: list[Span], n_slots: int) -> Int32[np.ndarray, " n_slots"]:
    """The place in `PHONEMES` of what is said in each slot, from spans in samples since the first."""
    track = np.zeros(n_slots, np.int32)
    for phoneme in phonemes:
        track[_slot(phoneme.start) : _slot(phoneme.end)] = index_of(phoneme.text)
    return track


def index_of(phoneme: str) -> int:
    """The place in `PHONEMES` of espeak-ng's name with its marks; that of `OTHER` if it is none of them."""
    name = phoneme.strip(_STRESS)
    return _INDEX.get(name, _INDEX.get(name.rstrip(_VARIANTS), _INDEX[OTHER]))


def _slot(sample: int) -> int:
    return (sample + SLOT // 2) // SLOT
