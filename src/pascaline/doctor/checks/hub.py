"""The Hugging Face hub: whether it can be reached, and whether the token is valid.

Models on the disk need no network. HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 stays without. Waits three
seconds at most.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pascaline.checkpoint.web import Url
from pascaline.core.errors import PascalineError
from pascaline.doctor.check import Check, Finding, fail, ok, warn
from pascaline.doctor.machine import Machine

_PATIENCE_S = 3.0
_EXPECTED = "an answer, or HF_HUB_OFFLINE=1"
_TRUE = ("1", "true", "yes", "on")


def _look(machine: Machine) -> Iterator[Finding]:
    if machine.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        yield ok("HF_HUB_OFFLINE is set: only models on the disk are used", _EXPECTED)
        return
    try:
        url = machine.hub_url("api/models?limit=1")
        has_token = url.authorization is not None
        url = machine.hub_url("api/whoami-v2") if has_token else url
        endpoint = Url.parse(url.address).address.partition("/api/")[0]  # without a password in it
    except PascalineError as error:
        yield fail(error.seen, error.expected or _EXPECTED, "unset HF_ENDPOINT HF_TOKEN_PATH")
        return
    answer = machine.ask(url, _PATIENCE_S)
    if answer.status is None:
        remedy = (
            f"curl -sSI {shlex.quote(endpoint)}  # says why\nexport HF_HUB_OFFLINE=1  # to stay without it"
        )
        yield warn(f"{endpoint} does not answer: {answer.reason}", _EXPECTED, remedy)
    elif has_token and answer.status in (401, 403):
        remedy = "unset HF_TOKEN\nhf auth login"
        yield fail(f"{endpoint} refuses the token ({answer.status} {answer.reason})", "a valid token", remedy)
    elif answer.status >= 500:
        remedy = f"curl -sSI {shlex.quote(endpoint)}  # again in a while"
        yield warn(f"{endpoint} is in trouble ({answer.status} {answer.reason})", _EXPECTED, remedy)
    else:
        yield ok(f"{endpoint} answers, {'with a valid token' if has_token else 'no token is set'}", _EXPECTED)


CHECK = Check("hub", _look)
