"""
Tests for L{txmongokit.settings}.
"""
