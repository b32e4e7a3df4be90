"""HTTP/1.1 without IO: bytes in, callbacks and bytes out (RFC 9110, RFC 9112).

What the peer sends passes four gates, and only what passed the one before reaches the next:

1. ``receiver`` cuts the stream into heads, bodies and trailers, within the bounds of ``limits``;
2. ``scanner`` decides whether a head is accepted. It alone decides, and it is stricter than the RFC wherever two readers
   could disagree about where a message ends or whom it is for;
3. ``bodies`` checks the chunked coding with the same verdict, then lets one of two libraries delimit it;
4. ``fields`` decides what goes on. A message is never passed on as received: ``write`` writes it anew.
"""
