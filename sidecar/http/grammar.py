"""The byte classes of HTTP/1.1 and URIs, once, as fragments of regular expressions.

All repetition over them is possessive (``++``, ``*+``): what a class has taken is never given back, so that no input
makes a match take more than linear time.
"""

from __future__ import annotations

import re
from typing import Final

# RFC 9110 section 5.6.2: token.
TCHAR: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"

# RFC 9110 section 5.5: field-vchar, SP and HTAB. obs-text (0x80-0xFF) is let through as opaque bytes, as the RFC asks.
VALUE_CHAR: Final = rb"[\t\x20-\x7e\x80-\xff]"

# RFC 9110 section 9.1: a method is a token; 32 bytes is our bound (the longest registered one has 17).
METHOD: Final = TCHAR + rb"{1,32}+"

# RFC 3986 section 3.3: pchar and "/". What pct-encoded means is for the policy, which sees the path as bytes.
PATH_CHAR: Final = rb"[-A-Za-z0-9._~%!$&'()*+,;=:@/]"

# RFC 3986 section 3.4, and of what it leaves out the characters that browsers put into a query unescaped (WHATWG URL,
# query percent-encode set): ``[ ] { | } ^ ` ``. They end nothing and mean nothing to HTTP. ``" < > \ #`` stay out.
QUERY_CHAR: Final = rb"[-A-Za-z0-9._~%!$&'()*+,;=:@/?\[\]{|}^`]"

CRLF: Final = b"\r\n"
END_OF_HEAD: Final = b"\r\n\r\n"

TOKEN: Final = re.compile(TCHAR + rb"++")
