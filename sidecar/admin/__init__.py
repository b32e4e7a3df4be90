"""What operators ask: the administration socket, and the listener for probes and metrics."""
