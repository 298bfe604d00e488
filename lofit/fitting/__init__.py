"""The public functions that fit: a whole method, or LoFiT's steps one by one.

They work on a model that the caller has loaded and leave it as it was: its weights, its mode, and which of its
parameters want gradients. Nothing is written unless a checkpoint folder is given.
"""
