"""A conversation as the one text that a chat model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2

from pascaline.core.errors import ConfigError, UnsupportedError
from pascaline.text.template_meter import AllowanceSpent, metered
from pascaline.text.template_sandbox import TemplateEnvironment

BASE_ALLOWANCE = 1 << 24
ALLOWANCE_PER_CHARACTER = 64

Message = Mapping[str, object]


class ChatTemplate:
    """A model's Jinja chat template, compiled once; `render` may be called from any thread.

    Templates come with downloaded models and are not trusted. They run in a sandbox without Python's
    internals, and on an allowance: 16 Mi characters' worth of work (a loop round counts as 64) and 64
    more for every character of the conversation, which two seconds use up. Output and everything made
    on the way to it are paid from it, and `range` stops at 100 000; see `template_sandbox`.

    Parameters
    ----------
    source : the template; None when the checkpoint brings none, which raises ConfigError.
    bos_token, eos_token : seen by the template under these names when they are not None.
    """

    def __init__(self, source: str | None, bos_token: str | None, eos_token: str | None) -> None:
        if source is None or not source.strip():
            raise ConfigError(
                "The model brings no chat template",
                expected="an instruction-tuned model, with a chat template in its files",
                remedy="Use its chat or instruct version, or complete plain text "
                "(`pascaline generate` without --chat, /v1/completions)",
            )
        tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._special_tokens = {name: token for name, token in tokens.items() if token is not None}
        try:
            with metered(BASE_ALLOWANCE):
                self._template = TemplateEnvironment().template(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"The model's chat template is not valid Jinja, line {error.lineno}: {error.message}",
                remedy="Fetch the model's files again, or report it to the model's author",
            ) from error
        except AllowanceSpent as error:
            raise _spent() from error
        except Exception as error:  # an untrusted program fails in any way it likes
            raise _failed(error) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        **template_kwargs: object,
    ) -> str:
        """The prompt for `messages` (role and content each, JSON values; contents as text or parts).

        `add_generation_prompt` ends it where the assistant's answer begins. `template_kwargs` are seen
        by the template under their names. Special tokens are spelled out in the result: encode it with
        `add_special_tokens=False`.

        Raises ConfigError with the template's own message where it refuses, UnsupportedError for parts
        that are not text.
        """
        variables = {
            "documents": None,
            **self._special_tokens,
            **template_kwargs,
            "messages": flatten_content(messages),
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with metered(BASE_ALLOWANCE + ALLOWANCE_PER_CHARACTER * _characters(variables)):
                return self._template.render(variables)
        except AllowanceSpent as error:
            raise _spent() from error
        except Exception as error:  # an untrusted program fails in any way it likes
            raise _failed(error) from error


def flatten_content(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Copies of `messages` whose contents are text: text parts are joined by line ends.

    Raises UnsupportedError for images and audio, ConfigError for what is no message.
    """
    if not messages:
        raise ConfigError("The conversation has no messages", expected="at least one message")
    flat = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ConfigError(
                f"Message {number} is {str(message)[:80]!r}",
                expected='an object with a "role" and a "content"',
            )
        content = message.get("content")
        if isinstance(content, Sequence) and not isinstance(content, str):
            content = "\n".join(_text_of_part(part, number) for part in content)
        elif content is not None and not isinstance(content, str):
            raise ConfigError(
                f"The content of message {number} is {str(content)[:80]!r}",
                expected="text, or a list of parts",
            )
        flat.append({**message, "content": content} if "content" in message else dict(message))
    return flat


def _text_of_part(part: object, number: int) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise ConfigError(
            f"A content part of message {number} is {str(part)[:80]!r}",
            expected='parts such as {"type": "text", "text": "…"}',
        )
    if kind != "text":
        raise UnsupportedError(
            f"A content part of message {number} has the type {kind!r}",
            expected="'text': this version reads no images, audio or files",
            remedy="Leave the part out, or describe it in words",
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise ConfigError(f'A text part of message {number} has no "text"', expected="a text")
    return text


def _characters(value: object) -> int:
    """About how many characters the values of a JSON tree have."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(key) + _characters(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return sum(map(_characters, value))
    return 1


def _failed(error: Exception) -> ConfigError:
    message = str(error)[:2000].rstrip(".") or type(error).__name__
    return ConfigError(
        f"The model's chat template refused the conversation: {message}",
        remedy="Change the messages to what the template takes (roles, their order, their fields)",
    )


def _spent() -> ConfigError:
    return ConfigError(
        "The model's chat template was stopped: it does more work, or makes more text, than any prompt needs",
        remedy="The template is faulty or malicious; do not use it. Fetch the model from its author",
    )
