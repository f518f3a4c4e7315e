"""A model's text side: its tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pascaline.checkpoint.opening import open_checkpoint, open_settings
from pascaline.core.errors import CheckpointError, ConfigError
from pascaline.engine.engine_config import LoadFormat
from pascaline.text.chat_template import ChatTemplate
from pascaline.text.tokenizer import NoTokenizer, Tokenizer, load_tokenizer

Prompt = str | list[int]


@dataclass(frozen=True)
class ModelText:
    """Tokenizer and chat template of one model; needs no weights."""

    tokenizer: Tokenizer
    template_source: str | None
    model_name: str

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """Compiled at the first chat: a template that is broken does not stop plain completions.

        Raises
        ------
        ConfigError : the model has none, or it is no valid template.
        """
        if self.template_source is None:
            raise ConfigError(
                f"{self.model_name} has no chat template",
                remedy="Use plain completions, or add a chat template to the checkpoint",
            )
        return ChatTemplate(self.template_source, self.tokenizer.bos_token, self.tokenizer.eos_token)

    @classmethod
    def load(cls, path: Path, load_format: LoadFormat = "auto") -> ModelText:
        """Read them from a checkpoint; one that is loaded as a dummy may lack them.

        Raises
        ------
        CheckpointError, UnsupportedError : the vocabulary is missing, damaged or of another kind.
        """
        checkpoint = (open_settings if load_format == "dummy" else open_checkpoint)(path)
        try:
            tokenizer = load_tokenizer(checkpoint.tokenizer_source())
        except CheckpointError as missing:
            if load_format != "dummy":
                raise
            tokenizer = NoTokenizer(missing)
        finally:
            checkpoint.close()
        return cls(tokenizer, checkpoint.chat_template, path.name)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; ids are passed through."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        return prompt

    def encode_chat(self, messages: Sequence[Mapping[str, object]]) -> list[int]:
        """Token ids of a conversation, up to where the model's answer begins.

        Raises
        ------
        ConfigError : the model has no chat template, or the template refuses the messages.
        """
        # The template writes the special tokens itself.
        return self.tokenizer.encode(self.chat_template.render(messages), add_special_tokens=False)


def check_prompt(token_ids: list[int], max_model_len: int) -> None:
    """Refuse a prompt that the engine could not run.

    Raises
    ------
    ConfigError : it is empty, or leaves no room for an answer.
    """
    if not token_ids:
        raise ConfigError("the prompt is empty", expected="at least one token")
    if len(token_ids) >= max_model_len:
        raise ConfigError(
            f"the prompt has {len(token_ids)} tokens",
            expected=f"fewer than the context of {max_model_len} tokens",
            remedy="Shorten it, or raise --max-model-len where the model and the memory allow it",
        )


def check_token_ids(token_ids: Iterable[int], vocab_size: int) -> None:
    """Refuse ids that are no tokens.

    Raises
    ------
    ConfigError : naming the first.
    """
    for token_id in token_ids:
        if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
            raise ConfigError(
                f"token id {token_id!r} is not in the vocabulary", expected=f"0 to {vocab_size - 1}"
            )
