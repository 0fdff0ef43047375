"""What the service can be asked, and what it answers: one contract for command line, HTTP API and web page."""
