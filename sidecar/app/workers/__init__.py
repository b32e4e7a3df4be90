"""Several worker processes of one proxy (``workers: N``): a parent that binds, asks and sums, and workers that serve.

The parent reads and checks the configuration, binds every listener, and starts each worker by exec (`process`), with one
UNIX socket between the two (`channel`). Over it go questions and answers (`wire`): the configuration as the bytes that the
parent checked (`handed`), listening sockets as descriptors. A worker has an event loop, TLS contexts and pools of its own
(`worker`, `serving`); what operators ask, the parent answers for all (`console`, `sums`).
"""
