"""What the proxy tells: the access log, its own messages, and metrics."""
