"""The correction's settings in an engine's configuration, and what is refused at start."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from vllm.config import VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.transformers_utils.config import get_config

from generic_logits.errors import InputError, ModelError
from generic_logits.models.loading import check_fits, is_adapter
from generic_logits.ops import Space, Variant, check_alpha, check_correction
from generic_logits.vllm.adapter import adapter_settings
from generic_logits.vllm.arguments import REQUEST_ALPHA

_DRAFTS_FROM_TEXT = ("ngram", "ngram_gpu", "suffix")  # the drafting methods that read no hidden states


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``hf_overrides["generic_logits"]`` says; ``reinforced`` and ``alpha`` have no default."""

    reinforced: str
    alpha: float
    space: Space = "logits"
    threshold: float = 0.0
    variant: Variant = "relu"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: an option outside its range.
        """
        check_alpha(self.alpha)
        check_correction(self.space, self.threshold, self.variant)

    @property
    def shares_weights(self) -> bool:
        """Whether the reinforced model is a LoRA adapter on the baseline's weights."""
        return is_adapter(self.reinforced)


def settings_of(config: VllmConfig) -> Settings:
    """Read the settings out of an engine's configuration.

    Raises:
        InputError: they are missing, incomplete, or outside their range.
    """
    given = getattr(config.model_config.hf_config, "generic_logits", None)
    try:
        return Settings(**(given or {}))
    except TypeError as error:
        raise InputError(
            'hf_overrides {"generic_logits": {"reinforced": FOLDER, "alpha": NUMBER}}',
            repr(given),
            "see engine_args",
        ) from error


def original_config(config: VllmConfig, source: str | None = None) -> Any:
    """Configuration of the baseline (or ``source``) as its folder has it, with its real architectures.

    The caller's own ``hf_overrides`` apply to it.
    """
    model = config.model_config
    mine = ("architectures", "generic_logits")
    overrides = {key: value for key, value in dict(model.hf_overrides or {}).items() if key not in mine}
    return get_config(
        source or model.model,
        model.trust_remote_code,
        None if source else model.revision,
        hf_overrides_kw=overrides,
    )


class StartCheck(VerifyAndUpdateConfig):  # type: ignore[misc]  # vLLM is not type-checked
    """What vLLM asks before it starts an engine of this architecture."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuse what would be wrong, in one line; do without requests' own alpha where vLLM allows no processor.

        Raises:
            InputError: a setting outside its range, or an engine option that the correction cannot follow.
            ModelError: a baseline and a reinforced model that do not fit.
        """
        settings = settings_of(vllm_config)
        speculation, parallel = vllm_config.speculative_config, vllm_config.parallel_config
        if speculation is not None and speculation.method not in _DRAFTS_FROM_TEXT:
            raise InputError(
                f"speculative decoding by {' or '.join(_DRAFTS_FROM_TEXT)}",
                f"{speculation.method}, which drafts from hidden states or with a model that knows the text",
                "choose method='ngram', or leave it out",
            )
        if parallel.pipeline_parallel_size > 1:
            raise InputError(
                "no pipeline parallelism",
                f"pipeline_parallel_size={parallel.pipeline_parallel_size}",
                "use tensor_parallel_size",
            )
        if parallel.use_ubatching:
            raise InputError("whole batches", "batches cut in two (enable_dbo or ubatch_size)", "leave it out")
        if vllm_config.model_config.enable_prompt_embeds:
            raise InputError(
                "prompts of tokens", "enable_prompt_embeds", "leave it out: the branches embed differently"
            )
        if vllm_config.lora_config is not None:
            raise InputError(
                "an engine without LoRA requests",
                "enable_lora",
                "merge the adapter into the baseline; the reinforced adapter needs no such option",
            )
        processors = vllm_config.model_config.logits_processors or []
        if speculation is not None and REQUEST_ALPHA in processors and not vllm_config.use_v2_model_runner:
            vllm_config.model_config.logits_processors = [each for each in processors if each != REQUEST_ALPHA] or None
            logging.getLogger(__name__).warning(
                "with speculative decoding vLLM's first model runner takes no processors: every request is corrected "
                "with alpha %g, whatever generic_alpha it names",
                settings.alpha,
            )
        check_fits(vllm_config.model_config.model, settings.reinforced)
        if settings.shares_weights:
            adapter_settings(settings.reinforced)
        else:
            _check_decoder(original_config(vllm_config, settings.reinforced))
        _check_decoder(original_config(vllm_config))


def _check_decoder(config: Any) -> None:
    if not config.architectures:
        raise ModelError("a model folder that names its architecture", "none in config.json", "add 'architectures'")
