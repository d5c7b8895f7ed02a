"""What a card says differently for each task. Knows words only, nothing about runs or files; a new task is an entry in WORDING."""

from dataclasses import dataclass

# Names of figures where the words of their keys are not what people write.
FIGURE_TITLES = {
    "auc": "area under the ROC curve",
    "bleu": "BLEU",
    "chrf": "chrF",
    "f1": "F1",
    "masked_lm_accuracy": "accuracy on hidden tokens",
    "masked_lm_loss": "loss on hidden tokens",
}


@dataclass(frozen=True)
class TaskWording:
    """The words of a task."""

    pipeline_tag: str
    """The Hub's name of the task."""
    title: str
    """The Hub's title of the task."""
    tag: str
    """A tag of the model."""
    kind: str
    """What such a model is called."""
    text: str
    """What it was trained and measured on: "text", or "data" for labelled examples, whatever they are of."""
    limitation: str
    """What it does beyond what it was trained for, with {data} and {classes} to fill in."""
    method: str
    """How its figures come about, with {decoding} and the like to fill in."""
    unknown: str
    """What becomes of a {unit} that the tokenizer does not know."""
    use: str
    """What leads from the Python example to the command below it; empty where there is no command."""
    hears: bool = False
    """Whether its inputs are sounds."""


_READ_AS_UNKNOWN = "any other {unit} of an input is read as an unknown one"
_CLASSIFIED = "; for inputs of any other kind than its training data ({data}) the figures do not hold."
_CLASS_MEANS = "Precision, recall, F1 and the area under the ROC curve are means over the classes. This measures them again:"

WORDING: dict[str, TaskWording] = {
    "causal_lm": TaskWording(
        pipeline_tag="text-generation",
        title="Text Generation",
        tag="language-model",
        kind="language model",
        text="text",
        limitation="It continues text in the manner of its training text ({data}); for text of any other kind the figures do not hold. It was not "
        "trained to follow instructions, and what it states may be false.",
        method="Every token is predicted and counted once; the text is read in up to {lanes} contiguous pieces. The figures per token compare only "
        "with models of the same tokenizer, those per character and per byte with any. This measures them again:",
        unknown="a prompt with any other {unit} is refused",
        use=", and the text streams to a terminal:",
    ),
    "seq2seq": TaskWording(
        pipeline_tag="text2text-generation",
        title="Sequence to Sequence",
        tag="sequence-to-sequence",
        kind="sequence-to-sequence model",
        text="data",
        limitation="It writes in the manner of the targets of its training data ({data}); for inputs of any other kind the figures do not hold. It "
        "answers every input, also one that makes no sense, and does not say when it is unsure.",
        method="Every source is decoded once, {decoding}, and held against all its references; the loss is that of the first of them, each token "
        "predicted from the source and the tokens before it. {detail} This measures them again:",
        unknown=_READ_AS_UNKNOWN,
        use=", and this prints the answer:",
    ),
    "text_classification": TaskWording(
        pipeline_tag="text-classification",
        title="Text Classification",
        tag="classifier",
        kind="text classifier",
        text="data",
        limitation="It gives every text one of the classes {classes}, also a text that belongs to none of them" + _CLASSIFIED,
        method="Every text is read and counted once. " + _CLASS_MEANS,
        unknown=_READ_AS_UNKNOWN,
        use="",
    ),
    "token_classification": TaskWording(
        pipeline_tag="token-classification",
        title="Token Classification",
        tag="classifier",
        kind="classifier of words",
        text="data",
        limitation="It gives every word one of the classes {classes}, also a word that belongs to none of them" + _CLASSIFIED,
        method="Every labelled word is counted once, and judged by its first token; the rows of accuracy and loss are words. " + _CLASS_MEANS,
        unknown=_READ_AS_UNKNOWN,
        use="",
    ),
    "speech_recognition": TaskWording(
        pipeline_tag="automatic-speech-recognition",
        title="Automatic Speech Recognition",
        tag="speech-recognition",
        kind="speech recognizer",
        text="data",
        limitation="It writes down speech like that of its training data ({data}); for other voices, words, rooms and noises the figures do not "
        "hold. It writes something for every sound, also where nobody speaks.",
        method="Every clip is recognised once, {decoding}, without a language model; errors are counted over the whole split, after transcripts and "
        "answers have gone through the normalizer {normalizer}. This measures them again:",
        unknown="no other {unit} is ever written",
        use=", and this writes down a recording, with times:",
        hears=True,
    ),
    "speech_pretraining": TaskWording(
        pipeline_tag="feature-extraction",
        title="Feature Extraction",
        tag="speech-pretraining",
        kind="speech encoder",
        text="data",
        limitation="It makes vectors of sound, writes nothing, and is meant to be fine-tuned on transcripts; it has heard only such sound as it was "
        "trained on ({data}).",
        method="Spans of frames of every clip are hidden, the same in every evaluation, and the code of each hidden frame is to be found among those "
        "of other hidden frames of the clip; codes are the likeliest. Figures compare only with models of as many codes and negatives. This measures "
        "them again:",
        unknown="",
        use="",
        hears=True,
    ),
    "masked_lm": TaskWording(
        pipeline_tag="fill-mask",
        title="Fill-Mask",
        tag="masked-language-model",
        kind="masked language model",
        text="text",
        limitation="It fills in hidden tokens, and is meant to be fine-tuned for other tasks; it knows only such text as it was trained on ({data}), "
        "and what it fills in may be false.",
        method="Every pair of segments is read once; which tokens are hidden and which pairs are false is drawn from a fixed seed, so that the "
        "figures repeat. Losses compare only with models of the same tokenizer. This measures them again:",
        unknown=_READ_AS_UNKNOWN,
        use="",
    ),
}


def figure_title(name: str) -> str:
    """The name of a figure as prose has it."""
    return FIGURE_TITLES.get(name, name.replace("_", " "))
