"""The proxies that are compared: one file each, and one table of them."""
