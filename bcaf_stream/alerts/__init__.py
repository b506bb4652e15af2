"""Alerts: rules over the events of a call, on the call's own clock."""
