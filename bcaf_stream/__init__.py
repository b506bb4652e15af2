"""BCAF Stream: live two-party calls in, calibrated emotion events out. Start reading at `analyzer.py`."""
