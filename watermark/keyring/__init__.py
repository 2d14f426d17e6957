"""Keys people can trust: sets of masters and epochs, sealed with age; where masters are kept; what is published."""

from watermark.keyring.commitments import Commitments, Committed, read_commitments
from watermark.keyring.keyset import Epoch, KeySet
from watermark.keyring.provider import FileProvider, KeyProvider, KeyringProvider, MacProvider, drawn, kms, pkcs11
from watermark.keyring.sealing import Identity, Passphrase, Secret, recipient_of
from watermark.keyring.store import change, is_key_set, open_keys, save_new, sealed_by_passphrase

__all__ = [
    "Commitments",
    "Committed",
    "Epoch",
    "FileProvider",
    "Identity",
    "KeyProvider",
    "KeySet",
    "KeyringProvider",
    "MacProvider",
    "Passphrase",
    "Secret",
    "change",
    "drawn",
    "is_key_set",
    "kms",
    "open_keys",
    "pkcs11",
    "read_commitments",
    "recipient_of",
    "save_new",
    "sealed_by_passphrase",
]
