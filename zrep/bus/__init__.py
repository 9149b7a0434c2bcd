"""The wire: one site's ZeroMQ sockets, its connections and their life."""
