"""
Tests for L{txmongokit.storage}.
"""
