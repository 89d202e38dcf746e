"""Removing secrets from everything that is saved, printed or uploaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import cast

REDACTED = "<redacted>"

_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_SECRET_WORDS = frozenset(
    {
        "secret",
        "secrets",
        "password",
        "passwd",
        "passw",
        "passphrase",
        "credential",
        "credentials",
        "authorization",
        "apikey",
    }
)
_KEY_OWNERS = frozenset({"api", "access", "private", "secret", "signing", "encryption"})
# Words before "token" that make it a piece of text for a network, not a key to an account.
_TEXT_TOKENS = frozenset({"cls", "pad", "eos", "bos", "unk", "mask", "sep", "num", "max", "min", "per", "special"})
_MIN_SECRET_LENGTH = 6  # a shorter environment value, e.g. "1", would eat innocent text

_ENVIRONMENT_REFERENCE = re.compile(r"\$\{oc\.env:[A-Za-z0-9_]+\}")
_URL_USER = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_KEY_SHAPES = re.compile(
    r"\b(?:sk|rk|pk)-[A-Za-z0-9_-]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bgithub_pat_[A-Za-z0-9_]{20,}"
    r"|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\bhf_[A-Za-z0-9]{16,}"
    r"|\bwandb_v1_[A-Za-z0-9_-]{16,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bAIza[A-Za-z0-9_-]{30,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def is_secret_key(key: str) -> bool:
    """True when this names a secret: `api_key`, `hf_token`, `dbPassword`; not `num_tokens`, `cls_token`."""
    words = [word.lower() for word in _WORD.findall(key)]
    if _SECRET_WORDS.intersection(words):
        return True
    for before, word in zip(["", *words], words, strict=False):
        if word == "key" and before in _KEY_OWNERS:
            return True
        if word == "token" and before not in _TEXT_TOKENS:
            return True
    return False


def redact_text(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without values of secret environment variables, `user:password@` in URLs, and known shapes of keys."""
    for secret in _environment_secrets(environ):
        text = text.replace(secret, REDACTED)
    return _KEY_SHAPES.sub(REDACTED, _URL_USER.sub(REDACTED, text))


def redact_config(config: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> dict[str, object]:
    """A plain copy of a configuration tree without secrets.

    Values under secret keys are replaced, unless they are null, true/false, or an unresolved `${oc.env:NAME}`. Texts
    elsewhere go through `redact_text`. Tuples become lists.
    """
    return {
        str(key): _redact_below(value, environ) if is_secret_key(str(key)) else _redact_value(value, environ)
        for key, value in config.items()
    }


def redact_argv(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Command line arguments without secrets: `a.api_key=X`, `--token=X` and `--token X` lose their X."""
    redacted: list[str] = []
    value_is_secret = False
    for argument in argv:
        name, equals, value = argument.partition("=")
        secret_name = is_secret_key(name.rsplit(".", 1)[-1].strip("-+~"))
        if value_is_secret and not argument.startswith("-"):
            redacted.append(REDACTED)
        elif equals and secret_name and not _ENVIRONMENT_REFERENCE.fullmatch(value):
            redacted.append(f"{name}={REDACTED}")
        else:
            redacted.append(redact_text(argument, environ))
        value_is_secret = argument.startswith("--") and not equals and secret_name
    return redacted


def redact_message(text: str, argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> str:
    """`redact_text`, and without the secrets of a command line that the message repeats."""
    for argument, redacted in zip(argv, redact_argv(argv, environ), strict=True):
        if redacted == REDACTED:
            text = text.replace(argument, REDACTED)
        elif redacted.endswith(f"={REDACTED}"):
            text = text.replace(argument, redacted).replace(f"={argument.partition('=')[2]}", f"={REDACTED}")
    return redact_text(text, environ)


def _redact_value(value: object, environ: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return redact_text(value, environ)
    if isinstance(value, Mapping):
        return redact_config(cast("Mapping[str, object]", value), environ)
    if isinstance(value, (list, tuple)):
        return [_redact_value(item, environ) for item in cast("Sequence[object]", value)]
    return value


def _redact_below(value: object, environ: Mapping[str, str]) -> object:
    """The value of a secret key; everything inside it counts as secret."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and (not value or _ENVIRONMENT_REFERENCE.fullmatch(value)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _redact_below(item, environ) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_redact_below(item, environ) for item in cast("Sequence[object]", value)]
    return REDACTED


def _environment_secrets(environ: Mapping[str, str]) -> list[str]:
    secrets = {value for name, value in environ.items() if is_secret_key(name) and len(value) >= _MIN_SECRET_LENGTH}
    return sorted(secrets, key=len, reverse=True)
