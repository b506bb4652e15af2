"""Replay: a second socket that gives back what is in the journal."""
