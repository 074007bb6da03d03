"""What the engine is timed beside: other libraries, and the machine's own pace."""
