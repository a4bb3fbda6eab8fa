"""Until ``cli.py`` names :mod:`recbole_choir.report.page` itself."""

from recbole_choir.report.page import main as main
