"""sidecar: an identity that cannot be copied, beside each AI agent."""

__version__ = "0.1.0"
