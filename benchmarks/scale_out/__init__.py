"""Several replicas behind a real balancer: what routing by prompt saves, and what it leaves unchanged."""
