"""The wire formats of other projects: servers for their clients, clients for their servers."""
