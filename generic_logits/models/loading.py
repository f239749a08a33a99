"""Models, tokenizers and adapters from folders or the hub, and whether they belong together."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from generic_logits._record import read_record, weights_fingerprint
from generic_logits.errors import ModelError
from generic_logits.models.branch import check_decoder_only

_ADAPTER_CONFIG = "adapter_config.json"


def load_pair(
    baseline: str | Path, reinforced: str | Path, **options: Any
) -> tuple[Any, Any, Any]:  # baseline, reinforced, tokenizer
    """Load two models over one vocabulary; an adapter as the second shares the first one's weights in memory.

    Args:
        baseline: a model folder or hub name.
        reinforced: a model folder, a hub name, or a folder with a LoRA adapter for ``baseline``.
        **options: of ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ModelError: a model that cannot be loaded, an encoder-decoder, an adapter for another base, or tokenizers that
            differ.
    """
    base, other = load_branches(baseline, reinforced, **options)
    tokenizer = load_tokenizer(baseline)
    if not is_adapter(reinforced):
        _check_same_tokenizer(tokenizer, reinforced)
    return base, other, tokenizer


def load_branches(baseline: str | Path, reinforced: str | Path, **options: Any) -> tuple[Any, Any]:
    """``load_pair`` of two models that are known to have one tokenizer, which need not lie beside them.

    Raises:
        ModelError: a model that cannot be loaded, an encoder-decoder, or an adapter for another base.
    """
    base = load_model(baseline, **options)
    if is_adapter(reinforced):
        return base, load_adapter(base, reinforced, baseline)
    return base, load_model(reinforced, **options)


def load_model(source: str | Path, **options: Any) -> Any:
    """Load a decoder-only model for inference from a folder or the hub.

    Raises:
        ModelError: nothing there, not a model, or an encoder-decoder.
    """
    check_source(source)
    try:
        check_decoder_only(AutoConfig.from_pretrained(source))
        return AutoModelForCausalLM.from_pretrained(source, **options).eval()
    except (OSError, KeyError, SafetensorError) as error:
        raise _cannot_load("a causal language model", source, error) from error
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise _cannot_load("a causal language model", source, error) from error


def load_tokenizer(source: str | Path, **options: Any) -> Any:
    """Load the fast tokenizer beside a model.

    Args:
        source: a model folder or hub name.
        **options: of ``AutoTokenizer.from_pretrained``.

    Raises:
        ModelError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load("a model folder with its tokenizer", source, error) from error


def is_adapter(source: str | Path) -> bool:
    """Whether a folder holds a PEFT adapter and not a whole model."""
    return (Path(source) / _ADAPTER_CONFIG).is_file()


def share_weights(model: Any, *, except_for: Collection[str] = ()) -> Any:
    """Return a second tree of modules around the same parameters and buffers; layers put into it stay out of the first.

    The tensors named in ``except_for`` are copied, for a caller that is going to write into them.
    """
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    copied = {id(tensor) for name, tensor in named if name in except_for}
    return copy.deepcopy(model, {id(tensor): tensor for _, tensor in named if id(tensor) not in copied})


def load_adapter(base: Any, adapter: str | Path, base_source: str | Path) -> Any:
    """Load a LoRA adapter around the weights of ``base``, which stays as it is.

    Raises:
        ModelError: not a LoRA adapter, or one made for another base.
    """
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights

    try:
        config = PeftConfig.from_pretrained(str(adapter))
        saved = set(load_peft_weights(str(adapter), device="cpu"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _cannot_load("a folder with a LoRA adapter", adapter, error) from error
    if not isinstance(config, LoraConfig):
        raise ModelError("a LoRA adapter", f"{config.peft_type} in {adapter}", "reinforce with LoRA or full weights")
    _check_trained_on(adapter, base_source)
    replaced = {_name_in_base(key) for key in saved}  # whole weights beside LoRA's own: biases, embeddings, heads
    pointers = [parameter.data_ptr() for parameter in base.parameters()]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # an error below
            wrapped = PeftModel.from_pretrained(share_weights(base, except_for=replaced), str(adapter))
    except (RuntimeError, ValueError) as error:
        raise _wrong_base(adapter, base_source, _first_line(error)) from error
    if pointers != [parameter.data_ptr() for parameter in base.parameters()]:
        raise ModelError(
            "an adapter that adds to the baseline's weights",
            f"{adapter}: its initialisation {config.init_lora_weights!r} changes them",
            "convert it to plain LoRA with PEFT, or merge it into full weights",
        )
    known = {name for name, _ in base.named_parameters(remove_duplicate=False)}
    places = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    strangers = sorted(key for key in saved ^ places if _name_in_base(key) not in known)
    if strangers:
        raise _wrong_base(adapter, base_source, f"{len(strangers)} weights too many or missing, as {strangers[0]}")
    return wrapped.get_base_model().eval()


def _name_in_base(key: str) -> str:
    """Name of a base weight under which PEFT saves it."""
    return key.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _wrong_base(adapter: str | Path, base_source: str | Path, why: str) -> ModelError:
    return ModelError(
        f"an adapter for {base_source}", f"{adapter}: {why}", "give the baseline that this adapter was trained on"
    )


def check_source(source: str | Path) -> None:
    """Refuse a path that leads nowhere; a hub name cannot be told from here.

    Raises:
        ModelError: nothing at that path.
    """
    if not Path(source).exists() and (isinstance(source, Path) or str(source).startswith((".", "/", "~"))):
        raise ModelError("a model folder or hub name", f"nothing at {source}", "check the path")


def _cannot_load(wanted: str, source: str | Path, error: Exception) -> ModelError:
    return ModelError(wanted, f"{source}: {_first_line(error)}", "check the path or the hub name")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".:")


def check_fits(baseline: str | Path, reinforced: str | Path) -> None:
    """Check that two sources belong together, without loading their weights.

    Raises:
        ModelError: nothing there, an adapter for another base, or tokenizers that differ.
    """
    check_source(baseline)
    check_source(reinforced)
    if is_adapter(reinforced):
        _check_trained_on(reinforced, baseline)
    else:
        _check_same_tokenizer(load_tokenizer(baseline), reinforced)


def _check_trained_on(adapter: str | Path, base_source: str | Path) -> None:
    trained_on = read_record(adapter).get("baseline", {}).get("weights_fingerprint")
    if trained_on and trained_on != weights_fingerprint(base_source):
        raise _wrong_base(adapter, base_source, "it was trained on other weights")


def _check_same_tokenizer(tokenizer: Any, other_source: str | Path) -> None:
    if Path(other_source).is_dir() and not list(Path(other_source).glob("tokenizer*")):
        return
    other = load_tokenizer(other_source)
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    if ours != theirs:
        moved = sum(theirs.get(token) != index for token, index in ours.items())
        raise ModelError(
            "one tokenizer for both models",
            f"{other_source} with {len(theirs)} tokens against {len(ours)}, {moved} of them elsewhere or missing",
            "reinforce this baseline itself",
        )


def common_vocabulary(baseline: Any, reinforced: Any, tokenizer: Any) -> int:
    """Number of tokens that exist; a head may be wider (padding), never narrower.

    Raises:
        ModelError: heads of two widths without a tokenizer, or one narrower than the tokenizer.
    """
    sizes = [config.get_text_config().vocab_size for config in (baseline, reinforced)]
    if tokenizer is None and sizes[0] != sizes[1]:
        raise ModelError("heads of one width", f"{sizes[0]} and {sizes[1]} columns", "pass the tokenizer of both")
    vocab = sizes[0] if tokenizer is None else len(tokenizer)
    if min(sizes) < vocab:
        raise ModelError(
            f"heads of at least {vocab} columns, one a token",
            f"{sizes[0]} and {sizes[1]}",
            "check that the tokenizer belongs to both models",
        )
    return vocab
