"""Runs exported style engines. ``Stylizer`` is the whole of it for most uses; torch is never imported here."""

from nst_deploy.stylizer import Stylizer

__all__ = ["Stylizer"]
