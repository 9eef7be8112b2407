"""armoserve beside what a user would pick instead: one checkpoint, the same texts, alternating rounds, equal scores."""
