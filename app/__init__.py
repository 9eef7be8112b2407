"""armoserve: a microservice that serves readable, steerable rewards (ArmoRM, MOSLIM, DPA)."""

__version__ = "0.1.0"
