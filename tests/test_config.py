"""Laws of the schema: presets have the published sizes, JSON gives back what it was given, nonsense is named."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from wanstreamer_jax import presets
from wanstreamer_jax.config import Config, TransformerConfig, WorldConfig, from_json, to_json
from wanstreamer_jax.presets import PRESETS, QWEN3, load_preset, preset_names
from wanstreamer_jax.timeline import Picture

TINY = load_preset("tiny")
V01 = load_preset("v01_192p")
V02 = load_preset("v02_640x368")


@pytest.mark.parametrize(
    ("config", "picture", "n_video"), [(TINY, "112x64", 28), (V01, "336x192", 252), (V02, "640x368", 920)]
)
def test_presets_have_their_pictures_and_tokens(config: Config, picture: str, n_video: int) -> None:
    assert str(config.picture) == picture
    assert config.picture.n_tokens == n_video
    assert config.layout.n_agent_media == n_video + 2
    assert config.video_token_channels == 64


# Parameters of the models as published (model.safetensors.index.json of each).
PUBLISHED = {"0.6b": 596_049_920, "1.7b": 1_720_574_976, "4b": 4_022_468_096, "8b": 8_190_735_360}


def _n_parameters(t: TransformerConfig) -> int:
    """Qwen3's parameters, counted by hand."""
    attention = 2 * t.width * t.heads * t.head_size + 2 * t.width * t.kv_heads * t.head_size + 2 * t.head_size
    layer = attention + 3 * t.width * t.mlp + 2 * t.width
    return t.layers * layer + t.width + t.vocab * t.width * (1 if t.tied else 2)


@pytest.mark.parametrize("model", PUBLISHED)
def test_transformers_have_the_size_of_qwen3(model: str) -> None:
    assert _n_parameters(QWEN3[model]) == PUBLISHED[model]


@pytest.mark.parametrize("preset", ["v01_192p", "v02_640x368"])
@pytest.mark.parametrize("model", QWEN3)
def test_one_setting_chooses_the_transformer(preset: str, model: str) -> None:
    make = presets.runpy.run_path(str(PRESETS / f"{preset}.py"))["make"]
    other = load_preset(preset)
    assert make(model) == dataclasses.replace(other, name=f"{preset}-{model}", transformer=QWEN3[model])


def test_a_preset_says_what_it_is_on_what_and_what_to_expect() -> None:
    for name in preset_names():
        docstring = presets.runpy.run_path(str(PRESETS / f"{name}.py"))["__doc__"]
        assert "Hardware:" in docstring, name
        assert "Command:" in docstring, name


@pytest.mark.parametrize("name", preset_names())
def test_json_gives_back_the_configuration(name: str) -> None:
    config = load_preset(name)
    assert from_json(to_json(config)) == config
    assert hash(from_json(to_json(config))) == hash(config)


def _replaced(path: str, value: object) -> str:
    """The JSON of tiny with one value changed, added or (None) taken away."""
    tree = json.loads(to_json(TINY))
    *parents, last = path.split(".")
    node = tree
    for key in parents:
        node = node[key]
    node[last] = value
    if value is None:
        del node[last]
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", "config: unknown field colour"),
        ("transformer.depth", 3, "config.transformer: unknown field depth"),
        ("picture", None, "config: missing field picture"),
        ("picture.width", None, "config.picture: missing field width"),
        ("transformer.layers", "6", "config.transformer.layers: expected int, not '6'"),
        ("transformer.layers", True, "config.transformer.layers: expected int, not True"),
        ("transformer.layers", 6.0, "config.transformer.layers: expected int, not 6.0"),
        ("transformer.dtype", "float8", "config.transformer.dtype: 'float8' is not one of"),
        ("transformer.rope_sections", 16, "config.transformer.rope_sections: expected a list"),
        ("transformer.rope_sections", [8, 8], "config.transformer.rope_sections: expected 3 values"),
        ("transformer", [], "config.transformer: expected an object"),
        ("audio_vae.strides", [8, 6, 5, "4"], "config.audio_vae.strides: expected int, not '4'"),
    ],
)
def test_json_that_does_not_fit_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        from_json(_replaced(path, value))


def test_a_field_with_a_default_may_be_missing_and_a_whole_number_may_stand_for_a_fraction() -> None:
    assert from_json(_replaced("world", None)).world == WorldConfig()
    assert from_json(_replaced("flow.video_shift", 3)).flow.video_shift == 3.0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("picture.width", 100, "picture 100x64: no multiple of 16"),
        ("picture.height", 0, "picture.height: 0 is too small"),
        ("picture.width", -112, "picture.width: -112 is too small"),
        ("vision.picture.width", 72, "vision.picture 72x64: no multiple of 2 patches, 32 pixels"),
        ("vision.heads", 5, "vision.width: no multiple of vision.heads"),
        ("vision.frames_per_unit", 5, "vision.frames_per_unit: at most 4"),
        ("video_vae.multipliers", [1, 2, 4], "video_vae.multipliers: need 4 stages"),
        ("video_vae.temporal_downsample", [True, True, True], "video_vae.temporal_downsample"),
        ("video_vae.temporal_downsample", [True, True], "video_vae.temporal_downsample"),
        ("video_vae.latent_mean", [0.5], "video_vae.latent_mean: 1 values, not 16"),
        ("video_vae.latent_std", [0.0] * 16, "video_vae.latent_std: 0.0 is too small"),
        ("audio_vae.strides", [8, 6, 5, 5], "audio_vae.strides: must multiply to 960"),
        ("hearing.strides", [8, 6, 5], "hearing.strides: must multiply to 960"),
        ("hearing.heads", 3, "hearing.width: no multiple of hearing.heads"),
        ("transformer.rope_sections", [4, 2, 3], "transformer.rope_sections: must sum to 8"),
        ("transformer.kv_heads", 3, "transformer.heads: no multiple of transformer.kv_heads"),
        ("transformer.layers", 0, "transformer.layers: 0 is too small"),
        ("transformer.norm_eps", float("nan"), "transformer.norm_eps: nan is not finite"),
        ("flow.solver_steps", 0, "flow.solver_steps: 0 is too small"),
        ("text.max_agent", 0, "text.max_agent: 0 is too small"),
        ("text.temperature", -0.5, "text.temperature: -0.5 is too small"),
        ("text.unit_end", 1536, "text.unit_end: less than transformer.vocab, 1536"),
        ("history.n_tokens", 32, "history.n_tokens: at least"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(path: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        from_json(_replaced(path, value))


def test_some_numbers_may_be_zero_or_negative() -> None:
    for path in ("text.max_user", "text.temperature"):
        from_json(_replaced(path, 0))
    from_json(_replaced("transformer.rope_sections", [8, 0, 0]))
    from_json(_replaced("video_vae.latent_mean", [-1.0] * 16))


def test_a_preset_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert preset_names() == ["tiny", "v01_192p", "v02_640x368"]
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import dataclasses\nfrom wanstreamer_jax.presets import load_preset\n"
        "config = dataclasses.replace(load_preset('tiny'), name='mine')\n"
    )
    assert load_preset(str(mine)) == dataclasses.replace(TINY, name="mine")
    assert load_preset(str(PRESETS / "tiny.py")) == TINY


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiney", "no preset 'tiney': did you mean 'tiny'?"),
        ("v01_192", "no preset 'v01_192': did you mean 'v01_192p'?"),
        ("configs/tiney.py", "no preset 'configs/tiney.py': did you mean 'tiny'?"),
        ("huge", "no preset 'huge': there are tiny, v01_192p, v02_640x368"),
    ],
)
def test_an_unknown_preset_is_named_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_preset(name)


def test_a_file_without_a_configuration_is_no_preset(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("config = 3\n")
    with pytest.raises(ValueError, match=r"empty\.py: no preset, because it defines no `config`"):
        load_preset(str(tmp_path / "empty.py"))


def test_without_the_repository_presets_are_said_to_be_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "PRESETS", tmp_path / "configs")
    with pytest.raises(ValueError, match=r"no preset 'tiny': there is no .*configs; work in a clone of the repository"):
        load_preset("tiny")


def test_a_picture_reads_as_people_write_it() -> None:
    assert str(Picture(width=336, height=192)) == "336x192"
