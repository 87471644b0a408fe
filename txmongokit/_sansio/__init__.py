"""
Bytes and documents in, bytes and results out.

Nothing below this package knows Twisted, reads a clock or draws a random
number: what it needs of those is passed in.
"""
