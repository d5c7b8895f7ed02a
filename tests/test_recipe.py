"""Recipes: what is read, what is refused, and that the refusal helps."""

import dataclasses
from importlib import resources

import pytest
import yaml

from hflab.errors import UserError
from hflab.recipe import DataSection, TrainingSection, load_recipe, parse_recipe, recipe_keys, recipe_names

SMALLEST = {"model": {"family": "recurrent"}, "training": {"num_steps": 10}}


def with_key(key, value):
    section, _, name = key.rpartition(".")
    values = {outer: dict(inner) for outer, inner in SMALLEST.items()}
    if section:
        values.setdefault(section, {})[name] = value
    else:
        values[name] = value
    return values


def test_there_are_recipes_and_each_loads():
    assert "char_lstm_shakespeare" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).description


def test_saved_recipe_is_read_back_equal(tmp_path):
    recipe = parse_recipe(with_key("model.hidden_size", 32))
    recipe.save(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_a_public_recipe_names_no_folder_of_this_machine():
    data = {"path": "/data/novel.txt", "cache_dir": "/c"}
    recipe = parse_recipe({"model": {"pretrained": "/home/me/model"}, "data": data, "training": {"num_steps": 1}})
    public = recipe.public()
    assert (public.data.path, public.data.cache_dir, public.model.pretrained) == ("novel.txt", None, "model")
    assert recipe.data.path == "/data/novel.txt"
    assert parse_recipe({**SMALLEST, "data": {"path": "texts/novel.txt"}}).public().data.path == "texts/novel.txt"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("training.learning_rate", "1e-3", 1e-3),
        ("training.num_steps", "1_000", 1000),
        ("training.num_steps", "1e3", 1000),
        ("training.max_grad_norm", "null", None),
        ("training.max_grad_norm", "2", 2.0),
        ("training.mixed_precision", "no", "no"),
        ("data.reset_at_documents", "false", False),
        ("evaluation.sample_prompt", "ROMEO:", "ROMEO:"),
        ("evaluation.sample_prompt", "12", "12"),
        ("evaluation.sample_prompt", "a: b: c", "a: b: c"),
        ("tracking.trackers", "trackio,tensorboard", ["trackio", "tensorboard"]),
        ("tracking.trackers", "[trackio]", ["trackio"]),
        ("data.speed_percents", "90,100,110", [90, 100, 110]),
        ("data.speed_percents", "[90, 100]", [90, 100]),
        ("data.speed_percents", "90", [90]),
        ("training.optimizer_arguments", "{betas: [0.9, 0.95]}", {"betas": [0.9, 0.95]}),
    ],
)
def test_command_line_text_becomes_the_type_of_its_key(key, text, value):
    section, name = key.split(".")
    recipe = load_recipe("char_lstm_shakespeare", {key: text})
    assert getattr(getattr(recipe, section), name) == value


def test_yaml_files_may_write_numbers_as_yaml_1_1_reads_text(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("model: {family: recurrent, initializer_range: 1e-2}\ntraining: {num_steps: 5, learning_rate: 3e-3, mixed_precision: no}\n")
    recipe = load_recipe(file)
    assert (recipe.training.learning_rate, recipe.training.mixed_precision) == (3e-3, "no")
    assert recipe.model.config == {"initializer_range": 1e-2}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trainin", {}, "'training'"),
        ("training.learning_rat", 1, "'learning_rate'"),
        ("data.learning_rate", 1, "'training.learning_rate'"),
        ("data.qqqqqq", 1, "Keys here: source, path"),
        ("training.schedule", "cosin", "'cosine'"),
        ("training.seed", -1, "from 0 to"),
        ("training.batch_size", 0, "at least 1"),
        ("training.batch_size", True, "a whole number"),
        ("training.batch_size", 1.5, "a whole number"),
        ("training.learning_rate", "fast", "a number"),
        ("training.learning_rate", float("nan"), "at least 0"),
        ("training.learning_rate", float("inf"), "finite"),
        ("training.num_steps", None, "no budget"),
        ("training.gradient_accumulation_steps", 5, "does not divide"),
        ("data.validation_fraction", 0.95, "from 0 to 0.9"),
        ("data.test_fraction", 0.85, "leave at least a tenth"),
        ("model.pretrained", "gpt2", "either a family or a pretrained"),
        ("model.family", None, "either a family or a pretrained"),
        ("training", 3, "not a set of keys"),
        ("tracking.trackers", 3, "a list"),
        ("data.speed_percents", [100, "fast"], "a whole number"),
        ("data.speed_percents", True, "a list"),
    ],
)
def test_mistakes_are_refused_and_the_way_out_is_named(key, value, expected):
    with pytest.raises(UserError, match=expected.replace("(", r"\(")):
        parse_recipe(with_key(key, value))


def test_pretrained_model_takes_fields_of_its_config_but_no_misspelt_key_of_the_section():
    recipe = parse_recipe({"model": {"pretrained": "gpt2", "resid_pdrop": 0.2}, "training": {"num_steps": 1}})
    assert recipe.model.config == {"resid_pdrop": 0.2}
    with pytest.raises(UserError, match="Did you mean 'freeze'"):
        parse_recipe({"model": {"pretrained": "gpt2", "freez": []}, "training": {"num_steps": 1}})


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"task: [", "not valid UTF-8 YAML"), (b"\xff\xfe", "not valid UTF-8 YAML"), (b"", "not sections"), (b"- a\n", "not sections")],
)
def test_files_that_are_no_recipe(tmp_path, content, expected):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        load_recipe(tmp_path / "bad.yaml")


def test_missing_recipes_name_the_nearest(tmp_path):
    with pytest.raises(UserError, match="'char_lstm_shakespeare'"):
        load_recipe("char_lstm_shakespear")
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")


def test_an_override_of_a_value_as_if_it_were_a_section_is_refused():
    with pytest.raises(UserError, match="not a section"):
        load_recipe("char_lstm_shakespeare", {"description.name": "x"})


def test_every_key_is_described_and_defaults_are_valid():
    rows = recipe_keys()
    assert len(rows) > 40
    assert all(meaning and kind for _, kind, _, meaning in rows)
    for section in (DataSection, TrainingSection):
        for entry in dataclasses.fields(section):
            assert f"{section.__name__.removesuffix('Section').lower()}.{entry.name}" in {key for key, *_ in rows}


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_hold_only_what_they_change(name):
    """A recipe that repeats a default hides what matters in it."""
    written = yaml.safe_load((resources.files("hflab") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    defaults = {key: default for key, _, default, _ in recipe_keys()}
    given = [(f"{section}.{key}", value) for section, keys in written.items() if isinstance(keys, dict) for key, value in keys.items()]
    assert given
    assert [key for key, value in given if key in defaults and defaults[key] == value] == []
