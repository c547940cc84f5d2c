"""Who may do what: keys, certificates, permissions, and the server configuration generated from them."""
