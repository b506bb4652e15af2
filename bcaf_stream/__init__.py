"""BCAF Stream: live two-party calls in, calibrated emotion events out.

Start reading at `bcaf_stream/conversation.py`. A live call, file by file: `actors/__init__.py`; a training run:
`training/__init__.py`; a new protocol: `bcaf_stream/ingest/protocols/__init__.py`.
"""
