"""`make cluster-test`: a cluster, an object store and a database on this machine, and what goes wrong with them."""
