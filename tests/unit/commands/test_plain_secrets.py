"""What looks like a secret in an environment is told by its name, never by its value."""

from __future__ import annotations

import time

import pytest

from coordinator.commands.plain_secrets import NAMES_MOST, plain_secrets, warning_of
from events.container import Secret

VALUE = "hunter2"
SECRETS = ["TOKEN", "API_TOKEN", "db_password", "OPENAI_API_KEY", "apiKey", "AWS_SECRET_ACCESS_KEY", "GITHUBTOKEN"]
SECRETS += ["Passphrase", "NATS_CREDS", "basic-auth", "MYSECRET", "AccessKeys"]
OTHERS = ["ENV", "KEYBOARD", "MONKEY", "AUTHOR", "TOKEN_FILE", "SSH_KEY_PATH", "SECRET_NAME", "KEY_ID", "PWD", "7", "_"]


@pytest.mark.parametrize("name", SECRETS)
def test_names_of_secrets(name: str) -> None:
    """By any word of the name, however it is written."""
    assert plain_secrets({name: VALUE}) == [name]


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_other_things(name: str) -> None:
    """A word inside another one is none, and a file or an id of a secret is not the secret."""
    assert plain_secrets({name: VALUE}) == []


def test_values() -> None:
    """References and empty values are no secrets; a URL with a login is one under any name."""
    fine: dict[str, str | Secret] = {
        "TOKEN": Secret(secret="t"),
        "PASSWORD": "",
        "URL": "http://host/a@b",
        "MAIL": "me@host",
    }
    assert plain_secrets(fine) == []
    logins: dict[str, str | Secret] = {"DB": "postgres://me:hunter2@db/x", "BUS": "nats://hunter2@host:4222"}
    assert plain_secrets(fine | logins) == ["DB", "BUS"]


def test_the_warning() -> None:
    """It names the variables and what to use; it has no value, and does not grow with the environment."""
    assert warning_of({"ENV": VALUE}) == ""
    said = warning_of({"TOKEN": VALUE, "DB": f"x://{VALUE}@h"})
    assert said == (
        "TOKEN, DB in the environment look like secrets with plain values, which stay in the journal: use"
        ' {"secret": name} and a file on the node, and change the values'
    )
    many = warning_of({f"KEY_{number}_A": VALUE for number in range(NAMES_MOST + 5)})
    assert "KEY_9_A and 5 more in the environment" in many
    assert VALUE not in said + many


@pytest.mark.parametrize(
    "value",
    ["x" * 32_000, "a://" * 8_000, "a+" * 16_000, "a://" + "b" * 32_000, "a" * 16_000 + "://" + "b" * 16_000],
    ids=["letters", "schemes", "signs", "login", "long scheme"],
)
def test_a_long_value_is_looked_at_in_time(value: str) -> None:
    """The writer looks at it: two hundred of the longest take less than what one took with a search that steps back."""
    began = time.process_time()
    for _ in range(200):
        plain_secrets({"V": value})
    assert time.process_time() - began < 2.0
