from __future__ import annotations

import pytest

from metta_train.reporting.redaction import (
    REDACTED,
    is_secret_key,
    redact_argv,
    redact_config,
    redact_message,
    redact_text,
)


@pytest.mark.parametrize(
    "key",
    [
        "api_key", "API_KEY", "api-key", "apiKey", "apikey", "WANDB_API_KEY", "token", "hf_token", "authToken",
        "access_token",
        "secret", "client_secret", "password", "db_password", "dbPassword", "passwd", "credential", "aws_credentials",
        "Authorization", "private_key", "AWS_SECRET_ACCESS_KEY", "access_key",
    ],
)  # fmt: skip
def test_secret_keys(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    ["num_tokens", "use_cls_token", "pad_token", "tokens", "tokenizer", "key", "keys", "keyboard", "monkey", "bypass",
     "compass", "passes", "secretary", "author", "project", "learning_rate", "obs_key", ""],
)  # fmt: skip
def test_innocent_keys(key: str) -> None:
    assert not is_secret_key(key)


def test_config_by_hand() -> None:
    config = {
        "wandb": {"project": "metta", "api_key": "hunter22"},
        "service": {"token": "t", "password": 1234, "secret": {"a": "x", "b": ["y", None]}, "use_token": True},
        "layers": (1, 2.5, "relu"),
        "uri": "https://me:hunter22@host/path?x=1",
        "reference": {"api_key": "${oc.env:WANDB_API_KEY}"},
        "default": {"api_key": "${oc.env:WANDB_API_KEY,hunter22}"},
        "empty": {"token": "", "secret": None},
        "num_tokens": 200,
    }
    assert redact_config(config, {}) == {
        "wandb": {"project": "metta", "api_key": REDACTED},
        "service": {
            "token": REDACTED,
            "password": REDACTED,
            "secret": {"a": REDACTED, "b": [REDACTED, None]},
            "use_token": True,
        },
        "layers": [1, 2.5, "relu"],
        "uri": f"https://{REDACTED}@host/path?x=1",
        "reference": {"api_key": "${oc.env:WANDB_API_KEY}"},
        "default": {"api_key": REDACTED},
        "empty": {"token": "", "secret": None},
        "num_tokens": 200,
    }
    assert config["wandb"] == {"project": "metta", "api_key": "hunter22"}


def test_values_of_secret_environment_variables_are_found_anywhere() -> None:
    environ = {"MY_TOKEN": "abcdef-123", "PLAIN": "visible", "SHORT_TOKEN": "1"}
    assert redact_text("x abcdef-123 y visible 1", environ) == f"x {REDACTED} y visible 1"
    assert redact_config({"notes": ["see abcdef-123"]}, environ) == {"notes": [f"see {REDACTED}"]}


@pytest.mark.parametrize(
    "key",
    [
        "sk-abcdefghijklmnop1234",
        "ghp_" + "a" * 36,
        "github_pat_" + "b" * 30,
        "hf_" + "c" * 20,
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "xoxb-1234567890-abc",
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_known_shapes_of_keys(key: str) -> None:
    assert redact_text(f"use {key} here", {}) == f"use {REDACTED} here"


@pytest.mark.parametrize(
    "text",
    [
        "step-000000012345",
        "https://host:8080/path",
        "a@b.c",
        "sk-1",
        "0123456789abcdef0123456789abcdef01234567",
        "hf_model",
        "",
    ],
)
def test_innocent_text_stays(text: str) -> None:
    assert redact_text(text, {}) == text


def test_command_lines() -> None:
    argv = [
        "metta-train",
        "agent=fast",
        "x.api_key=hunter22",
        "+y.token=hunter22",
        "--token",
        "hunter22",
        "--secret=hunter22",
    ]
    argv += ["z.api_key=${oc.env:KEY}", "trainer.num_tokens=3", "--token", "--flag", "url=http://u:hunter22@h"]
    assert redact_argv(argv, {}) == [
        "metta-train",
        "agent=fast",
        f"x.api_key={REDACTED}",
        f"+y.token={REDACTED}",
        "--token",
        REDACTED,
        f"--secret={REDACTED}",
        "z.api_key=${oc.env:KEY}",
        "trainer.num_tokens=3",
        "--token",
        "--flag",
        f"url=http://{REDACTED}@h",
    ]


def test_a_message_does_not_repeat_the_secrets_of_a_command_line() -> None:
    argv = ["metta-train", "wandb.api_key=hunter2hunter2", "--token", "abcdefgh", "seed=1"]
    text = "wandb.api_key=hunter2hunter2: unknown key (got wandb.key=hunter2hunter2, abcdefgh), seed=1"
    assert redact_message(text, argv, {}) == (
        f"wandb.api_key={REDACTED}: unknown key (got wandb.key={REDACTED}, {REDACTED}), seed=1"
    )
