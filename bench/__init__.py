"""The benchmark: a pair of our proxies against pairs of others, in the same run. ``python -m bench --help``."""
