"""VAEs on other machines: the client, which endpoint is asked, and whether it would do."""
