"""The bus over real sockets: several in one process, driven by a loop; a second process where one must die."""
