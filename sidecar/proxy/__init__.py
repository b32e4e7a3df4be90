"""The shell that moves bytes: listeners, streams, exchanges, pools, drain."""
