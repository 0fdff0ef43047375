"""What people and programs talk to. Imports no torch on any start-up path."""
