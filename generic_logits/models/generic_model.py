"""The pair as one ordinary causal language model, whose logits are the corrected ones."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from generic_logits.errors import InputError, ModelError
from generic_logits.models.branch import cache_name_of, check_decoder_only
from generic_logits.models.loading import common_vocabulary, load_branches, load_pair
from generic_logits.models.shared_base import CountedCache, SharedCache, join_branches
from generic_logits.ops import Space, Variant, check_alpha, check_correction, correct_logits


class GenericConfig(PreTrainedConfig):
    """The baseline's configuration and the correction; what it does not know itself, the baseline's answers.

    Attributes:
        alpha, space, threshold, variant: the correction, see ``correct_logits``.
        vocab_size: tokens that exist; the logits have as many columns.
        baseline: the configuration of the baseline.
    """

    model_type = "generic_logits"
    has_no_defaults_at_init = True
    keys_to_ignore_at_inference = ["past_key_values"]  # by the Trainer

    alpha: float = 0.0
    space: str = "logits"
    threshold: float = 0.0
    variant: str = "relu"
    vocab_size: int | None = None
    baseline: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Make a configuration of the baseline's saved one."""
        if isinstance(self.baseline, dict):
            self.baseline = AutoConfig.for_model(**self.baseline)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return the baseline's."""
        config: PreTrainedConfig = self.baseline.get_text_config(decoder=decoder, encoder=encoder)
        return config

    def __getattr__(self, name: str) -> Any:
        """Return what the baseline's configuration says."""
        baseline = self.__dict__.get("baseline")
        if name.startswith("_") or baseline is None or isinstance(baseline, dict):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(baseline.get_text_config(), name)


class PairCache(CountedCache):
    """Both branches' caches as one: what is done to it is done to every layer of either."""

    def __init__(self, baseline: Cache, reinforced: Cache) -> None:
        """Put two caches side by side."""
        super().__init__(layers=[*baseline.layers, *reinforced.layers])
        self.baseline, self.reinforced = baseline, reinforced


class GenericForCausalLM(PreTrainedModel, GenerationMixin):
    """Baseline and reinforced model as one ``transformers`` model: ``logits`` are the generic logits.

    ``generate`` in all its ways (beams in either space: the correction comes before the normalisation), ``pipeline``,
    ``Trainer.predict`` and evaluation harnesses take it as it is. With a LoRA adapter as the reinforced model both
    branches go through one set of weights in one pass (see ``join_branches``); at alpha 0 the baseline runs alone and
    its logits are its own bit for bit.

    Attributes:
        baseline, reinforced: the two models.
        joined: one model for both branches' rows, or None.
        alpha: strength of the correction; it may be set between calls.
        vocab_size: columns of the logits.
    """

    config_class = GenericConfig
    main_input_name = "input_ids"

    def __init__(
        self,
        baseline: Any,
        reinforced: Any,
        *,
        alpha: float,
        space: Space = "logits",
        threshold: float = 0.0,
        variant: Variant = "relu",
        vocab_size: int | None = None,
    ) -> None:
        """Join two loaded decoder-only models.

        Raises:
            InputError: an option outside its range.
            ModelError: an encoder-decoder, a model that keeps its decoding state outside a ``Cache``, or heads of two
                widths without ``vocab_size``.
        """
        check_correction(space, threshold, variant)
        for model in (baseline, reinforced):
            check_decoder_only(model.config)
        tokens = vocab_size or common_vocabulary(baseline.config, reinforced.config, None)
        super().__init__(
            GenericConfig(
                alpha=check_alpha(alpha),
                space=space,
                threshold=threshold,
                variant=variant,
                vocab_size=tokens,
                baseline=baseline.config,
            )
        )
        self.baseline, self.reinforced = baseline, reinforced
        self.joined = join_branches(baseline, reinforced)
        self.vocab_size = tokens
        self.generation_config = baseline.generation_config
        models = {"baseline": baseline, "reinforced": reinforced}
        self._takes = {name: set(inspect.signature(model.forward).parameters) for name, model in models.items()}
        self._cache_names = {name: cache_name_of(model) for name, model in models.items()}
        self._is_stateful = baseline._is_stateful or reinforced._is_stateful
        self.train(False)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        reinforced: str | Path | None = None,
        alpha: float | None = None,
        space: Space | None = None,
        threshold: float | None = None,
        variant: Variant | None = None,
        config: Any = None,
        dtype: str | torch.dtype = "auto",
        **model_options: Any,
    ) -> GenericForCausalLM:
        """Load a pair, or what ``save_pretrained`` wrote.

        Args:
            pretrained_model_name_or_path: the baseline, a model folder or hub name; without ``reinforced`` a folder
                that ``save_pretrained`` wrote.
            reinforced: a model folder, a hub name, or a folder with a LoRA adapter for the baseline.
            alpha: strength of the correction; needed with ``reinforced``, else the saved one by default. The same
                holds for ``space``, ``threshold`` and ``variant``, which have the defaults of ``correct_logits``.
            space: see ``correct_logits``.
            threshold: see ``correct_logits``.
            variant: see ``correct_logits``.
            config: what ``AutoModelForCausalLM`` read in the folder; not needed.
            dtype: of the weights, as in ``AutoModelForCausalLM.from_pretrained``.
            **model_options: handed to ``AutoModelForCausalLM.from_pretrained`` for both models.

        Raises:
            InputError: ``reinforced`` without ``alpha``, or an option outside its range.
            ModelError: a model that cannot be loaded, an encoder-decoder, an adapter for another base, tokenizers that
                differ, or a folder that holds no pair.
        """
        source = pretrained_model_name_or_path
        given = {"alpha": alpha, "space": space, "threshold": threshold, "variant": variant}
        settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if reinforced is None:
            saved = config or _saved_config(source)
            settings = {name: getattr(saved, name) for name in given} | settings
            folder = Path(source)
            models = load_branches(folder / "baseline", folder / "reinforced", dtype=dtype, **model_options)
            return cls(*models, vocab_size=saved.vocab_size, **settings)
        if alpha is None:
            raise InputError("an alpha beside reinforced", "none", "pass alpha=..., 1 to 5 is usual")
        baseline, other, tokenizer = load_pair(source, reinforced, dtype=dtype, **model_options)
        vocab = common_vocabulary(baseline.config, other.config, tokenizer)
        return cls(baseline, other, vocab_size=vocab, **settings)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:  # type: ignore[override]
        """Write a folder that ``from_pretrained`` reads: the correction, and two ordinary model folders in it.

        A LoRA adapter is written as an adapter. As with any model, the tokenizer is saved by itself.

        Args:
            save_directory: where to.
            **options: of ``PreTrainedModel.save_pretrained``, for both models.
        """
        folder = Path(save_directory)
        self.baseline.save_pretrained(folder / "baseline", **options)
        if getattr(self.reinforced, "peft_config", None):
            _save_adapter(self.reinforced, folder / "reinforced")
        else:
            self.reinforced.save_pretrained(folder / "reinforced", **options)
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    @property
    def alpha(self) -> float:
        """Strength of the correction."""
        return float(self.config.alpha)

    @alpha.setter
    def alpha(self, value: float) -> None:
        self.config.alpha = check_alpha(value)

    def get_input_embeddings(self) -> Any:
        """Return the baseline's."""
        return self.baseline.get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """Return None: no head of one matrix gives these logits."""
        return None

    def new_cache(self) -> Cache:
        """Return an empty cache for both branches (at alpha 0 for the baseline), as ``past_key_values``."""
        if not self.alpha:
            return DynamicCache(config=self.baseline.config)
        if self.joined is not None:
            return SharedCache(config=self.baseline.config)
        return PairCache(DynamicCache(config=self.baseline.config), DynamicCache(config=self.reinforced.config))

    def forward(
        self,
        input_ids: Tensor,  # [rows, length]
        attention_mask: Tensor | None = None,  # [rows, past and length]
        position_ids: Tensor | None = None,  # [rows, length]
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,  # [rows, length]
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **loss_options: Any,
    ) -> CausalLMOutputWithPast:
        """Return corrected logits, ``[rows, kept positions, vocab_size]``, and the cache of both branches.

        Args:
            input_ids: new tokens.
            attention_mask: 0 at padding, for past and new tokens.
            position_ids: positions of the new tokens.
            past_key_values: what an earlier call returned, or ``new_cache()``.
            labels: token ids to compute the usual loss of, -100 where there is none.
            use_cache: whether to return a cache; default: the baseline's configuration.
            logits_to_keep: only the last so many positions, or those of an index tensor; 0 keeps all.
            output_attentions: not offered: there are two models' attentions.
            output_hidden_states: not offered, likewise.
            return_dict: not offered: a ``ModelOutput`` is returned.
            **loss_options: handed to the loss.

        Raises:
            InputError: a cache of one branch, or outputs that are not offered.
        """
        if output_attentions or output_hidden_states:
            raise InputError(
                "logits, loss and cache", "a wish for hidden states or attentions", "ask .baseline for them"
            )
        keep = use_cache if use_cache is not None else bool(self.config.get_text_config().use_cache)
        cache: Any = past_key_values
        if cache is None and keep:
            cache = self.new_cache()
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "use_cache": keep,
            "logits_to_keep": logits_to_keep,
        }
        if self.alpha or isinstance(cache, CountedCache):  # a cache of both branches goes on as one at alpha 0, too
            logits = correct_logits(
                *self._both_logits(inputs, cache),
                self.alpha,
                space=self.config.space,
                threshold=self.config.threshold,
                variant=self.config.variant,
            )
        else:
            logits = self._logits_of("baseline", inputs, cache)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocab_size, **loss_options)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)  # type: ignore[arg-type]

    def _both_logits(self, inputs: dict[str, Any], cache: Any) -> tuple[Tensor, Tensor]:
        if cache is not None and not isinstance(cache, CountedCache):
            raise InputError(
                "a cache of both branches",
                type(cache).__name__,
                "leave past_key_values out, or make one with new_cache()",
            )
        if self.joined is not None:
            doubled = {name: _twice(value, len(inputs["input_ids"])) for name, value in inputs.items()}
            baseline, reinforced = self._logits_of("baseline", doubled, cache, self.joined).chunk(2)
        else:
            caches = (cache.baseline, cache.reinforced) if isinstance(cache, PairCache) else (None, None)
            baseline = self._logits_of("baseline", inputs, caches[0])
            reinforced = self._logits_of("reinforced", inputs, caches[1]).to(baseline.device)
        if cache is not None:
            cache.seen += inputs["input_ids"].shape[1]
        return baseline, reinforced

    def _logits_of(self, branch: str, inputs: dict[str, Any], cache: Any, model: Any = None) -> Tensor:
        """One model's logits, on its device, of the tokens that exist."""
        model = model if model is not None else getattr(self, branch)
        takes = self._takes[branch]
        given = {
            name: value.to(model.device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
            if name in takes
        }
        if cache is not None:
            name = self._cache_names[branch]
            given[name] = cache
            if name == "cache_params" and cache.has_previous_state():  # Mamba: its state has absorbed the padding
                given.pop("attention_mask", None)
        logits: Tensor = model(**given).logits
        if "logits_to_keep" not in takes:
            wanted = inputs["logits_to_keep"]
            logits = logits[:, -wanted:] if isinstance(wanted, int) else logits[:, wanted]
        return logits[..., : self.vocab_size]

    def generate(self, *arguments: Any, **options: Any) -> Any:
        """Generate as any model does.

        Raises:
            InputError: a cache implementation that holds one branch only.
        """
        config = options.get("generation_config") or self.generation_config
        wanted = options.get("cache_implementation") or config.cache_implementation
        if wanted not in (None, "dynamic"):
            raise InputError(
                "a dynamic cache, which both branches can share",
                f"cache_implementation={wanted!r}",
                "leave it out; GenericLogitsProcessor works beside a static one",
            )
        if not self.alpha and not isinstance(options.get("past_key_values"), CountedCache):
            return self.baseline.generate(*arguments, **options)
        return super().generate(*arguments, **options)  # type: ignore[misc]

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: Any, model_kwargs: dict[str, Any], *rest: Any
    ) -> None:
        """Let transformers decide whether there is a cache, and make it one for both branches."""
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *rest)  # type: ignore[misc]
        cache = model_kwargs.get("past_key_values")
        if self.alpha and cache is not None and not getattr(cache, "_is_user_defined", False):
            model_kwargs["past_key_values"] = self.new_cache()
            if generation_config.is_assistant:
                model_kwargs["past_key_values"].activate_past_recording()


def _twice(value: Any, rows: int) -> Any:
    """Stack what has a row for each sequence."""
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.dim() > 1 and len(value) == rows else value


def _saved_config(folder: str | Path) -> GenericConfig:
    file = Path(folder) / "config.json"
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        saved = {}
    if saved.get("model_type") != GenericConfig.model_type:
        raise ModelError(
            "a folder that GenericForCausalLM.save_pretrained wrote", f"{folder}", "pass reinforced=... for a new pair"
        )
    return GenericConfig.from_pretrained(folder)


def _save_adapter(reinforced: Any, folder: Path) -> None:
    """Write the adapter of a model that PEFT's layers were put into."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (name,) = reinforced.peft_config
    weights = get_peft_model_state_dict(reinforced, adapter_name=name, save_embedding_layers=False)
    save_file(
        {f"base_model.model.{key}": value.contiguous() for key, value in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    reinforced.peft_config[name].save_pretrained(folder)


AutoConfig.register(GenericConfig.model_type, GenericConfig)
AutoModelForCausalLM.register(GenericConfig, GenericForCausalLM)
