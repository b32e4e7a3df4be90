"""Keys in a TPM 2.0, through tpm2-tss."""
