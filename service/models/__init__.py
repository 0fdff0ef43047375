"""The registry of encoders: which one is the champion, through which gates, and who said so."""
