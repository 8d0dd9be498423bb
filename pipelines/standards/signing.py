"""Signatures with a plain key: DSSE envelopes, and OpenSSF Model Signing (OMS 1.0) of a whole folder.

``model.sig`` is the bundle that ``model_signing verify key`` of OpenSSF reads: an in-toto statement whose predicate
lists every file of the folder by SHA-256, in a DSSE envelope (github.com/secure-systems-lab/dsse, protocol 1.0.2). It
is written and read here by ``cryptography`` alone, so that ``reel audit`` needs nothing more than Reelgraph; the tests
hold both ways to OpenSSF's own command.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines.stage import StageError, file_digest

SIGNATURE, PUBLIC = "model.sig", "model.pub"
"""Of a release: the signature of all its other files, and the key that verifies it."""
STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "https://model_signing/signature/v1.0"
HASHES = {"secp256r1": hashes.SHA256, "secp384r1": hashes.SHA384, "secp521r1": hashes.SHA512}
"""Curves that Model Signing takes, each with its hash."""
IGNORED = (SIGNATURE, ".git", ".gitattributes", ".github", ".gitignore")
"""What the signature does not cover: itself, and what a folder in git gets."""
ADDED = "added; the signature does not cover it"
Private: TypeAlias = ec.EllipticCurvePrivateKey
Public: TypeAlias = ec.EllipticCurvePublicKey


class BadSignature(ValueError):
    """A signature is not what the key made, or is damaged; told in one line."""


def own(name: str) -> Path:
    """A file of this user's own settings, by the rules of freedesktop.org; keys stand there, never in a project."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "reelgraph" / name


# ---- keys ---------------------------------------------------------------------------------------------------------


def private_key(path: Path) -> tuple[Private, bool]:
    """The key in a PEM file, and whether it was made now; where there is none it is made, readable by its user only.

    Raises:
        StageError: the file holds no elliptic-curve key without a password.
    """
    path = path.expanduser()
    made = not path.exists()
    if made:
        key = ec.generate_private_key(ec.SECP256R1())
        plain = serialization.NoEncryption()
        write_private(path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise StageError(f"--key {path}: no private key in PEM without a password ({error}).") from None
    if not isinstance(key, Private) or key.curve.name not in HASHES:
        raise StageError(f"--key {path}: Model Signing takes keys on the curves {', '.join(HASHES)}.")
    return key, made


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its user can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    try:
        os.link(partial, path)  # two that begin at once: the first one's stays
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def pem(key: Public) -> bytes:
    """A public key as a PEM file holds it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key(path: Path) -> Public:
    """The key in a PEM file.

    Raises:
        BadSignature: it holds none, or one that Model Signing does not take.
    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise BadSignature(f"{path.name} holds no public key ({error})") from None
    if not isinstance(key, Public) or key.curve.name not in HASHES:
        raise BadSignature(f"{path.name} holds no key on {', '.join(HASHES)}")
    return key


def fingerprint(key: Public) -> str:
    """SHA-256 of the key's PEM: what to compare with what its owner published."""
    return hashlib.sha256(pem(key)).hexdigest()


# ---- envelopes ----------------------------------------------------------------------------------------------------


def _to_sign(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def envelope(statement: Mapping[str, Any], key: Private) -> dict[str, Any]:
    """A statement, signed."""
    payload = json.dumps(statement, sort_keys=True, allow_nan=False).encode()
    made = key.sign(_to_sign(payload), ec.ECDSA(HASHES[key.curve.name]()))
    signature = {"keyid": fingerprint(key.public_key()), "sig": base64.b64encode(made).decode()}
    return {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD, "signatures": [signature]}


def opened(envelope: Any, key: Public) -> dict[str, Any]:
    """The statement in an envelope.

    Raises:
        BadSignature: the key did not sign it, or anything in it is not as it was written.
    """
    try:
        [signature] = envelope["signatures"]
        payload, made = _plain(envelope["payload"]), _plain(signature["sig"])
        if set(envelope) != {"payload", "payloadType", "signatures"} or not set(signature) <= {"sig", "keyid"}:
            raise BadSignature("holds what no envelope has")
        if envelope["payloadType"] != PAYLOAD or signature.get("keyid") not in (None, "", fingerprint(key)):
            raise BadSignature("of another kind or key")
        key.verify(made, _to_sign(payload), ec.ECDSA(HASHES[key.curve.name]()))
        statement = json.loads(payload)
        if statement["_type"] != STATEMENT:
            raise BadSignature("holds no in-toto statement")
        return statement
    except InvalidSignature:
        raise BadSignature("the key did not sign it as it is now") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise error if isinstance(error, BadSignature) else BadSignature(f"damaged ({error})") from None


def _plain(text: str) -> bytes:
    """Base64 decoded strictly: another spelling of the same bytes is damage too."""
    found = base64.b64decode(text, validate=True)
    if base64.b64encode(found).decode() != text:
        raise BadSignature("damaged base64")
    return found


# ---- a folder -----------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, Path]:
    """What a signature covers, by name, in the order of Model Signing.

    Raises:
        StageError: a link, which would let what is signed change from outside.
    """
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    found = {name: path for name, path in found.items() if not set(IGNORED) & {name, name.split("/")[0]}}
    links = [name for name, path in found.items() if path.is_symlink()]
    if links:
        raise StageError(f"{folder / links[0]}: a link; a signed folder holds files only.")
    return dict(sorted(found.items(), key=lambda one: Path(one[0])))


def sign(folder: Path, key: Private) -> None:
    """Write the public key and the signature over every file into a folder that is otherwise complete."""
    (folder / PUBLIC).write_bytes(pem(key.public_key()))
    digests = {name: file_digest(path) for name, path in files(folder).items()}
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(IGNORED)}
    named = [{"name": name, "digest": digest, "algorithm": "sha256"} for name, digest in digests.items()]
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": folder.name.split(".partial-")[0].lstrip("."), "digest": {"sha256": _root(digests)}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": how, "resources": named},
    }
    signed = envelope(statement, key)
    signed["signatures"][0]["keyid"] = ""  # as Model Signing writes it; the hint below names the key
    material = {"publicKey": {"hint": fingerprint(key.public_key())}, "tlogEntries": []}
    bundle = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": signed}
    (folder / SIGNATURE).write_text(json.dumps(bundle), encoding="utf-8")


def _root(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()


def signed_files(folder: Path, key: Public) -> dict[str, str]:
    """The files that the signature of a folder covers, each with its SHA-256, as they were signed.

    Raises:
        BadSignature: it is not of this key, or is damaged.
    """
    try:
        bundle = json.loads((folder / SIGNATURE).read_text(encoding="utf-8"))
        if bundle["mediaType"] != BUNDLE or set(bundle) != {"mediaType", "verificationMaterial", "dsseEnvelope"}:
            raise BadSignature("no bundle of Model Signing")
        material = bundle["verificationMaterial"]
        if material.get("tlogEntries") or not set(material) <= {"publicKey", "tlogEntries"}:
            raise BadSignature("holds what a signature with a plain key has not")
        if material["publicKey"] != {"hint": fingerprint(key)}:
            raise BadSignature("made with another key")
        content = opened(bundle["dsseEnvelope"], key)
        predicate = content["predicate"]
        if content["predicateType"] != PREDICATE or predicate["serialization"]["method"] != "files":
            raise BadSignature("signs something else than files")
        digests = {one["name"]: one["digest"] for one in predicate["resources"] if one["algorithm"] == "sha256"}
        if len(digests) != len(predicate["resources"]) or content["subject"][0]["digest"]["sha256"] != _root(digests):
            raise BadSignature("contradicts itself")
        return digests
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise error if isinstance(error, BadSignature) else BadSignature(f"damaged ({error})") from None


def differences(folder: Path, signed: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) for every file that is not as it was signed: changed, missing, or added."""
    here = files(folder)
    for name in sorted({*here, *signed}):
        if name not in here:
            yield name, "missing; it was signed"
        elif name not in signed:
            yield name, ADDED
        elif file_digest(here[name]) != signed[name]:
            yield name, "changed since it was signed"
