"""The command `reco`, one module for each noun. Module tops are light: heavy imports stand inside functions."""
