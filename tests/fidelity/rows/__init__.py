"""The exchanges, a file for each kind of application."""
