"""Where a stage should run: what each mode needs, and which are tried in what order."""
