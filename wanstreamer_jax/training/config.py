"""Settings of training: frozen dataclasses, overridden on the command line, written beside every checkpoint."""

import dataclasses
from typing import Any, Literal

from wanstreamer_jax.config import Dtype

Remat = Literal["nothing", "layers", "elementwise"]


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis of the mesh; data 0: all that the other two leave."""

    data: int = 0  # copies of the parameters, each with its part of the batch
    fsdp: int = 1  # devices that share one copy, and its part of the batch
    ulysses: int = 1  # devices that share one sequence


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay, gradients clipped by their norm."""

    learning_rate: float = 1e-3  # after the warm-up
    final_share: float = 0.05  # of the learning rate, at the end
    warmup: int = 100  # updates
    b1: float = 0.9  # share of the mean gradient that an update keeps
    b2: float = 0.95  # share of the mean square of the gradient that an update keeps
    eps: float = 1e-8  # added to the root of that mean square
    weight_decay: float = 0.01  # of matrices and kernels only
    clip: float = 1.0  # norm of the gradient
    senses: float = 1.0  # learning rate of perception in stages of the whole agent, by that of the rest; 0: it stays


@dataclasses.dataclass(frozen=True)
class Gate:
    """A threshold for a measure of held-out data."""

    measure: str
    at_least: float | None = None
    at_most: float | None = None

    def passes(self, value: float) -> bool:
        """Whether a measured value is good enough."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclasses.dataclass(frozen=True)
class VideoVAEWeights:
    """What the video VAE's loss adds up, and its clips."""

    units: int = 8  # of a clip, after its portrait: as many as one may see of another, or it never learns to go on
    heldout_units: int = 24  # of a clip that is measured: what drifts is found out
    clips: int = 1  # of a session: a sample
    crop: int = 1  # clips show a part of the picture where it moves, so many times smaller in width and height
    seconds: float = 4.0  # of a session of the synthetic world
    pixels: float = 1.0  # mean absolute error, pixels in [-1, 1]
    pyramid: float = 1.0  # mean absolute error of a Laplacian pyramid: edges at every scale
    motion: float = 0.5  # mean absolute error of differences between frames
    moving: float = 0.0  # how much more than the rest of a picture what moves counts; lips are a hundredth of it
    kl: float = 1e-6  # of each latent number
    adversarial: float = 0.0  # 0: there is no discriminator
    adversarial_from: int = 0  # step


@dataclasses.dataclass(frozen=True)
class DialogueWeights:
    """How often each dialogue of the synthetic world comes, against the others, in training; 0: never."""

    greeting: float = 1.0
    colour: float = 1.0
    shape: float = 1.0
    how_many: float = 1.0
    repeat: float = 1.0
    count: float = 1.0
    stop: float = 1.0
    back_channel: float = 1.0
    background: float = 1.0
    comment: float = 1.0
    silence: float = 1.0
    typed: float = 1.0


@dataclasses.dataclass(frozen=True)
class AudioVAEWeights:
    """What the audio VAE's loss adds up, and its clips."""

    latents: int = 12  # of a clip, 80 ms each
    clips: int = 6  # of a session: a sample
    seconds: float = 8.0  # of a session of the synthetic world
    dialogues: DialogueWeights = DialogueWeights()
    user: bool = True  # every other clip is of the user's sound, where there is one
    waveform: float = 1.0  # mean absolute error, by the mean absolute sample
    log_spectrum: float = 1.0  # mean absolute difference of log magnitudes, nepers
    convergence: float = 1.0  # |S - S'| / |S| of magnitudes
    kl: float = 1e-4  # of each latent number
    encoder: bool = True  # learns too; else latents stay what they are to an agent that has learned to make them
    noise: float = 0.0  # deviation of what is added to latents before they are decoded: an agent's are not exact


@dataclasses.dataclass(frozen=True)
class HearingWeights:
    """The clips of `hearing`, and what it begins from."""

    latents: int = 60  # of a clip, 80 ms each
    clips: int = 4  # of a sample
    of_voice: bool = True  # hearing's encoder begins as that of the audio VAE, which has learned speech


@dataclasses.dataclass(frozen=True)
class SeeingWeights:
    """The pictures of `seeing`."""

    pictures: int = 32  # of a sample
    grey: float = 0.3  # share of pictures without colours


@dataclasses.dataclass(frozen=True)
class WindowWeights:
    """What `interact` and `pretrain` add up, and their windows."""

    units: int = 32  # of a window
    text: float = 1.0  # cross-entropy of a unit's text, nats
    audio: float = 1.0  # mean squared error of velocities
    video: float = 1.0
    motion: float = 0.0  # how much more than the rest of a picture what moves counts; lips are a thirtieth of it
    alone: float = 0.1  # share of units whose latents are predicted without condition, for guidance
    copies: int = 1  # noisy ones of a unit's latents, at times of their own: they share what they see, which costs most
    coupled: float = 0.5  # share of units whose sound and picture are as noisy as in the solver; others separately
    history_noise: float = 0.0  # the latest flow time at which the agent's own past is seen: it never makes it exactly


@dataclasses.dataclass(frozen=True)
class SessionWeights(WindowWeights):
    """What `interact` adds up; its windows are of whole sessions."""

    seconds: float = 20.0  # of a session of the synthetic world
    dialogues: DialogueWeights = DialogueWeights()


@dataclasses.dataclass(frozen=True)
class DistillWeights:
    """What `distill` adds up, in its two parts, and its windows. The student's steps are the agent's own."""

    units: int = 16  # of a window
    seconds: float = 20.0  # of a session of the synthetic world
    dialogues: DialogueWeights = DialogueWeights()
    text: float = 1.0  # of written text: by the data, then by the teacher's probabilities
    audio: float = 1.0
    video: float = 1.0
    teacher_steps: int = 8  # of the teacher's solver
    guidance: float = 2.0  # of the teacher
    match_from: int = 500  # the step at which matching of distributions takes over from following the path
    every: int = 5  # updates of the critic for one of the student (DMD2)


@dataclasses.dataclass(frozen=True)
class MixtureWeights:
    """How often each task of `pretrain` is drawn, against the others; 0: never."""

    image_captioning: float = 1.0
    audio_captioning: float = 1.0
    video_captioning: float = 1.0
    asr: float = 2.0  # speech to text
    tts: float = 2.0  # text to speech
    dialogue: float = 1.0  # typed
    image_generation: float = 1.0
    audio_generation: float = 1.0
    video_generation: float = 1.0
    joint_generation: float = 2.0  # speech with its face
    spoken_dialogue: float = 1.0  # questions for ears alone, answered aloud


@dataclasses.dataclass(frozen=True)
class PretrainWeights(WindowWeights):
    """What `pretrain` adds up; its windows are whole examples of tasks."""

    mixture: MixtureWeights = MixtureWeights()


@dataclasses.dataclass(frozen=True)
class Training:
    """One stage of one agent."""

    weights: Any  # of a preset: the stage's own settings, by their names
    steps: int = 1000  # of the whole run; the learning rate falls until the last
    batch: int = 8  # samples of all devices together in one update
    accumulation: int = 1  # pieces a batch is computed in, one after the other
    seed: int = 0  # of fresh parameters, noise and the order of samples
    mesh: MeshShape = MeshShape()
    optimizer: OptimizerConfig = OptimizerConfig()
    helper: OptimizerConfig = OptimizerConfig()  # of trainees that are no part of an agent
    compute: Dtype = "float32"  # of activations; parameters and optimiser state are float32 always
    remat: Remat = (
        "layers"  # computed again backward: nothing, the Transformer's layers, or all that is elementwise too
    )
    ema: float = 0.0  # share of the old average that an update keeps; 0: no average
    samples: int = 4096  # of the synthetic world in an epoch
    heldout_batches: int = 8  # that the measures are taken over
    workers: int = 0  # processes that prepare samples; 0: threads of this one
    most_left_out: int = 100  # records that cannot be read, before the run stops
    save_every_s: float = 300.0  # seconds between checkpoints
    keep: int = 3  # checkpoints
    log_every: int = 10  # steps between updates of the progress bar
    preview_every: int = 500  # steps between pictures of what it does
    measure_every: int = 500  # steps between measures of held-out data
    gates: tuple[Gate, ...] = ()  # thresholds for the measures at the end


@dataclasses.dataclass(frozen=True)
class Phase:
    """One run of a recipe: a stage with its settings, some of them changed."""

    name: str  # of its working directory
    stage: str
    fields: tuple[str, ...] = ()  # as on the command line: "--steps=1000"
