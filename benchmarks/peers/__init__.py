"""
The drivers that C{benchmarks.client} compares: one module for each, run as a
process of its own. They share C{work}, which needs the standard library alone,
and those on Twisted C{reactor}.
"""
