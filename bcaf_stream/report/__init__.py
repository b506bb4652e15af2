"""What is kept or printed of a call, or of the calls of a day."""

from bcaf_stream.report.call import LIMITS, CallReport
from bcaf_stream.report.html import call_page, day_page

__all__ = ["LIMITS", "CallReport", "call_page", "day_page"]
