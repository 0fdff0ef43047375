"""Pictures to vectors by a registered encoder: in parts that survive a restart, on one worker or many, or over HTTP."""
