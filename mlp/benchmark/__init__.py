"""What the engine is timed beside."""
