"""
Tests of the band of the same name, without servers.
"""
