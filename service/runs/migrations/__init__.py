"""How the tables came to be what they are, step by step.

A step that was released is never changed: the next change is a new file in `versions/`, written by hand. A test
compares what all steps make with the models; what it prints is what is missing.
"""
