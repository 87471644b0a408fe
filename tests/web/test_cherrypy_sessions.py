"""
Tests for L{txmongokit.web.cherrypy_sessions}: options.  What sessions do is in
L{tests.integration.test_cherrypy}.
"""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.errors import ConfigurationError, InvalidURI


class OptionTests(SynchronousTestCase):
    """
    What C{tools.sessions} is told.
    """

    def refusal(self, kind: type[Exception], **options: Any) -> str:
        """What is said of options."""
        from txmongokit.web.cherrypy_sessions import Session

        return str(self.assertRaises(kind, Session, None, **options))

    def test_refused(self) -> None:
        """What cannot be used is told with the mend."""
        strange: Any = MongoClient("mongodb://a", connect=False)
        self.addCleanup(strange.close)
        for options, part in (
            ({}, "set tools.sessions.uri"),
            ({"database": strange["web"]}, "not a pymongo"),
            ({"database": "web"}, "ConnectionPool(uri)[name]"),
            ({"store": strange}, "tools.sessions.store must be"),
            ({"uri": "mongodb://a/web", "codec": 5}, "encode"),
            ({"uri": "mongodb://a/web", "lock_timeout": "5"}, "lock_timeout must be seconds"),
            ({"uri": "mongodb://a/web", "lock_timeout": True}, "lock_timeout must be seconds"),
        ):
            self.assertIn(part, self.refusal(TypeError, **options))
        self.assertIn("default database", self.refusal(ConfigurationError, uri="mongodb://a"))
        self.assertIn("lease", self.refusal(ValueError, uri="mongodb://a/web", lock_lease=0))
        self.assertIn("mongodb://", self.refusal(InvalidURI, uri="http://a/web"))

    def test_install(self) -> None:
        """The deprecated option finds it by its name."""
        from cherrypy.lib import sessions

        from txmongokit.web.cherrypy_sessions import Session

        self.addCleanup(sessions.__dict__.pop, "MongodbSession")
        Session.install()
        self.assertIs(sessions.MongodbSession, Session)
