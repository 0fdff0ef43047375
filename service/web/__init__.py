"""The web pages: rendered by the server from what the contract answers, readable without JavaScript."""
