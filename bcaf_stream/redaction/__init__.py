"""Numbers and addresses of people are taken out of words before anything is stored."""

from bcaf_stream.redaction.redactor import Redactor

__all__ = ["Redactor"]
