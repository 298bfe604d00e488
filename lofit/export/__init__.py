"""Adapters as plain checkpoints and stock PEFT folders, which need no lofit to be used."""
