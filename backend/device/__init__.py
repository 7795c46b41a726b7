"""The device: its queue, what is loaded on it, number formats, and what work on it costs."""
