"""Digests of runs are repeatable and identify differences; masked ones do not depend on wording."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.simulation import digests

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.alone, pytest.mark.untraced]


def simulate(*arguments: str) -> tuple[int, str]:
    """Run the simulation as a user does."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    ended = subprocess.run(command, capture_output=True, timeout=280, check=False, text=True)
    return ended.returncode, ended.stdout + ended.stderr


def test_texts_are_masked_and_codes_are_not() -> None:
    """Texts are masked only in the masked fields; codes and other fields are kept."""
    said = b'[{"error":{"code":"refused","message":"No such thing","reason":"bad_text"},"note":"Two words"}]'
    masked = digests.mask_body(said)
    assert masked == '[{"error":{"code":"refused","message":"…","reason":"bad_text"},"note":"Two words"}]'.encode()
    assert digests.mask_body(said.replace(b"No such", b"There is no such")) == masked
    assert digests.mask_body(said.replace(b"bad_text", b"bad_words")) != masked
    assert digests.mask_body(b"[no JSON") == b"[no JSON"


def test_the_chain_is_masked_for_it_covers_texts() -> None:
    """The chain header is masked, every other header is kept."""
    headers = b"NATS/1.0\r\nNats-Msg-Id: 1.1.6\r\nChain: 0b32\r\n\r\n"
    assert digests.mask_headers(headers) == headers.replace(b"0b32", digests.MASK.encode())


@pytest.mark.timeout(300)
def test_seeds_that_differ_are_named(tmp_path: Path) -> None:
    """Equal runs have equal digests; a changed line is reported with its seed, and a missing one fails too."""
    file = tmp_path / "digests.txt"
    assert simulate("--seeds", "2", "--digests", str(file))[0] == 0
    assert simulate("--seeds", "2", "--against", str(file))[0] == 0
    assert simulate("--seeds", "2", "--against", str(file), "--mask")[0] == 2
    head, first, _ = file.read_text().splitlines()
    file.write_text(f"{head}\n{first}\n1 {'0' * 64}\n")
    code, said = simulate("--seeds", "3", "--against", str(file))
    assert code == 1
    assert said == f"{file} has no digest of the seeds 2\n1 of 3 seeds differ from {file}: 1\n"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """The error names the bad line."""
    file = tmp_path / "digests.txt"
    file.write_text(f"{digests.HEADS[True]}\n0 abc\n")
    with pytest.raises(ValueError, match=r"digests\.txt:2: '0 abc' is not"):
        digests.read(file, masked=True)
    with pytest.raises(ValueError, match="use --mask for both files or for neither"):
        digests.read(file, masked=False)


@pytest.mark.parametrize(
    "words", [("--seeds", "0"), ("--digests", "x", "--seed", "5"), ("--against", "nowhere"), ("--digests", "/")]
)
def test_what_cannot_be_compared_is_a_usage_error(words: tuple[str, ...]) -> None:
    """One line says why, before any seed has run; the exit code is not that of a seed that differs."""
    code, said = simulate(*words)
    assert code == 2
    assert said.startswith("usage: ")
    assert "Traceback" not in said
