"""Log-probabilities in the chat API's form."""

from __future__ import annotations

from pascaline.llm.outputs import RequestResult, TokenLogprob
from pascaline.text.tokenizer import Tokenizer


def logprob_entry(tokenizer: Tokenizer, item: TokenLogprob) -> dict[str, object]:
    """A token's log-probability, its alternatives' too."""

    def one(token_id: int, logprob: float) -> dict[str, object]:
        return {
            "token": tokenizer.token_text(token_id),
            "logprob": logprob,
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    return {
        **one(item.token_id, item.logprob),
        "top_logprobs": [one(token_id, logprob) for token_id, logprob in item.top_logprobs],
    }


def prompt_logprob_entries(tokenizer: Tokenizer, result: RequestResult) -> list[dict[str, object] | None]:
    """One a token of the prompt; the first token has none."""
    return [
        None,
        *(
            logprob_entry(tokenizer, TokenLogprob(item.token_id, item.logprob, item.top_logprobs))
            for item in result.prompt_logprobs or ()
        ),
    ]
