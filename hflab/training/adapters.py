"""LoRA through peft (Hu et al. 2021, arXiv:2106.09685): adapters put into a model, and saved alone or merged into its weights.

The adapter's layers take the places of those that they adapt, so the model stays what it is for everybody else. peft is imported where it is used.
"""

import copy
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCTC, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from ..errors import UserError, nearest
from ..recipe import LoraSection

logger = logging.getLogger(__name__)

ADAPTER = "default"  # peft's name of the only adapter
# model type: last parts of the names of its recurrent and attention projections; peft knows those of transformers' models
OWN_TARGETS = {
    "recurrent": ["input_projection", "hidden_projection"],
    "mini_transformer": ["query_key_value_projection", "query_projection", "key_value_projection"],
    **{kind: ["q_proj", "v_proj"] for kind in ("wav2vec2", "hubert", "unispeech", "unispeech-sat", "sew", "data2vec-audio")},
    **{kind: ["linear_q", "linear_v"] for kind in ("wav2vec2-conformer", "wav2vec2-bert")},
    "sew-d": ["query_proj", "value_proj"],
    "wavlm": ["intermediate_dense", "output_dense"],
}
# model type: layers whose weights it hands to a function of torch, past any adapter, which would learn nothing
BYPASSED = {"wavlm": ["q_proj", "k_proj", "v_proj", "out_proj"]}
TASK_TYPES = {
    "ForCausalLM": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
}


def add_adapter(model: PreTrainedModel, section: LoraSection, head: str, fresh: set[str], base_name: str) -> None:
    """Put an adapter into `model`, in place: its matrices and the modules with `fresh` parameters are trained, all else is frozen.

    Raises:
        UserError: peft is not installed, or a target is no layer that can have an adapter.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("model.lora needs the package peft; install it: pip install 'hflab[lora]'.") from None
    targets = _targets(model, section)
    layers = [module for name, module in model.named_modules() if name.rpartition(".")[2] in targets]
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # peft divides it, and takes any number
        lora_dropout=section.dropout,
        target_modules=targets,
        modules_to_save=sorted({name.rpartition(".")[0] for name in fresh}) or None,
        task_type=TASK_TYPES.get(head),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers),  # GPT-2 keeps its weights transposed
        base_model_name_or_path=str(Path(base_name).resolve()) if Path(base_name).is_dir() else base_name,  # found from any working folder
    )
    if config.task_type is None:  # how peft finds the class of the base without one
        config.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)


def _targets(model: PreTrainedModel, section: LoraSection) -> list[str]:
    """Last parts of the names of the layers to adapt."""
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding):
            layers[name.rpartition(".")[2]] = module
    wanted = section.target_modules or [name for name in _default_targets(model) if name in layers]
    if not wanted:
        raise UserError(
            f"There is no default of model.lora.target_modules for {type(model).__name__}; choose from its layers: {', '.join(sorted(layers))}."
        )
    for name in wanted:
        if name not in layers:
            raise UserError(
                f"model.lora.target_modules holds {name!r}, which is no layer of {type(model).__name__}; choose from: "
                f"{', '.join(sorted(layers))}.{nearest(name, layers)}"
            )
    for name in BYPASSED.get(model.config.model_type, []):
        if name in wanted:
            raise UserError(
                f"model.lora.target_modules holds {name!r}, and {type(model).__name__} reads the weights of that layer past any adapter; leave it "
                "out."
            )
    embedding, output = _input_embedding(model), model.get_output_embeddings()
    if isinstance(output, nn.Module) and isinstance(embedding, nn.Module) and output.weight is embedding.weight:
        tied = [name for name in wanted if layers[name] is output or layers[name] is embedding]
        if tied:
            raise UserError(
                f"model.lora.target_modules holds {tied[0]!r}, whose weight embedding and head share: merging would write the adapter into both "
                "uses; leave it out."
            )
    return wanted


def _input_embedding(model: PreTrainedModel) -> nn.Module | None:
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:  # a model that reads sound
        return None
    return embedding if isinstance(embedding, nn.Embedding) else None  # or its convolutions


def _default_targets(model: PreTrainedModel) -> list[str]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    known = {**TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, **OWN_TARGETS}.get(model.config.model_type, [])
    return known if isinstance(known, list) else []  # peft writes a few as one regular expression


def save_adapted_model(model: PreTrainedModel, section: LoraSection, folder: Path, weights: dict[str, Tensor] | None) -> None:
    """Write the trained adapter into `folder`: merged, as an ordinary model, or alone. `weights` stand in for a sharded model's."""
    if section.merge:
        if weights is not None:
            raise UserError("A sharded model cannot be merged with its adapter here; set model.lora.merge: false, and merge the adapter by peft.")
        merged_copy(model).save_pretrained(folder)
    else:
        _save_adapter(model, folder, weights)


def merged_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of `model` whose weights hold the adapter: an ordinary model, without a trace of peft."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    whole = copy.deepcopy(model)
    for name, module in list(whole.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            plain = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            plain = module.modules_to_save[ADAPTER]
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(whole.get_submodule(parent), last, plain)
    del whole.peft_config
    return whole


def _save_adapter(model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True)
    state: dict[str, Any] = get_peft_model_state_dict(model, state_dict=weights, adapter_name=ADAPTER, save_embedding_layers=False)
    tensors = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.inference_mode = True
    config.save_pretrained(str(folder))
    if Path(str(config.base_model_name_or_path)).exists():
        logger.warning(
            "The adapter names its base by a folder of this machine, %s; before you publish it, write the base's Hub id into adapter_config.json.",
            config.base_model_name_or_path,
        )


def load_ctc_adapter(folder: str, tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool) -> PreTrainedModel:
    """The speech recogniser that an adapter alone makes of its base, merged into it; with a new head, it has the outputs of `tokenizer`.

    By peft, for transformers' wav2vec 2.0 has a method of the same name for adapters of another kind. Raises `UserError` if the base is not there,
    and otherwise `OSError` and `ValueError` as `from_pretrained` does.
    """
    from peft import PeftConfig, PeftModel

    adapter = PeftConfig.from_pretrained(folder)
    base = str(adapter.base_model_name_or_path)
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds an adapter of the model {base!r}, which cannot be loaded ({(str(error).splitlines() or [''])[0]}); "
            "write the base's folder or Hub id into its adapter_config.json as base_model_name_or_path."
        ) from None
    if adapter.modules_to_save:
        config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    # a head of another size is the base's own, which the adapter's takes the place of
    model: Any = AutoModelForCTC.from_pretrained(base, config=config, ignore_mismatched_sizes=True, trust_remote_code=trust_remote_code)
    merged: PreTrainedModel = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return merged
