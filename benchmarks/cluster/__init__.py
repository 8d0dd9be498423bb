"""`make cluster-test`: a cluster, an object store and a database set up on this machine, and what goes wrong with them."""
