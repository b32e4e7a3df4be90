"""What a TLS peer presents, and what of it we would refuse. For `sidecar inspect` alone: the proxy never loads it."""
