"""Signatures: OpenSSF's own command takes ours, we take its, and nothing that was changed passes."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stage import StageError
from pipelines.standards import signing
from pipelines.standards.signing import PUBLIC, SIGNATURE, BadSignature

KEY = ec.generate_private_key(ec.SECP256R1())
NAMES = ("a/x", "a b/x", "a-b", ".hidden", "Zé.txt", "deep/er/still/y")


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> Path:
    plain = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "release" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "release" / name).write_text(f"content of {name}")
    signing.sign(tmp_path / "release", KEY)
    return tmp_path / "release"


def wrong(folder: Path) -> dict[str, str]:
    return dict(signing.differences(folder, signing.signed_files(folder, KEY.public_key())))


def model_signing(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """OpenSSF's command-line tool."""
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.costly
def test_the_command_of_openssf_verifies_our_signature_and_refuses_what_was_changed(folder: Path) -> None:
    words = ("verify", "key", folder, "--signature", folder / SIGNATURE, "--public_key", folder / PUBLIC)
    done = model_signing(*words)
    assert done.returncode == 0, done.stderr
    (folder / "a-b").write_text("another content")
    done = model_signing(*words)
    assert done.returncode != 0 and "a-b" in done.stdout + done.stderr


def test_we_verify_what_the_command_of_openssf_has_signed(folder: Path, tmp_path: Path) -> None:
    key = write_key(tmp_path / "key.pem", KEY)
    done = model_signing("sign", "key", folder, "--signature", folder / SIGNATURE, "--private_key", key)
    assert done.returncode == 0, done.stderr
    assert wrong(folder) == {} and set(signing.signed_files(folder, KEY.public_key())) == {*NAMES, PUBLIC}


def test_what_was_changed_added_or_taken_away_is_named(folder: Path) -> None:
    assert wrong(folder) == {}
    (folder / "a/x").write_text("content of a/X")
    (folder / "new").write_text("")
    (folder / "Zé.txt").unlink()
    assert {name: told.split(";")[0].split()[0] for name, told in wrong(folder).items()} == {
        "a/x": "changed",
        "new": "added",
        "Zé.txt": "missing",
    }


def test_a_folder_with_links_is_neither_signed_nor_verified(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "a-b")
    with pytest.raises(StageError, match="link: a link"):
        signing.sign(folder, KEY)


def test_no_bit_of_a_signature_can_be_turned_unseen(folder: Path) -> None:
    whole = (folder / SIGNATURE).read_bytes()
    key = KEY.public_key()
    for at in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at // 11) % 8
        (folder / SIGNATURE).write_bytes(bytes(damaged))
        with pytest.raises(BadSignature):
            signing.signed_files(folder, key)


def test_another_key_is_told_from_damage(folder: Path) -> None:
    with pytest.raises(BadSignature, match="another key"):
        signing.signed_files(folder, ec.generate_private_key(ec.SECP256R1()).public_key())


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3))


@settings(deadline=None)
@given(JSON)
def test_a_statement_comes_out_as_it_went_in(content: object) -> None:
    statement = {"_type": signing.STATEMENT, "predicate": content}
    assert signing.opened(signing.envelope(statement, KEY), KEY.public_key()) == statement


@settings(deadline=None)
@given(st.sampled_from(["payload", "payloadType", "sig", "keyid"]), st.integers(0, 200), st.integers(0, 7))
def test_an_envelope_that_was_changed_anywhere_does_not_open(part: str, at: int, bit: int) -> None:
    envelope = json.loads(json.dumps(signing.envelope({"_type": signing.STATEMENT, "predicate": "é"}, KEY)))
    holder = envelope if part in envelope else envelope["signatures"][0]
    text = bytearray(holder[part].encode())
    text[at % len(text)] ^= 1 << bit
    holder[part] = text.decode("latin-1")
    with pytest.raises(BadSignature):
        signing.opened(envelope, KEY.public_key())


@pytest.mark.parametrize("envelope", [None, [], {}, {"signatures": []}, {"signatures": [{}]}, {"signatures": 3}, "x"])
def test_what_is_no_envelope_is_refused_in_words(envelope: object) -> None:
    with pytest.raises(BadSignature):
        signing.opened(envelope, KEY.public_key())


def test_a_key_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/key.pem"
    key, made = signing.private_key(path)
    again, made_again = signing.private_key(path)
    assert made and not made_again and key.private_numbers() == again.private_numbers()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_that_model_signing_does_not_take_are_refused_in_words(tmp_path: Path) -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(StageError, match="curves"):
            signing.private_key(write_key(tmp_path / "key.pem", key))
    (tmp_path / "key.pem").write_text(base64.b64encode(b"no key").decode())
    with pytest.raises(StageError, match="no private key"):
        signing.private_key(tmp_path / "key.pem")
