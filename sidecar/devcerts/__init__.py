"""Development identities: an authority and one key and certificate for each agent, as files in one folder.

For a laptop and for tests. In production an authority issues identities, and keys live where they cannot be copied.
"""
