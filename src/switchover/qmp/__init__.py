"""QMP: the protocol by which a machine is controlled, its server, and a driver of any server."""
