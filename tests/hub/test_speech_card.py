"""What the card of a speech recognizer says beyond others: its language model, its normaliser, and an example without anybody's voice."""

import pytest

from hflab.hub.card import write_card
from hflab.hub.usage import OWN_RECORDING, CardUsage, execute_usage, usage_code
from hflab.run_folder import RunFolder
from hflab.summaries import describe_language_model

FIGURES = {
    **dict.fromkeys(("loss", "character_error_rate", "sentence_error_rate", "substitution_rate", "deletion_rate", "insertion_rate"), 0.0526),
    "word_error_rate": 0.0526,
    "num_rows": 300,
    "num_words": 1294,
    "num_seconds": 572.9,
}
SPLITS = {name: {"rows": 300, "seconds": 572.9, "speakers": 12, "tokens": 6608, "unknown_tokens": 0, "sample": "go on"} for name in ("train", "test")}
TRAINING = {"steps": 10, "tokens": 10, "epochs": 1.0, "seconds": 1.0, "tokens_per_second": 10.0, "stopped_by": "budget"}


def language_model(weight=0.5, penalty=10.0, validation=0.03):
    return {
        "settings": {"num_beams": 32, "language_model_weight": weight, "word_bonus": 2.0, "unknown_word_penalty": penalty},
        "text": "the training transcripts",
        "order": 3,
        "greedy": {"validation": 0.0446, "test": 0.0526},
        "with_language_model": {"validation": validation, "test": 0.0247},
    }


def card_text(run):
    return write_card(run).read_text(encoding="utf-8")


def sections(text):
    """Text below each heading of the second level; no code of these cards has one."""
    return {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}


@pytest.fixture
def make_speech_run(make_run):
    """Write a run of speech recognition; `facts` replace those of the fixture."""

    def make(**facts):
        recipe = {"task": "speech_recognition", "processor": {"normalizer": "english"}, "evaluation": {"num_beams": 1}}
        run = make_run(recipe, **{"evaluation": {"split": "test", **FIGURES}, "training": TRAINING, "prompt": "sample.wav", **facts})
        folder = RunFolder(run)
        data = {"name": "clips", "description": "Read aloud.", "is_synthetic": False, "license": "mit", "language": "en", "origin": "here"}
        folder.update_facts(data={**data, "fingerprint": "f" * 32, "splits": SPLITS, **facts.get("data", {})})
        folder.metrics_file.unlink()
        return run

    return make


def test_the_language_model_stands_beside_greedy_decoding(make_speech_run):
    text = sections(card_text(make_speech_run(language_model=language_model())))["Figures"]
    assert "### With the language model" in text
    assert "3-grams of the training transcripts" in text
    assert "| validation | 0.0446 | 0.0300 |\n| test | 0.0526 | 0.0247 |" in text
    assert "multiplies its log-probabilities by 0.5, adds 2 for each word and takes 10 away" in text
    assert "weight is 0" not in text
    assert "did not help" not in text


@pytest.mark.parametrize(("penalty", "used"), [(10.0, "it says which words there are"), (0.0, "nothing of it is used")])
def test_a_weight_of_0_and_no_help_are_told(make_speech_run, penalty, used):
    text = card_text(make_speech_run(language_model=language_model(0.0, penalty, validation=0.0446)))
    assert f"Its weight is 0, for no higher one that was tried had fewer errors there: {used}" in text
    assert "**It did not help on the validation split.**" in text


def test_without_a_language_model_none_is_mentioned(make_speech_run):
    text = card_text(make_speech_run())
    assert "With the language model" not in text
    assert "recognised once, greedily, without a language model" in text


def test_the_normaliser_is_named_and_explained(make_speech_run):
    assert "the normalizer `english` (Unicode NFKC, lower case" in sections(card_text(make_speech_run()))["Figures"]


def test_synthetic_speech_is_a_limitation(make_speech_run):
    assert "No human speaks" not in card_text(make_speech_run())
    assert "No human speaks in its data" in sections(card_text(make_speech_run(data={"is_synthetic": True})))["Limitations"]


def test_the_example_of_own_recordings_says_what_to_give_it(make_speech_run, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    usage = execute_usage(tmp_path, "somebody/plays", "sample.wav", "speech_recognition")
    assert usage == {"code": usage_code("speech_recognition", "somebody/plays", OWN_RECORDING), "sampling_rate": 8000}
    use = sections(card_text(make_speech_run(usage=usage)))["Use"]
    assert "soundfile.read('recording.wav')" in use
    assert "sample.wav" not in use
    assert "one channel and 8,000 samples a second" in use
    assert "was not run for this card" in use
    assert "It printed" not in use
    assert "hflab transcribe somebody/plays recording.wav --format srt" in use
    assert CardUsage(usage["code"], None).reads_own_recording
    assert not CardUsage(usage_code("speech_recognition", "somebody/plays", "sample.wav"), None).reads_own_recording


def test_the_command_says_plainly_whether_a_language_model_helps():
    helps = describe_language_model(language_model(), "runs/a b")
    assert "did not help" not in helps
    assert "test             0.0526   0.0247" in helps
    assert "hflab transcribe 'runs/a b' RECORDING --beams 1" in helps
    words_only = describe_language_model(language_model(0.0), "runs/x")
    assert "Weight 0: its probabilities did not help on the validation split" in words_only
    assert "its list of words" in words_only
    assert "Nothing of it is used." in describe_language_model(language_model(0.0, 0.0), "runs/x")
    assert "It does not help on the validation split." in describe_language_model(language_model(validation=0.05), "runs/x")
