"""Real `zrep node` processes on loopback: killed, stopped, cut off, fed garbage."""
