"""One short script per DVC stage: read your own block of params.yaml, call `lofit`, write your outs."""
