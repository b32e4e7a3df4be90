"""What keeps a private key from being copied: shown wherever the identity is shown."""

from __future__ import annotations

from enum import StrEnum


class Protection(StrEnum):
    """One value per kind of place that a key can be in; part of the output, of the log and of metrics, never renamed.

    A key in a TPM or an HSM that could leave it all the same is labelled ``software``: the label says what is protected,
    not where.
    """

    #: Bytes in a file and in this process: whoever can read either has the key.
    SOFTWARE = "software"
    #: Made in a TPM 2.0 and unable to leave it (TPM 2.0 part 1, 25: fixedTPM, fixedParent, sensitiveDataOrigin).
    TPM = "tpm"
    #: In a PKCS#11 token, sensitive and not extractable (PKCS#11 v3.1 4.9).
    HSM = "hsm"
    #: Behind a signer service, which says for itself what protects it.
    REMOTE = "remote"
