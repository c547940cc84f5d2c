"""Who may do what: keys, certificates, permissions, and the server's configuration made of them."""
