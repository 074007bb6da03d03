"""The curvature along a run against its step."""
