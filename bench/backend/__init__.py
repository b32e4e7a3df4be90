"""The local servers behind the proxies, on the core of the load."""
