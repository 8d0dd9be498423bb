"""Content credentials (C2PA) in a generated mp4: made by a trained model, with the lineage id; its last write.

An extra (``pip install 'reelgraph[c2pa]'``): without it nothing is written and nothing is said. They never stand in the
way of a clip: what goes wrong is told in one line, and the clip stays as it was. They hold the time and a signature, so
they are not put into what stages write, whose bytes are a function of what went in.
"""

from __future__ import annotations

import importlib.util
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipelines.standards import signing

IDENTITY = "content-credentials.pem"
"""Among the user's own settings: private key and certificates, the signer's first; made where there is none."""
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
LABEL = "reelgraph.lineage"
YEARS = 10


def stamp(clip: Path, artifact: str, watermark: str | None = None, identity: Path | None = None) -> str | None:
    """Put credentials into a clip that is otherwise complete; returns what went wrong, in one line, or None.

    Args:
        artifact: content hash of the clip, by which its chain names it.
        watermark: what put a mark into its frames, where something did.
        identity: who signs; None: :data:`IDENTITY`.
    """
    if importlib.util.find_spec("c2pa") is None:
        return None
    partial = clip.with_name(f".{clip.stem}.partial-{os.getpid()}{clip.suffix}")
    try:
        _sign(clip, partial, manifest(clip.name, artifact, watermark), identity or signing.own(IDENTITY))
        partial.chmod(clip.stat().st_mode)
        partial.replace(clip)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"{clip}: without content credentials ({reason}); the clip itself is whole."
    finally:
        partial.unlink(missing_ok=True)
    return None


def manifest(name: str, artifact: str, watermark: str | None) -> dict[str, Any]:
    """What is claimed of a clip."""
    actions: list[dict[str, Any]] = [{"action": "c2pa.created", "digitalSourceType": TRAINED}]
    if watermark is not None:
        actions.append({"action": "c2pa.watermarked.unbound", "description": watermark})
    return {
        "claim_generator_info": [{"name": "Reelgraph"}],
        "title": name,
        "format": "video/mp4",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": LABEL, "data": {"artifact": artifact}},
        ],
    }


def _sign(clip: Path, out: Path, claim: dict[str, Any], identity: Path) -> None:
    import c2pa

    if not identity.exists():
        make_identity(identity)
    text = identity.read_text(encoding="ascii")
    key = text[text.index("-----BEGIN PRIVATE KEY-----") : text.index("-----END PRIVATE KEY-----") + 26]
    info = c2pa.C2paSignerInfo(b"es256", text.replace(key, "").strip().encode(), key.encode(), None)
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(claim)) as builder:
        builder.sign_file(str(clip), str(out), signer)


# ---- an identity of one's own -------------------------------------------------------------------------------------


def make_identity(path: Path) -> None:
    """A key with a certificate by an authority of its own, which no list of trust knows: readers say "untrusted"."""
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("Reelgraph user, own authority", root, "Reelgraph user, own authority", root, is_root=True)
    signer = _certificate("Reelgraph user", key, "Reelgraph user, own authority", root, is_root=False)
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    parts = [one.public_bytes(serialization.Encoding.PEM) for one in (signer, authority)]
    signing.write_private(path, secret + b"".join(parts))


def _certificate(name: str, key: signing.Private, issuer: str, by: signing.Private, is_root: bool) -> x509.Certificate:
    """A certificate in the profile of C2PA (specification 2.2, 14.5)."""
    names = [x509.Name([x509.NameAttribute(kind, one) for kind in KINDS]) for one in (name, issuer)]
    now = datetime.now(UTC).replace(microsecond=0)
    usage = x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issued = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(is_root, 0 if is_root else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(own, critical=False)
        .add_extension(issued, critical=False)
    )
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(by, hashes.SHA256())


KINDS = (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
